package rpc_test

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/internal/rpc"
)

func TestADaemonOfAnotherUserIsNotSpokenTo(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to be another user")
	}
	home, err := os.MkdirTemp("/tmp", "rpc") //nolint:usetesting // others cannot get at what is in t.TempDir
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(home)
	l := listenAs(t, rpc.Socket(home), 65534)
	defer l.Close()
	_, err = rpc.Dial(t.Context(), rpc.Options{Socket: rpc.Socket(home), Principal: "p"})
	if !errors.Is(err, boxlite.Denied) {
		t.Errorf("got %v", err)
	}
}

// listenAs listens with the credentials of another user, which the kernel takes
// from the thread that calls listen.
func listenAs(t *testing.T, path string, uid int) net.Listener {
	t.Helper()
	if err := os.Chmod(filepath.Dir(path), 0o777); err != nil {
		t.Fatal(err)
	}
	var l net.Listener
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), uintptr(uid), ^uintptr(0)); errno != 0 {
			err = errno
		} else {
			l, err = net.Listen("unix", path)
		}
	}()
	<-done
	if err != nil {
		t.Fatal(err)
	}
	return l
}
