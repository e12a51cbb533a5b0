package image_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/erofs/go-erofs"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sys/unix"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/internal/testimage"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/image"
	it "github.com/boxlite-mcp/boxlite-mcp/vmcore/image/imagetest"
)

// walk lists an EROFS file.
func walk(t testing.TB, path string) []string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	root, err := erofs.Open(f)
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	if err := fs.WalkDir(root, ".", func(p string, _ fs.DirEntry, err error) error { list = append(list, p); return err }); err != nil {
		t.Fatal(err)
	}
	slices.Sort(list)
	return list
}

func need(t testing.TB, tools ...string) {
	t.Helper()
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			if os.Getenv("CI") != "" {
				t.Fatalf("needs %s", tool)
			}
			t.Skipf("needs %s", tool)
		}
	}
}

// startDistribution starts Debian's docker-registry with more configuration
// under "http:", and returns its address.
func startDistribution(t testing.TB, scheme, more, auth string) string {
	t.Helper()
	registry, err := testimage.RegistryProgram(t.Context(), t.Output())
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	dir := t.TempDir()
	config := filepath.Join(dir, "config.yml")
	text := fmt.Sprintf("version: 0.1\nlog: {level: error}\nstorage:\n  filesystem: {rootdirectory: %s/data}\nhttp:\n  addr: %s\n%s%s", dir, addr, more, auth)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(registry, "serve", config)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	log := &strings.Builder{}
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	for range 200 {
		if c, err := net.Dial("tcp", addr); err == nil {
			c.Close()
			return addr
		}
		time.Sleep(25 * time.Millisecond)
	}
	t.Fatalf("docker-registry (%s) does not start: %s", scheme, log)
	return ""
}

// certificate makes a certificate for 127.0.0.1 and localhost.
func certificate(t testing.TB) (certFile, keyFile string, pool *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if err := os.WriteFile(certFile, certPEM, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600); err != nil {
		t.Fatal(err)
	}
	pool = x509.NewCertPool()
	pool.AppendCertsFromPEM(certPEM)
	return certFile, keyFile, pool
}

func TestDistributionOverHTTP(t *testing.T) {
	host := startDistribution(t, "http", "", "")
	ref := it.Push(t, it.Busybox(), host+"/library/busybox:1.36")
	dir := t.TempDir()
	c := openIn(t, dir, options(host))
	img := pull(t, c, "busybox:1.36")
	if img.Reference != ref || !slices.Contains(walk(t, img.BasePath), "bin/sh") {
		t.Errorf("pulled %+v", img)
	}
	if again := pull(t, c, "busybox:1.36"); again.Digest != img.Digest || again.Stale {
		t.Errorf("pulled again %+v", again)
	}
	_, err := c.Pull(t.Context(), "nothing:here", image.PullOptions{})
	wantError(t, err, boxlite.Image, "MANIFEST_UNKNOWN")
	wantClean(t, dir, 1, false)
}

func TestDistributionOverHTTPSWithPassword(t *testing.T) {
	cert, key, pool := certificate(t)
	htpasswd := filepath.Join(t.TempDir(), "htpasswd")
	// user:password, by htpasswd -nbB
	if err := os.WriteFile(htpasswd, []byte("user:"+bcryptOfPassword+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	host := startDistribution(t, "https", fmt.Sprintf("  tls: {certificate: %s, key: %s}\n", cert, key), fmt.Sprintf("auth:\n  htpasswd: {realm: test, path: %s}\n", htpasswd))
	pushTLS(t, it.Busybox(), host+"/busybox:1", pool)
	for _, row := range []struct {
		name string
		reg  image.Registry
		pool *x509.CertPool
		kind boxlite.Kind
		want string
	}{
		{"right", image.Registry{Auth: image.Basic("user", "password")}, pool, 0, ""},
		{"skip_verify", image.Registry{Auth: image.Basic("user", "password"), SkipVerify: true}, nil, 0, ""},
		{"unknown_authority", image.Registry{Auth: image.Basic("user", "password")}, nil, boxlite.Network, "certificate"},
		{"wrong_password", image.Registry{Auth: image.Basic("user", "wrong")}, pool, boxlite.Image, "401"},
		{"anonymous", image.Registry{}, pool, boxlite.Image, "401"},
		{"http_to_https", image.Registry{HTTP: true}, pool, boxlite.Image, "400"},
	} {
		t.Run(row.name, func(t *testing.T) {
			row.reg.Host = host
			c := openIn(t, t.TempDir(), image.Options{Registries: []image.Registry{row.reg}, RootCAs: row.pool})
			img, err := c.Pull(t.Context(), host+"/busybox:1", image.PullOptions{})
			if row.want != "" {
				wantError(t, err, row.kind, row.want)
			} else if err != nil || img.Info.Layers != 1 {
				t.Errorf("pulled %+v, %v", img, err)
			}
			if err != nil && strings.Contains(err.Error(), "password") {
				t.Errorf("the error tells the password: %v", err)
			}
		})
	}
}

func TestUmociUnpacksTheSameTree(t *testing.T) {
	need(t, "umoci")
	if os.Getuid() != 0 {
		t.Skip("umoci keeps owners and devices for root only")
	}
	img := it.Image(v1.Config{},
		it.Layer(types.OCILayer, it.Dir("d", 0o750), it.File("d/a", 0o4755, "a"), it.File("d/b", 0o644, "b"), it.Dir("d/s", 0o755), it.File("d/s/x", 0o600, "x"), it.Symlink("l", "d"),
			it.Link("h", "d/a"), it.Dir("t", 0o1777), it.File("gone", 0o644, "gone"), it.File("f", 0o644, "file")),
		it.Layer(types.OCILayer, it.File(".wh.gone", 0, ""), it.File("d/.wh.b", 0, ""), it.Dir("f", 0o711), it.File("f/in", 0o640, "in"), it.Link("h2", "h")),
		it.Layer(types.OCILayer, it.Dir("d/s", 0o700), it.File("d/s/.wh..wh..opq", 0, ""), it.File("d/s/new", 0o644, "new")))
	layout := it.Layout(t, img, "x")
	bundle := filepath.Join(t.TempDir(), "bundle")
	if out, err := exec.CommandContext(t.Context(), "umoci", "unpack", "--image", layout+":x", bundle).CombinedOutput(); err != nil {
		t.Fatalf("umoci: %v\n%s", err, out)
	}
	ours := filepath.Join(t.TempDir(), "ours")
	base := pull(t, open(t), "oci:"+layout+":x").BasePath
	if err := os.Mkdir(ours, 0o700); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "mount", "-t", "erofs", "-o", "loop,ro", base, ours).CombinedOutput(); err != nil {
		t.Skipf("cannot mount EROFS here: %s", out)
	}
	defer unix.Unmount(ours, 0)
	want, got := hostTree(t, filepath.Join(bundle, "rootfs")), hostTree(t, ours)
	delete(want, ".") // umoci makes the root anew: the layers say nothing of it
	delete(got, ".")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-umoci +ours:\n%s", diff)
	}
}

