package qemu_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

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
