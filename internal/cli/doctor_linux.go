package cli

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"golang.org/x/sys/unix"
)

// freeSpace returns what an ordinary user may still write below dir.
func freeSpace(dir string) (boxlite.Bytes, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	return boxlite.Bytes(st.Bavail) * boxlite.Bytes(st.Bsize), nil
}

func platformChecks(ctx context.Context) []Check {
	return []Check{
		kernelCheck(),
		namespaceCheck(ctx),
		ptraceCheck("/proc/sys/kernel/yama/ptrace_scope", os.Geteuid() == 0),
		cgroupCheck("/sys/fs/cgroup", "/proc/self/cgroup"),
		kvmCheck("/dev/kvm", "/proc/cpuinfo"),
	}
}

// kernelCheck wants Linux 4.14.77, the oldest that gVisor says it runs on.
func kernelCheck() Check {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return Check{Name: "kernel", Detail: err.Error()}
	}
	release := unix.ByteSliceToString(u.Release[:])
	c := Check{Name: "kernel", Detail: "Linux " + release + " " + unix.ByteSliceToString(u.Machine[:])}
	var major, minor int
	_, err := fmt.Sscanf(release, "%d.%d", &major, &minor)
	c.OK = err == nil && (major > 4 || major == 4 && minor >= 15)
	c.Hint = "Use Linux 4.15 or newer."
	return c
}

// namespaceCheck starts a process in a user namespace of its own, which tells
// more than the settings that may forbid it.
func namespaceCheck(ctx context.Context) Check {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	c := Check{Name: "user namespaces", Hint: namespaceHint()}
	cmd := exec.CommandContext(ctx, "/proc/self/exe", "version")
	cmd.Args[0] = Name
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWPID | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
	}
	err := runQuiet(cmd)
	switch {
	case err == nil:
		c.OK, c.Detail = true, "usable"
	case os.Geteuid() == 0:
		c.Optional, c.Detail = true, "not usable: "+err.Error()+"; root does without"
	default:
		c.Detail = "not usable: " + err.Error()
	}
	return c
}

func namespaceHint() string {
	switch {
	case firstLine("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1":
		return "Run sysctl kernel.apparmor_restrict_unprivileged_userns=0 as root, or give the program an AppArmor profile."
	case firstLine("/proc/sys/kernel/unprivileged_userns_clone") == "0":
		return "Run sysctl kernel.unprivileged_userns_clone=1 as root."
	case firstLine("/proc/sys/user/max_user_namespaces") == "0":
		return "Run sysctl user.max_user_namespaces=15000 as root."
	}
	return "Allow user namespaces, or run as root; a container needs a seccomp profile that allows them."
}

// ptraceCheck reads Yama's setting: gVisor's systrap platform traces its own
// children, which all but the strictest settings allow.
func ptraceCheck(path string, root bool) Check {
	c := Check{Name: "ptrace", Hint: "Run sysctl kernel.yama.ptrace_scope=1 as root; 3 lasts until the next boot."}
	switch scope := firstLine(path); scope {
	case "":
		c.OK, c.Detail = true, "not restricted"
	case "3":
		c.Detail = "forbidden: ptrace_scope is 3"
	case "2":
		c.OK, c.Detail = root, "for root only: ptrace_scope is 2"
	default:
		c.OK, c.Detail = true, "allowed: ptrace_scope is "+scope
	}
	return c
}

// cgroupCheck looks for a cgroup in which limits can be set. Without one the
// limits of boxes are watched, not enforced.
func cgroupCheck(root, self string) Check {
	c := Check{Name: "cgroup", Optional: true,
		Hint: "Run as root, or under systemd with Delegate=yes, for hard limits; without, a watchdog ends a box that takes too much."}
	if _, err := os.Stat(filepath.Join(root, "cgroup.controllers")); err == nil {
		return cgroupV2(c, filepath.Join(root, ownCgroup(self, "")))
	}
	memory := filepath.Join(root, "memory", ownCgroup(self, "memory"))
	if _, err := os.Stat(memory); err != nil { // in a container the path is the host's
		memory = filepath.Join(root, "memory")
	}
	_, err := os.Stat(filepath.Join(memory, "memory.limit_in_bytes"))
	switch {
	case err != nil:
		c.Detail = "no memory controller is mounted at " + root
	case !writable(memory):
		c.Detail = "version 1, " + memory + " is not writable: limits are watched, not hard"
	default:
		c.OK, c.Detail = true, "version 1, writable"
	}
	return c
}

func cgroupV2(c Check, dir string) Check {
	controllers := strings.Fields(firstLine(filepath.Join(dir, "cgroup.controllers")))
	var missing []string
	for _, want := range []string{"cpu", "memory", "pids"} {
		if !slices.Contains(controllers, want) {
			missing = append(missing, want)
		}
	}
	switch {
	case len(missing) > 0:
		c.Detail = fmt.Sprintf("version 2, %s is without %s: limits are watched, not hard", dir, strings.Join(missing, ", "))
	case !writable(dir) || !writable(filepath.Join(dir, "cgroup.procs")):
		c.Detail = "version 2, " + dir + " is not writable: limits are watched, not hard"
	default:
		c.OK, c.Detail = true, "version 2, writable, with cpu, memory and pids"
	}
	return c
}

// ownCgroup returns the path of the process in the hierarchy of a controller,
// or in the unified one for "".
func ownCgroup(self, controller string) string {
	b, _ := os.ReadFile(self)
	for line := range strings.Lines(string(b)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) == 3 && slices.Contains(strings.Split(parts[1], ","), controller) {
			return parts[2]
		}
	}
	return ""
}

