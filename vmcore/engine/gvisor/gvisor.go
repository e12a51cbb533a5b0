// Package gvisor is the engine whose machines are gVisor sandboxes: an
// application kernel in a process of its own, no virtual machine. It works for
// root and, where user namespaces are allowed, for an ordinary user.
//
// It does not contain gVisor: each machine is a child process running the
// program boxlite-sandbox (cmd/boxlite-sandbox), which is gVisor's boot command
// and nothing else. There is no supervisor between it and the caller.
//
//	e := gvisor.New(gvisor.Options{Sandbox: "/usr/lib/boxlite/boxlite-sandbox"})
//	if r := e.Probe(ctx); !r.Usable { … }
//	m, err := e.Start(ctx, spec)
//	client, err := agent.NewClient(ctx, m.Control(), agent.Options{})
//
// The root file system is the EROFS base, opened once and handed over, below
// gVisor's overlay. What is written goes to a file without a name in the layer
// directory, and counts as page cache of that file, not as memory of its own.
// Sync and Stop save it as a generation of the layer, see layer.go for the
// bytes on disk and docs/decisions/0010-gvisor-layer.md for the reasons.
//
// The sandbox dies with the process that started it, however that dies: by a
// pipe whose writing end only that process holds and by the parent death
// signal. What it leaves on the host then are empty control groups at most,
// which the next Start or Probe of any engine of this package removes.
//
// The words spoken with the sandbox (control.go) are gVisor's own private RPC:
// JSON over a unix socket that has no name once it is connected. Its version is
// pinned with that of the helper.
//
// Engines and machines may be used concurrently.
package gvisor

import (
	"log/slog"
	"time"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
)

// Name is the engine's name in options and records.
const Name = "gvisor"

// Options configure an engine.
type Options struct {
	// Sandbox is the absolute path of the boxlite-sandbox executable.
	Sandbox string

	// Agent is the absolute path of the agent that Probe runs in a machine
	// without a disk of its own. "": Probe says that the engine is not usable.
	Agent string

	// DebugLog is a directory for gVisor's own debug logs, which are large and
	// contain what guests do. "": none.
	DebugLog string

	// NoCgroups leaves control groups alone also where they could be used.
	NoCgroups bool

	Logger *slog.Logger // nil discards
}

// startOp is what Start does, in errors.
const startOp = "start gvisor machine"

// What a machine needs, and what it costs beside what it was given.
const (
	minMemory = 16 * boxlite.MiB

	// overhead is what gVisor itself may use beside the guest's memory.
	overhead = 64 * boxlite.MiB

	// bootTimeout bounds a boot whose context has no deadline.
	bootTimeout = 60 * time.Second

	// crashLoss is how often the owner of a machine is asked to Sync.
	crashLoss = 10 * time.Second
)
