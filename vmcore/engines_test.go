package vmcore_test

import (
	"testing"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/engine"
)

func TestWhatIsWeakerIsSaid(t *testing.T) {
	for want, r := range map[string]engine.Report{
		"": {Isolation: engine.HardwareVM, HardMemoryLimit: true, HardCPULimit: true, CPUFactor: 1.1},
		"memory by a watchdog (overshoot up to 128 MiB); CPU not limited":     {Isolation: engine.UserKernel, Overshoot: 128 * boxlite.MiB},
		"emulated: what computes takes about 12 times as long as on the host": {Isolation: engine.EmulatedVM, HardMemoryLimit: true, HardCPULimit: true, CPUFactor: 12.3},
	} {
		if got := (vmcore.EngineReport{Report: r}).Limits(); got != want {
			t.Errorf("%+v: %q, want %q", r, got, want)
		}
	}
}
