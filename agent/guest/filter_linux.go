package guest

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// deniedCalls change what is mounted, or lead into other namespaces. A command
// that has made a user namespace would be allowed them: with a cgroup2 mount of
// its own it leaves its tree.
var deniedCalls = []uint32{unix.SYS_MOUNT, unix.SYS_UMOUNT2, unix.SYS_PIVOT_ROOT, unix.SYS_FSOPEN, unix.SYS_FSPICK,
	unix.SYS_FSCONFIG, unix.SYS_FSMOUNT, unix.SYS_MOVE_MOUNT, unix.SYS_OPEN_TREE, unix.SYS_OPEN_TREE_ATTR,
	unix.SYS_MOUNT_SETATTR, unix.SYS_SETNS}

// Where struct seccomp_data has what the filter looks at.
const (
	dataCall  = 0
	dataArch  = 4
	dataFlags = 16 // the lower half of the first argument: both machines are little-endian
)

// x32Bit is in the numbers of x86-64's second, 32-bit set of calls.
const x32Bit = 0x40000000

// filterCalls keeps the calling, locked thread and all that it starts from
// deniedCalls, from making user namespaces and from sockets to the hypervisor. It takes CAP_SYS_ADMIN, and so
// does without no_new_privs: set-user-ID programs go on working.
//
// clone3 has its flags where a filter cannot see them. If it is not denied, as
// where the thread itself needs it to start children in a cgroup, commands can
// make user namespaces by it, in which mounts are denied as ever.
func filterCalls(denyClone3 bool) error {
	program, err := callFilter(denyClone3)
	if err != nil {
		return err
	}
	prog := unix.SockFprog{Len: uint16(len(program)), Filter: unsafe.SliceData(program)}
	errno := seccomp(unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW, &prog) // or older kernels slow every child down
	if errno == unix.EINVAL {
		errno = seccomp(0, &prog) // gVisor knows no such flag
	}
	runtime.KeepAlive(program)
	if errno != 0 {
		return fmt.Errorf("filter system calls: %w", errno)
	}
	return nil
}

func seccomp(flags uintptr, prog *unix.SockFprog) unix.Errno {
	_, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(prog)))
	return errno
}

// callFilter returns the filter as a program of classic BPF. Each test is
// followed by what it leads to, so that no jump has to be counted.
func callFilter(denyClone3 bool) ([]unix.SockFilter, error) {
	arch, ok := map[string]uint32{"amd64": unix.AUDIT_ARCH_X86_64, "arm64": unix.AUDIT_ARCH_AARCH64}[runtime.GOARCH]
	if !ok {
		return nil, errors.ErrUnsupported
	}
	program := []unix.SockFilter{
		load(dataArch),
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: 1, K: arch},
		answer(unix.SECCOMP_RET_KILL_PROCESS), // a 32-bit program
		load(dataCall),
		{Code: unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K, Jf: 1, K: x32Bit},
		answer(failure(unix.ENOSYS)),
	}
	for _, call := range deniedCalls {
		program = append(program, unlessCall(call, 1), answer(failure(unix.EPERM)))
	}
	if denyClone3 { // C libraries then try clone
		program = append(program, unlessCall(unix.SYS_CLONE3, 1), answer(failure(unix.ENOSYS)))
	}
	for _, call := range []uint32{unix.SYS_CLONE, unix.SYS_UNSHARE} {
		program = append(program, unlessCall(call, 4),
			load(dataFlags),
			unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, Jf: 1, K: unix.CLONE_NEWUSER},
			answer(failure(unix.EPERM)),
			answer(unix.SECCOMP_RET_ALLOW))
	}
	program = append(program, unlessCall(unix.SYS_SOCKET, 4), // what listens beside the machine is not the box's to call
		load(dataFlags),
		unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: unix.AF_VSOCK},
		answer(failure(unix.EAFNOSUPPORT)),
		answer(unix.SECCOMP_RET_ALLOW))
	return append(program, answer(unix.SECCOMP_RET_ALLOW)), nil
}

func load(offset uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
}

// unlessCall skips the next instructions unless the number that was loaded is
// call.
func unlessCall(call uint32, skip uint8) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: skip, K: call}
}

func answer(action uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: action}
}

func failure(errno unix.Errno) uint32 { return unix.SECCOMP_RET_ERRNO | uint32(errno) }
