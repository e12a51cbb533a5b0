package qemu_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/internal/testbin"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/engine"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/engine/qemu"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/enginetest"
)

// The variables by which a copy of the test program knows what to start.
const (
	accelVar  = "QEMUTEST_ACCEL"
	jailVar   = "QEMUTEST_JAIL"
	agentVar  = "QEMUTEST_AGENT"
	cacheVar  = "QEMUTEST_CACHE"
	kernelVar = "QEMUTEST_KERNEL"
	toolVar   = "QEMUTEST_TOOL"
	baseVar   = "QEMUTEST_BASE"
)

func TestMain(m *testing.M) {
	enginetest.Main(m, func() engine.Engine { return newEngine() })
}

// newEngine returns the engine that the environment describes.
func newEngine() *qemu.Engine {
	return qemu.New(qemu.Options{
		Accel: qemu.Accel(os.Getenv(accelVar)), Jail: os.Getenv(jailVar), Agent: os.Getenv(agentVar),
		Cache: os.Getenv(cacheVar), Kernels: []string{os.Getenv(kernelVar), "/"},
	})
}

// build puts what a test needs into its environment.
func build(t testing.TB, accel qemu.Accel) {
	t.Helper()
	t.Setenv(accelVar, string(accel))
	if os.Getenv(jailVar) != "" { // a copy of the program has all it needs
		return
	}
	for variable, value := range map[string]string{
		jailVar: testbin.Path(t, "boxlite-jail"), agentVar: testbin.Path(t, "boxlite-agent"),
		cacheVar: t.TempDir(), kernelVar: filepath.Join(filepath.Dir(testbin.Path(t, "boxlite-jail")), "guest"),
	} {
		t.Setenv(variable, value)
	}
}

// TestContract runs the suite on emulated machines, which every host can.
func TestContract(t *testing.T) {
	build(t, qemu.TCG)
	enginetest.Run(t, newEngine(), enginetest.Config{
		Agent: os.Getenv(agentVar), Tool: os.Getenv(toolVar), Base: os.Getenv(baseVar), Patience: 90 * time.Second})
}

// TestAsOrdinaryUser runs what depends on whose the process is as a user who is
// nobody, from a copy of the test program.
func TestAsOrdinaryUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("the other tests run as an ordinary user already")
	}
	build(t, qemu.TCG)
	dir, err := os.MkdirTemp("", "qemutest-") //nolint:usetesting // below t.TempDir the user may not go
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	home := filepath.Join(dir, "tmp")
	const user = 64321
	if err := errors.Join(os.Chmod(dir, 0o755), os.Mkdir(home, 0o700), os.Chown(home, user, user)); err != nil {
		t.Fatal(err)
	}
	tool := enginetest.Tool(t)
	copied := map[string]string{jailVar: os.Getenv(jailVar), agentVar: os.Getenv(agentVar), toolVar: tool, baseVar: enginetest.Base(t, tool)}
	env := []string{"TMPDIR=" + home, "PATH=" + os.Getenv("PATH"), "CI=" + os.Getenv("CI"), accelVar + "=tcg", cacheVar + "=" + filepath.Join(home, "guest")}
	for variable, path := range copied {
		copied[variable] = filepath.Join(dir, filepath.Base(path))
		env = append(env, variable+"="+copied[variable])
		if out, err := exec.Command("cp", path, copied[variable]).CombinedOutput(); err != nil {
			t.Fatalf("%s", out)
		}
	}
	program, guest := filepath.Join(dir, "test"), filepath.Join(dir, "guest")
	if out, err := exec.Command("cp", os.Args[0], program).CombinedOutput(); err != nil {
		t.Fatalf("%s", out)
	}
	if out, err := exec.Command("cp", "-r", os.Getenv(kernelVar), guest).CombinedOutput(); err != nil {
		t.Fatalf("%s", out)
	}
	// The base is the user's own, and must not be the machine's.
	if out, err := exec.Command("sh", "-c", "chmod -R a+rX "+dir+"/*; chown "+strconv.Itoa(user)+" "+copied[baseVar]).CombinedOutput(); err != nil {
		t.Fatalf("%s", out)
	}
	cmd := exec.Command(program, "-test.run=^TestContract$/^(StartsAndStops|LayerSurvivesStop|DiesWithItsCaller|IsIsolated|MeasuresUsage|PausesAndResumes)$", "-test.v")
	cmd.Dir, cmd.Env = home, append(env, kernelVar+"="+guest)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: user, Gid: user}, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	if err != nil || strings.Count(string(out), "    --- PASS") != 6 {
		t.Fatalf("%v\n%s", err, out)
	}
}

// A guest that never becomes ready ends at the deadline, and the error has its
// console's last lines.
func TestAGuestThatHangs(t *testing.T) {
	build(t, qemu.TCG)
	e := newEngine()
	if r := e.Probe(t.Context()); !r.Usable {
		t.Fatalf("not usable: %s %s", r.Reason, r.Hint)
	}
	hang := filepath.Join(t.TempDir(), "hang")
	cmd := exec.Command("go", "build", "-o", hang, "./testdata/hang")
	cmd.Env = append(cmd.Environ(), "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	dir := t.TempDir()
	spec := engine.MachineSpec{
		ID: boxlite.NewContainerID(), Dir: filepath.Join(dir, "machine"), Hostname: "hang", CPUs: 1, Memory: 128 * boxlite.MiB,
		Base: enginetest.Base(t, hang), Layer: filepath.Join(dir, "layer"), Agent: hang, Log: filepath.Join(dir, "log"),
	}
	for _, d := range []string{spec.Dir, spec.Layer} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Second)
	defer cancel()
	_, err := e.Start(ctx, spec)
	if boxlite.KindOf(err) != boxlite.Timeout || !strings.Contains(err.Error(), "I hang, as the first process") {
		t.Errorf("got %v", err)
	}
}
