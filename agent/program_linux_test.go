package agent_test

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/boxlite-mcp/boxlite-mcp/agent"
	"github.com/boxlite-mcp/boxlite-mcp/internal/testbin"
	"golang.org/x/sys/unix"
)

// The program itself as the first process of a container whose image has no
// /dev and no /proc, as an engine starts it.
func TestProgramIsAContainersFirstProcess(t *testing.T) {
	needRoot(t)
	root := t.TempDir()
	buildRoot(t, root)
	must(t, os.Remove(filepath.Join(root, "proc")))
	program, err := os.ReadFile(testbin.Path(t, "boxlite-agent"))
	must(t, err)
	must(t, os.WriteFile(filepath.Join(root, "agent"), program, 0o755))
	host, theirs := socketFiles(t)
	cmd := exec.Command("/bin/sh", "-ec", "mount --bind $1 $1; cd $1; pivot_root . .; umount -l .; cd /; exec /agent serve --fd 3", "sh", root)
	cmd.Stderr = os.Stderr
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUTS | unix.CLONE_NEWNS | unix.CLONE_NEWPID, Unshareflags: unix.CLONE_NEWNS}
	must(t, cmd.Start())
	theirs.Close()
	c, err := agent.NewClient(t.Context(), host, agent.Options{Hostname: "box"})
	if err != nil {
		cmd.Process.Kill()
		cmd.Wait()
		t.Fatal(err)
	}
	r := &rig{Client: c, root: root, cmd: cmd}
	cost := cpuTime(t, cmd.Process.Pid)
	for pid := range strings.FieldsSeq(childrenOf(t, cmd.Process.Pid)) {
		n, err := strconv.Atoi(pid)
		must(t, err)
		cost += cpuTime(t, n)
	}
	if cost > 50*time.Millisecond {
		t.Errorf("from start to ready the agent took %s of CPU", cost)
	}
	out, errs, status := r.run(t, "test -c /dev/null && test -c /dev/pts/ptmx && cat /etc/hosts && hostname && ls /proc/1/status")
	if status.Code != 0 || !strings.Contains(out, "localhost") || !strings.Contains(out, "box\n") {
		t.Errorf("%q %q %+v", out, errs, status)
	}
	must(t, c.Close())
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

func socketFiles(t testing.TB) (host net.Conn, theirs *os.File) {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	ours := os.NewFile(uintptr(pair[0]), "host")
	defer ours.Close()
	host, err = net.FileConn(ours)
	must(t, err)
	return host, os.NewFile(uintptr(pair[1]), "guest")
}

// cpuTime returns what a process and its reaped children have used, in steps
// of the kernel's 10 ms.
func cpuTime(t testing.TB, pid int) time.Duration {
	t.Helper()
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	must(t, err)
	fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	ticks := 0
	for _, f := range fields[11:15] {
		n, err := strconv.Atoi(f)
		must(t, err)
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Getuid() == 0 {
		return
	}
	if os.Getenv("CI") != "" {
		t.Fatal("needs root")
	}
	t.Skip("needs root")
}
