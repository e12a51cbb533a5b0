package tools

import (
	"context"
	"runtime/debug"
	"sync"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
)

// A crew is goroutines with an owner: none is started after close, which waits
// for those there are. The zero value is ready for use.
type crew struct {
	mu     sync.Mutex
	closed bool // guarded by mu
	wg     sync.WaitGroup
}

// start runs fn on a goroutine, and reports whether it did.
func (w *crew) start(fn func()) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return false
	}
	w.wg.Go(fn)
	return true
}

// close refuses further work and returns a channel that is closed once all of
// it has ended.
func (w *crew) close() <-chan struct{} {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	done := make(chan struct{})
	go func() { defer close(done); w.wg.Wait() }()
	return done
}

// starts are the boxes being started, each once however many calls wait for it.
// A start goes on when the call that began it is cancelled or has to answer.
// The zero value is ready for use.
type starts struct {
	work crew

	mu      sync.Mutex
	running map[startKey]*oneStart // guarded by mu

	detached map[*byte]context.CancelFunc // guarded by mu; other work that outlives its call
}

// A startKey is a box as a caller named it, at the service of its principal.
type startKey struct {
	svc boxlite.Service
	ref string
}

// A oneStart is one start under way.
type oneStart struct {
	progress progress // of the start, told to nobody; calls that wait look at it
	cancel   context.CancelFunc
	done     chan struct{} // closed when info and err are set
	info     boxlite.BoxInfo
	err      error
}

// box returns the start of the box that ref names, beginning it if there is
// none under way. ctx lends its values, not its end.
func (s *starts) box(ctx context.Context, svc boxlite.Service, ref string) (*oneStart, error) {
	key := startKey{svc, ref}
	s.mu.Lock()
	defer s.mu.Unlock()
	if o, ok := s.running[key]; ok {
		return o, nil
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	o := &oneStart{cancel: cancel, done: make(chan struct{})}
	if !s.work.start(func() { s.run(ctx, key, o) }) {
		cancel()
		return nil, &boxlite.Error{Op: "start box", Ref: ref, Kind: boxlite.Canceled, Hint: "The server is shutting down."}
	}
	if s.running == nil {
		s.running = map[startKey]*oneStart{}
	}
	s.running[key] = o
	return o, nil
}

// isStarting reports whether the start of the box that ref names is under way.
func (s *starts) isStarting(svc boxlite.Service, ref string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.running[startKey{svc, ref}] != nil
}

func (s *starts) run(ctx context.Context, key startKey, o *oneStart) {
	defer func() {
		if v := recover(); v != nil {
			o.err = boxlite.Errorf(boxlite.Internal, "start box", key.ref, "panic: %v\n%s", v, debug.Stack())
		}
		s.mu.Lock()
		delete(s.running, key)
		s.mu.Unlock()
		o.cancel()
		close(o.done)
	}()
	o.info, o.err = key.svc.StartBox(ctx, key.ref, o.progress.report)
}

// stop cancels every start and returns a channel that is closed once they have
// all ended.
func (s *starts) stop() <-chan struct{} {
	done := s.work.close()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range s.running {
		o.cancel()
	}
	for _, cancel := range s.detached {
		cancel()
	}
	return done
}

// ensureRunning starts the box that ref names unless it runs. It returns false
// without an error if the wait ends before the start does: the start goes on.
func (c *call) ensureRunning(ctx context.Context, ref string) (info boxlite.BoxInfo, running bool, err error) {
	o, err := c.starts.box(ctx, c.svc, ref)
	if err != nil {
		return info, false, err
	}
	c.progress.follow(&o.progress)
	select {
	case <-o.done:
	case <-ctx.Done():
		return info, false, nil
	}
	if o.err != nil {
		return info, false, c.boxFault(ctx, ref, o.err)
	}
	return o.info, true, nil
}

// detach runs fn on a goroutine, with a context that has ctx's values and ends
// only when the server stops. It reports whether it did.
func (s *starts) detach(ctx context.Context, fn func(context.Context)) bool {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	id := new(byte)
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.work.start(func() {
		defer s.forget(id, cancel)
		fn(ctx)
	}) {
		cancel()
		return false
	}
	if s.detached == nil {
		s.detached = map[*byte]context.CancelFunc{}
	}
	s.detached[id] = cancel
	return true
}

func (s *starts) forget(id *byte, cancel context.CancelFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.detached, id)
	cancel()
}

// detached runs fn so that neither the end of the wait nor a client's cancel
// interrupts it, and waits for it until ctx ends. What it does must be certain
// to happen once it was asked for; unsure is what to tell who stopped waiting.
func detached[T any](ctx context.Context, c *call, unsure *fault, fn func(context.Context) (T, error)) (T, error) {
	type outcome struct {
		value T
		err   error
	}
	var none T
	done := make(chan outcome, 1)
	work := func(free context.Context) {
		var o outcome
		defer func() {
			if v := recover(); v != nil {
				o = outcome{none, boxlite.Errorf(boxlite.Internal, "", "", "panic: %v\n%s", v, debug.Stack())}
			}
			done <- o
		}()
		o.value, o.err = fn(free)
	}
	if !c.starts.detach(ctx, work) {
		return none, &boxlite.Error{Kind: boxlite.Canceled, Hint: "The server is shutting down."}
	}
	select {
	case o := <-done:
		return o.value, o.err
	case <-ctx.Done():
		unsure.cause = ctx.Err()
		return none, unsure
	}
}
