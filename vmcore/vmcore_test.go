package vmcore_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/internal/proc"
	"github.com/boxlite-mcp/boxlite-mcp/internal/testbin"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/image/imagetest"
)

// world is a home with a busybox image at hand.
type world struct {
	opts  vmcore.Options
	image string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{image: "oci:" + imagetest.Layout(t, imagetest.Busybox(), ""), opts: vmcore.Options{
		Home: t.TempDir(), Version: "test",
		Programs: vmcore.Programs{
			Helper: testbin.Path(t, "boxlite-mcp"), Sandbox: testbin.Path(t, "boxlite-sandbox"), Jail: testbin.Path(t, "boxlite-jail"), Agent: testbin.Path(t, "boxlite-agent"),
		},
	}}
	if testing.Verbose() {
		w.opts.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	return w
}

// open opens the runtime until the test ends, and then expects nothing to be
// left of its boxes.
func (w *world) open(t *testing.T) *vmcore.Runtime {
	t.Helper()
	rt, err := vmcore.Open(t.Context(), w.opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, info := range rt.ListInfo() {
			rt.Remove(context.Background(), string(info.ID), true)
		}
		if err := rt.Close(); err != nil {
			t.Error("Close:", err)
		}
		if left, _ := os.ReadDir(w.opts.Home + "/boxes"); len(left) > 0 {
			t.Errorf("%d directories of boxes are left", len(left))
		}
	})
	return rt
}

func (w *world) create(t *testing.T, rt *vmcore.Runtime, name string) *vmcore.Box {
	t.Helper()
	opts := boxlite.BoxOptions{Image: w.image, AutoRemove: new(false), MemoryMiB: 256}
	box, err := rt.Create(t.Context(), opts, name)
	if err != nil {
		t.Fatal(err)
	}
	return box
}

// sh runs a line of shell to its end.
func sh(t *testing.T, box *vmcore.Box, line string) (stdout, stderr string, result boxlite.ExecResult) {
	t.Helper()
	run, err := box.Run(t.Context(), boxlite.Shell(line), nil)
	if err != nil {
		t.Fatalf("Run(%q): %v", line, err)
	}
	var wg sync.WaitGroup
	var out, errs []byte
	wg.Go(func() { out, _ = io.ReadAll(run.Stdout()) })
	wg.Go(func() { errs, _ = io.ReadAll(run.Stderr()) })
	result, err = run.Wait(t.Context())
	wg.Wait()
	if err != nil {
		t.Fatalf("Wait for %q: %v", line, err)
	}
	return string(out), string(errs), result
}

func TestBoxKeepsItsFilesFromStartToStart(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	rt := w.open(t)
	box := w.create(t, rt, "keeper")
	if s := box.Info().Status; s != boxlite.StatusConfigured {
		t.Fatalf("a new box is %s", s)
	}
	out, errs, res := sh(t, box, "echo hello; echo oops >&2; echo kept | tee /root/file > /tmp/file; exit 3")
	if out != "hello\n" || errs != "oops\n" || res.ExitCode != 3 || res.Success() {
		t.Errorf("stdout %q, stderr %q, result %+v", out, errs, res)
	}
	info := box.Info()
	if info.Status != boxlite.StatusRunning || info.PID == 0 || info.Engine == "" || info.Isolation == "" || info.ImageDigest == "" {
		t.Errorf("a running box is %+v", info)
	}
	machine, err := proc.Of(info.PID)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second does nothing
		if err := box.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if info := box.Info(); info.Status != boxlite.StatusStopped || info.PID != 0 || info.Reason == "" {
		t.Errorf("a stopped box is %+v", info)
	}
	if machine.Alive() {
		t.Error("the machine of a stopped box is alive")
	}
	asked := boxlite.Command{Args: []string{"/bin/true"}, IfRunning: true}
	if _, err := box.Run(t.Context(), asked, nil); boxlite.KindOf(err) != boxlite.InvalidState || box.Info().Status.IsActive() {
		t.Errorf("Run with IfRunning of a stopped box: %v, and it is %s", err, box.Info().Status)
	}
	if out, _, _ := sh(t, box, "cat /root/file /tmp/file"); out != "kept\nkept\n" {
		t.Errorf("after stop and start the file has %q", out)
	}
	if _, err := box.Run(t.Context(), asked, nil); err != nil {
		t.Errorf("Run with IfRunning of a running box: %v", err)
	}
}

