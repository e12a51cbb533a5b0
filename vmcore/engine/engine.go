// Package engine is the contract between the runtime and what boots isolated
// machines: gVisor sandboxes, libkrun and QEMU virtual machines. The suite in
// vmcore/enginetest is the contract's meaning; every engine passes it.
//
// An engine knows nothing of boxes, images, policies or MCP: it is given a
// read-only EROFS image, a writable layer, an agent to run as the machine's
// first process, and perhaps one socket that carries Ethernet frames.
//
// Engines and machines may be used concurrently.
package engine

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"time"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
)

// An Engine boots isolated machines.
type Engine interface {
	// Name returns the engine's name in options and records, such as "gvisor".
	Name() string

	// Probe runs a real program in a real machine under ctx's deadline and
	// reports what this host can do with the engine, or why it cannot.
	Probe(ctx context.Context) Report

	// Start boots a machine and returns once its control channel is connected;
	// the agent may still be starting. On failure nothing is left behind, the
	// writable layer excepted. The machine dies when the calling process does.
	//
	// Errors: Engine with the console's last lines, Timeout, Canceled,
	// InvalidArgument.
	Start(ctx context.Context, spec MachineSpec) (Machine, error)
}

// A Machine is a booted machine. It holds processes and sockets until Done is
// closed.
type Machine interface { //nolint:interfacebloat // a machine is all of this; engines are few
	// Control returns the byte stream to the agent. There is one; it ends with
	// the machine.
	Control() net.Conn

	// PID returns the host process that is the machine.
	PID() int

	// Done is closed when the machine is gone and its resources are released.
	Done() <-chan struct{}

	// Exit says how the machine ended. It is valid once Done is closed.
	Exit() Exit

	// Sync makes the writable layer durable as of now, while the machine runs:
	// a later crash costs at most what was written since.
	Sync(ctx context.Context) error

	// Stop makes the writable layer durable and ends the machine. Processes in
	// it get no warning: that is the agent's work, before. If ctx ends first
	// the machine is killed, and the error says that the layer is as of the
	// last Sync.
	Stop(ctx context.Context) error

	// Kill ends the machine at once. It is idempotent and does not wait.
	Kill()

	// Usage returns what the machine consumes now.
	Usage() (Usage, error)
}

// A Sweeper is an Engine that leaves something behind on the host when the
// process that started a machine is killed.
type Sweeper interface {
	// Sweep removes what machines have left whose owners are dead.
	Sweep()
}

// A Pauser is a Machine that can stop the clock of everything in it.
type Pauser interface {
	Pause(ctx context.Context) error
	Resume(ctx context.Context) error
}

// A MachineSpec says what to boot.
type MachineSpec struct {
	ID       boxlite.ContainerID // unique to this start
	Dir      string              // absolute, private to this machine, exists; all that the machine's processes may see of the box
	Hostname string              // at most 63 bytes

	CPUs      int           // at least 1
	Memory    boxlite.Bytes // what the guest may use, hard where Report.HardMemoryLimit
	Processes int           // most processes in the guest; 0: the engine's default

	Base     string        // absolute path of the uncompressed, read-only EROFS image
	Layer    string        // absolute path of a directory that holds the writable layer between starts; exists, may be empty
	DiskSize boxlite.Bytes // most the writable layer may hold; 0: the engine's default

	Agent string // absolute path of the static agent executable on the host
	Log   string // absolute path of a file for the console and the engine's own words; appended to

	NIC *NIC `json:"-"` // nil: loopback only

	Logger *slog.Logger `json:"-"` // nil discards
}

// A NIC is the machine's one network interface.
type NIC struct {
	// Socket is one end of a SOCK_DGRAM pair that carries one Ethernet frame a
	// datagram. Start takes it over, also when it fails.
	Socket  *os.File
	MAC     net.HardwareAddr
	MTU     int
	Address netip.Prefix // the machine's address and subnet
	Gateway netip.Addr
	DNS     []netip.Addr
}

// Isolation is what stands between a machine and the host.
type Isolation string

// The isolations, strongest first.
const (
	HardwareVM Isolation = "hardware-vm" // KVM or HVF
	EmulatedVM Isolation = "emulated-vm" // QEMU's TCG
	UserKernel Isolation = "user-kernel" // gVisor: an application kernel, no VM
)

// A Report says what an engine can do on this host.
type Report struct {
	Usable    bool
	Isolation Isolation
	Version   string // of the engine's own code
	Reason    string // why it is not usable, or what is weaker than it could be; one line
	Hint      string // what to do about Reason; one imperative sentence

	Rootless        bool // works for an ordinary user as found
	RealKernel      bool // the guest has a Linux kernel of its own
	HardMemoryLimit bool // by a cgroup or a VM's size; else a watchdog kills within Overshoot
	HardCPULimit    bool
	MemorySnapshot  bool
	DiskSnapshot    bool

	// Overshoot is how far past its memory limit a machine can get before a
	// watchdog ends it. Zero with a hard limit.
	Overshoot boxlite.Bytes

	// CrashLoss is how much of what a box wrote can be lost when the machine
	// or the host dies without Stop: writes of at most this long ago.
	CrashLoss time.Duration

	// CPUFactor is how many times slower than the host a CPU-bound loop ran;
	// timeouts are scaled by it. 0: not measured.
	CPUFactor float64

	// Start is how long the probe's machine took from Start to its first
	// output.
	Start time.Duration
}

// An Exit says how a machine ended.
type Exit struct {
	Reason string // one line for people: "stopped", "killed", "out of memory", "the sandbox crashed: …"
	Clean  bool   // ended by Stop with its layer saved
	OOM    bool   // ended by its memory limit
	Log    string // the log's last lines where Clean is false
}

// Usage is what a machine consumes.
type Usage struct {
	CPU    time.Duration // since it was started, all its processes
	Memory boxlite.Bytes // resident now, all its processes
	Disk   boxlite.Bytes // of the writable layer
}
