package qemu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/agent/vmboot"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/engine"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/engine/child"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/engine/vm"
)

// An Engine boots QEMU machines. Its methods may be called concurrently.
type Engine struct {
	opts Options
}

// New returns the engine. It looks for QEMU, and touches nothing.
func New(opts Options) *Engine {
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if opts.Program == "" {
		opts.Program = Find()
	}
	if len(opts.Kernels) == 0 {
		opts.Kernels = vm.Places(filepath.Dir(opts.Jail))
	}
	return &Engine{opts}
}

// Name returns "qemu" or "qemu-tcg".
func (e *Engine) Name() string { return nameOf(e.opts.Accel) }

// Start implements [engine.Engine].
func (e *Engine) Start(ctx context.Context, spec engine.MachineSpec) (engine.Machine, error) {
	m, err := e.start(ctx, spec)
	if err != nil {
		return nil, engine.Failed(startOp, spec.ID, err)
	}
	return m, nil
}

func (e *Engine) start(ctx context.Context, spec engine.MachineSpec) (_ *machine, err error) {
	if spec.NIC != nil {
		defer spec.NIC.Socket.Close() // QEMU has a copy by then
	}
	if spec, err = spec.Checked(startOp, minMemory); err != nil {
		return nil, err
	}
	if spec.CPUs > maxCPUs {
		return nil, boxlite.Errorf(boxlite.InvalidArgument, startOp, string(spec.ID), "%d CPUs are more than %d", spec.CPUs, maxCPUs)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, bootTimeout)
	defer cancel()

	var r resources
	defer r.close() // what only QEMU needs
	m := &machine{spec: spec, saving: make(chan struct{}, 1), done: make(chan struct{}), log: e.opts.Logger}
	if spec.Logger != nil {
		m.log = spec.Logger
	}
	made, err := e.open(ctx, spec, &r)
	if made {
		defer func() {
			if err != nil {
				vm.RemoveLayer(spec.Layer)
			}
		}()
	}
	if err == nil {
		err = m.launch(e, &r)
	}
	if err != nil {
		r.closeOurs()
		return nil, err
	}
	if err := m.boot(ctx, &r); err != nil {
		m.Kill()
		<-m.done
		return nil, m.bootError(err)
	}
	return m, nil
}

// resources are what a start opens.
type resources struct {
	files   files
	theirs  []*os.File // to be closed by us once QEMU has them
	console *os.File   // ours, for reading; its reader takes it over
	output  *os.File   // theirs

	control, channel, monitor net.Conn // ours
	layer                     *os.File // ours too: what Sync makes durable
	remove                    string   // a directory that goes with the start, ""
}

func (r *resources) close() {
	for _, f := range r.theirs {
		f.Close()
	}
	r.theirs = nil
	if r.remove != "" {
		os.RemoveAll(r.remove)
	}
}

// closeOurs closes what the machine would have.
func (r *resources) closeOurs() {
	for _, c := range []net.Conn{r.control, r.channel, r.monitor} {
		if c != nil {
			c.Close()
		}
	}
	if r.console != nil {
		r.console.Close()
	}
	if r.layer != nil {
		r.layer.Close()
	}
}

func (r *resources) own(f *os.File, err error) (*os.File, error) {
	if err == nil {
		r.theirs = append(r.theirs, f)
	}
	return f, err
}

