package guest

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// A box is the namespaces that commands run in, and the way into them.
type box struct {
	initPID int
	pidns   string   // what /proc/PID/ns/pid says of the box's processes
	proc    *os.File // the agent's own /proc, which shows every process

	fork  *thread // commands are started from it
	files *thread // paths are resolved on it
	trees *trees

	mu       sync.Mutex // held while a child is started and while one is reaped, so that a number names one process
	children map[int]func(unix.WaitStatus)
	ended    chan struct{} // closed when the box's init is gone, and the box with it
}

// newBox makes the namespaces and starts the box's init in them. It and its
// children end with ctx's process.
func newBox(opts Options) (*box, error) {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("hide memory: %w", err)
	}
	proc, err := openProc()
	if err != nil {
		return nil, err
	}
	b := &box{proc: proc, children: map[int]func(unix.WaitStatus){}, ended: make(chan struct{})}
	b.trees = newTrees(b, opts)
	pidfd := -1
	b.fork, err = newThread(func() error {
		if pidfd, err = b.startInit(opts); err != nil {
			return err
		}
		if err := enter(pidfd); err != nil {
			return err
		}
		if err := clearInheritable(); err != nil {
			return err
		}
		if err := boundCapabilities(boxCapabilities); err != nil {
			return err
		}
		return filterCalls(b.trees.root < 0) // without it commands could mount, and leave their trees
	})
	if err != nil {
		return nil, err
	}
	defer unix.Close(pidfd)
	b.files, err = newThread(func() error {
		if err := enter(pidfd); err != nil {
			return err
		}
		return setCapabilities(boxCapabilities)
	})
	if err != nil {
		return nil, err
	}
	b.pidns, err = b.readlink(fmt.Sprintf("%d/ns/pid", b.initPID))
	return b, err
}

// openProc opens the /proc of the agent's own PID namespace, and mounts it
// where the engine has not.
func openProc() (*os.File, error) {
	if _, err := os.Readlink("/proc/self"); err != nil {
		if err := mkdir("/proc", 0o555); err != nil {
			return nil, err
		}
		if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
			return nil, fmt.Errorf("mount /proc: %w", err)
		}
	}
	return os.OpenFile("/proc", unix.O_DIRECTORY|unix.O_RDONLY, 0)
}

// startInit starts the box's init and waits until it has arranged the box. It
// runs on a thread that outlives the init, which is told of the thread's end.
func (b *box) startInit(opts Options) (pidfd int, err error) {
	r, w, err := os.Pipe()
	if err != nil {
		return -1, err
	}
	defer r.Close()
	null, err := openNothing()
	if err != nil {
		w.Close()
		return -1, err
	}
	defer null.Close()
	pid, err := syscall.ForkExec("/proc/self/exe", []string{"boxlite-init", "init", opts.Root}, &syscall.ProcAttr{
		Dir:   "/",
		Env:   []string{"GOMAXPROCS=1", "GOGC=off"},
		Files: []uintptr{null.Fd(), null.Fd(), null.Fd(), w.Fd()},
		Sys: &syscall.SysProcAttr{
			Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS,
			Setsid:     true, // and it asks for a signal at our end itself: syscall does not expect a first process
		},
	})
	w.Close()
	if err != nil {
		return -1, fmt.Errorf("start the box's init: %w", err)
	}
	b.initPID = pid
	b.children[pid] = func(unix.WaitStatus) { close(b.ended) }
	if pidfd, err = unix.PidfdOpen(pid, 0); err != nil {
		return -1, fmt.Errorf("open the box's init: %w", err)
	}
	answer, err := io.ReadAll(io.LimitReader(r, 1024))
	if err == nil && string(answer) != "ok" {
		err = errors.New(string(answer))
	}
	if err != nil {
		unix.Close(pidfd)
		return -1, fmt.Errorf("arrange the box: %w", err)
	}
	return pidfd, nil
}

