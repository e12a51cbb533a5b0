package jail_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/boxlite-mcp/boxlite-mcp/internal/jail"
	"github.com/boxlite-mcp/boxlite-mcp/internal/testbin"
)

// run runs a line of shell in a jail, as a user who owns the file shared, which
// is descriptor 3.
func run(t *testing.T, shared *os.File, line string) string {
	t.Helper()
	spec := jail.Spec{
		Program: "/bin/sh", Args: []string{"-c", line}, Trees: jail.SystemTrees("/bin/sh"), Devices: []string{"/dev/null"},
		ReadOnly: map[int]string{3: shared.Name()},
	}
	cmd := exec.Command(testbin.Path(t, "boxlite-jail"), spec.Argument())
	cmd.Env = []string{"SECRET=of the starter"}
	cmd.ExtraFiles = []*os.File{shared}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 65534, HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 65534, HostID: os.Getegid(), Size: 1}},
		Credential:  &syscall.Credential{Uid: 65534, Gid: 65534, NoSetGroups: true},
		AmbientCaps: []uintptr{unix.CAP_SYS_ADMIN, unix.CAP_SYS_CHROOT, unix.CAP_SETPCAP},
		Pdeathsig:   unix.SIGKILL,
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", line, err, out)
	}
	return strings.TrimSpace(string(out))
}

func TestJail(t *testing.T) {
	path := filepath.Join(t.TempDir(), "shared")
	if err := os.WriteFile(path, []byte("as it was"), 0o600); err != nil {
		t.Fatal(err)
	}
	shared, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer shared.Close()

	for _, test := range []struct{ line, want string }{
		{"cat <&3", "as it was"},
		{"cat /proc/self/fd/3", "as it was"},
		{"(echo x > /proc/self/fd/3) 2>/dev/null || echo refused", "refused"},
		{"chmod 777 /proc/self/fd/3 2>/dev/null || echo refused", "refused"},
		{"touch /file /usr/file /proc/file 2>/dev/null || echo refused", "refused"},
		{"test -e /root -o -e /home -o -e /etc/passwd -o -e /tmp -o -e /sys || echo absent", "absent"},
		{"ls /dev", "null"},
		{"test $(ls -d /proc/[0-9]* | wc -l) -lt 6 && cat /proc/1/comm", "sh"}, // nothing but its own processes
		{"env | grep -v ^PWD= | sort | tr '\\n' ' '", "PATH=/usr/bin:/bin"},
		{"ulimit -c", "0"},
		{"grep -E '^(CapEff|CapPrm|CapBnd|CapAmb|NoNewPrivs)' /proc/self/status | tr -d '0\\n\\t '", "CapPrm:CapEff:CapBnd:CapAmb:NoNewPrivs:1"},
		{"ls /sys/class/net 2>/dev/null; tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '", "lo"},
	} {
		if got := run(t, shared, test.line); got != test.want {
			t.Errorf("%s: %q, want %q", test.line, got, test.want)
		}
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != "as it was" {
		t.Errorf("the file has %q (%v)", got, err)
	}
}