func TestNamesAndPrefixesFindBoxes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	rt := w.open(t)
	a, b := w.create(t, rt, "a-box"), w.create(t, rt, "")
	for _, ref := range []string{string(a.ID()), "a-box", string(a.ID())[:9]} {
		got, err := rt.Get(ref)
		if err != nil || got.ID() != a.ID() {
			t.Errorf("Get(%q) = %v, %v", ref, got, err)
		}
	}
	if _, err := rt.Create(t.Context(), boxlite.BoxOptions{}, "a-box"); boxlite.KindOf(err) != boxlite.AlreadyExists || boxlite.HintOf(err) == "" {
		t.Errorf("a second box of that name: %v", err)
	}
	for _, ref := range []string{"", "nobody", "!"} {
		if _, err := rt.Get(ref); boxlite.KindOf(err) != boxlite.NotFound {
			t.Errorf("Get(%q): %v", ref, err)
		}
	}
	if _, err := rt.Lookup(vmcore.Scope{Principal: "mallory"}, string(a.ID())); boxlite.KindOf(err) != boxlite.NotFound {
		t.Errorf("a foreign box: %v, want it to look absent", err)
	}
	if !rt.Exists("a-box") || rt.Exists("nobody") {
		t.Error("Exists is wrong")
	}
	if list := rt.ListInfo(); len(list) != 2 || list[0].ID != a.ID() || list[1].ID != b.ID() {
		t.Errorf("ListInfo = %+v", list)
	}
	if err := rt.Remove(t.Context(), "a-box", false); err != nil {
		t.Error(err)
	}
	if _, err := rt.Create(t.Context(), boxlite.BoxOptions{}, "a-box"); err != nil {
		t.Errorf("the name of a removed box is not free: %v", err)
	}
}

func TestAnActiveBoxIsOnlyRemovedByForce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	rt := w.open(t)
	box := w.create(t, rt, "")
	if err := box.Start(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	machine, _ := proc.Of(box.Info().PID)
	if err := box.Remove(t.Context(), false); boxlite.KindOf(err) != boxlite.InvalidState || boxlite.HintOf(err) == "" {
		t.Errorf("Remove without force: %v", err)
	}
	if err := box.Remove(t.Context(), true); err != nil {
		t.Error(err)
	}
	if machine.Alive() {
		t.Error("the machine of a removed box is alive")
	}
	if _, err := box.Run(t.Context(), boxlite.Shell("true"), nil); boxlite.KindOf(err) != boxlite.NotFound {
		t.Errorf("Run in a removed box: %v", err)
	}
}

// A name is free as soon as its box looks absent, however long its removal takes.
func TestANameIsFreeAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	rt := w.open(t)
	for range 20 {
		box, err := rt.Create(t.Context(), boxlite.BoxOptions{Image: w.image}, "again")
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- box.Remove(t.Context(), true) }()
		for rt.Exists("again") {
			time.Sleep(time.Microsecond)
		}
		next, err := rt.Create(t.Context(), boxlite.BoxOptions{Image: w.image}, "again")
		if err != nil {
			t.Fatal("while the other is being removed:", err)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if err := next.Remove(t.Context(), true); err != nil {
			t.Fatal(err)
		}
	}
}

