package qemu

import "github.com/boxlite-mcp/boxlite-mcp/vmcore/engine"

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
