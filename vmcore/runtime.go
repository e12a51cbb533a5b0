// Package vmcore is the runtime: it creates boxes, starts and stops their
// machines, runs commands in them, and remembers all of it. A [Runtime] owns
// one home directory; there is one in the daemon, and a program that embeds
// boxes has its own.
//
// It does not decide who may do what (package sessions does), though it holds to
// the operator's [Policy] for what boxes are made of and reach, and it speaks
// neither MCP nor any network protocol but the registries' (package image) and
// the shims' (package shim).
//
//	rt, err := vmcore.Open(ctx, vmcore.Options{Home: home})
//	defer rt.Close()
//	box, err := rt.Create(ctx, boxlite.BoxOptions{Image: "python:3.12"}, "calc")
//	run, err := box.Run(ctx, boxlite.Command{Args: []string{"python3", "-c", "print(6*7)"}})
//	out, err := io.ReadAll(run.Stdout())
//	result, err := run.Wait(ctx)
//
// Everything may be used concurrently: one box, many callers.
//
// # On disk
//
//	home/lock          held by the Runtime while it is open
//	home/.boxlite-mcp-home  says whose directory it is
//	home/db/           Badger, package store: tables "audit", "box", "secret" and "total"
//	home/images/       package image
//	home/vault.key     the key of the secrets in table "secret"
//	home/engines.json  what the engines reported of this host
//	home/boxes/ID/     box.json (a copy of the record), machine/ (all that the
//	                   machine's processes may see), layer/ (what the box wrote),
//	                   executions/, log/, shim.sock, exit.json
//	home/lost/ID/      directories of boxes whose records were lost; nobody but a
//	                   person touches them
//
// A change of a box is persisted before it is made, so that whatever dies
// whenever, the next Open can finish it or undo it: see recover.go.
package vmcore

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/store"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/image"
)

// Options say how to open a [Runtime]. Zero fields mean the defaults.
type Options struct {
	Home string // absolute; "": ~/.boxlite

	// Programs are the executables that boxes need. Those that are "" are
	// looked for beside this program and on PATH.
	Programs Programs

	Registries []image.Registry // where images come from; none: docker.io
	RootCAs    *x509.CertPool   // verify registries; nil: the host's
	Offline    bool             // use what the image cache has

	Policy // the operator's word at first

	BootTimeout time.Duration // of a machine, on an engine as fast as the host; 0: 60 s

	Version string       // of the program, for records and hellos
	Log     *slog.Logger // nil discards
}

// A Runtime owns a home directory and the boxes in it.
type Runtime struct {
	opts    Options
	log     *slog.Logger
	lock    *os.File // flock on home/lock
	db      *store.DB
	boxes   *store.Table[record]
	totals  *store.Table[totals]
	images  *image.Cache
	engines *engines
	vault   *vault
	audit   *audit
	policy  atomic.Pointer[Policy]

	ctx    context.Context //nolint:containedctx // of everything that outlives a call; ended by Close
	cancel context.CancelFunc
	work   sync.WaitGroup // goroutines that Close waits for

	mu      sync.Mutex
	records map[boxlite.BoxID]*record       // guarded by mu; all of table "box"
	live    map[boxlite.BoxID]*live         // guarded by mu; boxes with a shim
	locks   map[boxlite.BoxID]chan struct{} // guarded by mu; holds a token while a box is led from state to state
	phases  map[boxlite.BoxID]string        // guarded by mu; of starts under way
	closed  bool                            // guarded by mu

	registries map[string]bool // guarded by mu; host:port of those that a person has named
}

// Open opens the home and adopts the boxes that run in it.
//
// Errors: InvalidState if another process has it open; Database if the
// database is damaged, with the way out as hint; Storage, Config.
func Open(ctx context.Context, opts Options) (*Runtime, error) {
	rt, err := open(opts)
	if err != nil {
		return nil, err
	}
	if err := rt.recover(ctx); err != nil {
		return nil, errors.Join(err, rt.Close())
	}
	if err := rt.lowered(ctx); err != nil {
		rt.log.Warn("boxes could not be told of a lower ceiling, and are stopped", "err", err)
	}
	return rt, nil
}

