// Package qemu is the engine whose machines are QEMU virtual machines: with KVM
// where the host has it, emulated (TCG) where not. Each of the two is an engine
// of its own, so that a box's record says what it got.
//
//	e := qemu.New(qemu.Options{Accel: qemu.KVM, Jail: …, Agent: …, Cache: …})
//	if r := e.Probe(ctx); !r.Usable { … }
//	m, err := e.Start(ctx, spec)
//	client, err := agent.NewClient(ctx, m.Control(), agent.Options{})
//
// A machine is one child process: QEMU in a jail (internal/jail), in user,
// mount, PID, IPC, UTS and network namespaces of its own, with QEMU's own
// seccomp filter, as a user that owns nothing. It can open the files of this
// box that it was given open, system libraries, and /dev/kvm. There is no
// supervisor between it and the caller, and it dies with the process that
// started it.
//
// The device model is q35 with virtio only: two disks, two serial ports, a
// random source, and at most one network interface, whose frames go over an
// inherited socket. The console is a plain serial port on QEMU's standard
// output. QEMU is commanded by QMP over an inherited socket.
//
// The root file system is the EROFS base below an ext4 image in the layer
// directory, by overlayfs in the guest. Sync and Stop freeze that ext4 file
// system, which makes it durable and whole; see docs/decisions/0170-vm-guest.md.
//
// Engines and machines may be used concurrently.
package qemu

import (
	"log/slog"
	"time"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
)

// An Accel is what runs the guest's instructions.
type Accel string

// The accelerators.
const (
	KVM Accel = "kvm" // the host's hardware
	TCG Accel = "tcg" // QEMU's translator: slow, and everywhere
)

// The engines' names in options and records.
const (
	Name         = "qemu"     // with KVM
	EmulatedName = "qemu-tcg" // with TCG
)

// Options configure an engine.
type Options struct {
	Accel Accel

	// Program is the absolute path of QEMU for the host's architecture. "": the
	// one in PATH.
	Program string

	// Jail is the absolute path of the boxlite-jail executable.
	Jail string

	// Agent is the absolute path of the agent that Probe runs.
	Agent string

	// Cache is a directory for the guest's kernel and initramfs, which is made
	// if it is not there. "": a temporary one for each machine.
	Cache string

	// Kernels are directories in which a kernel for guests is looked for, see
	// vm.FindKernel. Empty: beside Jail, and where distributions put them.
	Kernels []string

	Logger *slog.Logger // nil discards
}

// startOp is what Start does, in errors.
const startOp = "start qemu machine"

// Bounds, and what a machine costs beside what it was given.
const (
	minMemory = 64 * boxlite.MiB
	maxCPUs   = 255

	// kernelMemory is what a machine has beside the memory it was given: about
	// what the guest's kernel takes for itself before it counts.
	kernelMemory = 24 * boxlite.MiB

	// bootTimeout bounds a boot whose context has no deadline.
	bootTimeout = 120 * time.Second

	// crashLoss is how often the owner of a machine is asked to Sync.
	crashLoss = 10 * time.Second
)
