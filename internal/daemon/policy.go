package daemon

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/internal/config"
	"github.com/boxlite-mcp/boxlite-mcp/sessions"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore"
)

// lookEvery is how often the operator's configuration is looked at.
const lookEvery = time.Second

// InForceFile returns the path of a copy of the operator's configuration as the
// home's daemon has taken it over last. It says what counts while there is a
// mistake in the configuration.
func InForceFile(home string) string { return filepath.Join(home, "config.in-force.toml") }

// A ruler keeps to the operator's configuration: it reads it at first, and again
// when it changes. A mistake keeps what was before.
type ruler struct {
	home   string
	follow *config.Follower
	log    *slog.Logger

	mu      sync.Mutex
	mistake error // guarded by mu; in the file as it is now; nil: it counts
}

func newRuler(home string, log *slog.Logger) *ruler {
	return &ruler{home: home, follow: config.Follow(config.Path(home)), log: log}
}

// read returns what the file says now.
//
// Errors: Config, with the places in the file; Storage.
func (r *ruler) read(ctx context.Context) (config.Policy, error) {
	f, err := config.Open(r.follow.Path())
	if err != nil {
		return config.Policy{}, err
	}
	p, err := f.Policy(ctx)
	if err == nil {
		r.keep(f)
	}
	return p, err
}

// keep copies the file that counts. Nothing depends on the copy.
func (r *ruler) keep(f *config.File) {
	path := InForceFile(r.home)
	err := os.WriteFile(path+".new", f.Text(), 0o600)
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		r.log.Warn("the configuration that counts was not copied", "err", err)
	}
}

// reread reads the file again, after a change.
func (r *ruler) reread(ctx context.Context, rt *vmcore.Runtime, manager *sessions.Manager) {
	p, err := r.read(ctx)
	if ctx.Err() != nil {
		return
	}
	r.mu.Lock()
	r.mistake = err
	r.mu.Unlock()
	if err != nil {
		r.log.Error("the configuration has a mistake, and what was before still counts", "err", err)
		return
	}
	manager.SetPolicy(p.Principals)
	if err := rt.SetPolicy(ctx, p.Runtime); err != nil {
		r.log.Warn("boxes could not be told of the configuration, and are stopped", "err", err)
	}
	r.log.Info("the configuration was read again")
}

// run follows the file until ctx ends.
func (r *ruler) run(ctx context.Context, rt *vmcore.Runtime, manager *sessions.Manager) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if r.follow.Changed(0) {
			r.reread(ctx, rt, manager)
		}
	}
}

// problem returns what is wrong with the file, for the daemon's status; nil if it
// counts.
func (r *ruler) problem() *boxlite.Problem {
	r.mu.Lock()
	defer r.mu.Unlock()
	return boxlite.ProblemOf(r.mistake)
}
