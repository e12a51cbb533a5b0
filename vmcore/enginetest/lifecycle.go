package enginetest

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/engine"
)

func (s *suite) startsAndStops(t *testing.T) {
	spec := s.spec(t)
	begin := time.Now()
	b := s.start(t, spec)
	t.Logf("started and greeted after %v", time.Since(begin))
	if got := b.sh("echo hello; hostname; id -u"); got != "hello\nenginetest\n0" {
		t.Errorf("got %q", got)
	}
	if !runs(b.PID()) {
		t.Errorf("PID %d is no process", b.PID())
	}
	exit := b.stop(s.cfg.Patience)
	if !exit.Clean || exit.OOM || exit.Reason != "stopped" || exit.Log != "" {
		t.Errorf("exit: %+v", exit)
	}
	b.leftNothing()
	if _, err := b.Control().Write([]byte("x")); err == nil {
		t.Error("the control stream outlives the machine")
	}
	if _, err := b.Usage(); err == nil {
		t.Error("a machine that has ended says what it uses")
	}
	if err := b.Sync(t.Context()); err == nil {
		t.Error("a machine that has ended can be synced")
	}
}

// leftNothing sees that nothing of an ended machine is in its directory, nor in
// any process.
func (b *box) leftNothing() {
	b.t.Helper()
	entries, err := os.ReadDir(b.spec.Dir)
	if err != nil || len(entries) > 0 {
		b.t.Errorf("left in the machine's directory: %v (%v)", entries, err)
	}
	if pids := mentioning(string(b.spec.ID)); len(pids) > 0 {
		b.t.Errorf("left processes %v", pids)
	}
	mounts, _ := os.ReadFile("/proc/self/mounts")
	if strings.Contains(string(mounts), b.spec.Dir) {
		b.t.Errorf("left mounts:\n%s", mounts)
	}
}

func (s *suite) reportIsComplete(t *testing.T) {
	r := s.report
	if r.Isolation == "" || r.Version == "" || r.Start <= 0 || r.CrashLoss <= 0 {
		t.Errorf("report: %+v", r)
	}
	if r.HardMemoryLimit != (r.Overshoot == 0) {
		t.Errorf("hard limit %v with overshoot %d", r.HardMemoryLimit, r.Overshoot)
	}
}

func (s *suite) startsInParallel(t *testing.T) {
	const n = 8
	var wg sync.WaitGroup
	for i := range n {
		spec := s.spec(t)
		spec.Memory = 128 * boxlite.MiB
		wg.Go(func() {
			b, err := s.tryStart(t, spec)
			if err != nil {
				t.Errorf("machine %d: %v", i, err)
				return
			}
			want := fmt.Sprint("I am ", i)
			out, _, err := b.run(t.Context(), "echo '"+want+"' > /me; cat /me")
			if err != nil || strings.TrimSpace(out) != want {
				t.Errorf("machine %d says %q (%v)", i, out, err)
			}
			if err := b.Stop(t.Context()); err != nil {
				t.Errorf("machine %d: %v", i, err)
			}
		})
	}
	wg.Wait()
}

func (s *suite) killIsAtOnce(t *testing.T) {
	b := s.start(t, s.spec(t))
	processes := tree(b.PID())
	begin := time.Now()
	for range 3 {
		b.Kill()
	}
	b.ended(2 * time.Second)
	t.Logf("gone after %v", time.Since(begin))
	waitGone(t, processes, 2*time.Second)
	if exit := b.Exit(); exit.Clean || exit.OOM || exit.Reason != "killed" {
		t.Errorf("exit: %+v", exit)
	}
	b.Kill()
	b.leftNothing()
}

// A sweeper is an engine of which a killed caller's machine may leave something
// that does nothing, until it is told to look.
type sweeper interface{ Sweep() }

