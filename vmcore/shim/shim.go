// Package shim is the process between the runtime and one running box: it owns
// the machine, the one connection to the agent in it, and all output of the
// box's commands. It outlives the daemon, which finds it again by its socket,
// and the machine does not outlive it.
//
// It knows no images, no database, no principals and no MCP: it is given a
// [Config] and serves one box until that is gone. The runtime's end of the
// conversation is [Client].
//
//	// in the helper process, as "boxlite-mcp shim":
//	cfg, err := shim.ReadConfig(os.Stdin)
//	err = shim.Run(ctx, cfg, eng, os.Stdin, os.Stdout, log)
//
// # Start
//
// The starter writes the Config to the shim's standard input as one line of
// JSON; end of file before it ends the shim. The shim boots the machine, writes
// one line with [Ready] to its standard output and closes it. From then on all
// goes over shim.sock (shimpb/shim.proto).
//
// # On disk
//
// In the box's directory: shim.sock; executions/, see package spool; exit.json,
// an [Exit], written when the box is gone; log/.
package shim

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/agent"
	"github.com/boxlite-mcp/boxlite-mcp/internal/unixsocket"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/engine"
)

// Protocol is the version of the conversation over shim.sock. A runtime speaks
// it and the one before.
const Protocol = 1

// A Config is all that a shim is told.
type Config struct {
	Box     boxlite.BoxID      `json:"box"`
	Dir     string             `json:"dir"`     // the box's directory, absolute
	Engine  string             `json:"engine"`  // name of the engine to use
	Sandbox string             `json:"sandbox"` // path of boxlite-sandbox
	Jail    string             `json:"jail"`    // path of boxlite-jail
	QEMU    string             `json:"qemu"`    // path of QEMU, "" where there is none
	Guest   string             `json:"guest"`   // directory of what virtual machines are booted from
	Machine engine.MachineSpec `json:"machine"`
	Network *Network           `json:"network,omitempty"` // nil: loopback only

	Env        []boxlite.Env `json:"env"`         // of every command: the image's, then the box's
	WorkingDir string        `json:"working_dir"` // of commands that name none
	User       string        `json:"user"`        // of commands that name none

	// Attached ends the box when the shim's standard input ends, because its
	// starter has died or let go.
	Attached bool `json:"attached"`

	BootTimeout time.Duration      `json:"boot_timeout"` // from Start to the agent's hello
	SyncEvery   time.Duration      `json:"sync_every"`   // least time between two saves of the writable layer while it changes; 0: never
	Version     string             `json:"version"`      // of the program, for Hello
	Totals      boxlite.BoxMetrics `json:"totals"`       // counters of earlier starts, to go on from
}

// Ready is what a shim says once, when the box is up or will not be.
type Ready struct {
	MachinePID int              `json:"machine_pid,omitempty"`
	Spawn      time.Duration    `json:"spawn,omitempty"` // until the machine was booted
	Init       time.Duration    `json:"init,omitempty"`  // from there until the agent answered
	Error      *boxlite.Problem `json:"error,omitempty"`
}

// An Exit is what is left of a box's machine when it is gone.
type Exit struct {
	Container boxlite.ContainerID `json:"container_id"`
	Reason    string              `json:"reason"`
	Clean     bool                `json:"clean"` // the writable layer is as it was at the end
	OOM       bool                `json:"oom,omitempty"`
	At        time.Time           `json:"at"`
	Totals    boxlite.BoxMetrics  `json:"totals"`
}

// SocketPath returns the path of the socket of the box in dir.
func SocketPath(dir string) string { return filepath.Join(dir, "shim.sock") }

// ExecutionsDir returns the directory of the executions of the box in dir.
func ExecutionsDir(dir string) string { return filepath.Join(dir, "executions") }

// ReadExit returns the Exit of the given start of the box in dir; ok is false
// if there is none.
func ReadExit(dir string, container boxlite.ContainerID) (exit Exit, ok bool) {
	data, err := os.ReadFile(filepath.Join(dir, "exit.json"))
	if err != nil || json.Unmarshal(data, &exit) != nil || exit.Container != container {
		return Exit{}, false
	}
	return exit, true
}

