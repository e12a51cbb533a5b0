package testimage

import (
	"archive/tar"
	"errors"
	"io"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/boxlite-mcp/boxlite-mcp/internal/testbin"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// The image goes to the registry and comes back whole, with Python in it.
func TestDebianImageThroughARealRegistry(t *testing.T) {
	if testing.Short() {
		t.Skip("makes a Debian image from packages")
	}
	module, err := testbin.ModuleRoot()
	if err != nil {
		t.Fatal(err)
	}
	img, err := Debian(t.Context(), filepath.Join(module, "build", "testimage"), t.Output())
	if err != nil {
		t.Fatal(err)
	}
	reg, err := Serve(t.Context(), t.TempDir(), t.Output())
	if err != nil {
		t.Fatal(err)
	}
	defer reg.Close()
	pushed, err := reg.Push(t.Context(), img, "demo/python:3")
	if err != nil {
		t.Fatal(err)
	}
	ref, err := name.ParseReference(pushed, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	back, err := remote.Image(ref, remote.WithContext(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Image(back, validate.Fast); err != nil {
		t.Errorf("what came back: %v", err)
	}
	stream := mutate.Extract(back)
	defer stream.Close()
	want := map[string]bool{"usr/bin/bash": true, "usr/bin/python3": true, "etc/ssl/certs/ca-certificates.crt": true, "usr/bin/setsid": true, "usr/bin/ps": true}
	for in := tar.NewReader(stream); ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		delete(want, strings.TrimPrefix(h.Name, "./"))
	}
	for path := range want {
		t.Errorf("the image has no /%s", path)
	}
	if err := reg.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	if conn, err := net.Dial("tcp", reg.Addr()); err == nil {
		conn.Close()
		t.Errorf("the registry still answers after Close")
	}
}

// Where the registry is not installed it is unpacked, once, and runs.
func TestRegistryIsUnpackedOnce(t *testing.T) {
	if testing.Short() {
		t.Skip("downloads a package")
	}
	dir := t.TempDir()
	path, err := unpackRegistry(t.Context(), dir, t.Output())
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(path, "--version").CombinedOutput(); err != nil {
		t.Errorf("%s: %v\n%s", path, err, out)
	}
	t.Setenv("PATH", "") // so that a second download would fail
	if again, err := unpackRegistry(t.Context(), dir, t.Output()); again != path || err != nil {
		t.Errorf("the second time: %q, %v", again, err)
	}
	if _, err := unpackRegistry(t.Context(), t.TempDir(), t.Output()); err == nil || !strings.Contains(err.Error(), "package docker-registry") {
		t.Errorf("without apt-get: %v", err)
	}
}

func TestPickSources(t *testing.T) {
	const targets = `Debian|deb mirror:/d stable main
Third Party|deb mirror:/t any contrib
Debian|deb mirror:/d stable main
Debian|deb mirror:/s stable-security main
|deb mirror:/n never fetched
`
	const want = "deb mirror:/d stable main\ndeb mirror:/s stable-security main\n"
	if got := pickSources(targets, "debian"); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestPickAcquire(t *testing.T) {
	const conf = `Acquire "";
Acquire::http "";
Acquire::http::Proxy "http://127.0.0.1:3142";
Acquire::Check-Date "false";
Acquire::Languages "none";
Acquire::Retries "3";
`
	const want = `Acquire::http::Proxy "http://127.0.0.1:3142";
Acquire::Check-Date "false";
Acquire::Retries "3";
`
	if got := pickAcquire(conf); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestShellValue(t *testing.T) {
	file := []byte("VERSION_ID=\"12\"\nID=debian\nVERSION_CODENAME='bookworm'\n")
	for name, want := range map[string]string{"ID": "debian", "VERSION_ID": "12", "VERSION_CODENAME": "bookworm", "NAME": ""} {
		if got := shellValue(file, name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
}