// An idle box is stopped by who decides that nothing runs in it, so that a
// command that comes in between is not ended.
func TestStopIdle(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	rt := w.open(t)
	box := w.create(t, rt, "")
	run, err := box.Run(t.Context(), boxlite.Shell("sleep 1000"), nil)
	if err != nil {
		t.Fatal(err)
	}
	const idle = 20 * time.Millisecond
	time.Sleep(2 * idle)
	if stopped, err := box.StopIdle(t.Context(), idle); stopped || err != nil {
		t.Fatalf("with a command that runs: %v, %v", stopped, err)
	}
	if err := run.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if stopped, err := box.StopIdle(t.Context(), time.Hour); stopped || err != nil {
		t.Fatalf("just used: %v, %v", stopped, err)
	}
	waitFor(t, "the box to be idle", func() bool {
		stopped, err := box.StopIdle(t.Context(), idle)
		return stopped && err == nil
	})
	if info := box.Info(); info.Status != boxlite.StatusStopped || !strings.Contains(info.Reason, "idle") {
		t.Errorf("%s, %q", info.Status, info.Reason)
	}
	// Who uses it while it is on its way down gets it started again.
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if out, _, _ := sh(t, box, "echo again"); out != "again\n" {
				t.Errorf("%q", out)
			}
		})
		wg.Go(func() { box.StopIdle(t.Context(), time.Nanosecond) })
	}
	wg.Wait()
}

func TestABoxWithAutoRemoveIsGoneWhenItStops(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	rt := w.open(t)
	box, err := rt.Create(t.Context(), boxlite.BoxOptions{Image: w.image}, "brief")
	if err != nil {
		t.Fatal(err)
	}
	sh(t, box, "true")
	if err := box.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if rt.Exists("brief") {
		t.Error("it is still there")
	}
}

func TestABoxThatDoesNotStartSaysWhyAndIsKept(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	rt := w.open(t)
	box, err := rt.Create(t.Context(), boxlite.BoxOptions{Image: "oci:/nowhere", AutoRemove: new(false)}, "broken")
	if err != nil {
		t.Fatal(err)
	}
	if err := box.Start(t.Context(), nil); boxlite.KindOf(err) != boxlite.NotFound || boxlite.HintOf(err) == "" {
		t.Errorf("Start: %v", err)
	}
	if info := box.Info(); info.Status != boxlite.StatusFailed || info.Reason == "" || info.Phase != "" {
		t.Errorf("it is %+v", info)
	}
	if m := rt.Metrics(t.Context()); m.BoxesCreated != 1 || m.BoxesFailed != 1 || m.BoxesRunning != 0 {
		t.Errorf("metrics %+v", m)
	}
}

func TestAnotherRuntimeCannotOpenTheHome(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.open(t)
	if _, err := os.Stat(w.opts.Home + "/.boxlite-mcp-home"); err != nil {
		t.Error("the home has no marker, so that the command line would not use it:", err)
	}
	_, err := vmcore.Open(t.Context(), w.opts)
	if boxlite.KindOf(err) != boxlite.InvalidState || !strings.Contains(err.Error(), fmt.Sprint(os.Getpid())) {
		t.Errorf("Open: %v, want it to name process %d", err, os.Getpid())
	}
}

