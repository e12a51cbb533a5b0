package gvisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/boxlite-mcp/boxlite-mcp/vmcore/engine"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/engine/child"
)

// An Engine boots gVisor sandboxes. Its methods may be called concurrently.
type Engine struct {
	opts Options
}

// New returns the engine. It touches nothing.
func New(opts Options) *Engine {
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	return &Engine{opts}
}

// Name returns "gvisor".
func (e *Engine) Name() string { return Name }

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
		defer spec.NIC.Socket.Close() // the sandbox has a copy by then
	}
	if spec, err = spec.Checked(startOp, minMemory); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, bootTimeout)
	defer cancel()
	layer, err := openLayer(spec.Layer)
	if err != nil {
		return nil, err
	}
	d := &descriptors{}
	defer d.closeTheirs()
	defer func() {
		if err != nil {
			d.closeOurs()
		}
	}()
	cmd, err := e.command(spec, layer, d)
	if err != nil {
		return nil, err
	}
	e.Sweep()
	m := &machine{spec: spec, layer: layer, log: logger(spec, e.opts), d: d, groups: &groups{}, saving: make(chan struct{}, 1), done: make(chan struct{})}
	if !e.opts.NoCgroups {
		m.groups = newGroups(spec)
	}
	if err := m.launch(cmd); err != nil {
		m.groups.remove()
		return nil, err
	}
	if err := m.boot(ctx); err != nil {
		m.Kill()
		<-m.done
		return nil, m.bootError(err)
	}
	return m, nil
}

func logger(spec engine.MachineSpec, opts Options) *slog.Logger {
	if spec.Logger != nil {
		return spec.Logger
	}
	return opts.Logger
}

// launch starts the sandbox's process, which waits for our word, and whoever
// waits for its end.
func (m *machine) launch(cmd *exec.Cmd) error {
	var err error
	if m.console, err = child.NewConsole(m.d.console, m.spec.Log); err != nil {
		return err
	}
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
	if err := <-started; err != nil {
		m.d.closeTheirs()
		<-m.console.Done
		return fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	m.process = cmd.Process
	m.d.closeTheirs()
	return nil
}

// boot brings a launched sandbox to where the agent runs.
func (m *machine) boot(ctx context.Context) error {
	stop := context.AfterFunc(ctx, m.Kill) // ends every wait below
	defer stop()
	if err := m.groups.put(m.process.Pid); err != nil {
		return orContext(ctx, fmt.Errorf("limit the sandbox: %w", err))
	}
	if _, err := m.d.lifeline.Write([]byte{1}); err != nil {
		return orContext(ctx, err)
	}
	if _, err := io.ReadFull(m.d.ready, make([]byte, 1)); err != nil {
		return orContext(ctx, errors.New("the sandbox did not come up"))
	}
	m.d.ready.Close()
	if err := m.connect(); err != nil {
		return orContext(ctx, err)
	}
	if err := m.openGuestMemory(ctx); err != nil {
		return orContext(ctx, err)
	}
	if _, err := m.control.call(ctx, "containerManager.SetNetworkArgs", networkArgs(m.spec.NIC), nicFiles(m.spec.NIC)...); err != nil {
		return orContext(ctx, err)
	}
	if _, err := m.control.call(ctx, "containerManager.StartRoot", m.spec.ID); err != nil {
		return orContext(ctx, err)
	}
	if err := m.limitProcesses(ctx); err != nil {
		return orContext(ctx, err)
	}
	if !stop() {
		return ctx.Err()
	}
	go m.guardMemory() // ends with the machine
	return nil
}

// limitProcesses sets the limit that gVisor holds: of the group in which the
// guest is.
func (m *machine) limitProcesses(ctx context.Context) error {
	type file struct {
		Path string `json:"path"`
		Name string `json:"name"`
	}
	type write struct {
		File  file   `json:"file"`
		Value string `json:"value"`
	}
	a, err := m.control.call(ctx, "Cgroups.WriteControlFiles", map[string][]write{"args": {
		{file{"/", "cgroup.subtree_control"}, "+pids"},
		{file{"/" + string(m.spec.ID), "pids.max"}, strconv.Itoa(m.spec.Processes)},
	}})
	if err != nil {
		return err
	}
	var out struct {
		Results []struct {
			Data    string `json:"value"`
			IsError bool   `json:"is_error"`
		} `json:"results"`
	}
	if err := json.Unmarshal(a.Result, &out); err != nil {
		return err
	}
	for _, r := range out.Results {
		if r.IsError {
			return fmt.Errorf("limit processes: %s", r.Data)
		}
	}
	return nil
}

// orContext returns why ctx ended if it has, for then err is only its echo.
func orContext(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// connect connects to the sandbox, twice, and removes its address.
func (m *machine) connect() error {
	dial := func() (c *controller, err error) {
		err = atShortPath(m.d.listener, func(short string) error {
			conn, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(context.Background(), "unix", short)
			if err == nil {
				m.mu.Lock()
				m.closers = append(m.closers, conn)
				m.mu.Unlock()
				c = newController(conn.(*net.UnixConn))
			}
			return err
		})
		return c, err
	}
	var err error
	if m.control, err = dial(); err != nil {
		return err
	}
	if m.quick, err = dial(); err != nil {
		return err
	}
	return os.Remove(m.d.listener)
}

// bootError adds what the sandbox said to why it did not start.
func (m *machine) bootError(err error) error {
	if line := m.console.Crashed(); line != "" {
		return fmt.Errorf("the sandbox crashed: %s", line)
	}
	if remote, ok := errors.AsType[*remoteError](err); ok {
		return errors.New(middleCut(remote.text, 600))
	}
	if said := m.console.Lines(5); said != "" && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("%w\n%s", err, said)
	}
	return err
}

// middleCut returns text with as much of its middle left out that it has at
// most about size bytes: of a chain of errors both ends matter.
func middleCut(text string, size int) string {
	if len(text) <= size {
		return text
	}
	return strings.ToValidUTF8(text[:size/2]+" … "+text[len(text)-size/2:], "")
}

func (d *descriptors) closeOurs() {
	for _, c := range d.closers {
		c.Close()
	}
	if d.listener != "" {
		os.Remove(d.listener)
	}
}
