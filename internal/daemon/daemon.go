// Package daemon is the one process that owns a home: it holds the runtime and
// its database, answers front ends and the command line over
// <home>/daemon.sock, and leaves when there is nobody left to serve and no box
// left to look after. Boxes do not need it: they go on without, and the next
// daemon finds them.
//
// It keeps to the operator's configuration, <home>/config.toml, which package
// config reads, and follows its changes; <home>/config.in-force.toml is a copy of
// what counts.
//
// What it serves is package sessions'; how it is spoken to is package rpc's.
// This package is the wiring and the life of the process.
//
//	err := daemon.Run(ctx, daemon.Options{Home: home, Version: version, Log: log})
package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/internal/rpc"
	"github.com/boxlite-mcp/boxlite-mcp/internal/unixsocket"
	"github.com/boxlite-mcp/boxlite-mcp/sessions"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore"
)

// Options say what a daemon owns. Home is required.
type Options struct {
	Home     string // absolute; it exists
	Programs vmcore.Programs
	Version  string

	// Linger is how long the daemon stays without clients and active boxes.
	// 0: 30 s.
	Linger time.Duration

	Log *slog.Logger // nil discards
}

// Details are what a daemon adds to its status.
type Details struct {
	ActiveBoxes int                    `json:"active_boxes"`
	Metrics     boxlite.RuntimeMetrics `json:"metrics"`

	// Configuration is what is wrong with the operator's configuration as it is
	// now; one from before it counts. nil: nothing.
	Configuration *boxlite.Problem `json:"configuration,omitempty"`
}

// Run owns the home until ctx ends, a newer program asks it to leave, or it is
// not needed any more.
//
// Errors: Config for a mistake in the operator's configuration; those of [vmcore.Open]; RpcTransport if the socket cannot be made.
func Run(ctx context.Context, opts Options) (err error) {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if opts.Linger == 0 {
		opts.Linger = 30 * time.Second
	}
	ctx, leave := context.WithCancel(ctx)
	defer leave()
	rules := newRuler(opts.Home, opts.Log)
	policy, err := rules.read(ctx)
	if err != nil {
		return err
	}
	rt, err := vmcore.Open(ctx, vmcore.Options{
		Home: opts.Home, Policy: policy.Runtime, Programs: opts.Programs, Version: opts.Version, Log: opts.Log,
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rt.Close()) }()
	manager := sessions.New(rt, sessions.Options{Policy: &policy.Principals, Log: opts.Log})
	defer manager.Close()
	return serve(ctx, leave, opts, rules, rt, manager)
}

// serve answers clients until ctx ends; leave ends it.
func serve(ctx context.Context, leave func(), opts Options, rules *ruler, rt *vmcore.Runtime, manager *sessions.Manager) error {
	srv := rpc.NewServer(rpc.ServerOptions{
		Open: func(c rpc.Caller) (boxlite.Service, error) {
			return manager.Open(sessions.Client{Principal: c.Principal, Operator: c.Operator, Registries: c.Registries, Secrets: c.Secrets})
		},
		Version: opts.Version, Home: opts.Home, Log: opts.Log,
		Details: func(ctx context.Context) (json.RawMessage, error) {
			return json.Marshal(Details{ActiveBoxes: manager.Active(), Metrics: rt.Metrics(ctx), Configuration: rules.problem()})
		},
		Shutdown: func(reason string) {
			opts.Log.Info("daemon was asked to leave", "reason", reason)
			leave()
		},
	})
	socket := rpc.Socket(opts.Home)
	l, err := unixsocket.Listen(socket)
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	wg.Go(func() { rules.run(ctx, rt, manager) })
	wg.Go(func() { leaveWhenIdle(ctx, leave, opts, srv, manager) })
	wg.Go(func() {
		<-ctx.Done()
		drain, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		srv.Stop(drain)
	})
	opts.Log.Info("daemon serves", "home", opts.Home, "version", opts.Version)
	err = srv.Serve(l)
	leave()
	wg.Wait()
	opts.Log.Info("daemon leaves")
	return err
}

// leaveWhenIdle calls leave once there has been nobody to serve and nothing to
// look after for a while.
func leaveWhenIdle(ctx context.Context, leave func(), opts Options, srv *rpc.Server, manager *sessions.Manager) {
	tick := time.NewTicker(max(opts.Linger/10, 10*time.Millisecond))
	defer tick.Stop()
	lastBusy := time.Now()
	for {
		if srv.Clients() > 0 || manager.Active() > 0 {
			lastBusy = time.Now()
		}
		if time.Since(lastBusy) >= opts.Linger {
			opts.Log.Info("daemon is not needed any more")
			leave()
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-srv.Changed():
		case <-tick.C:
		}
	}
}

// OpenLog opens the daemon's log in a home for appending; one that has grown
// large is set aside first, as daemon.log.old.
func OpenLog(home string) (*os.File, error) {
	const large = 8 << 20
	path := rpc.LogFile(home)
	if st, err := os.Stat(path); err == nil && st.Size() > large {
		if err := os.Rename(path, path+".old"); err != nil {
			return nil, err
		}
	}
	return os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
}

// LockFile is what the owner of a home holds an flock on.
func LockFile(home string) string { return filepath.Join(home, "lock") }
