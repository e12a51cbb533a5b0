//go:build kvm

package qemu_test

import (
	"os"
	"testing"
	"time"

	"github.com/boxlite-mcp/boxlite-mcp/vmcore/engine/qemu"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/enginetest"
)

// TestContractWithKVM runs the suite where the host has hardware
// virtualisation, which CI does not.
func TestContractWithKVM(t *testing.T) {
	t.Setenv("CI", "true")
	build(t, qemu.KVM)
	enginetest.Run(t, newEngine(), enginetest.Config{Agent: os.Getenv(agentVar), Tool: os.Getenv(toolVar), Base: os.Getenv(baseVar), Patience: 60 * time.Second})
}
