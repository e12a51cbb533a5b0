//go:build !linux

package gvisor

import (
	"context"
	"errors"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/engine"
)

// An Engine is not usable here: gVisor is for Linux.
type Engine struct{}

// New returns an engine that says that it is not usable.
func New(Options) *Engine { return &Engine{} }

// Name returns "gvisor".
func (*Engine) Name() string { return Name }

// Probe implements [engine.Engine].
func (*Engine) Probe(context.Context) engine.Report {
	return engine.Report{
		Isolation: engine.UserKernel,
		Reason:    errNotLinux.Error(),
		Hint:      "Use an engine that boots virtual machines.",
	}
}

// Start implements [engine.Engine].
func (*Engine) Start(_ context.Context, spec engine.MachineSpec) (engine.Machine, error) {
	if spec.NIC != nil {
		spec.NIC.Socket.Close()
	}
	return nil, &boxlite.Error{Op: "start gvisor machine", Kind: boxlite.UnsupportedEngine, Ref: string(spec.ID), Err: errNotLinux}
}

// Sweep does nothing.
func (*Engine) Sweep() {}

var errNotLinux = errors.New("gVisor runs on Linux only")
