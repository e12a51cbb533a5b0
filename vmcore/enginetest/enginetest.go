// Package enginetest is the suite that defines an engine: what package
// vmcore/engine promises, tried with real machines.
//
// It is a test kit and no part of any program. An engine's own tests call it:
//
//	func TestMain(m *testing.M) { enginetest.Main(m, newEngine) }
//
//	func TestContract(t *testing.T) { enginetest.Run(t, newEngine(), enginetest.Config{Agent: agent}) }
//
// Where the engine is not usable the tests are skipped, and fail if the
// environment has CI=true. Tests of one run share the host: none runs beside
// another of the same suite, so that what a machine leaves behind is its own.
package enginetest

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/agent"
	"github.com/boxlite-mcp/boxlite-mcp/internal/testbin"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/engine"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/image/imagetest"
)

// A Config says what to test an engine with.
type Config struct {
	Agent string // absolute path of the boxlite-agent executable
	Tool  string // absolute path of the suite's own program; "": built by [Tool]
	Base  string // absolute path of the base image; "": made by [Base]

	// Patience is how long a start or a stop may take. 0: 30 s.
	Patience time.Duration
}

// childVar holds the specification of the machine that a copy of the test
// program is to start, see [Main].
const childVar = "ENGINETEST_CHILD"

// Main runs a test program. In a copy of it that the suite starts to kill it,
// Main starts a machine instead, prints its process id and waits.
func Main(m *testing.M, newEngine func() engine.Engine) {
	text := os.Getenv(childVar)
	if text == "" {
		os.Exit(m.Run())
	}
	var spec engine.MachineSpec
	err := json.Unmarshal([]byte(text), &spec)
	if err == nil {
		var machine engine.Machine
		if machine, err = newEngine().Start(context.Background(), spec); err == nil {
			fmt.Println(machine.PID())
			<-machine.Done()
		}
	}
	fmt.Println("child:", err)
	os.Exit(1)
}

// Run runs the suite.
func Run(t *testing.T, e engine.Engine, cfg Config) {
	if cfg.Patience == 0 {
		cfg.Patience = 30 * time.Second
	}
	s := &suite{engine: e, cfg: cfg}
	ctx, cancel := context.WithTimeout(t.Context(), 2*cfg.Patience)
	defer cancel()
	s.report = e.Probe(ctx)
	t.Logf("%s: %+v", e.Name(), s.report)
	if !s.report.Usable {
		if os.Getenv("CI") == "true" {
			t.Fatalf("not usable: %s %s", s.report.Reason, s.report.Hint)
		}
		t.Skipf("not usable: %s %s", s.report.Reason, s.report.Hint)
	}
	if s.cfg.Tool == "" {
		s.cfg.Tool = Tool(t)
	}
	if s.cfg.Base == "" {
		s.cfg.Base = Base(t, s.cfg.Tool)
	}
	for _, test := range []struct {
		name string
		run  func(*suite, *testing.T)
	}{
		{"StartsAndStops", (*suite).startsAndStops},
		{"ReportIsComplete", (*suite).reportIsComplete},
		{"LayerSurvivesStop", (*suite).layerSurvivesStop},
		{"LayerSurvivesCrashAfterSync", (*suite).layerSurvivesCrash},
		{"SyncsUnderLoad", (*suite).syncsUnderLoad},
		{"StopWithoutTimeKills", (*suite).stopWithoutTimeKills},
		{"DiskIsLimited", (*suite).diskIsLimited},
		{"DiskIsNotMemory", (*suite).diskIsNotMemory},
		{"MemoryIsLimited", (*suite).memoryIsLimited},
		{"ProcessesAreLimited", (*suite).processesAreLimited},
		{"GuestSeesItsSize", (*suite).guestSeesItsSize},
		{"StartsInParallel", (*suite).startsInParallel},
		{"KillIsAtOnce", (*suite).killIsAtOnce},
		{"DiesWithItsCaller", (*suite).diesWithItsCaller},
		{"NoticesItsDeath", (*suite).noticesItsDeath},
		{"RefusesBadBases", (*suite).refusesBadBases},
		{"RefusesBadSpecs", (*suite).refusesBadSpecs},
		{"HoldsDeadlines", (*suite).holdsDeadlines},
		{"AgentThatEndsIsReported", (*suite).agentThatEnds},
		{"HasNoNetworkWithoutNIC", (*suite).hasNoNetwork},
		{"IsIsolated", (*suite).isIsolated},
		{"MeasuresUsage", (*suite).measuresUsage},
		{"PausesAndResumes", (*suite).pausesAndResumes},
	} {
		t.Run(test.name, func(t *testing.T) {
			before := resourcesNow()
			t.Cleanup(func() { before.checkReturned(t) })
			test.run(s, t)
		})
	}
}

// Tool builds the program that the suite runs in machines.
func Tool(t testing.TB) string {
	t.Helper()
	tool := filepath.Join(t.TempDir(), "tool")
	root, err := testbin.ModuleRoot()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("go", "build", "-trimpath", "-o", tool, "./vmcore/enginetest/testdata/tool")
	cmd.Dir, cmd.Env = root, append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the suite's tool: %v\n%s", err, out)
	}
	return tool
}

