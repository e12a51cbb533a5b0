package jail

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"
)

// room is where the new root is made: a directory that every system has.
const room = "/tmp"

// Enter makes the jail that argument describes, in the namespaces that the
// process is in, and becomes its program. It returns only on failure.
func Enter(argument string) error {
	runtime.LockOSThread()
	var spec Spec
	if err := json.Unmarshal([]byte(argument), &spec); err != nil {
		return fmt.Errorf("the argument is no jail: %w", err)
	}
	if err := makeRoot(spec); err != nil {
		return err
	}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("forbid core files: %w", err)
	}
	if err := giveUpPower(); err != nil {
		return err
	}
	args := append([]string{filepath.Base(spec.Program)}, spec.Args...)
	return fmt.Errorf("run %s: %w", spec.Program, unix.Exec(spec.Program, args, []string{"PATH=/usr/bin:/bin"}))
}

func makeRoot(spec Spec) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	for fd, path := range spec.ReadOnly {
		if err := makeReadOnly(fd, path); err != nil {
			return fmt.Errorf("make %s read-only: %w", path, err)
		}
	}
	trees := make([]int, len(spec.Trees)) // before the room covers what is below it
	for i, path := range spec.Trees {
		var err error
		if trees[i], err = cloneTree(path); err != nil {
			return err
		}
	}
	devices := make([]int, len(spec.Devices))
	for i, path := range spec.Devices {
		var err error
		if devices[i], err = openTree(path); err != nil {
			return fmt.Errorf("open %s: %w", path, err)
		}
	}
	if err := unix.Mount("jail", room, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=755,size=64k"); err != nil {
		return fmt.Errorf("make the jail's root: %w", err)
	}
	for i, path := range spec.Trees {
		if err := place(trees[i], path); err != nil {
			return err
		}
	}
	for i, path := range spec.Devices {
		if err := place(devices[i], path); err != nil {
			return err
		}
	}
	if err := os.Mkdir(room+"/proc", 0o555); err != nil {
		return err
	}
	if err := unix.Mount("proc", room+"/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	return pivot()
}

// makeReadOnly replaces a descriptor by one of the same file on a read-only
// mount.
func makeReadOnly(fd int, path string) error {
	var st, again unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	tree, err := openTree(path)
	if err != nil {
		return err
	}
	defer unix.Close(tree)
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
	if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		return err
	}
	f, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", tree))
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Fstat(int(f.Fd()), &again); err != nil {
		return err
	}
	if again.Dev != st.Dev || again.Ino != st.Ino {
		return errors.New("another file is at its path")
	}
	return unix.Dup3(int(f.Fd()), fd, 0)
}

func pivot() error {
	if err := unix.Chdir(room); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("enter the jail's root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("leave the old root: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("make the jail's root read-only: %w", err)
	}
	return unix.Chdir("/")
}

// nowhere stands for a tree that is not there, link for one that is a symbolic
// link.
const (
	nowhere = -1
	link    = -2
)

// cloneTree returns a read-only copy of the mounts at path.
func cloneTree(path string) (int, error) {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nowhere, nil
	case err != nil:
		return nowhere, err
	case info.Mode()&fs.ModeSymlink != 0:
		return link, nil
	}
	fd, err := openTree(path)
	if err != nil {
		return nowhere, fmt.Errorf("open %s: %w", path, err)
	}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &attr); err != nil {
		return nowhere, fmt.Errorf("make %s read-only: %w", path, err)
	}
	return fd, nil
}

func openTree(path string) (int, error) {
	return unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
}

// place puts what cloneTree returned at path in the room.
func place(tree int, path string) error {
	target := room + path
	if tree == nowhere {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return err
	}
	if tree == link {
		to, err := os.Readlink(path)
		if err != nil {
			return err
		}
		return os.Symlink(to, target)
	}
	defer unix.Close(tree)
	var st unix.Stat_t
	if err := unix.Fstat(tree, &st); err != nil {
		return err
	}
	var err error
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		err = os.MkdirAll(target, 0o755)
	} else {
		err = os.WriteFile(target, nil, 0o444)
	}
	if err != nil {
		return err
	}
	if err := unix.MoveMount(tree, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("put %s into the jail: %w", path, err)
	}
	return nil
}

// giveUpPower drops every capability, for good.
func giveUpPower() error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("forbid new privileges: %w", err)
	}
	for c := uintptr(0); c <= unix.CAP_LAST_CAP; c++ {
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("drop capability %d: %w", c, err)
		}
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("drop capabilities: %w", err)
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	if err := unix.Capset(&header, &none[0]); err != nil {
		return fmt.Errorf("drop capabilities: %w", err)
	}
	return nil
}