func (s *suite) diesWithItsCaller(t *testing.T) {
	var callers []int
	for _, moment := range []time.Duration{-1, 0, 2 * time.Millisecond, 10 * time.Millisecond, 40 * time.Millisecond} {
		spec := s.spec(t)
		text, err := json.Marshal(spec)
		if err != nil {
			t.Fatal(err)
		}
		caller := exec.Command(os.Args[0])
		caller.Env = append(os.Environ(), childVar+"="+string(text))
		out, err := caller.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := caller.Start(); err != nil {
			t.Fatal(err)
		}
		callers = append(callers, caller.Process.Pid)
		if moment < 0 { // when the machine is up
			line, err := bufio.NewReader(out).ReadString('\n')
			pid, bad := strconv.Atoi(strings.TrimSpace(line))
			if err != nil || bad != nil || !runs(pid) {
				t.Errorf("the caller said %q (%v)", line, err)
			}
		} else { // somewhere on the way
			for range 2000 {
				if len(mentioning(string(spec.ID))) > 0 {
					break
				}
				time.Sleep(time.Millisecond)
			}
			time.Sleep(moment)
		}
		processes := tree(caller.Process.Pid)
		_ = caller.Process.Kill()
		_ = caller.Wait()
		waitGone(t, processes, 5*time.Second)
		if pids := mentioning(string(spec.ID)); len(pids) > 0 {
			waitGone(t, pids, 5*time.Second)
		}
		if left, _ := filepath.Glob(filepath.Join(spec.Dir, "*")); moment < 0 && len(left) > 0 {
			t.Errorf("left %v", left)
		}
	}
	s.sweptAfter(t, callers)
}

