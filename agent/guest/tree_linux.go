package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// trees keeps together what descends from a command, so that nothing of it
// escapes: in a cgroup of its own where the kernel has cgroup2 with
// cgroup.kill, else by a mark that children inherit and that nobody in the box
// can take off.
type trees struct {
	box  *box
	root int // descriptor of the cgroup to make others in; -1: none
	last atomic.Uint64
}

// A tree is one command and what descends from it.
type tree struct {
	trees *trees
	dir   int    // descriptor of its cgroup; -1: it is marked
	name  string // of the cgroup
	mark  string // what /proc/PID/ns/uts says of its processes
	uts   int    // descriptor that keeps the mark from being used again

	everything bool // it is all processes of the box instead

	mu       sync.Mutex // held while the descriptors are used
	released bool       // guarded by mu
}

func newTrees(b *box, opts Options) *trees {
	t := &trees{box: b, root: -1}
	if opts.NoCgroups {
		return t
	}
	if root, err := openCgroup(opts.Cgroup); err == nil { // else there is the other way
		t.root = root
	}
	return t
}

func (t *trees) close() {
	if t.root >= 0 {
		unix.Close(t.root)
	}
}

// openCgroup opens a cgroup, "" for the agent's own, by a mount that has no
// place in any file system, so that nobody else can reach it.
func openCgroup(path string) (int, error) {
	fs, err := unix.Fsopen("cgroup2", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, err
	}
	defer unix.Close(fs)
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, err
	}
	mount, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
	if err != nil {
		return -1, err
	}
	defer unix.Close(mount)
	if path == "" {
		if path, err = ownCgroup(); err != nil {
			return -1, err
		}
	}
	root, err := unix.Openat(mount, "."+path, unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_RDONLY, 0)
	if err != nil {
		return -1, err
	}
	return root, checkCgroup(root)
}

func ownCgroup() (string, error) {
	b, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(b)) {
		if path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok && !strings.Contains(path, "..") {
			return path, nil
		}
	}
	return "", errors.New("no unified cgroup")
}

// checkCgroup makes and removes a cgroup below root, to see whether that works
// and its processes can be killed at once.
func checkCgroup(root int) error {
	name := "boxlite-" + strconv.Itoa(os.Getpid())
	if err := unix.Mkdirat(root, name, 0o755); err != nil {
		return err
	}
	defer func() { _ = unix.Unlinkat(root, name, unix.AT_REMOVEDIR) }()
	return unix.Faccessat(root, name+"/cgroup.kill", unix.W_OK, 0)
}

// new makes the tree for one command. It is called on the fork thread, whose
// children get the mark.
func (t *trees) new() (*tree, error) {
	if t.root < 0 {
		return t.newMarked()
	}
	name := fmt.Sprintf("boxlite-%d-%d", os.Getpid(), t.last.Add(1))
	if err := unix.Mkdirat(t.root, name, 0o755); err != nil {
		return nil, fmt.Errorf("make cgroup: %w", err)
	}
	dir, err := unix.Openat(t.root, name, unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_RDONLY, 0)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open cgroup: %w", err), unix.Unlinkat(t.root, name, unix.AT_REMOVEDIR))
	}
	return &tree{trees: t, dir: dir, name: name, uts: -1}, nil
}

// newMarked gives the fork thread a UTS namespace of its own. Its number is in
// every descendant's /proc entry, whatever that does to its session, parents
// and environment; leaving it takes a capability that commands do not have.
func (t *trees) newMarked() (*tree, error) {
	if err := unix.Unshare(unix.CLONE_NEWUTS); err != nil {
		return nil, fmt.Errorf("mark: %w", err)
	}
	name := fmt.Sprintf("self/task/%d/ns/uts", unix.Gettid())
	proc := int(t.box.proc.Fd())
	uts, err := unix.Openat(proc, name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open mark: %w", err)
	}
	mark, err := t.box.readlink(name)
	if err != nil {
		unix.Close(uts)
		return nil, fmt.Errorf("read mark: %w", err)
	}
	return &tree{trees: t, dir: -1, mark: mark, uts: uts}, nil
}

// release lets go of a tree that is empty, and reports whether it is.
func (t *tree) release() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.released {
		return true
	}
	pids, err := t.list()
	if err != nil || len(pids) > 0 {
		return false
	}
	if t.dir >= 0 {
		if removeCgroup(t.trees.root, t.name, 0) != nil {
			return false
		}
		unix.Close(t.dir)
	} else {
		unix.Close(t.uts)
	}
	t.released = true
	return true
}

