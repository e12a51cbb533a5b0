package guest

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// boxInit is the first process of the box's namespaces: it arranges the box's
// file systems, says "ok" or why not on descriptor 3, and reaps orphans for
// ever. It keeps no capability, and the kernel protects it from signals of the
// box, since it handles none.
func boxInit(root string) error {
	runtime.LockOSThread()
	name, _ := unix.BytePtrFromString("boxlite-init")
	_ = unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(name)), 0, 0, 0) // ps would say exe
	status := os.NewFile(3, "status")
	if err := endWithAgent(); err != nil {
		return err
	}
	if err := arrange(root); err != nil {
		fmt.Fprint(status, err)
		return err
	}
	if err := giveUpPower(); err != nil {
		fmt.Fprint(status, err)
		return err
	}
	if _, err := fmt.Fprint(status, "ok"); err != nil {
		return err // the agent is gone already
	}
	status.Close()
	reapForever()
	return nil
}

// giveUpPower leaves the box's init with nothing that is worth taking over.
func giveUpPower() error {
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte("-999"), 0) // the box ends with us: let others go first
	if err := boundCapabilities(0); err != nil {
		return err
	}
	if err := setCapabilities(0); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("hide memory: %w", err)
	}
	return endWithAgent() // some kernels forget it with the capabilities
}

// endWithAgent asks the kernel to kill this process when the agent's fork
// thread, which started it, ends.
func endWithAgent() error {
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return fmt.Errorf("end with the agent: %w", err)
	}
	return nil
}

// reapForever waits for children, ours and those that the kernel gives us. The
// Go runtime's signal handlers go first: Linux keeps from the init of a
// namespace what it does not handle, gVisor only what it ignores.
func reapForever() {
	ignore := [4]uint64{1} // struct sigaction with SIG_IGN; zero, SIG_DFL, for the signal that tells of children
	for sig := uintptr(1); sig <= 64; sig++ {
		action := ignore
		if sig == uintptr(unix.SIGCHLD) {
			action = [4]uint64{}
		}
		_, _, _ = unix.Syscall6(unix.SYS_RT_SIGACTION, sig, uintptr(unsafe.Pointer(&action)), 0, 8, 0, 0)
	}
	for {
		_, _, errno := unix.Syscall6(unix.SYS_WAIT4, ^uintptr(0), 0, unix.WALL, 0, 0, 0)
		if errno == unix.ECHILD {
			waitForChild()
		}
	}
}

// waitForChild sleeps until a child may be there. SIGCHLD's default is to be
// ignored, so this blocks it and waits for it by name, but not for ever: one
// may have come before.
func waitForChild() {
	set := uint64(1) << (unix.SIGCHLD - 1)
	limit := unix.Timespec{Sec: 10}
	_, _, _ = unix.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_BLOCK, uintptr(unsafe.Pointer(&set)), 0, 8, 0, 0)
	_, _, _ = unix.Syscall6(unix.SYS_RT_SIGTIMEDWAIT, uintptr(unsafe.Pointer(&set)), 0, uintptr(unsafe.Pointer(&limit)), 8, 0, 0)
}

// arrange makes the mount namespace a box's.
func arrange(root string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if root != "" {
		if err := pivot(root); err != nil {
			return err
		}
	}
	for _, step := range []func() error{mountProc, uncoverTmp, mountDev, protectProc, protectDev, fillEtc} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// pivot makes root the root, and what was there before unreachable.
func pivot(root string) error {
	if err := unix.Mount(root, root, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("bind %s: %w", root, err)
	}
	if err := unix.Chdir(root); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot to %s: %w", root, err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount the old root: %w", err)
	}
	return unix.Chdir("/")
}

