package main // the scripts run the real programs: a daemon, shims, sandboxes

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/boxlite-mcp/boxlite-mcp/internal/testbin"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/image/imagetest"
	"github.com/rogpeppe/go-internal/testscript"
)

// TestRealScript runs the command line against real boxes. IMAGE is a small
// image with busybox, in a registry of the test's own; cutdaemon kills the
// home's daemon as kill -9 does.
func TestRealScript(t *testing.T) {
	bin := testbin.All(t)
	registry := imagetest.Registry(t)
	img := imagetest.Push(t, imagetest.Busybox(), registry+"/tools/busybox:1")
	root := t.TempDir() // the scripts run in parallel, after this function has returned
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script/real",
		RequireExplicitExec: true,
		Cmds:                map[string]func(*testscript.TestScript, bool, []string){"cutdaemon": cutDaemon},
		Setup: func(env *testscript.Env) error {
			home := filepath.Join(root, filepath.Base(env.WorkDir), "home")
			env.Setenv("PATH", bin+":"+env.Getenv("PATH"))
			env.Setenv("BOXLITE_HOME", home)
			env.Setenv("BOXLITE_REGISTRY", "http://"+registry)
			env.Setenv("IMAGE", img)
			env.Defer(func() { endDaemon(t, home) })
			return os.MkdirAll(filepath.Dir(home), 0o755)
		},
	})
}

// cutDaemon kills the script's daemon.
func cutDaemon(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: cutdaemon")
	}
	pids := processes("daemon", ts.Getenv("BOXLITE_HOME"))
	if len(pids) == 0 {
		ts.Fatalf("no daemon runs")
	}
	for _, pid := range pids {
		ts.Check(syscall.Kill(pid, syscall.SIGKILL))
	}
}

// endDaemon ends the daemon of a home, and says so if anything else is left.
func endDaemon(t *testing.T, home string) {
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		daemons := processes("daemon", home)
		for _, pid := range daemons {
			_ = syscall.Kill(pid, syscall.SIGTERM)
		}
		left := processes("shim", home)
		if len(daemons)+len(left) == 0 {
			return
		}
		if time.Now().After(end) {
			t.Errorf("still running: daemons %v, shims %v", daemons, left)
			for _, pid := range append(daemons, left...) {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
			return
		}
	}
}

// processes returns those that run boxlite-mcp in a role for a home. Homes are
// below a test's own directory, so these are the test's own processes.
func processes(role, home string) (pids []int) {
	dirs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range dirs {
		b, err := os.ReadFile(path)
		args := bytes.Split(b, []byte{0})
		if err != nil || len(args) < 2 || string(args[1]) != role || !bytes.Contains(b, []byte(home)) {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path))); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}
