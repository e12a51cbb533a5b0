package gvisor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/engine"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/engine/child"
)

// outOfMemory is the reason of a machine's end by its memory limit.
const outOfMemory = "out of memory"

// A machine is one sandbox.
type machine struct {
	spec    engine.MachineSpec
	layer   *layer
	log     *slog.Logger
	d       *descriptors
	process *os.Process
	console *child.Console
	control *controller // for what may take long: one after the other
	quick   *controller // for what must not wait for that

	groups      *groups
	guestMemory *os.File // where the guest's memory lies

	saving chan struct{} // holds a token while the layer is saved

	done chan struct{}
	exit engine.Exit // valid once done is closed

	mu      sync.Mutex
	closers []io.Closer // guarded by mu
	why     string      // why we ended the machine, "" if we did not; guarded by mu
	kept    bool        // the layer was saved at the end; guarded by mu
}

var (
	_ engine.Machine = (*machine)(nil)
	_ engine.Pauser  = (*machine)(nil)
)

// Control implements [engine.Machine].
func (m *machine) Control() net.Conn { return m.d.agent }

// PID implements [engine.Machine].
func (m *machine) PID() int { return m.process.Pid }

// Done implements [engine.Machine].
func (m *machine) Done() <-chan struct{} { return m.done }

// Exit implements [engine.Machine].
func (m *machine) Exit() engine.Exit { return m.exit }

// Kill implements [engine.Machine].
func (m *machine) Kill() { m.end("killed") }

// end ends the sandbox's process, and with it, the first of its PID namespace,
// all others. The first reason counts.
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
	m.mu.Lock()
	closers := append(m.closers, m.d.closers...)
	m.mu.Unlock()
	for _, c := range closers {
		if c != io.Closer(m.d.console) { // its reader closes it
			c.Close()
		}
	}
	os.Remove(m.d.listener)
	<-m.console.Done
	m.exit = m.describeExit(err)
	m.groups.remove()
	close(m.done)
}

func (m *machine) describeExit(err error) engine.Exit {
	m.mu.Lock()
	defer m.mu.Unlock()
	exit := engine.Exit{Reason: m.why, Clean: m.kept}
	if exit.Clean {
		exit.Reason = "stopped"
		return exit
	}
	exit.Log = m.console.Lines(20)
	if exit.Reason == "" && m.groups.ooms() > 0 {
		exit.Reason = outOfMemory
	}
	exit.OOM = exit.Reason == outOfMemory
	if exit.Reason == "" {
		exit.Reason = m.unexpected(err)
	}
	return exit
}

// unexpected says why a sandbox ended that nobody ended.
func (m *machine) unexpected(err error) string {
	exited, ok := errors.AsType[*exec.ExitError](err)
	if !ok {
		return "the agent ended"
	}
	status := exited.Sys().(syscall.WaitStatus)
	if line := m.console.Crashed(); line != "" {
		return "the sandbox crashed: " + line
	}
	if status.Signaled() {
		return fmt.Sprintf("the sandbox was ended from outside by signal %d (%s)", status.Signal(), unix.SignalName(status.Signal()))
	}
	return fmt.Sprintf("the agent ended with status %d", status.ExitStatus())
}

// Sync implements [engine.Machine].
func (m *machine) Sync(ctx context.Context) error {
	err := m.lockSaving(ctx)
	if err == nil {
		err = m.save(ctx)
		<-m.saving
	}
	if err != nil {
		return m.saveError("sync gvisor machine", err)
	}
	return nil
}

// lockSaving waits for its turn to save; it ends with a receive from m.saving.
func (m *machine) lockSaving(ctx context.Context) error {
	select {
	case m.saving <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Stop implements [engine.Machine].
func (m *machine) Stop(ctx context.Context) error {
	err := m.lockSaving(ctx)
	if err == nil {
		if err = m.Pause(ctx); err == nil {
			err = m.save(ctx)
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
		return m.saveError("stop gvisor machine", fmt.Errorf("the layer is as of the last sync: %w", err))
	}
	return nil
}

func (m *machine) saveError(op string, err error) error {
	if errors.Is(err, unix.ENOSPC) || strings.Contains(err.Error(), unix.ENOSPC.Error()) { // of ours, of the sandbox's
		return &boxlite.Error{Op: op, Kind: boxlite.Exhausted, Ref: string(m.spec.ID), Err: err}
	}
	return engine.Failed(op, m.spec.ID, err)
}

// save writes a generation of the layer. The machine stands still meanwhile.
func (m *machine) save(ctx context.Context) error {
	w, err := m.layer.newGeneration()
	if err != nil {
		return err
	}
	if _, err := m.control.call(ctx, "containerManager.FSSave", struct{}{}, w.files...); err != nil {
		w.abandon()
		return err
	}
	if err := w.commit(m.disk()); err != nil {
		w.abandon()
		return err
	}
	return nil
}

// disk returns how much the store takes, in bytes.
func (m *machine) disk() int64 {
	info, err := m.d.store.Stat()
	if err != nil {
		return 0
	}
	return info.Sys().(*syscall.Stat_t).Blocks * 512
}

// Pause implements [engine.Pauser].
func (m *machine) Pause(ctx context.Context) error {
	_, err := m.control.call(ctx, "containerManager.Pause", struct{}{})
	return err
}

// Resume implements [engine.Pauser].
func (m *machine) Resume(ctx context.Context) error {
	_, err := m.control.call(ctx, "containerManager.Resume", struct{}{})
	return err
}
