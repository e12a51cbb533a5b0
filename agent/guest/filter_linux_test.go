package guest

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"testing"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"golang.org/x/sys/unix"
)

// Every call is made with arguments that the kernel refuses in another way, so
// that it has no effect where the filter lets it pass.
func TestFilterDeniesAndAllows(t *testing.T) {
	if os.Getuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("needs root")
		}
		t.Skip("needs root")
	}
	for name, denyClone3 := range map[string]bool{"cgroups": false, "marks": true} {
		t.Run(name, func(t *testing.T) {
			done := make(chan struct{})
			go func() {
				defer close(done)
				runtime.LockOSThread() // never unlocked: the thread ends with its filter
				if err := filterCalls(denyClone3); err != nil {
					t.Error(err)
					return
				}
				checkFilter(t, denyClone3)
			}()
			<-done
		})
	}
}

func checkFilter(t *testing.T, denyClone3 bool) {
	const bad = ^uintptr(0)
	call := func(nr, flags uintptr) unix.Errno {
		_, _, errno := unix.RawSyscall6(nr, flags, bad, bad, bad, bad, bad)
		return errno
	}
	for _, nr := range deniedCalls {
		if errno := call(uintptr(nr), bad); errno != unix.EPERM {
			t.Errorf("denied call %d: %v", nr, errno)
		}
	}
	clone3 := unix.EINVAL // what it says of a size that is none
	if denyClone3 {
		clone3 = unix.ENOSYS
	}
	for _, c := range []struct {
		name      string
		nr, flags uintptr
		want      unix.Errno
	}{
		{"clone, user namespace", unix.SYS_CLONE, unix.CLONE_NEWUSER | unix.CLONE_FS, unix.EPERM},
		{"clone, other flags", unix.SYS_CLONE, unix.CLONE_NEWNS | unix.CLONE_FS, unix.EINVAL},
		{"unshare, user namespace", unix.SYS_UNSHARE, unix.CLONE_NEWUSER | unix.CLONE_NEWUTS, unix.EPERM},
		{"unshare, flag that is none", unix.SYS_UNSHARE, 1, unix.EINVAL},
		{"unshare, nothing", unix.SYS_UNSHARE, 0, 0},
		{"clone3", unix.SYS_CLONE3, 0, clone3},
		{"socket to the hypervisor", unix.SYS_SOCKET, unix.AF_VSOCK, unix.EAFNOSUPPORT},
		{"socket, type that is none", unix.SYS_SOCKET, unix.AF_UNIX, unix.EINVAL},
	} {
		if got := call(c.nr, c.flags); got != c.want && !(c.nr == unix.SYS_CLONE3 && !denyClone3 && got == unix.E2BIG) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
	if err := unix.Unshare(unix.CLONE_NEWUTS); err != nil {
		t.Errorf("the fork thread could not mark its children: %v", err)
	}
	if n, err := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0); n != 0 || err != nil {
		t.Errorf("no_new_privs is %d, %v", n, err)
	}
}

// The host takes any other kind from a box for a box that does not answer.
func TestEverySystemErrorHasAKindThatTheHostTakes(t *testing.T) {
	taken := []boxlite.Kind{boxlite.NotFound, boxlite.AlreadyExists, boxlite.InvalidArgument, boxlite.InvalidState, boxlite.Denied, boxlite.Exhausted}
	for errno := unix.Errno(1); errno < 134; errno++ {
		err := fileError("write file", "/f", fmt.Errorf("somewhere: %w", &os.PathError{Op: "open", Path: "/f", Err: errno}))
		if kind := boxlite.KindOf(err); !slices.Contains(taken, kind) || !errors.Is(err, errno) {
			t.Errorf("%v: %v, %v", errno, kind, err)
		}
	}
}
