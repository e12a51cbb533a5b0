package qemu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/agent/vmboot"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/engine"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/engine/child"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/engine/vm"
)

// A machine is one QEMU process.
type machine struct {
	spec    engine.MachineSpec
	log     *slog.Logger
	process *os.Process
	console *child.Console
	control net.Conn
	layer   *os.File
	conns   []io.Closer

	saving  chan struct{} // holds a token while the fields below are used
	monitor *monitor
	channel *vm.Channel
	paused  bool

	done chan struct{}
	exit engine.Exit // valid once done is closed

	mu   sync.Mutex
	why  string // why we ended the machine, "" if we did not; guarded by mu
	kept bool   // the layer was saved at the end; guarded by mu
}

var (
	_ engine.Machine = (*machine)(nil)
	_ engine.Pauser  = (*machine)(nil)
)

// Control implements [engine.Machine].
func (m *machine) Control() net.Conn { return m.control }

// PID implements [engine.Machine].
func (m *machine) PID() int { return m.process.Pid }

// Done implements [engine.Machine].
func (m *machine) Done() <-chan struct{} { return m.done }

// Exit implements [engine.Machine].
func (m *machine) Exit() engine.Exit { return m.exit }

// Kill implements [engine.Machine].
func (m *machine) Kill() { m.end("killed") }

// end ends QEMU, the first process of its PID namespace. The first reason
// counts.
func (m *machine) end(why string) {
	m.mu.Lock()
	if m.why == "" {
		m.why = why
	}
	m.mu.Unlock()
	_ = m.process.Kill() // fails if it is gone, which is what we want
}

// finish releases everything. It is called once, when the process has ended.
func (m *machine) finish(err error) {
	for _, c := range m.conns {
		c.Close()
	}
	<-m.console.Done
	m.layer.Close()
	m.exit = m.describeExit(err)
	close(m.done)
}

func (m *machine) describeExit(err error) engine.Exit {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.kept {
		return engine.Exit{Reason: "stopped", Clean: true}
	}
	exit := engine.Exit{Reason: m.why, Log: lastWords(m.console, 20)}
	if exit.Reason == "" {
		exit.Reason = unexpected(m.console, err)
	}
	return exit
}

// unexpected says why a machine ended that nobody ended.
func unexpected(console *child.Console, err error) string {
	if exited, ok := errors.AsType[*exec.ExitError](err); ok {
		if status := exited.Sys().(syscall.WaitStatus); status.Signaled() {
			return fmt.Sprintf("QEMU was ended from outside by signal %d (%s)", status.Signal(), unix.SignalName(status.Signal()))
		}
		return fmt.Sprintf("QEMU ended with status %d", exited.ExitCode())
	}
	if ended := endOf(console); ended != "" {
		return ended
	}
	return "the guest turned the machine off"
}

var (
	initEnded = regexp.MustCompile(`Kernel panic - not syncing: Attempted to kill init! exitcode=0x([0-9a-f]{8})`)
	panicked  = regexp.MustCompile(`Kernel panic - not syncing: [^\r\n]*`)
)

// lastWords returns the last lines that were said before the kernel told of its
// own end, whose traces help nobody.
func lastWords(console *child.Console, most int) string {
	said := console.Lines(1000)
	if at := panicked.FindStringIndex(said); at != nil {
		line := strings.LastIndexByte(said[:at[0]], '\n')
		said = said[:max(line, 0)]
	}
	lines := strings.Split(strings.TrimSpace(strings.ReplaceAll(said, "\r", "")), "\n")
	return strings.Join(lines[len(lines)-min(most, len(lines)):], "\n")
}

// endOf returns what the guest's kernel said of its end, "" if nothing. The
// agent is its first process. A guest can make it up, and deceives nobody but
// its own log.
func endOf(console *child.Console) string {
	said := console.Lines(1000)
	if found := initEnded.FindStringSubmatch(said); found != nil {
		var status uint32
		_, _ = fmt.Sscanf(found[1], "%x", &status)
		if w := unix.WaitStatus(status); w.Signaled() {
			return fmt.Sprintf("the agent was ended by signal %d", w.Signal())
		}
		return fmt.Sprintf("the agent ended with status %d", unix.WaitStatus(status).ExitStatus())
	}
	if found := panicked.FindString(said); found != "" {
		return "the guest's kernel crashed: " + found
	}
	return ""
}

