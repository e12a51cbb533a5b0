package agent_test

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

var denied = regexp.MustCompile("not permitted|permission denied .are you root") // as busybox puts EPERM

func TestCommandsCannotMountOrMakeUserNamespaces(t *testing.T) {
	both(t, func(t *testing.T, r *rig) {
		r.run(t, "mkdir /tmp/cg")
		for _, line := range []string{"unshare -U true", "unshare -Urm true", "unshare -Urm mount -t cgroup2 none /tmp/cg",
			"mount -t tmpfs none /tmp", "umount /proc", "nsenter -m -t $$ true", "pivot_root /tmp /tmp"} {
			if _, errs, status := r.run(t, line); status.Code == 0 || !denied.MatchString(errs) {
				t.Errorf("%s: %q %+v", line, errs, status)
			}
		}
		if out, errs, status := r.run(t, "(echo a; echo b) | wc -l; chroot / true"); status.Code != 0 || strings.TrimSpace(out) != "2" {
			t.Errorf("%q %q %+v", out, errs, status)
		}
	})
}

// The ways out of a command's tree that a user namespace would open: another
// cgroup by a mount of one's own, as gVisor has it, and another mark.
func TestNamespacesDoNotLeadOutOfTheTree(t *testing.T) {
	both(t, func(t *testing.T, r *rig) {
		r.run(t, "mkdir /tmp/cg")
		var out lockedBuffer
		e, err := r.Start(t.Context(), sh(`unshare -Urm sh -c 'mount -t cgroup2 none /tmp/cg; echo $$ > /tmp/cg/cgroup.procs; setsid sleep 9871 &'
unshare -Uru setsid sleep 9874 &
setsid sleep 9872 & echo ready; sleep 9873`), &out, nil)
		must(t, err)
		waitFor(t, func() bool {
			return strings.Contains(out.String(), "ready") && strings.Count(r.leftovers(t), "\n") >= 2
		})
		time.Sleep(100 * time.Millisecond)
		must(t, e.KillTree(t.Context()))
		if left := r.leftovers(t); left != "" {
			t.Errorf("left:\n%s", left)
		}
	})
}

func TestSetUserIDProgramsWork(t *testing.T) {
	r := newRig(t, false)
	if out, _, _ := r.run(t, "grep NoNewPrivs /proc/self/status"); out != "NoNewPrivs:\t0\n" {
		t.Errorf("%q", out)
	}
	if runtime.GOARCH != "amd64" {
		t.Skip("the program below is for x86-64")
	}
	name := filepath.Join(r.root, "bin/whoami64") // busybox gives up what such a bit gives it
	must(t, os.WriteFile(name, exitWithUser(), 0o755))
	must(t, os.Chown(name, 42, 42))
	must(t, os.Chmod(name, 0o755|os.ModeSetuid))
	if out, errs, status := r.run(t, "/bin/whoami64; echo $?"); out != "42\n" {
		t.Errorf("%q %q %+v", out, errs, status)
	}
}

// A 32-bit program has other numbers for what is denied.
func TestOtherABIIsKilled(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("the program below is for x86")
	}
	r := newRig(t, false)
	must(t, os.WriteFile(filepath.Join(r.root, "bin/exit32"), exit32(), 0o755))
	out, errs, status := r.run(t, "/bin/exit32; echo $?")
	if strings.Contains(errs, "not found") || strings.Contains(errs, "format") {
		t.Skipf("this kernel runs no 32-bit programs: %q", errs)
	}
	if out != "159\n" { // 128 and SIGSYS
		t.Errorf("a 32-bit program: %q %q %+v", out, errs, status)
	}
}

// exit32 is an i386 program that exits with status 7.
func exit32() []byte {
	const base, headers = 0x8048000, 52 + 32
	code := []byte{0xb8, 1, 0, 0, 0, 0xbb, 7, 0, 0, 0, 0xcd, 0x80} // mov $1,%eax; mov $7,%ebx; int $0x80
	size := uint32(headers + len(code))
	return slices.Concat([]byte("\x7fELF\x01\x01\x01"), make([]byte, 9),
		half(2, 3), word(1, base+headers, 52, 0, 0), half(52, 32, 1, 0, 0, 0), // the file's header
		word(1, 0, base, base, size, size, 5, 0x1000), // load all of it, to be executed
		code)
}

// exitWithUser is an x86-64 program whose status is its effective user.
func exitWithUser() []byte {
	const base, headers = 0x400000, 64 + 56
	code := []byte{0xb8, 107, 0, 0, 0, 0x0f, 5, // mov $107,%eax; syscall: geteuid
		0x89, 0xc7, 0xb8, 60, 0, 0, 0, 0x0f, 5} // mov %eax,%edi; mov $60,%eax; syscall: exit
	size := uint32(headers + len(code))
	return slices.Concat([]byte("\x7fELF\x02\x01\x01"), make([]byte, 9),
		half(2, 62), word(1, base+headers, 0, 64, 0, 0, 0, 0), half(64, 56, 1, 0, 0, 0), // the file's header
		word(1, 5, 0, 0, base, 0, base, 0, size, 0, size, 0, 0x1000, 0), // load all of it, to be executed
		code)
}

func half(values ...uint16) (b []byte) {
	for _, v := range values {
		b = binary.LittleEndian.AppendUint16(b, v)
	}
	return b
}

func word(values ...uint32) (b []byte) {
	for _, v := range values {
		b = binary.LittleEndian.AppendUint32(b, v)
	}
	return b
}