// removeCgroup removes a cgroup and those that were made below it.
func removeCgroup(dir int, name string, depth int) error {
	err := ignore(unix.Unlinkat(dir, name, unix.AT_REMOVEDIR), unix.ENOENT)
	if err == nil || depth > 32 {
		return err
	}
	fd, err := unix.Openat(dir, name, unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_RDONLY, 0)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	entries, err := f.ReadDir(-1)
	for _, e := range entries {
		if e.IsDir() {
			err = errors.Join(err, removeCgroup(fd, e.Name(), depth+1))
		}
	}
	return errors.Join(err, unix.Unlinkat(dir, name, unix.AT_REMOVEDIR))
}

// signal sends sig to every process of the tree.
func (t *tree) signal(sig unix.Signal) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.released {
		return nil
	}
	if sig == unix.SIGKILL && t.dir >= 0 {
		return writeAt(t.dir, "cgroup.kill", "1")
	}
	pids, err := t.list()
	for _, pid := range pids {
		err = errors.Join(err, t.trees.box.signalInside(pid, sig))
	}
	return err
}

// end sends SIGTERM if grace is positive, and SIGKILL to those that are left
// after it, until none is.
func (t *tree) end(ctx context.Context, grace time.Duration) error {
	if grace > 0 {
		if err := t.signal(unix.SIGTERM); err != nil {
			return err
		}
		graced, cancel := context.WithTimeout(ctx, grace)
		err := t.gone(graced, false)
		cancel()
		if err == nil || ctx.Err() != nil {
			return err
		}
	}
	return t.gone(ctx, true)
}

// gone waits until the tree is empty; kill sees to it.
func (t *tree) gone(ctx context.Context, kill bool) error {
	for pause := time.Millisecond; ; pause = min(2*pause, 20*time.Millisecond) {
		pids, err := t.processes()
		if err != nil || len(pids) == 0 {
			return err
		}
		if kill {
			if err := t.signal(unix.SIGKILL); err != nil {
				return err
			}
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// processes lists the tree's processes that have not ended, in the agent's
// numbering.
func (t *tree) processes() ([]int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.released {
		return nil, nil
	}
	return t.list()
}

// list does so with mu held.
func (t *tree) list() ([]int, error) {
	switch {
	case t.everything:
		return t.trees.box.processes("ns/pid", t.trees.box.pidns)
	case t.dir >= 0:
		return cgroupProcesses(t.dir, 0)
	}
	return t.trees.box.processes("ns/uts", t.mark)
}

// cgroupProcesses lists the processes of a cgroup and of those below it, which
// a command may have made in a namespace of its own.
func cgroupProcesses(dir, depth int) ([]int, error) {
	b, err := readAt(dir, "cgroup.procs")
	if err != nil {
		return nil, err
	}
	pids := parsePIDs(b)
	if len(pids) > 0 || depth > 32 || !populated(dir) {
		return pids, nil
	}
	fd, err := unix.Openat(dir, ".", unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "cgroup")
	defer f.Close()
	entries, err := f.ReadDir(-1)
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		if sub, err := unix.Openat(dir, e.Name(), unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_RDONLY, 0); err == nil {
			more, _ := cgroupProcesses(sub, depth+1)
			pids = append(pids, more...)
			unix.Close(sub)
		}
	}
	return pids, err
}

func populated(dir int) bool {
	b, err := readAt(dir, "cgroup.events")
	return err != nil || !strings.Contains(string(b), "populated 0")
}

func parsePIDs(b []byte) []int {
	var pids []int
	for f := range strings.FieldsSeq(string(b)) {
		if pid, err := strconv.Atoi(f); err == nil && pid > 1 {
			pids = append(pids, pid)
		}
	}
	return pids
}

// oomKills returns how many processes of the tree the kernel has ended for
// want of memory, as far as it counts them.
func (t *tree) oomKills() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.dir < 0 || t.released {
		return 0
	}
	b, err := readAt(t.dir, "memory.events")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if n, ok := strings.CutPrefix(strings.TrimSpace(line), "oom_kill "); ok {
			count, _ := strconv.ParseUint(n, 10, 64)
			return count
		}
	}
	return 0
}

// processes lists those whose link below /proc/PID says value. Zombies have no
// namespaces and are not among them.
func (b *box) processes(link, value string) ([]int, error) {
	dir, err := unix.Openat(int(b.proc.Fd()), ".", unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(dir), "/proc")
	defer f.Close()
	var pids []int
	for {
		names, err := f.Readdirnames(512)
		for _, name := range names {
			pid, err := strconv.Atoi(name)
			if err != nil || pid == os.Getpid() || pid == b.initPID {
				continue
			}
			if got, err := b.readlink(name + "/" + link); err == nil && got == value {
				pids = append(pids, pid)
			}
		}
		if errors.Is(err, io.EOF) {
			return pids, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

func readAt(dir int, name string) ([]byte, error) {
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, 1<<20))
}

func writeAt(dir int, name, value string) error {
	fd, err := unix.Openat(dir, name, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	_, err = unix.Write(fd, []byte(value))
	return err
}
