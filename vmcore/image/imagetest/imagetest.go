// Package imagetest makes images and serves registries for tests: of package
// image itself, of engines, and of whatever needs a small real image.
//
// It is not for programs: its functions end the test, or panic, where
// something is missing on the host.
//
//	img := imagetest.Busybox()
//	host := imagetest.Registry(t)
//	ref := imagetest.Push(t, img, host+"/library/busybox:1")
//	base := imagetest.BusyboxBase(t) // for an engine: a flattened EROFS file
//
// Functions may be called concurrently. Images are the same bytes at every
// call on one host.
package imagetest

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"log"
	"maps"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/boxlite-mcp/boxlite-mcp/vmcore/image/flatten"
)

// When is the time of everything in a made image.
var When = time.Date(2024, 2, 29, 12, 0, 0, 123456789, time.UTC)

// Busybox returns an image of the host's static busybox with all its applets
// in /bin, users root, nobody and user (uid 1000), /tmp and the directories
// that programs expect. Its working directory is /, its user root, its command
// /bin/sh.
//
// It panics if the host has no busybox.
func Busybox() v1.Image { return busybox() }

var busybox = sync.OnceValue(func() v1.Image {
	return Image(v1.Config{
		Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
		Cmd: []string{"/bin/sh"},
	}, Layer(types.OCILayer, busyboxEntries()...))
})

// BusyboxTar returns the uncompressed layer of [Busybox].
func BusyboxTar() []byte { return Tar(busyboxEntries()...) }

func busyboxEntries() []tar.Header {
	program := must(exec.LookPath("busybox"))
	binary := must(os.ReadFile(program))
	applets := strings.Fields(string(must(exec.Command(program, "--list").Output())))
	entries := []tar.Header{Dir("./", 0o755)}
	for _, dir := range []string{"bin", "dev", "etc", "home", "lib", "proc", "root", "run", "sbin", "sys", "usr", "usr/bin", "usr/local", "usr/local/bin", "usr/sbin", "var", "var/log"} {
		entries = append(entries, Dir(dir, 0o755))
	}
	user := Dir("home/user", 0o755)
	user.Uid, user.Gid = 1000, 1000
	entries = append(entries, Dir("tmp", 0o1777), Dir("var/tmp", 0o1777), user,
		File("etc/passwd", 0o644, "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\nuser:x:1000:1000:user:/home/user:/bin/sh\n"),
		File("etc/group", 0o644, "root:x:0:\ntty:x:5:\nnogroup:x:65534:\nuser:x:1000:\nextra:x:2000:user\n"),
		File("etc/hostname", 0o644, "busybox\n"),
		File("bin/busybox", 0o755, string(binary)))
	for _, applet := range applets {
		if applet != "busybox" {
			entries = append(entries, Symlink("bin/"+applet, "busybox"))
		}
	}
	return entries
}

// contentKey is where a header made by [File] carries the contents.
const contentKey = "IMAGETEST.content"

// File returns the entry of a regular file, for [Tar] and [Layer].
func File(name string, mode int64, content string) tar.Header {
	return tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(content)), ModTime: When,
		PAXRecords: map[string]string{contentKey: content}}
}

// Dir returns the entry of a directory.
func Dir(name string, mode int64) tar.Header {
	return tar.Header{Typeflag: tar.TypeDir, Name: strings.TrimSuffix(name, "/") + "/", Mode: mode, ModTime: When}
}

// Symlink returns the entry of a symbolic link.
func Symlink(name, target string) tar.Header {
	return tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777, ModTime: When}
}

// Link returns the entry of a hard link.
func Link(name, target string) tar.Header {
	return tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target, Mode: 0o644, ModTime: When}
}

// Tar returns a tar stream of the entries.
func Tar(entries ...tar.Header) []byte {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, h := range entries {
		content := h.PAXRecords[contentKey]
		records := map[string]string{}
		for k, v := range h.PAXRecords {
			if k != contentKey {
				records[k] = v
			}
		}
		h.PAXRecords, h.Format = records, tar.FormatPAX
		check(w.WriteHeader(&h))
		must(io.WriteString(w, content))
	}
	check(w.Close())
	return out.Bytes()
}

// Layer returns a layer of the entries. Those of a gzip media type are
// compressed.
func Layer(media types.MediaType, entries ...tar.Header) v1.Layer {
	return TarLayer(media, Tar(entries...))
}