// hostTree describes a directory of the host.
func hostTree(t testing.TB, dir string) map[string]string {
	t.Helper()
	tree := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		line := fmt.Sprintf("%o %d:%d", st.Mode, st.Uid, st.Gid)
		if !d.IsDir() {
			line += fmt.Sprintf(" %d links, %d.%09d", st.Nlink, st.Mtim.Sec, st.Mtim.Nsec)
		}
		if d.Type().IsRegular() {
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			line += " " + string(b)
		}
		if d.Type()&fs.ModeSymlink != 0 {
			target, _ := os.Readlink(path)
			line += " -> " + target
		}
		rel, err := filepath.Rel(dir, path)
		tree[rel] = line
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

func TestFullDiskIsSaidSoAndLeftAsItWas(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounts a small disk")
	}
	host := it.Registry(t)
	for _, row := range []struct {
		name string
		img  v1.Image
	}{
		{"while_downloading", small(noise(12 << 20))},
		{"while_unpacking", it.Image(v1.Config{}, it.Layer(types.OCILayer, it.File("x", 0o644, strings.Repeat(noise(64<<10), 200))))},
	} {
		t.Run(row.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=8m"); err != nil {
				t.Skip("cannot mount a small disk: ", err)
			}
			defer unix.Unmount(dir, unix.MNT_DETACH)
			c := openIn(t, dir, options(host))
			kept := pull(t, c, it.Push(t, small("kept"), host+"/kept:1"))
			_, err := c.Pull(t.Context(), it.Push(t, row.img, host+"/big:1"), image.PullOptions{})
			wantError(t, err, boxlite.Exhausted, "no space left")
			if got, err := c.ByDigest(kept.Digest); err != nil || len(walk(t, got.BasePath)) != 2 {
				t.Errorf("the other image is %+v, %v", got, err)
			}
			if _, err := c.GC(nil); err != nil {
				t.Error(err)
			}
			wantClean(t, dir, 1, false)
			var st unix.Statfs_t
			if err := unix.Statfs(dir, &st); err != nil || st.Bfree*uint64(st.Bsize) < 7<<20 {
				t.Errorf("%d bytes are free afterwards, %v", st.Bfree*uint64(st.Bsize), err)
			}
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// bcryptOfPassword is "password", hashed at the least cost.
const bcryptOfPassword = "$2b$04$RIMPa0sWMDS05G4xx2naVu2FV36VkKjG0PvEw.JtGAxWkhl.LjewG"

func pushTLS(t testing.TB, img v1.Image, ref string, pool *x509.CertPool) {
	t.Helper()
	r, err := name.ParseReference(ref)
	if err != nil {
		t.Fatal(err)
	}
	tr := remote.DefaultTransport.(*http.Transport).Clone()
	tr.TLSClientConfig.RootCAs = pool
	defer tr.CloseIdleConnections()
	if err := remote.Write(r, img, remote.WithContext(context.Background()), remote.WithTransport(tr), remote.WithAuth(&authn.Basic{Username: "user", Password: "password"})); err != nil {
		t.Fatal(err)
	}
}
