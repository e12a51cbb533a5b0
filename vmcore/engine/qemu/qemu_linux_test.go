package qemu_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
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
	for variable, value := range map[string]string{
		accelVar: string(accel), jailVar: testbin.Path(t, "boxlite-jail"), agentVar: testbin.Path(t, "boxlite-agent"),
		cacheVar: t.TempDir(), kernelVar: filepath.Join(filepath.Dir(testbin.Path(t, "boxlite-jail")), "guest"),
	} {
		t.Setenv(variable, value)
	}
}

// TestContract runs the suite on emulated machines, which every host can.
func TestContract(t *testing.T) {
	build(t, qemu.TCG)
	enginetest.Run(t, newEngine(), enginetest.Config{Agent: os.Getenv(agentVar), Patience: 90 * time.Second})
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
