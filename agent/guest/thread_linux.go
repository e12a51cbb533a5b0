package guest

import (
	"context"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A thread is an operating system thread that lives in the box's namespaces
// with the box's capabilities, while the rest of the process does not. What it
// runs must not wait for anything but the kernel.
type thread struct {
	work chan func()
	done chan struct{} // closed when the thread is gone
}

// newThread starts a thread and runs setup on it.
func newThread(setup func() error) (*thread, error) {
	t := &thread{work: make(chan func()), done: make(chan struct{})}
	ready := make(chan error, 1) // one answer, also when nobody waits any more
	go func() {
		defer close(t.done)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		err := setup()
		if ready <- err; err != nil {
			return
		}
		for f := range t.work {
			f()
		}
	}()
	return t, <-ready
}

// do runs f on the thread, or not at all if ctx ends before its turn.
func (t *thread) do(ctx context.Context, f func()) error {
	ran := make(chan struct{})
	select {
	case t.work <- func() { defer close(ran); f() }:
		<-ran
		return nil
	case <-t.done:
		return unix.ESRCH
	case <-ctx.Done():
		return ctx.Err()
	}
}

// close ends the thread once its work is done.
func (t *thread) close() {
	close(t.work)
	<-t.done
}

// enter moves the calling, locked thread into the PID and mount namespaces of
// the process that pidfd refers to. It stays in its own PID namespace itself:
// its children are in the other.
func enter(pidfd int) error {
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("unshare the working directory: %w", err)
	}
	if err := unix.Setns(pidfd, unix.CLONE_NEWPID|unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("enter the box's namespaces: %w", err)
	}
	unix.Umask(0o022)
	return unix.Chdir("/")
}

// boxCapabilities are those that Docker gives a container.
const boxCapabilities uint64 = 1<<unix.CAP_CHOWN | 1<<unix.CAP_DAC_OVERRIDE | 1<<unix.CAP_FSETID |
	1<<unix.CAP_FOWNER | 1<<unix.CAP_MKNOD | 1<<unix.CAP_NET_RAW | 1<<unix.CAP_SETGID | 1<<unix.CAP_SETUID |
	1<<unix.CAP_SETFCAP | 1<<unix.CAP_SETPCAP | 1<<unix.CAP_NET_BIND_SERVICE | 1<<unix.CAP_SYS_CHROOT |
	1<<unix.CAP_KILL | 1<<unix.CAP_AUDIT_WRITE

// boundCapabilities limits what the calling thread's children have after
// execve to caps: nothing beyond them can be regained, not by root either.
func boundCapabilities(caps uint64) error {
	for c := uintptr(0); c <= 63; c++ {
		if caps&(1<<c) != 0 {
			continue
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil {
			if err == unix.EINVAL && c > unix.CAP_AUDIT_READ {
				return nil // the kernel has no more
			}
			return fmt.Errorf("drop capability %d: %w", c, err)
		}
	}
	return nil
}

// setCapabilities makes caps all that the calling thread has, permits itself,
// and nothing what its children inherit.
func setCapabilities(permitted uint64) error {
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	lo, hi := uint32(permitted), uint32(permitted>>32)
	data := [2]unix.CapUserData{{Effective: lo, Permitted: lo}, {Effective: hi, Permitted: hi}}
	if err := unix.Capset(&head, &data[0]); err != nil {
		return fmt.Errorf("set capabilities: %w", err)
	}
	return nil
}

// clearInheritable empties the sets that survive execve beside the bounding
// set's rule for root.
func clearInheritable() error {
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&head, &data[0]); err != nil {
		return fmt.Errorf("get capabilities: %w", err)
	}
	data[0].Inheritable, data[1].Inheritable = 0, 0
	if err := unix.Capset(&head, &data[0]); err != nil { // empties the ambient set, too
		return fmt.Errorf("clear inheritable capabilities: %w", err)
	}
	return nil
}

// as runs f with the calling thread's effective identity that of u, as which
// files are then opened. The raw system calls change this thread only, where
// package syscall would change all.
func as(u user, f func() error) error {
	if u.uid == 0 && u.gid == 0 && len(u.groups) == 0 {
		return f()
	}
	defer func() {
		if becomeRoot() != 0 {
			panic("guest: a thread could not become root again")
		}
	}()
	if errno := become(u); errno != 0 {
		return fmt.Errorf("become user %d: %w", u.uid, errno)
	}
	return f()
}

const unchanged = ^uintptr(0)

func become(u user) unix.Errno {
	if errno := setGroups(u.groups); errno != 0 {
		return errno
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESGID, unchanged, uintptr(u.gid), unchanged); errno != 0 {
		return errno
	}
	_, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, unchanged, uintptr(u.uid), unchanged)
	return errno
}

func becomeRoot() unix.Errno {
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, unchanged, 0, unchanged); errno != 0 {
		return errno
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESGID, unchanged, 0, unchanged); errno != 0 {
		return errno
	}
	return setGroups(nil)
}

func setGroups(ids []uint32) unix.Errno {
	_, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(ids)), uintptr(unsafe.Pointer(unsafe.SliceData(ids))), 0)
	return errno
}