func open(opts Options) (_ *Runtime, err error) {
	if opts, err = opts.withDefaults(); err != nil {
		return nil, err
	}
	rt := &Runtime{
		opts: opts, log: opts.Log,
		records: map[boxlite.BoxID]*record{}, live: map[boxlite.BoxID]*live{},
		locks: map[boxlite.BoxID]chan struct{}{}, phases: map[boxlite.BoxID]string{}, registries: map[string]bool{},
	}
	rt.policy.Store(&opts.Policy)
	rt.ctx, rt.cancel = context.WithCancel(context.Background())
	defer func() {
		if err != nil {
			_ = rt.release()
		}
	}()
	for _, dir := range []string{opts.Home, rt.path("boxes"), rt.path("images")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, storage("open home", opts.Home, err)
		}
	}
	if rt.lock, err = lockHome(opts.Home); err != nil {
		return nil, err
	}
	if err := mark(opts.Home); err != nil {
		return nil, err
	}
	if rt.db, err = store.Open(rt.path("db"), store.Options{Log: opts.Log}); err != nil {
		return nil, wayOut(err)
	}
	rt.boxes, rt.totals = newBoxTable(rt.db), store.NewTable(rt.db, "total", store.TableOptions[totals]{})
	rt.audit = newAudit(rt.db)
	rt.vault = newVault(rt.db, rt.path("vault.key"), opts.Policy.Secrets)
	if rt.images, err = rt.openImages(); err != nil {
		return nil, err
	}
	rt.engines = openEngines(opts.Programs, guestDir(opts.Home), rt.path("engines.json"), opts.Log)
	return rt, nil
}

func (o Options) withDefaults() (Options, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.BootTimeout == 0 {
		o.BootTimeout = time.Minute
	}
	if o.Home == "" {
		dir, err := os.UserHomeDir()
		if err != nil {
			return o, &boxlite.Error{Op: "open home", Kind: boxlite.Config, Err: err, Hint: "Set Options.Home."}
		}
		o.Home = filepath.Join(dir, ".boxlite")
	}
	home, err := filepath.Abs(o.Home)
	if err != nil {
		return o, storage("open home", o.Home, err)
	}
	if !utf8.ValidString(home) { // it travels in JSON
		return o, &boxlite.Error{Op: "open home", Kind: boxlite.Config, Ref: fmt.Sprintf("%.300q", home),
			Err: errors.New("the path is not UTF-8"), Hint: "Name another directory with --home or BOXLITE_HOME."}
	}
	o.Home = home
	o.Programs, err = o.Programs.find()
	return o, err
}

// Close lets go of the home. Boxes that are attached to this process are
// stopped first; the others go on and are adopted by the next Open.
func (rt *Runtime) Close() error {
	rt.mu.Lock()
	if rt.closed {
		rt.mu.Unlock()
		return nil
	}
	rt.closed = true
	var attached []boxlite.BoxID
	for id, rec := range rt.records {
		if rt.live[id] != nil && rec.attached() {
			attached = append(attached, id)
		}
	}
	rt.mu.Unlock()

	var wg sync.WaitGroup
	for _, id := range attached {
		wg.Go(func() {
			if _, err := rt.stop(context.Background(), id); err != nil && boxlite.KindOf(err) != boxlite.NotFound {
				rt.log.Warn("a box was not stopped", "box", id, "err", err)
			}
		})
	}
	wg.Wait()
	return rt.release()
}