func TestDetachedBoxesAndTheirOutputSurviveTheRuntime(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	rt, err := vmcore.Open(t.Context(), w.opts)
	if err != nil {
		t.Fatal(err)
	}
	detached, err := rt.Create(t.Context(), boxlite.BoxOptions{Image: w.image, Detach: true}, "detached")
	if err != nil {
		t.Fatal(err)
	}
	attached := w.create(t, rt, "attached")
	if err := attached.Start(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	run, err := detached.Run(t.Context(), boxlite.Shell("echo before; sleep 1; echo after; exit 5"), nil)
	if err != nil {
		t.Fatal(err)
	}
	pid := detached.Info().PID
	if err := rt.Close(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(1500 * time.Millisecond)

	rt = w.open(t)
	box, err := rt.Get("detached")
	if err != nil {
		t.Fatal(err)
	}
	again, err := rt.Execution(vmcore.Everything, run.ID())
	if err != nil {
		t.Fatal(err)
	}
	res, err := again.Wait(t.Context())
	out, _ := io.ReadAll(again.Stdout())
	if err != nil || res.ExitCode != 5 || string(out) != "before\nafter\n" {
		t.Errorf("what ran meanwhile: %q, %+v, %v", out, res, err)
	}
	if info := box.Info(); info.PID != pid || info.Status != boxlite.StatusRunning {
		t.Errorf("the detached box is %s, process %d, was %d", info.Status, info.PID, pid)
	}
	other, err := rt.Get("attached")
	if err != nil || other.Info().Status != boxlite.StatusStopped {
		t.Errorf("the attached box: %v, %v", other, err)
	}
}

func TestAKilledShimLeavesAStoppedBoxThatCanGoOn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	rt := w.open(t)
	box := w.create(t, rt, "")
	run, err := box.Run(t.Context(), boxlite.Shell("echo started; sleep 1000"), nil)
	if err != nil {
		t.Fatal(err)
	}
	waitFor(t, "output", func() bool {
		out, err := run.Output(t.Context(), boxlite.OutputRequest{MaxBytes: 100})
		return err == nil && len(out.Stdout.Data) > 0
	})
	machine, _ := proc.Of(box.Info().PID)
	shim := parentOf(t, machine)
	if err := shim.Kill(5 * time.Second); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the box to stop", func() bool { return box.Info().Status == boxlite.StatusStopped })
	if machine.Alive() {
		t.Error("the machine outlives its shim")
	}
	if r := box.Info().Reason; !strings.Contains(r, "killed") {
		t.Errorf("reason %q", r)
	}
	res, err := run.Wait(t.Context())
	if err != nil || res.Lost == "" || res.ExitCode != -9 {
		t.Errorf("the command under it: %+v, %v", res, err)
	}
	if out, _, _ := sh(t, box, "echo again"); out != "again\n" {
		t.Errorf("after that it says %q", out)
	}
}

func TestAKilledMachineLeavesAStoppedBoxWithAReason(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	rt := w.open(t)
	box := w.create(t, rt, "")
	run, err := box.Run(t.Context(), boxlite.Shell("echo out; sleep 1000"), nil)
	if err != nil {
		t.Fatal(err)
	}
	waitFor(t, "output", func() bool {
		out, err := run.Output(t.Context(), boxlite.OutputRequest{MaxBytes: 100})
		return err == nil && len(out.Stdout.Data) > 0
	})
	machine, _ := proc.Of(box.Info().PID)
	if err := machine.Kill(5 * time.Second); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the box to stop", func() bool { return box.Info().Status == boxlite.StatusStopped })
	out, err := io.ReadAll(run.Stdout())
	if err != nil || string(out) != "out\n" {
		t.Errorf("the output of the command under it: %q, %v", out, err)
	}
	if res, err := run.Wait(t.Context()); err != nil || res.Lost == "" {
		t.Errorf("the command under it: %+v, %v", res, err)
	}
}

func TestABoxWhoseEndWasNotWrittenDownCanGoOn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	rt := w.open(t)
	for what, next := range map[string]func(context.Context, *vmcore.Box) error{
		"run": func(ctx context.Context, b *vmcore.Box) error {
			_, err := b.Run(ctx, boxlite.Shell("true"), nil)
			return err
		},
		"stop": func(ctx context.Context, b *vmcore.Box) error { return b.Stop(ctx) },
	} {
		box := w.create(t, rt, "")
		if err := box.Start(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		if err := box.LoseEnd(); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		if err := next(ctx, box); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		cancel()
		if err := box.Remove(t.Context(), true); err != nil {
			t.Error(err)
		}
	}
}

func TestACallerThatGivesUpDoesNotKeepAnEndFromBeingWrittenDown(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	box := w.create(t, w.open(t), "")
	if err := box.Start(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := box.SettleUnder(ctx); err != nil {
		t.Error(err)
	}
	if s := box.Info().Status; s != boxlite.StatusStopped {
		t.Errorf("its shim is gone, and it is %s", s)
	}
}

func TestTwoHundredCommandsAtOnceInOneBox(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	rt := w.open(t)
	box := w.create(t, rt, "")
	if err := box.Start(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			out, errs, res := sh(t, box, fmt.Sprintf("echo out%d; echo err%d >&2; exit %d", i, i, i%100))
			if out != fmt.Sprintf("out%d\n", i) || errs != fmt.Sprintf("err%d\n", i) || res.ExitCode != i%100 {
				t.Errorf("command %d: %q, %q, %+v", i, out, errs, res)
			}
		})
	}
	wg.Wait()
	m, err := box.Metrics(t.Context())
	if err != nil || m.CommandsRun != 200 || m.BytesReceived == 0 {
		t.Errorf("metrics %+v, %v", m, err)
	}
}

