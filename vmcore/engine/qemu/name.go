package qemu

import (
	"os/exec"
	"path/filepath"

	"github.com/boxlite-mcp/boxlite-mcp/vmcore/engine"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/engine/vm"
)

// kvmDevice is the host's hardware virtualisation.
const kvmDevice = "/dev/kvm"

// programName is that of QEMU for the host's architecture.
func programName() string { return "qemu-system-" + vm.Architecture() }

// Find returns the absolute path of QEMU in PATH, "" if it is not there.
func Find() string {
	path, err := exec.LookPath(programName())
	if err != nil {
		return ""
	}
	if path, err = filepath.Abs(path); err != nil {
		return ""
	}
	return path
}

// Parts returns the files of the host on which it depends whether and how the
// engine works, beside QEMU and our own programs, boxlite-jail's being given:
// what is found out holds until one of them changes.
func Parts(boxliteJail string) []string {
	parts := []string{kvmDevice}
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