// TarLayer returns a layer with the given uncompressed stream.
func TarLayer(media types.MediaType, stream []byte) v1.Layer {
	return must(tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(stream)), nil
	}, tarball.WithMediaType(media), tarball.WithCompressedCaching))
}

// Image returns an image of layers, lowest first, for the host's architecture.
func Image(config v1.Config, layers ...v1.Layer) v1.Image {
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	img = must(mutate.ConfigFile(img, &v1.ConfigFile{
		OS: "linux", Architecture: runtime.GOARCH, Created: v1.Time{Time: When}, Config: config,
		RootFS: v1.RootFS{Type: "layers"},
	}))
	return must(mutate.AppendLayers(img, layers...))
}

// Registry serves an empty registry over HTTP on loopback until the test ends.
// It returns host:port.
func Registry(t testing.TB) string {
	t.Helper()
	s := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

// Push writes img to a registry that speaks HTTP and returns ref.
func Push(t testing.TB, img v1.Image, ref string) string {
	t.Helper()
	r, err := name.ParseReference(ref, name.Insecure)
	if err == nil {
		err = remote.Write(r, img, remote.WithContext(t.Context()))
	}
	if err != nil {
		t.Fatalf("push %s: %v", ref, err)
	}
	return ref
}

// Layout writes img as an OCI layout directory, with tag as its name unless
// that is empty, and returns the path.
func Layout(t testing.TB, img v1.Image, tag string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "layout")
	p, err := layout.Write(dir, empty.Index)
	if err == nil && tag == "" {
		err = p.AppendImage(img)
	} else if err == nil {
		err = p.AppendImage(img, layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": tag}))
	}
	if err != nil {
		t.Fatalf("write layout: %v", err)
	}
	return dir
}

// BusyboxBase returns the path of a flattened [Busybox], which is removed when
// the test ends.
func BusyboxBase(t testing.TB) string {
	t.Helper()
	return Base(t, BusyboxTar())
}

// Base returns the path of the flattened layers, given as uncompressed tar
// streams, lowest first.
func Base(t testing.TB, layers ...[]byte) string {
	t.Helper()
	out, err := os.Create(filepath.Join(t.TempDir(), "base.erofs"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	b := flatten.New(out, flatten.Limits{})
	for _, layer := range layers {
		if err := b.AddLayer(t.Context(), bytes.NewReader(layer)); err != nil {
			t.Fatalf("flatten: %v", err)
		}
	}
	if _, err := b.Finish(flatten.Plain); err != nil {
		t.Fatalf("flatten: %v", err)
	}
	return out.Name()
}

func must[T any](v T, err error) T {
	check(err)
	return v
}

func check(err error) {
	if err != nil {
		panic(fmt.Sprintf("imagetest: %v", err))
	}
}

// RawPAX returns a tar stream of one empty file with PAX records that
// archive/tar refuses to write.
func RawPAX(name string, records map[string]string) []byte {
	var text []byte
	for _, k := range slices.Sorted(maps.Keys(records)) {
		line := " " + k + "=" + records[k] + "\n"
		n := len(line) + 1
		for len(fmt.Sprint(n))+len(line) != n {
			n = len(fmt.Sprint(n)) + len(line)
		}
		text = append(text, fmt.Sprint(n)+line...)
	}
	header, file := File("x", 0o644, string(text)), File(name, 0o644, "")
	header.ModTime, file.ModTime = When.Truncate(time.Second), When.Truncate(time.Second) // else they get PAX records of their own
	body := Tar(header)
	head := body[:512:512]
	head[156] = tar.TypeXHeader
	copy(head[148:], "        ")
	sum := 0
	for _, b := range head {
		sum += int(b)
	}
	copy(head[148:], fmt.Sprintf("%06o\x00 ", sum))
	return append(body[:len(body)-1024:len(body)-1024], Tar(file)...)
}

// PushIndex writes a multi-platform image like [Push].
func PushIndex(t testing.TB, idx v1.ImageIndex, ref string) string {
	t.Helper()
	r, err := name.ParseReference(ref, name.Insecure)
	if err == nil {
		err = remote.WriteIndex(r, idx, remote.WithContext(t.Context()))
	}
	if err != nil {
		t.Fatalf("push %s: %v", ref, err)
	}
	return ref
}