func TestStdinIsBinaryAndEnds(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	rt := w.open(t)
	box := w.create(t, rt, "")
	run, err := box.Run(t.Context(), boxlite.Command{Args: []string{"cat"}, Stdin: true}, nil)
	if err != nil {
		t.Fatal(err)
	}
	data := make([]byte, 3<<20)
	for i := range data {
		data[i] = byte(i * i >> 3)
	}
	in := run.Stdin()
	if run.Stdin() != nil {
		t.Error("Stdin can be taken twice")
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := in.Write(data); err != nil {
			t.Error("Write:", err)
		}
		if err := in.Close(); err != nil {
			t.Error("Close:", err)
		}
	})
	out, err := io.ReadAll(run.Stdout())
	wg.Wait()
	if err != nil || !cmp.Equal(out, data) {
		t.Errorf("cat returned %d bytes of %d, %v", len(out), len(data), err)
	}
}

func TestATimeoutEndsTheWholeTree(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	rt := w.open(t)
	box := w.create(t, rt, "")
	cmd := boxlite.Shell("setsid sh -c 'trap \"\" TERM; while :; do sleep 0.1; done' & sleep 1000")
	cmd.Timeout = 500 * time.Millisecond
	run, err := box.Run(t.Context(), cmd, nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := run.Wait(t.Context())
	if err != nil || !res.TimedOut || res.Signal == 0 || res.ExitCode != -res.Signal {
		t.Errorf("result %+v, %v", res, err)
	}
	if out, _, _ := sh(t, box, "ps -o args | grep -c '[t]rap\\|[s]leep' || true"); strings.TrimSpace(out) != "0" {
		t.Errorf("%s of its processes are left", strings.TrimSpace(out))
	}
}

func TestAProgramThatIsNotThereIsAnErrorOfRun(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	rt := w.open(t)
	box := w.create(t, rt, "")
	_, err := box.Run(t.Context(), boxlite.Command{Args: []string{"no-such-program"}}, nil)
	if boxlite.KindOf(err) != boxlite.Run || boxlite.HintOf(err) == "" || !strings.Contains(err.Error(), "no-such-program") {
		t.Errorf("Run: %v, hint %q", err, boxlite.HintOf(err))
	}
	if out, _, _ := sh(t, box, "echo usable"); out != "usable\n" {
		t.Errorf("after that: %q", out)
	}
	if m, _ := box.Metrics(t.Context()); m.RunErrors != 1 || m.CommandsRun != 1 {
		t.Errorf("metrics %+v", m)
	}
}

func TestADaemonThatHoldsStdoutDoesNotHoldTheResult(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	rt := w.open(t)
	box := w.create(t, rt, "")
	sh(t, box, "true")
	run, err := box.Run(t.Context(), boxlite.Shell("sleep 1000 & echo done"), nil)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	res, err := run.Wait(t.Context())
	if d := time.Since(began); err != nil || !res.Success() || d > 2*time.Second {
		t.Errorf("Wait = %+v, %v after %s", res, err, d)
	}
	if out, _ := io.ReadAll(run.Stdout()); string(out) != "done\n" {
		t.Errorf("stdout %q", out)
	}
	if _, err := run.StopTree(t.Context(), 0); err != nil { // what it has left behind
		t.Error(err)
	}
	if out, _, _ := sh(t, box, "ps -o args | grep -c '[s]leep 1000' || true"); strings.TrimSpace(out) != "0" {
		t.Error("the child is still there")
	}
}

func TestADamagedDatabaseLosesNoBox(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	rt, err := vmcore.Open(t.Context(), w.opts)
	if err != nil {
		t.Fatal(err)
	}
	box, err := rt.Create(t.Context(), boxlite.BoxOptions{Image: w.image, Detach: true}, "survivor")
	if err != nil {
		t.Fatal(err)
	}
	sh(t, box, "echo kept > /file")
	pid := box.Info().PID
	if err := rt.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(w.opts.Home+"/db/MANIFEST", 7); err != nil {
		t.Fatal(err)
	}
	_, err = vmcore.Open(t.Context(), w.opts)
	if boxlite.KindOf(err) != boxlite.Database || !strings.Contains(boxlite.HintOf(err), "doctor --repair") {
		t.Fatalf("Open: %v, hint %q", err, boxlite.HintOf(err))
	}
	moved, err := vmcore.Repair(w.opts.Home)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(moved); err != nil {
		t.Error("the damaged database is not where it was said to be:", err)
	}
	rt = w.open(t)
	box, err = rt.Get("survivor")
	if err != nil || box.Info().PID != pid {
		t.Fatalf("the box is gone: %v", err)
	}
	if out, _, _ := sh(t, box, "cat /file"); out != "kept\n" {
		t.Errorf("its file has %q", out)
	}
}

func TestACallerThatGivesUpLeavesTheBoxAsItWas(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	rt := w.open(t)
	box := w.create(t, rt, "")
	for d := time.Millisecond; d < 200*time.Millisecond; d *= 2 {
		ctx, cancel := context.WithTimeout(t.Context(), d)
		err := box.Start(ctx, nil)
		cancel()
		info := box.Info()
		if err != nil && info.Status != boxlite.StatusConfigured || err == nil && info.Status != boxlite.StatusRunning {
			t.Fatalf("after %s: %v, the box is %s", d, err, info.Status)
		}
		if err == nil {
			return
		}
		if k := boxlite.KindOf(err); k != boxlite.Timeout {
			t.Errorf("after %s: %v", d, err)
		}
	}
	if err := box.Start(t.Context(), nil); err != nil {
		t.Errorf("a start that nobody gives up on: %v", err)
	}
}

func waitFor(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if cond() {
			return
		}
	}
	t.Fatalf("waited in vain for %s", what)
}