// sweptAfter sees that, once the engine has looked, no control group is left
// that is named after one of the processes.
func (s *suite) sweptAfter(t *testing.T, owners []int) {
	t.Helper()
	var left []string
	for range 100 { // the kernel lets go of dead processes in its own time
		if sw, ok := s.engine.(sweeper); ok {
			sw.Sweep()
		}
		if left = groupsOf(owners); len(left) == 0 {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Errorf("left control groups %v", left)
}

// groupsOf returns the control groups that have one of the processes in their
// name.
func groupsOf(owners []int) []string {
	var found []string
	_ = filepath.WalkDir("/sys/fs/cgroup", func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.IsDir() {
			return nil //nolint:nilerr // gone meanwhile, or not ours to see
		}
		for _, pid := range owners {
			if strings.Contains(e.Name(), "boxlite-") && strings.Contains(e.Name(), "-"+strconv.Itoa(pid)+"-") {
				found = append(found, path)
			}
		}
		return nil
	})
	return found
}

func (s *suite) noticesItsDeath(t *testing.T) {
	b := s.start(t, s.spec(t))
	processes := tree(b.PID())
	if err := syscall.Kill(b.PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	b.ended(2 * time.Second)
	waitGone(t, processes, 2*time.Second)
	if exit := b.Exit(); exit.Clean || exit.OOM || exit.Reason == "" || exit.Reason == "killed" {
		t.Errorf("exit: %+v", exit)
	}
	b.leftNothing()
}

func (s *suite) refusesBadBases(t *testing.T) {
	whole, err := os.ReadFile(s.cfg.Base)
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{
		"empty":   {},
		"garbage": []byte(strings.Repeat("this is no file system ", 10_000)),
		"cut":     whole[:8192],
	} {
		spec := s.spec(t)
		spec.Base = filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(spec.Base, content, 0o600); err != nil {
			t.Fatal(err)
		}
		s.refused(t, name, spec, boxlite.Engine)
	}
	spec := s.spec(t)
	spec.Base = filepath.Join(t.TempDir(), "missing")
	s.refused(t, "missing", spec, boxlite.Engine)
}

// refused starts a machine that cannot be.
func (s *suite) refused(t *testing.T, name string, spec engine.MachineSpec, want boxlite.Kind) {
	t.Helper()
	begin := time.Now()
	b, err := s.tryStart(t, spec)
	took := time.Since(begin)
	if err == nil {
		b.Kill()
		t.Errorf("%s: it started", name)
		return
	}
	if boxlite.KindOf(err) != want && boxlite.KindOf(err) != boxlite.Portal {
		t.Errorf("%s: kind %v: %v", name, boxlite.KindOf(err), err)
	}
	if took > 10*time.Second {
		t.Errorf("%s: took %v", name, took)
	}
	t.Logf("%s: %v (%v)", name, err, took)
	left, _ := filepath.Glob(filepath.Join(spec.Dir, "*"))
	if layer, _ := filepath.Glob(filepath.Join(spec.Layer, "*")); len(left)+len(layer) > 0 {
		t.Errorf("%s: left %v %v", name, left, layer)
	}
}

func (s *suite) refusesBadSpecs(t *testing.T) {
	for name, spoil := range map[string]func(*engine.MachineSpec){
		"relative path": func(m *engine.MachineSpec) { m.Base = "base" },
		"no CPU":        func(m *engine.MachineSpec) { m.CPUs = 0 },
		"no memory":     func(m *engine.MachineSpec) { m.Memory = 0 },
		"negative disk": func(m *engine.MachineSpec) { m.DiskSize = -1 },
		"long hostname": func(m *engine.MachineSpec) { m.Hostname = strings.Repeat("h", 64) },
	} {
		spec := s.spec(t)
		spoil(&spec)
		s.refused(t, name, spec, boxlite.InvalidArgument)
	}
}

func (s *suite) holdsDeadlines(t *testing.T) {
	for _, limit := range []time.Duration{0, time.Millisecond, 20 * time.Millisecond} {
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		m, err := s.engine.Start(ctx, s.spec(t))
		cancel()
		if err == nil {
			m.Kill()
			<-m.Done()
			if limit < 20*time.Millisecond {
				t.Errorf("started within %v", limit)
			}
		} else if boxlite.KindOf(err) != boxlite.Timeout {
			t.Errorf("after %v: kind %v: %v", limit, boxlite.KindOf(err), err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.engine.Start(ctx, s.spec(t)); boxlite.KindOf(err) != boxlite.Canceled {
		t.Errorf("canceled: %v", err)
	}
}

func (s *suite) agentThatEnds(t *testing.T) {
	spec := s.spec(t)
	spec.Agent = s.cfg.Tool // which says that it knows no verb "serve", and ends
	ctx, cancel := context.WithTimeout(t.Context(), s.cfg.Patience)
	defer cancel()
	m, err := s.engine.Start(ctx, spec)
	if err != nil {
		if boxlite.KindOf(err) != boxlite.Engine || !strings.Contains(err.Error(), "unknown verb") {
			t.Errorf("%v", err)
		}
		return
	}
	select {
	case <-m.Done():
	case <-time.After(10 * time.Second):
		m.Kill()
		<-m.Done()
		t.Fatal("the machine outlives its agent")
	}
	exit := m.Exit()
	if exit.Clean || !strings.Contains(exit.Reason, "agent") || !strings.Contains(exit.Log, "unknown verb") {
		t.Errorf("exit: %+v", exit)
	}
	if !strings.Contains(readLog(spec), "unknown verb") {
		t.Errorf("log: %q", readLog(spec))
	}
}

func (s *suite) stopWithoutTimeKills(t *testing.T) {
	spec := s.spec(t)
	b := s.start(t, spec)
	b.sh("echo kept > /kept")
	if err := b.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.sh("echo lost > /lost")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := b.Stop(ctx)
	if boxlite.KindOf(err) != boxlite.Canceled || !errors.Is(err, context.Canceled) {
		t.Errorf("stop: %v", err)
	}
	b.ended(time.Second)
	if b.Exit().Clean {
		t.Errorf("exit: %+v", b.Exit())
	}
	again := s.start(t, spec)
	if got := again.sh("cat /kept; ls /lost 2>/dev/null || true"); got != "kept" {
		t.Errorf("got %q", got)
	}
}