// ReadConfig reads the one line of JSON that a starter writes. What follows it
// stays in r.
//
// Errors: Canceled if the starter ended before it had written all of it.
func ReadConfig(r *bufio.Reader) (Config, error) {
	var cfg Config
	line, err := r.ReadBytes('\n')
	if err != nil {
		return cfg, &boxlite.Error{Op: "start shim", Kind: boxlite.Canceled, Err: fmt.Errorf("the starter went away: %w", err)}
	}
	if err := json.Unmarshal(line, &cfg); err != nil {
		return cfg, &boxlite.Error{Op: "start shim", Kind: boxlite.InvalidArgument, Err: err}
	}
	return cfg, nil
}

// Run boots the box, serves it, and returns when it is gone. It writes a Ready
// to ready and closes it. stdin is what is left of the starter's pipe. When ctx
// ends the box is stopped.
//
// Errors: why the box did not come up; nil once it did.
func Run(ctx context.Context, cfg Config, eng engine.Engine, stdin io.Reader, ready io.WriteCloser, log *slog.Logger) error {
	s := newServer(cfg, log)
	defer s.closeNetwork()
	r, listener, err := s.boot(ctx, eng)
	r.Error = boxlite.ProblemOf(err)
	err = errors.Join(err, tell(ready, r))
	if r.Error != nil {
		return err
	}
	if cfg.Attached {
		go s.stopAtEOF(stdin)
	}
	return s.serve(ctx, listener)
}

// tell writes r. A starter that has died does not read it: the box lives on,
// for the next one to adopt.
func tell(w io.WriteCloser, r Ready) error {
	line, err := json.Marshal(r)
	if err != nil {
		return err
	}
	_, _ = w.Write(append(line, '\n'))
	_ = w.Close()
	return nil
}

// boot starts the machine, greets its agent and listens.
func (s *server) boot(ctx context.Context, eng engine.Engine) (Ready, net.Listener, error) {
	var r Ready
	ctx, cancel := context.WithTimeout(ctx, s.cfg.BootTimeout)
	defer cancel()
	started := time.Now()
	spec := s.cfg.Machine
	spec.Logger = s.log
	var err error
	if spec.NIC, err = s.openNetwork(); err != nil {
		return r, nil, err
	}
	m, err := eng.Start(ctx, spec)
	if err != nil {
		return r, nil, err
	}
	s.machine, r.MachinePID, r.Spawn = m, m.PID(), time.Since(started)

	booted := time.Now()
	s.agent, err = agent.NewClient(ctx, m.Control(), agent.Options{Hostname: spec.Hostname, HelloTimeout: s.cfg.BootTimeout, Log: s.log})
	if err != nil {
		return r, nil, s.notUp(err)
	}
	if err := s.setUpNetwork(ctx); err != nil {
		s.agent.Close()
		return r, nil, s.notUp(err)
	}
	r.Init = time.Since(booted)
	s.count.GuestBoot = new(time.Since(started))

	listener, err := unixsocket.Listen(SocketPath(s.cfg.Dir))
	if err != nil {
		s.agent.Close()
		return r, nil, s.notUp(err)
	}
	return r, listener, nil
}

// notUp ends a machine whose agent did not answer and says what its log said.
func (s *server) notUp(err error) error {
	alreadyGone := false
	select {
	case <-s.machine.Done():
		alreadyGone = true
	case <-time.After(200 * time.Millisecond): // a machine that has just died needs a moment to be reaped
	}
	s.machine.Kill()
	<-s.machine.Done()
	e := &boxlite.Error{Op: "start box", Kind: boxlite.Engine, Err: err,
		Hint: "Try once more; if it fails again, see with boxlite-mcp doctor what this host lacks."}
	exit := s.machine.Exit()
	if alreadyGone {
		e.Err = fmt.Errorf("the machine ended while it started: %s", exit.Reason)
		e.Kind = map[bool]boxlite.Kind{true: boxlite.Exhausted, false: boxlite.Engine}[exit.OOM]
	} else if boxlite.KindOf(err) == boxlite.Timeout {
		e.Kind = boxlite.Timeout
	}
	if exit.Log != "" {
		e.Err = fmt.Errorf("%w; its log ends:\n%s", e.Err, exit.Log)
	}
	return e
}
