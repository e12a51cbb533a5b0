// Package testbin builds this module's programs for tests that run them.
//
// It is not for production code: programs find each other beside themselves.
//
//	agent := testbin.Path(t, "boxlite-agent")
//	cmd := exec.Command(testbin.Path(t, "boxlite-mcp"), "version")
//
// The programs are static and lie side by side in build/testbin of the module,
// so that one finds the other. Test processes that run at the same time share
// them: a lock lets one of them build, and a program is replaced by renaming,
// never written to, so that whoever runs the old one keeps it. With nothing
// changed a call costs what the go command needs to see that, about a second
// for a process, and nothing from then on.
//
// All functions may be called concurrently.
package testbin

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
)

// Path returns the absolute path of the program cmd/<name>, built from the
// tree as it stands. It ends the test if the program cannot be built, and
// skips it under -short, for which building is too slow.
func Path(t testing.TB, name string) string {
	t.Helper()
	if testing.Short() {
		t.Skipf("needs the program %s, which -short does not build", name)
	}
	path, err := programs.get(name)
	if err != nil {
		t.Fatalf("testbin: %v", err)
	}
	return path
}

// All builds every program that a running server needs and returns the
// directory they lie in. Like [Path], it skips the test under -short.
func All(t testing.TB) string {
	t.Helper()
	for _, name := range []string{"boxlite-agent", "boxlite-jail", "boxlite-sandbox", "boxlite-mcp"} {
		Path(t, name)
	}
	return filepath.Dir(Path(t, "boxlite-mcp"))
}

// ModuleRoot returns the directory of go.mod, looking upwards from the
// directory of the test.
func ModuleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", fmt.Errorf("no go.mod above the working directory")
		}
		dir = up
	}
}

// A cache remembers what this process has built.
type cache struct {
	mu   sync.Mutex
	done map[string]func() (string, error) // by name; guarded by mu
}

var programs = cache{done: map[string]func() (string, error){}}

func (c *cache) get(name string) (string, error) {
	c.mu.Lock()
	once, ok := c.done[name]
	if !ok {
		once = sync.OnceValues(func() (string, error) { return build(name) })
		c.done[name] = once
	}
	c.mu.Unlock()
	return once()
}

// build brings build/testbin/<name> up to date and returns its path.
func build(name string) (string, error) {
	root, err := ModuleRoot()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(root, "build", "testbin")
	if err := os.MkdirAll(filepath.Join(dir, "new"), 0o755); err != nil {
		return "", err
	}
	unlock, err := lock(filepath.Join(dir, name+".lock"))
	if err != nil {
		return "", err
	}
	defer unlock()

	// The go command leaves a program alone that is up to date, and otherwise
	// removes it before it writes, so that "built" never changes under "path".
	built, path := filepath.Join(dir, "new", name), filepath.Join(dir, name)
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-tags", "grpcnotrace", "-o", built, "./cmd/"+name)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w\n%s", name, err, out)
	}
	return path, publish(built, path)
}

// publish makes path the same file as built, in one step.
func publish(built, path string) error {
	fresh, err := os.Stat(built)
	if err != nil {
		return err
	}
	if old, err := os.Stat(path); err == nil && os.SameFile(old, fresh) {
		return nil
	}
	link := built + ".link"
	if err := os.Remove(link); err != nil && !os.IsNotExist(err) {
		return err
	}
	if err := os.Link(built, link); err != nil {
		return err
	}
	return os.Rename(link, path)
}

// lock takes an exclusive lock on the file at path, which it makes, and
// returns what lets go of it. The system lets go when the process ends.
func lock(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		f.Close()
		return nil, err
	}
	return func() { f.Close() }, nil
}