// release ends what Open began, as far as it got.
func (rt *Runtime) release() error {
	rt.cancel()
	rt.work.Wait()
	var errs []error
	rt.mu.Lock()
	for _, l := range rt.live {
		errs = append(errs, l.close())
	}
	clear(rt.live)
	rt.mu.Unlock()
	if rt.images != nil {
		errs = append(errs, rt.images.Close())
	}
	if rt.db != nil {
		errs = append(errs, rt.db.Close())
	}
	if rt.lock != nil {
		// To close the file would not do: a process that was just forked may have it too.
		_ = unix.Flock(int(rt.lock.Fd()), unix.LOCK_UN)
		errs = append(errs, rt.lock.Close())
	}
	return errors.Join(errs...)
}

// Home returns the home directory.
func (rt *Runtime) Home() string { return rt.opts.Home }

func (rt *Runtime) path(elem ...string) string {
	return filepath.Join(append([]string{rt.opts.Home}, elem...)...)
}

// boxDir returns the directory of a box.
func (rt *Runtime) boxDir(id boxlite.BoxID) string { return rt.path("boxes", string(id)) }

// acquire waits for the right to lead a box from one state to another.
//
// Errors: Canceled, Timeout.
func (rt *Runtime) acquire(ctx context.Context, id boxlite.BoxID) (release func(), err error) {
	rt.mu.Lock()
	token := rt.locks[id]
	if token == nil {
		token = make(chan struct{}, 1)
		rt.locks[id] = token
	}
	rt.mu.Unlock()
	select {
	case token <- struct{}{}:
		return func() { <-token }, nil
	case <-ctx.Done():
		return nil, &boxlite.Error{Op: "wait for box", Kind: boxlite.KindOf(ctx.Err()), Ref: string(id), Err: ctx.Err()}
	}
}

// begin runs f in a goroutine that Close waits for.
//
// Errors: InvalidState if the runtime is closing.
func (rt *Runtime) begin(f func()) error {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	if rt.closed {
		return isClosing()
	}
	rt.work.Go(f)
	return nil
}

func isClosing() error {
	return &boxlite.Error{Op: "use runtime", Kind: boxlite.InvalidState, Err: errors.New("it is closing"), Hint: "Call again."}
}

// finish runs f to its end, also if ctx ends before; then it returns ctx's
// error at once.
func finish[T any](ctx context.Context, rt *Runtime, f func(context.Context) (T, error)) (T, error) {
	type outcome struct {
		v   T
		err error
	}
	done := make(chan outcome, 1)
	var zero T
	if err := rt.begin(func() {
		v, err := f(context.WithoutCancel(ctx))
		done <- outcome{v, err}
	}); err != nil {
		return zero, err
	}
	select {
	case o := <-done:
		return o.v, o.err
	case <-ctx.Done():
		return zero, ctx.Err()
	}
}

// storage returns the error for a home that cannot be read or written.
func storage(op, ref string, err error) error {
	e := &boxlite.Error{Op: op, Kind: boxlite.Storage, Ref: ref, Err: err}
	switch {
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		e.Kind = boxlite.Exhausted
		e.Hint = "Free space on the disk of the home directory: remove boxes or images that are not needed."
	case errors.Is(err, unix.EROFS), errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		e.Hint = "Make the home directory writable, or name another one with --home or BOXLITE_HOME."
	}
	return e
}

// wayOut tells whoever has a damaged database what to do.
func wayOut(err error) error {
	if e, ok := errors.AsType[*boxlite.Error](err); ok && e.Kind == boxlite.Database {
		e.Hint = "Run boxlite-mcp doctor --repair: it moves the damaged database aside and restores the boxes from their directories; running boxes go on."
	}
	return err
}

// Repair moves the database of a home aside, so that the next Open restores
// the boxes from the copies in their directories. It returns where the old one
// is.
//
// Errors: InvalidState if another process has the home open; Storage.
func Repair(home string) (moved string, err error) {
	lock, err := lockHome(home)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	moved, err = store.Quarantine(filepath.Join(home, "db"))
	if err != nil {
		return "", fmt.Errorf("move the database aside: %w", err)
	}
	return moved, nil
}