func mountProc() error {
	if err := mkdir("/proc", 0o555); err != nil {
		return err
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	return nil
}

// uncoverTmp takes away the memory file system that gVisor puts over an empty
// /tmp: what a box writes there counts against its disk, and is there after a
// stop, like everything else.
func uncoverTmp() error {
	if inSentry() && isMount("/tmp") {
		if err := unix.Unmount("/tmp", unix.MNT_DETACH); err != nil {
			return fmt.Errorf("uncover /tmp: %w", err)
		}
	}
	return nil
}

// The parts of /proc and /sys that configure or lay open the whole kernel, as
// OCI runtimes treat them.
var (
	readonlyPaths = []string{"/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus", "/proc/fs", "/sys"}
	maskedPaths   = []string{"/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
		"/proc/sched_debug", "/proc/scsi", "/proc/asound", "/sys/firmware", "/sys/fs/cgroup"}
)

// protectProc keeps root in the box from reaching through /proc or /sys into
// the kernel: writing core_pattern would run a program outside the box.
func protectProc() error {
	for _, p := range maskedPaths {
		if err := mask(p); err != nil {
			return err
		}
	}
	for _, p := range readonlyPaths {
		if err := readonly(p); err != nil {
			return err
		}
	}
	return nil
}

// protectDev keeps root in the box, who may make device nodes, from making one
// in the only place where nodes can be opened: a VM's disks and ports are its
// own kernel's. gVisor's devices are made up, and reach nothing.
func protectDev() error {
	if inSentry() {
		return nil
	}
	err := unix.Mount("", "/dev", "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NOEXEC, "")
	if err != nil {
		return fmt.Errorf("make /dev read-only: %w", err)
	}
	return nil
}

func mask(path string) error {
	if !exists(path) {
		return nil
	}
	info, err := os.Lstat(path)
	switch {
	case err != nil:
		return err
	case info.IsDir():
		err = unix.Mount("tmpfs", path, "tmpfs", unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "size=0")
	default:
		err = unix.Mount("/dev/null", path, "", unix.MS_BIND, "")
	}
	if err != nil && !inSentry() {
		return fmt.Errorf("mask %s: %w", path, err)
	}
	return nil
}

func readonly(path string) error {
	if !exists(path) {
		return nil
	}
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	err := unix.Mount(path, path, "", unix.MS_BIND|unix.MS_REC, "")
	if err == nil {
		err = unix.Mount("", path, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY|flags, "")
	}
	if err != nil && !inSentry() {
		return fmt.Errorf("make %s read-only: %w", path, err)
	}
	return nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// inSentry tells gVisor, whose /proc reaches no kernel, from Linux.
func inSentry() bool {
	b, err := os.ReadFile("/proc/version")
	return err == nil && strings.Contains(string(b), "gvisor")
}

// devices are those that a program may rely on.
var devices = []struct {
	name         string
	major, minor uint32
}{{"null", 1, 3}, {"zero", 1, 5}, {"full", 1, 7}, {"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0}}

// mountDev makes /dev complete: on a memory file system of its own unless the
// engine has mounted one.
func mountDev() error {
	if err := mkdir("/dev", 0o755); err != nil {
		return err
	}
	if !isMount("/dev") {
		if err := unix.Mount("dev", "/dev", "tmpfs", unix.MS_NOSUID|unix.MS_NOEXEC, "mode=755,size=64k"); err != nil {
			return fmt.Errorf("mount /dev: %w", err)
		}
	}
	for _, d := range devices {
		err := unix.Mknod("/dev/"+d.name, unix.S_IFCHR|0o666, int(unix.Mkdev(d.major, d.minor)))
		if err == nil {
			err = unix.Chmod("/dev/"+d.name, 0o666) // mknod obeys the umask
		}
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("make /dev/%s: %w", d.name, err)
		}
	}
	for name, target := range map[string]string{"fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2"} {
		_ = os.Symlink(target, "/dev/"+name) // there already, or not worth failing for
	}
	return mountDevDirectories()
}

func mountDevDirectories() error {
	const flags = unix.MS_NOSUID | unix.MS_NOEXEC
	if !isMount("/dev/pts") {
		if err := mkdir("/dev/pts", 0o755); err != nil {
			return err
		}
		if err := unix.Mount("devpts", "/dev/pts", "devpts", flags, "newinstance,ptmxmode=0666,mode=0620,gid=5"); err != nil {
			return fmt.Errorf("mount /dev/pts: %w", err)
		}
	}
	if !exists("/dev/ptmx") {
		_ = os.Symlink("pts/ptmx", "/dev/ptmx")
	}
	if isMount("/dev/shm") {
		return nil
	}
	if err := mkdir("/dev/shm", 0o1777); err != nil {
		return err
	}
	if err := unix.Mount("shm", "/dev/shm", "tmpfs", flags|unix.MS_NODEV, "mode=1777"); err != nil {
		return fmt.Errorf("mount /dev/shm: %w", err)
	}
	return nil
}

// isMount reports whether something is mounted at path.
func isMount(path string) bool {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return false
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if fields := strings.Fields(s.Text()); len(fields) > 4 && fields[4] == path {
			return true
		}
	}
	return false
}

func mkdir(path string, mode fs.FileMode) error {
	if err := os.Mkdir(path, mode); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// fillEtc makes the files that every program expects and that images leave to
// the runtime. A file that says something already is kept, and a read-only
// root is no failure.
func fillEtc() error {
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = "localhost"
	}
	hosts := "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
	if host != "localhost" {
		hosts += "127.0.1.1\t" + host + "\n"
	}
	_ = mkdir("/etc", 0o755) // else there is nothing to fill
	for name, content := range map[string]string{"hosts": hosts, "hostname": host + "\n", "resolv.conf": ""} {
		fill(filepath.Join("/etc", name), content)
	}
	return nil
}

func fill(path, content string) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o644)
	if err != nil {
		return
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Mode().IsRegular() && info.Size() == 0 {
		_, _ = f.WriteString(content)
	}
}
