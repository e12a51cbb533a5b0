package agent_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/boxlite-mcp/boxlite-mcp/agent"
	"github.com/boxlite-mcp/boxlite-mcp/agent/guest"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// The test program is also the agent that the tests run, and its box's init.
func TestMain(m *testing.M) {
	switch {
	case os.Args[0] == "boxlite-init":
		if err := guest.Main(context.Background(), os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	case len(os.Args) == 4 && os.Args[1] == "test-agent":
		if err := serve(os.Args[2], os.Args[3] == "marks"); err != nil {
			fmt.Fprintln(os.Stderr, "agent:", err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

func serve(root string, marks bool) error {
	conn, err := guest.Inherited(3)
	if err != nil {
		return err
	}
	return guest.Serve(context.Background(), conn, guest.Options{Root: root, NoCgroups: marks})
}

// A rig is an agent that runs in a box made of a busybox tree.
type rig struct {
	*agent.Client
	root string
	cmd  *exec.Cmd
}

// newRig starts an agent as root on this host. Trees are kept by cgroup where
// the host has them, unless marks is set. The small directories hold 64 KiB.
func newRig(t testing.TB, marks bool, small ...string) *rig {
	t.Helper()
	needRoot(t)
	root := t.TempDir()
	buildRoot(t, root)
	for _, name := range small {
		mountSmall(t, filepath.Join(root, name))
	}
	conn, theirs := socketFiles(t)
	how := "cgroups"
	if marks {
		how = "marks"
	}
	cmd := exec.Command("/proc/self/exe", "test-agent", root, how)
	cmd.Stderr = os.Stderr
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUTS, Pdeathsig: unix.SIGKILL}
	must(t, cmd.Start())
	theirs.Close()
	c, err := agent.NewClient(t.Context(), conn, agent.Options{Hostname: "box"})
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{Client: c, root: root, cmd: cmd}
	t.Cleanup(func() {
		c.Close()
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		select {
		case err := <-ended:
			if err != nil && r.cmd != nil {
				t.Errorf("agent: %v", err)
			}
		case <-time.After(10 * time.Second):
			_ = cmd.Process.Signal(syscall.SIGQUIT) // it says where it hangs
			time.Sleep(time.Second)
			_ = cmd.Process.Kill()
			<-ended
			t.Error("the agent did not end with its connection")
		}
	})
	return r
}

// mountSmall makes a directory that holds 64 KiB.
func mountSmall(t testing.TB, dir string) {
	t.Helper()
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("small", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
}

// buildRoot makes a file system of busybox and two accounts.
func buildRoot(t testing.TB, root string) {
	t.Helper()
	for _, d := range []string{"bin", "etc", "tmp", "root", "home/ada", "proc", "sys"} {
		must(t, os.MkdirAll(filepath.Join(root, d), 0o755))
	}
	must(t, os.Chmod(root, 0o755))
	must(t, os.Chmod(filepath.Join(root, "tmp"), 0o777|os.ModeSticky))
	must(t, os.Chown(filepath.Join(root, "home/ada"), 1000, 1000))
	data, err := os.ReadFile("/bin/busybox")
	must(t, err)
	must(t, os.WriteFile(filepath.Join(root, "bin/busybox"), data, 0o755))
	applets, err := exec.Command("/bin/busybox", "--list").Output()
	must(t, err)
	for name := range strings.FieldsSeq(string(applets)) {
		if name != "busybox" {
			must(t, os.Symlink("busybox", filepath.Join(root, "bin", name)))
		}
	}
	must(t, os.WriteFile(filepath.Join(root, "etc/passwd"), []byte("root:x:0:0::/root:/bin/sh\nada:x:1000:1000::/home/ada:/bin/sh\n"), 0o644))
	must(t, os.WriteFile(filepath.Join(root, "etc/group"), []byte("root:x:0:\nada:x:1000:\nwheel:x:10:ada\nusers:x:100:ada,bob\n"), 0o644))
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// run runs a line of shell and returns its output and how it ended.
func (r *rig) run(t testing.TB, line string) (stdout, stderr string, status agent.ExitStatus) {
	t.Helper()
	return r.runSpec(t, agent.ExecSpec{Args: []string{"/bin/sh", "-c", line}})
}

func (r *rig) runSpec(t testing.TB, spec agent.ExecSpec) (stdout, stderr string, status agent.ExitStatus) {
	t.Helper()
	var out, errs bytes.Buffer
	e, err := r.Start(t.Context(), spec, &out, &errs)
	must(t, err)
	status, err = e.Wait(t.Context())
	must(t, err)
	select {
	case <-e.Closed():
	case <-time.After(10 * time.Second):
		t.Fatal("the streams do not end")
	}
	return out.String(), errs.String(), status
}

func TestRunsACommand(t *testing.T) {
	r := newRig(t, false)
	out, errs, status := r.run(t, "echo out; echo err >&2; exit 7")
	if out != "out\n" || errs != "err\n" || status != (agent.ExitStatus{Code: 7}) {
		t.Errorf("stdout %q, stderr %q, status %+v", out, errs, status)
	}
	if g := r.Guest(); !g.Isolated || g.Protocol != agent.Protocol || g.Kernel == "" {
		t.Errorf("guest %+v", g)
	}
	if out, _, _ := r.run(t, "hostname"); out != "box\n" {
		t.Errorf("host name %q", out)
	}
}
