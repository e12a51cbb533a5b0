package clients_test

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
)

// asNobody runs fn as a user who may write nothing here, also where the test
// runs as root: the file system asks for the user of the thread.
func asNobody(t *testing.T, fn func()) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with us
		_, _, e := syscall.RawSyscall(syscall.SYS_SETFSUID, 65534, 0, 0)
		if os.Geteuid() == 0 && e != 0 {
			done <- e
			return
		}
		fn()
		done <- nil
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestDirectoryThatMayNotBeWritten(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "mcp.json")
	write(t, file, `{"a": 1}`, 0o644)
	if err := os.Chmod(dir, 0o555); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Chmod(dir, 0o755) })
	asNobody(t, func() {
		for _, f := range []string{file, filepath.Join(dir, "new", "mcp.json")} {
			_, err := find(t, "cursor").Install(f, entry, false)
			if !errors.Is(err, boxlite.Storage) || !errors.Is(err, os.ErrPermission) || boxlite.HintOf(err) == "" {
				t.Errorf("%s: %v", f, err)
			}
		}
	})
	if got := names(t, dir); len(got) != 1 || read(t, file) != `{"a": 1}` {
		t.Errorf("%q, and the file is %s", got, read(t, file))
	}
}

func TestFileThatMayNotBeRead(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "mcp.json")
	write(t, file, `{"a": 1}`, 0o600)
	if err := os.Chmod(file, 0); err != nil {
		t.Fatal(err)
	}
	asNobody(t, func() {
		if _, err := find(t, "cursor").Install(file, entry, true); !errors.Is(err, boxlite.Storage) {
			t.Errorf("%v", err)
		}
	})
	if got := names(t, dir); len(got) != 1 {
		t.Errorf("%q", got)
	}
}

func TestWhatIsNoFileIsRefused(t *testing.T) {
	dir := t.TempDir()
	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{dir, pipe} {
		if _, err := find(t, "cursor").Install(f, entry, false); !errors.Is(err, boxlite.Storage) {
			t.Errorf("%s: %v", f, err)
		}
	}
}
