//go:build !linux

package qemu

import (
	"context"
	"errors"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/engine"
)

// An Engine is not usable here: its jail is for Linux.
type Engine struct{ accel Accel }

// New returns an engine that says that it is not usable.
func New(opts Options) *Engine { return &Engine{opts.Accel} }

// Name returns "qemu" or "qemu-tcg".
func (e *Engine) Name() string { return nameOf(e.accel) }

// Probe implements [engine.Engine].
func (e *Engine) Probe(context.Context) engine.Report {
	return engine.Report{Isolation: isolationOf(e.accel), Reason: errNotLinux.Error(), Hint: "Use a Linux host."}
}

// Start implements [engine.Engine].
func (*Engine) Start(_ context.Context, spec engine.MachineSpec) (engine.Machine, error) {
	if spec.NIC != nil {
		spec.NIC.Socket.Close()
	}
	return nil, &boxlite.Error{Op: "start qemu machine", Kind: boxlite.UnsupportedEngine, Ref: string(spec.ID), Err: errNotLinux}
}

var errNotLinux = errors.New("this engine runs QEMU in a jail of Linux's namespaces; HVF is not supported yet")