// Base makes a base image: busybox, the suite's tool as /bin/tool, and files in
// /base for it to change.
func Base(t testing.TB, tool string) string {
	t.Helper()
	program, err := os.ReadFile(tool)
	if err != nil {
		t.Fatal(err)
	}
	return imagetest.Base(t, imagetest.BusyboxTar(), imagetest.Tar(append([]tar.Header{
		imagetest.File("bin/tool", 0o755, string(program))}, baseFiles()...)...))
}

func baseFiles() []tar.Header {
	return []tar.Header{
		imagetest.Dir("base", 0o755),
		imagetest.File("base/removed", 0o644, "x"),
		imagetest.File("base/changed", 0o644, "old"),
		imagetest.File("base/mode", 0o644, "x"),
		imagetest.File("base/kept", 0o644, "as it was"),
		imagetest.Dir("base/opaque", 0o755),
		imagetest.File("base/opaque/hidden", 0o644, "x"),
		imagetest.Dir("base/opaque/sub", 0o755),
		imagetest.Dir("base/emptied", 0o755),
		imagetest.File("base/emptied/file", 0o644, "x"),
		imagetest.Dir("base/tofile", 0o755),
		imagetest.File("base/tofile/file", 0o644, "x"),
	}
}

// A suite is one run.
type suite struct {
	engine engine.Engine
	cfg    Config
	report engine.Report
}

// spec returns the specification of a small machine of the test.
func (s *suite) spec(t *testing.T) engine.MachineSpec {
	t.Helper()
	dir := t.TempDir()
	spec := engine.MachineSpec{
		ID: boxlite.NewContainerID(), Dir: filepath.Join(dir, "machine"), Hostname: "enginetest",
		CPUs: 1, Memory: 256 * boxlite.MiB, DiskSize: 1 * boxlite.GiB,
		Base: s.cfg.Base, Layer: filepath.Join(dir, "layer"), Agent: s.cfg.Agent, Log: filepath.Join(dir, "log"),
	}
	for _, d := range []string{spec.Dir, spec.Layer} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return spec
}

// A box is a machine with a conversation with its agent.
type box struct {
	engine.Machine
	t     *testing.T
	agent *agent.Client
	spec  engine.MachineSpec
}

// start starts a machine, which is killed when the test ends.
func (s *suite) start(t *testing.T, spec engine.MachineSpec) *box {
	t.Helper()
	b, err := s.tryStart(t, spec)
	if err != nil {
		t.Fatalf("%v\nlog:\n%s", err, readLog(spec))
	}
	return b
}

func (s *suite) tryStart(t *testing.T, spec engine.MachineSpec) (*box, error) {
	spec.ID = boxlite.NewContainerID() // unique to this start
	ctx, cancel := context.WithTimeout(t.Context(), s.cfg.Patience)
	defer cancel()
	m, err := s.engine.Start(ctx, spec)
	if err != nil {
		return nil, err
	}
	client, err := agent.NewClient(ctx, m.Control(), agent.Options{})
	if err != nil {
		m.Kill()
		<-m.Done()
		return nil, fmt.Errorf("%w; exit: %+v", err, m.Exit())
	}
	t.Cleanup(func() {
		m.Kill()
		<-m.Done()
		client.Close()
	})
	return &box{m, t, client, spec}, nil
}

func readLog(spec engine.MachineSpec) string {
	data, err := os.ReadFile(spec.Log)
	if err != nil {
		return err.Error()
	}
	return string(data)
}

// sh runs a script in the box that must succeed, and returns its output.
func (b *box) sh(script string) string {
	b.t.Helper()
	out, status, err := b.run(b.t.Context(), script)
	if err != nil || status.Code != 0 {
		b.t.Fatalf("%s: %+v %v\n%s", script, status, err, out)
	}
	return strings.TrimSpace(out)
}

// run runs a script in the box.
func (b *box) run(ctx context.Context, script string) (string, agent.ExitStatus, error) {
	ctx, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	var out bytes.Buffer
	x, err := b.agent.Start(ctx, agent.ExecSpec{Args: []string{"/bin/sh", "-c", script}}, &out, &out)
	if err != nil {
		return "", agent.ExitStatus{}, err
	}
	status, err := x.Wait(ctx)
	if err == nil {
		select {
		case <-x.Closed():
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	return out.String(), status, err
}

// stop stops the machine, which must succeed, and returns its end.
func (b *box) stop(patience time.Duration) engine.Exit {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), patience)
	defer cancel()
	if err := b.Stop(ctx); err != nil {
		b.t.Fatalf("stop: %v", err)
	}
	b.ended(time.Second)
	return b.Exit()
}

// ended waits until the machine is gone.
func (b *box) ended(patience time.Duration) {
	b.t.Helper()
	select {
	case <-b.Done():
	case <-time.After(patience):
		b.t.Fatalf("the machine is still there after %v", patience)
	}
}