// openNothing opens /dev/null, or where the image has none (the box's init
// makes one) a pipe that nobody writes to.
func openNothing() (*os.File, error) {
	if f, err := os.OpenFile("/dev/null", os.O_RDWR, 0); err == nil {
		return f, nil
	}
	r, w, err := os.Pipe()
	if err == nil {
		w.Close()
	}
	return r, err
}

// reap waits for the process's children until there are none, which is after
// the box has ended. It peeks first and takes the child under the lock: until
// then its number stays its own.
func (b *box) reap() {
	runtime.LockOSThread() // it blocks for ever: let the scheduler forget it
	for {
		var info unix.Siginfo
		switch err := unix.Waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WNOWAIT|unix.WALL, nil); err {
		case nil:
		case unix.EINTR:
			continue
		default: // ECHILD: not even the init is left
			return
		}
		b.reapOne()
	}
}

// reapOne takes one child that has ended.
func (b *box) reapOne() {
	b.mu.Lock()
	defer b.mu.Unlock()
	var status unix.WaitStatus
	pid, err := unix.Wait4(-1, &status, unix.WNOHANG|unix.WALL, nil)
	if err != nil || pid <= 0 {
		return // a failed start took it
	}
	if ended := b.children[pid]; ended != nil {
		delete(b.children, pid)
		ended(status)
	}
}

// startChild starts a child. It is called on the fork thread. ended is called
// once, with the lock held, when the child has ended.
func (b *box) startChild(path string, args []string, attr *syscall.ProcAttr, ended func(unix.WaitStatus)) (pid, boxPID int, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if pid, err = syscall.ForkExec(path, args, attr); err != nil {
		return 0, 0, err
	}
	b.children[pid] = ended
	return pid, b.boxPID(pid), nil
}

// boxPID returns the number of a child inside the box, or 0. gVisor tells it
// of a pidfd only.
func (b *box) boxPID(pid int) int {
	if n := b.innermost(fmt.Sprintf("%d/status", pid)); n > 0 {
		return n
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return 0
	}
	defer unix.Close(fd)
	return b.innermost(fmt.Sprintf("self/fdinfo/%d", fd))
}

// innermost reads the last of a process's numbers from a file below the
// agent's /proc.
func (b *box) innermost(name string) int {
	text, err := readAt(int(b.proc.Fd()), name)
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		list, ok := strings.CutPrefix(line, "NSpid:")
		if all := parsePIDs([]byte(list)); ok && len(all) > 0 {
			return all[len(all)-1]
		}
	}
	return 0
}

// signal sends sig to a child, or its process group if group is set, unless it
// has been reaped.
func (b *box) signal(pid int, group bool, sig unix.Signal) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.children[pid] == nil {
		return unix.ESRCH
	}
	if group {
		pid = -pid
	}
	return unix.Kill(pid, sig)
}

// signalInside sends sig to a process of the box, by the agent's numbering, and
// to no other that may have got its number meanwhile.
func (b *box) signalInside(pid int, sig unix.Signal) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return ignore(err, unix.ESRCH)
	}
	defer unix.Close(fd)
	if ns, err := b.readlink(fmt.Sprintf("%d/ns/pid", pid)); err != nil || ns != b.pidns {
		return nil
	}
	return ignore(unix.PidfdSendSignal(fd, sig, nil, 0), unix.ESRCH)
}

func ignore(err error, what unix.Errno) error {
	if errors.Is(err, what) {
		return nil
	}
	return err
}

// kill ends the box and everything in it.
func (b *box) kill() {
	_ = b.signal(b.initPID, false, unix.SIGKILL)
	<-b.ended
}

// close lets go of a box that has ended.
func (b *box) close() {
	b.fork.close()
	b.files.close()
	b.trees.close()
	b.proc.Close()
}

// readlink reads a link below the agent's /proc.
func (b *box) readlink(name string) (string, error) {
	var buf [256]byte
	n, err := unix.Readlinkat(int(b.proc.Fd()), name, buf[:])
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}