// lock waits for its turn to command the machine; it ends with a receive from
// m.saving.
func (m *machine) lock(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case m.saving <- struct{}{}:
		return nil
	case <-m.done:
		return errors.New("it has ended")
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Sync implements [engine.Machine].
func (m *machine) Sync(ctx context.Context) error {
	err := m.lock(ctx)
	if err == nil {
		if !m.paused { // else it is frozen, and durable
			_, err = m.channel.Do(ctx, vmboot.CmdSync)
		}
		if err == nil {
			err = m.layer.Sync()
		}
		<-m.saving
	}
	return m.failed("sync qemu machine", err)
}

// Stop implements [engine.Machine].
func (m *machine) Stop(ctx context.Context) error {
	err := m.lock(ctx)
	if err == nil {
		if !m.paused {
			_, err = m.channel.Do(ctx, vmboot.CmdFreeze)
		}
		if err == nil {
			err = m.layer.Sync()
		}
		<-m.saving
	}
	if err == nil {
		m.mu.Lock()
		m.kept = m.why == ""
		m.mu.Unlock()
	}
	m.end("killed: its layer could not be saved")
	<-m.done
	if err != nil {
		return m.failed("stop qemu machine", fmt.Errorf("the layer is as of the last sync: %w", err))
	}
	return nil
}

// Pause implements [engine.Pauser]. The layer is frozen first, so that it is
// durable and whole for as long as the machine stands still.
func (m *machine) Pause(ctx context.Context) error {
	err := m.lock(ctx)
	if err == nil {
		if !m.paused {
			if _, err = m.channel.Do(ctx, vmboot.CmdFreeze); err == nil {
				err = m.monitor.do(ctx, "stop")
			}
			m.paused = err == nil
			if err != nil {
				m.thaw()
			} else {
				// QEMU 7.2 at times polls for a timer of the guest's clock, which
				// stands still, and never sleeps.
				_ = m.process.Signal(unix.SIGSTOP) // fails if it is gone
			}
		}
		<-m.saving
	}
	return m.failed("pause qemu machine", err)
}

// thawTime is how long a machine may take to go on.
const thawTime = 30 * time.Second

// thaw lets the machine go on after a pause that failed, perhaps half way.
func (m *machine) thaw() {
	ctx, cancel := context.WithTimeout(context.Background(), thawTime)
	defer cancel()
	err := m.monitor.do(ctx, "cont") // which a machine that runs does not mind
	if err == nil {
		_, err = m.channel.Do(ctx, vmboot.CmdThaw)
	}
	if err != nil {
		m.log.Warn("a machine that could not be paused cannot go on", "machine", m.spec.ID, "err", err)
	}
}

// Resume implements [engine.Pauser].
func (m *machine) Resume(ctx context.Context) error {
	err := m.lock(ctx)
	if err == nil {
		if m.paused {
			_ = m.process.Signal(unix.SIGCONT)
			if err = m.monitor.do(ctx, "cont"); err == nil {
				m.paused = false
				if _, err = m.channel.Do(ctx, vmboot.CmdTime, time.Now().UnixNano()); err == nil {
					_, err = m.channel.Do(ctx, vmboot.CmdThaw)
				}
			}
		}
		<-m.saving
	}
	return m.failed("resume qemu machine", err)
}

// failed gives an error its kind.
func (m *machine) failed(op string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.ENOSPC):
		return &boxlite.Error{Op: op, Kind: boxlite.Exhausted, Ref: string(m.spec.ID), Err: err}
	}
	return engine.Failed(op, m.spec.ID, err)
}

// Usage implements [engine.Machine].
func (m *machine) Usage() (engine.Usage, error) {
	failed := func(err error) (engine.Usage, error) {
		return engine.Usage{}, m.failed("measure qemu machine", err)
	}
	select {
	case <-m.done:
		return failed(errors.New("it has ended"))
	default:
	}
	cpu, err := child.CPUTime(m.process.Pid, true)
	if err != nil {
		return failed(err)
	}
	memory, err := child.Resident(m.process.Pid)
	if err != nil {
		return failed(err)
	}
	info, err := m.layer.Stat()
	if err != nil {
		return failed(err)
	}
	return engine.Usage{CPU: cpu, Memory: min(memory, m.spec.Memory), Disk: boxlite.Bytes(info.Sys().(*syscall.Stat_t).Blocks * 512)}, nil
}