// parentOf returns the nearest ancestor of a process that is a shim.
func parentOf(t *testing.T, id proc.ID) proc.ID {
	t.Helper()
	for pid := id.PID; pid > 1; {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			t.Fatal(err)
		}
		var state string
		var parent int
		fmt.Sscan(string(stat[strings.LastIndexByte(string(stat), ')')+1:]), &state, &parent)
		args, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", parent))
		if strings.Contains(string(args), "\x00shim\x00") {
			p, err := proc.Of(parent)
			if err != nil {
				t.Fatal(err)
			}
			return p
		}
		pid = parent
	}
	t.Fatal("no shim above the machine")
	return proc.ID{}
}

// While a new runtime adopts a box, its commands are neither lost nor ended for
// whoever asks at once.
func TestACommandIsNotLostWhileItsBoxIsAdopted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	rt, err := vmcore.Open(t.Context(), w.opts)
	if err != nil {
		t.Fatal(err)
	}
	box, err := rt.Create(t.Context(), boxlite.BoxOptions{Image: w.image, Detach: true}, "")
	if err != nil {
		t.Fatal(err)
	}
	run, err := box.Run(t.Context(), boxlite.Command{Args: []string{"cat"}, Stdin: true}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		if err := rt.Close(); err != nil {
			t.Fatal(err)
		}
		if rt, err = vmcore.Open(t.Context(), w.opts); err != nil {
			t.Fatal(err)
		}
		again, err := rt.Execution(vmcore.Everything, run.ID())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := again.WriteStdin(t.Context(), []byte("x"), false); err != nil {
			t.Fatal("WriteStdin:", err)
		}
		if info, err := again.Info(t.Context()); err != nil || !info.Running {
			t.Fatalf("Info: %+v, %v", info, err)
		}
	}
	if err := rt.Remove(t.Context(), string(box.ID()), true); err != nil {
		t.Error(err)
	}
	if err := rt.Close(); err != nil {
		t.Error(err)
	}
}
