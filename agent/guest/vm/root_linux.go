package vm

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/boxlite-mcp/boxlite-mcp/agent/vmboot"
)

// loadModules loads the kernel modules in dir in the order of their names.
func loadModules(dir string) error {
	files, err := filepath.Glob(filepath.Join(dir, "*.ko"))
	if err != nil {
		return err
	}
	slices.Sort(files)
	for _, file := range files {
		f, err := os.Open(file)
		if err != nil {
			return err
		}
		err = unix.FinitModule(int(f.Fd()), "", 0)
		f.Close()
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("load %s: %w", filepath.Base(file), err)
		}
	}
	return nil
}

// findDisk returns the device of the disk with a serial number.
func findDisk(serial string) (device string, err error) {
	err = await("the disk "+serial, func() error {
		files, _ := filepath.Glob("/sys/block/vd*/serial")
		for _, file := range files {
			if text, err := os.ReadFile(file); err == nil && strings.TrimSpace(string(text)) == serial {
				device = "/dev/" + filepath.Base(filepath.Dir(file))
				_, err := os.Stat(device)
				return err
			}
		}
		return os.ErrNotExist
	})
	return device, err
}

// mountRoot mounts the box's root and makes it the root. It returns a directory
// of the writable layer, which no path leads to any more.
func mountRoot() (*os.File, error) {
	base, err := findDisk(vmboot.BaseDisk)
	if err != nil {
		return nil, err
	}
	layer, err := findDisk(vmboot.LayerDisk)
	if err != nil {
		return nil, err
	}
	const plain = unix.MS_NODEV | unix.MS_NOATIME
	if err := mount(base, "/base", "erofs", plain|unix.MS_RDONLY, ""); err != nil {
		return nil, fmt.Errorf("the base image: %w", err)
	}
	// dioread_lock: what replaces a file by renaming is whole after a crash, as
	// with ordered data, and not zeros.
	if err := mount(layer, "/layer", "ext4", plain, "discard,dioread_lock,errors=remount-ro"); err != nil {
		return nil, fmt.Errorf("the writable layer: %w", err)
	}
	for _, dir := range []string{"/layer/upper", "/layer/work"} {
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return nil, fmt.Errorf("the writable layer: %w", err)
		}
	}
	if err := sameRoot("/base", "/layer/upper"); err != nil {
		return nil, fmt.Errorf("the writable layer: %w", err)
	}
	if err := mount("overlay", "/root", "overlay", plain,
		"lowerdir=/base,upperdir=/layer/upper,workdir=/layer/work,redirect_dir=on,index=off,metacopy=off,xino=auto"); err != nil {
		return nil, err
	}
	dir, err := os.Open("/layer")
	if err != nil {
		return nil, err
	}
	return dir, switchRoot("/root")
}

// sameRoot gives the upper root directory, which is what overlayfs shows, the
// mode and owner of the base's, the first time.
func sameRoot(base, upper string) error {
	var st unix.Stat_t
	if err := unix.Stat(base, &st); err != nil {
		return err
	}
	entries, err := os.ReadDir(upper)
	if err != nil || len(entries) > 0 {
		return err
	}
	if err := os.Chmod(upper, os.FileMode(st.Mode&0o777)|sticky(st.Mode)); err != nil {
		return err
	}
	return os.Chown(upper, int(st.Uid), int(st.Gid))
}

func sticky(mode uint32) os.FileMode {
	if mode&unix.S_ISVTX != 0 {
		return os.ModeSticky
	}
	return 0
}

// switchRoot makes the mount at dir the root. The initramfs cannot be
// unmounted: it is emptied and lies below from then on.
func switchRoot(dir string) error {
	if err := mount("sysfs", dir+"/sys", "sysfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return err
	}
	for _, path := range []string{"/sys", "/proc"} {
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("unmount %s: %w", path, err)
		}
	}
	for _, path := range []string{"/init", "/modules"} {
		if err := os.RemoveAll(path); err != nil {
			return err
		}
	}
	if err := unix.Chdir(dir); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move the root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	return unix.Chdir("/")
}
