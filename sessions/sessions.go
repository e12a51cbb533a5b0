// Package sessions says who owns what. A [Manager] gives each principal a
// [Session], a boxlite.Service that sees that principal's boxes and executions
// and no others, and it ends boxes that nobody uses or whose time is up.
//
// It does not run boxes (package vmcore does) and speaks no protocol: the
// daemon's server and its HTTP listeners call it.
//
//	m := sessions.New(rt, sessions.Options{})
//	defer m.Close()
//	svc, err := m.Open(sessions.Client{Principal: "local"})
//	info, err := svc.CreateBox(ctx, boxlite.CreateRequest{}, nil)
//
// Everything may be used concurrently.
package sessions

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/secrets"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore"
)

// Options say how a [Manager] works. Zero fields mean the defaults.
type Options struct {
	// Every is how often idle and expired boxes are looked for. 0: 15 s.
	Every time.Duration

	Policy *Policy // what principals may do at first; nil: [DefaultPolicy]

	Log *slog.Logger // nil discards
}

// A Manager hands out sessions over one runtime.
type Manager struct {
	rt     *vmcore.Runtime
	log    *slog.Logger
	cancel context.CancelFunc
	work   sync.WaitGroup
	policy atomic.Pointer[Policy]

	mu       sync.Mutex
	accounts map[string]*account // guarded by mu; by principal
}

// New returns a manager and starts looking after the runtime's boxes.
func New(rt *vmcore.Runtime, opts Options) *Manager {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if opts.Every == 0 {
		opts.Every = 15 * time.Second
	}
	ctx, cancel := context.WithCancel(context.Background())
	m := &Manager{rt: rt, log: opts.Log, cancel: cancel, accounts: map[string]*account{}}
	if opts.Policy == nil {
		opts.Policy = new(DefaultPolicy())
	}
	m.SetPolicy(*opts.Policy)
	m.work.Go(func() { m.reap(ctx, opts.Every) })
	return m
}

// Close stops looking after the boxes, which go on. The runtime stays open.
func (m *Manager) Close() error {
	m.cancel()
	m.work.Wait()
	return nil
}

// A Client is who opens a session, and what its configuration says.
type Client struct {
	Principal  string
	Operator   bool             // sees all principals' boxes, may read images from anywhere on the host, and lets boxes reach what it likes
	Registries []string         // images may come from there, for this session
	Secrets    []boxlite.Secret // with values; boxes that this session makes may use them
}

// Open returns the service of a principal.
//
// Errors: InvalidArgument for a registry, Denied for one that the operator does
// not have, Config for a secret.
func (m *Manager) Open(c Client) (*Session, error) {
	if _, err := vmcore.ParseRegistries(c.Registries); err != nil {
		return nil, err
	}
	if err := m.policy.Load().checkRegistries(c.Registries); err != nil && !c.Operator {
		return nil, err
	}
	if _, err := secrets.NewSet(c.Secrets); err != nil {
		return nil, err
	}
	// A box made here outlives connections and this process: Survives.
	s := &Session{m: m, rt: m.rt, scope: vmcore.Scope{Principal: c.Principal, All: c.Operator}, secrets: c.Secrets,
		owner: vmcore.Owner{Principal: c.Principal, Registries: c.Registries, Survives: true}}
	if c.Operator {
		s.owner.LocalRoots, s.owner.AnyNetwork = []string{"/"}, true
		s.owner.Trusted = true
	}
	return s, nil
}

// Active returns how many boxes have a machine.
func (m *Manager) Active() int {
	n := 0
	for _, info := range m.rt.ListInfo() {
		if info.Status.IsActive() || info.Phase != "" {
			n++
		}
	}
	return n
}

// reap ends boxes until ctx does.
func (m *Manager) reap(ctx context.Context, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		m.reapOnce(ctx, time.Now())
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// reapOnce ends the boxes that are due. Each has its own goroutine: one that is
// slow to stop does not keep the others.
func (m *Manager) reapOnce(ctx context.Context, now time.Time) {
	var wg sync.WaitGroup
	for _, info := range m.rt.ListInfo() {
		box, err := m.rt.Get(string(info.ID))
		if err != nil {
			continue
		}
		wg.Go(func() {
			if err := m.reapBox(ctx, box, info, now); err != nil && ctx.Err() == nil && boxlite.KindOf(err) != boxlite.NotFound {
				m.log.Warn("a box that is due was not ended", "box", info.ID, "err", err)
			}
		})
	}
	wg.Wait()
}

// reapBox removes a box whose time to live is over, or stops one that nobody
// has used for too long.
func (m *Manager) reapBox(ctx context.Context, box *vmcore.Box, info boxlite.BoxInfo, now time.Time) error {
	idle, expires := box.IdleTimeout()
	switch {
	case !expires.IsZero() && now.After(expires):
		m.log.Info("box removed: its time to live is over", "box", info.ID)
		return box.Remove(ctx, true)
	case idle <= 0 || !info.Status.IsRunning() || now.Sub(info.LastUsed) < idle:
		return nil
	}
	stopped, err := box.StopIdle(ctx, idle) // the shim knows of commands that have only just ended
	if stopped {
		m.log.Info("box stopped: it was idle", "box", info.ID)
	}
	return err
}