// writable asks the kernel: permission bits do not tell of a read-only mount.
func writable(path string) bool { return unix.Access(path, unix.W_OK) == nil }

// kvmCheck tells a /dev/kvm that works from one that is only there. Some clouds
// offer one that boots nothing but kernels built for it; their CPUs show
// neither vmx nor svm.
func kvmCheck(device, cpuinfo string) Check {
	const getAPIVersion, version = 0xAE00, 12
	c := Check{Name: "kvm", Optional: true}
	f, err := os.OpenFile(device, os.O_RDWR|unix.O_CLOEXEC, 0)
	switch {
	case os.IsNotExist(err):
		c.Detail = "no " + device + ": boxes get an application kernel, not a virtual machine"
		c.Hint = "Turn on (nested) virtualisation and load kvm_intel or kvm_amd, if you want virtual machines."
		return c
	case os.IsPermission(err):
		c.Detail = device + " may not be opened by this user"
		c.Hint = "Add the user to the group kvm, if you want virtual machines."
		return c
	case err != nil:
		c.Detail = err.Error()
		return c
	}
	defer f.Close()
	got, err := unix.IoctlRetInt(int(f.Fd()), getAPIVersion)
	switch {
	case err != nil || got != version:
		c.Detail = fmt.Sprintf("%s does not answer as KVM does: version %d, %v", device, got, err)
	case !hardwareVirtualisation(cpuinfo):
		c.Detail = device + " is there, but the CPU shows neither vmx nor svm: it may boot only specially built kernels"
		c.Hint = "Use a host with nested virtualisation, if you want hardware virtual machines."
	default:
		c.OK, c.Detail = true, device+" works, and the CPU has hardware virtualisation"
	}
	return c
}

// hardwareVirtualisation reads the CPU's flags. On other machines than x86 the
// device's answer is all there is.
func hardwareVirtualisation(cpuinfo string) bool {
	b, err := os.ReadFile(cpuinfo)
	if err != nil {
		return true
	}
	x86 := false
	for line := range strings.Lines(string(b)) {
		name, flags, _ := strings.Cut(line, ":")
		if strings.TrimSpace(name) != "flags" {
			continue
		}
		x86 = true
		if fields := strings.Fields(flags); slices.Contains(fields, "vmx") || slices.Contains(fields, "svm") {
			return true
		}
	}
	return !x86
}
