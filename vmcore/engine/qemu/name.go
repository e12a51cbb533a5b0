package qemu

import (
	"os/exec"
	"path/filepath"

	"github.com/boxlite-mcp/boxlite-mcp/vmcore/engine"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/engine/vm"
)

// kvmDevice is the host's hardware virtualisation.
const kvmDevice = "/dev/kvm"

// Parts returns the files of the host on which it depends whether and how the
// engine works, boxlite-jail's being given: what is found out holds until one
// of them changes. Those that are missing are missing here.
func Parts(boxliteJail string) []string {
	parts := []string{kvmDevice}
	if qemu, err := exec.LookPath("qemu-system-" + vm.Architecture()); err == nil {
		parts = append(parts, qemu)
	}
	return append(parts, vm.Images(vm.Places(filepath.Dir(boxliteJail))...)...)
}

func nameOf(a Accel) string {
	if a == TCG {
		return EmulatedName
	}
	return Name
}

func isolationOf(a Accel) engine.Isolation {
	if a == TCG {
		return engine.EmulatedVM
	}
	return engine.HardwareVM
}