// open opens everything that a machine is made of. made is whether the layer
// was not there before.
func (e *Engine) open(ctx context.Context, spec engine.MachineSpec, r *resources) (made bool, err error) {
	if r.files.base, err = r.own(os.Open(spec.Base)); err != nil {
		return false, err
	}
	if err := vm.CheckBase(r.files.base); err != nil {
		return false, err
	}
	if err := e.openArtefacts(spec, r); err != nil {
		return false, err
	}
	for _, s := range []struct {
		ours   *net.Conn
		theirs **os.File
	}{{&r.control, &r.files.control}, {&r.channel, &r.files.channel}, {&r.monitor, &r.files.monitor}} {
		if *s.ours, *s.theirs, err = socketPair(); err != nil {
			return false, err
		}
		r.theirs = append(r.theirs, *s.theirs)
	}
	if spec.NIC != nil {
		r.files.nic = spec.NIC.Socket
	}
	if r.console, r.output, err = os.Pipe(); err != nil {
		return false, err
	}
	r.theirs = append(r.theirs, r.output)
	layer, made, err := vm.OpenLayer(ctx, spec.Layer, spec.DiskSize)
	r.layer = layer
	r.files.layer = layer
	if errors.Is(err, unix.ENOSPC) { // of the disk: user namespaces can run out with the same error
		err = &boxlite.Error{Op: startOp, Kind: boxlite.Exhausted, Ref: string(spec.ID), Err: err}
	}
	return made, err
}

// openArtefacts opens the guest's kernel and initramfs.
func (e *Engine) openArtefacts(spec engine.MachineSpec, r *resources) error {
	kernel, err := vm.FindKernel(e.opts.Kernels...)
	if err != nil {
		return err
	}
	cache := e.opts.Cache
	if cache == "" {
		if cache, err = os.MkdirTemp("", "boxlite-guest-"); err != nil {
			return err
		}
		r.remove = cache
	}
	artefacts, err := vm.Assemble(cache, kernel, spec.Agent)
	if err != nil {
		return err
	}
	if r.files.kernel, err = r.own(os.Open(artefacts.Kernel)); err != nil {
		return err
	}
	r.files.initramfs, err = r.own(os.Open(artefacts.Initramfs))
	return err
}

func socketPair() (net.Conn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, err
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "ours"), os.NewFile(uintptr(fds[1]), "theirs")
	defer ours.Close()
	conn, err := net.FileConn(ours)
	if err != nil {
		theirs.Close()
		return nil, nil, err
	}
	return conn, theirs, nil
}

// launch starts QEMU, and whoever waits for its end.
func (m *machine) launch(e *Engine, r *resources) error {
	qemu, err := e.program()
	if err != nil {
		return err
	}
	cmd := newCommandLine(e.opts.Accel, m.spec, r.files).jailed(e.opts.Jail, qemu, e.opts.Accel, m.spec.ID)
	cmd.Stdout, cmd.Stderr = r.output, r.output
	if m.console, err = child.NewConsole(r.console, m.spec.Log); err != nil {
		return err
	}
	r.console = nil
	m.control, m.layer, m.conns = r.control, r.layer, []io.Closer{r.control, r.channel, r.monitor}
	started := make(chan error, 1)
	go func() { // ends with the machine
		// The kernel sends the parent death signal when the thread ends that
		// started the process. This one waits for the process's end.
		runtime.LockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			m.finish(cmd.Wait())
		}
		runtime.UnlockOSThread()
	}()
	err = <-started
	r.close()
	if err != nil {
		<-m.console.Done
		return fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	m.process = cmd.Process
	return nil
}

// boot waits until the machine is ready to be spoken to.
func (m *machine) boot(ctx context.Context, r *resources) error {
	monitor, err := newMonitor(ctx, r.monitor)
	if err != nil {
		return orContext(ctx, err)
	}
	m.monitor = monitor
	if m.channel, err = vm.Greet(ctx, r.channel); err != nil {
		return orContext(ctx, err)
	}
	_, err = m.channel.Do(ctx, vmboot.CmdTime, time.Now().UnixNano())
	return orContext(ctx, err)
}

// orContext returns why ctx ended if it has, for then err is only its echo.
func orContext(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// bootError adds what the machine said to why it did not start.
func (m *machine) bootError(err error) error {
	if errors.Is(err, context.Canceled) {
		return err
	}
	if ended := endOf(m.console); ended != "" && !errors.Is(err, context.DeadlineExceeded) {
		err = errors.New(ended)
	}
	if said := lastWords(m.console, 8); said != "" {
		return fmt.Errorf("%w\n%s", err, said)
	}
	return err
}
