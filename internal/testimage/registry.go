package testimage

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"time"

	"github.com/boxlite-mcp/boxlite-mcp/internal/testbin"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// A Registry is Debian's docker-registry, serving a directory over HTTP on a
// loopback port. Whatever ends the program that started it ends it too.
type Registry struct {
	addr string
	cmd  *exec.Cmd
	done chan struct{} // closed when the server is gone
}

const config = `version: 0.1
log: {level: info, accesslog: {disabled: true}}
storage: {filesystem: {rootdirectory: %q}, delete: {enabled: true}}
http: {addr: "127.0.0.1:0"}
`

var listening = regexp.MustCompile(`listening on (127\.0\.0\.1:\d+)`)

// Serve starts a registry over dir, which it makes, and waits until it
// answers. What the server prints until then goes to log, for whoever wonders
// why it does not. Close the registry after use.
func Serve(ctx context.Context, dir string, log io.Writer) (*Registry, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	file := filepath.Join(dir, "config.yml")
	if err := os.WriteFile(file, fmt.Appendf(nil, config, filepath.Join(dir, "data")), 0o644); err != nil {
		return nil, err
	}
	program, err := RegistryProgram(ctx, log)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(program, "serve", file)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "OTEL_TRACES_EXPORTER=none"}
	cmd.SysProcAttr = withParent()
	output, err := cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	r := &Registry{cmd: cmd, done: make(chan struct{})}
	started, addr := make(chan error, 1), make(chan string, 1)
	go r.run(started, addr, output, log)
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start docker-registry: %w", err)
	}
	select {
	case r.addr = <-addr:
		return r, nil
	case <-r.done:
		return nil, errors.New("docker-registry ended before it listened")
	case <-ctx.Done():
	case <-time.After(30 * time.Second):
		err = errors.New("it did not listen within 30 seconds")
	}
	return nil, fmt.Errorf("docker-registry: %w", errors.Join(err, ctx.Err(), r.Close()))
}

// RegistryProgram returns the path of docker-registry. Where it is not
// installed, the package is unpacked below build/ of the module, once:
// installing it would leave a service running on port 5000, which nobody asked
// for.
func RegistryProgram(ctx context.Context, log io.Writer) (string, error) {
	if path, err := exec.LookPath("docker-registry"); err == nil {
		return path, nil
	}
	module, err := testbin.ModuleRoot()
	if err != nil {
		return "", err
	}
	return unpackRegistry(ctx, filepath.Join(module, "build", "docker-registry"), log)
}

func unpackRegistry(ctx context.Context, dir string, log io.Writer) (string, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	unlock, err := lock(filepath.Join(dir, "lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	path := filepath.Join(dir, "docker-registry")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	unpack := exec.CommandContext(ctx, "sh", "-e", "-c", `apt-get download -qq docker-registry
dpkg-deb -x docker-registry_*.deb .
rm docker-registry_*.deb
mv usr/bin/docker-registry .`)
	unpack.Dir, unpack.Stdout, unpack.Stderr = dir, log, log
	if err := unpack.Run(); err != nil {
		return "", fmt.Errorf("get the Debian package docker-registry: %w", err)
	}
	return path, nil
}

// run is the life of the server. It holds its thread: the parent-death signal
// is sent when the thread that started a process ends.
func (r *Registry) run(started chan<- error, addr chan<- string, output io.Reader, log io.Writer) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(r.done)
	err := r.cmd.Start()
	started <- err
	if err != nil {
		return
	}
	up := false
	for lines := bufio.NewScanner(output); lines.Scan(); {
		if up {
			continue // a line for every request
		}
		fmt.Fprintln(log, lines.Text())
		if m := listening.FindStringSubmatch(lines.Text()); m != nil {
			up = true
			addr <- m[1]
		}
	}
	io.Copy(io.Discard, output) //nolint:errcheck // what a line too long for the scanner left
	_ = r.cmd.Wait()            // it was killed
}

// Addr returns the host and port to use in image references.
func (r *Registry) Addr() string { return r.addr }

// URL returns the address of the server.
func (r *Registry) URL() string { return "http://" + r.addr }

// Push uploads an image as repo, such as "demo/python:3", and returns the full
// reference.
func (r *Registry) Push(ctx context.Context, img v1.Image, repo string) (string, error) {
	ref, err := name.ParseReference(r.addr+"/"+repo, name.Insecure)
	if err != nil {
		return "", err
	}
	if err := remote.Write(ref, img, remote.WithContext(ctx)); err != nil {
		return "", fmt.Errorf("push %s: %w", ref, err)
	}
	return ref.String(), nil
}

// Close ends the server and waits until it is gone.
func (r *Registry) Close() error {
	err := r.cmd.Process.Kill()
	<-r.done
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}
