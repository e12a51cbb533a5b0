package image

import (
	"context"
	"errors"
	"sync"
	"time"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
)

// A flight is one pull that several callers wait for.
type flight struct {
	done   chan struct{}
	cancel context.CancelFunc
	img    Image // valid once done is closed
	err    error

	mu      sync.Mutex // guards the rest
	waiters map[*waiter]bool
	last    boxlite.Progress
}

// A waiter is a caller of Pull.
type waiter struct {
	progress func(boxlite.Progress) // may be nil
	mu       sync.Mutex             // held during calls of progress
	gone     bool                   // guarded by mu; no more calls
}

func (w *waiter) report(p boxlite.Progress) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.progress != nil && !w.gone {
		w.progress(p)
	}
}

func (w *waiter) leave() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.gone = true
}

// report passes progress to everyone who waits.
func (f *flight) report(p boxlite.Progress) {
	f.mu.Lock()
	f.last = p
	waiters := make([]*waiter, 0, len(f.waiters))
	for w := range f.waiters {
		waiters = append(waiters, w)
	}
	f.mu.Unlock()
	for _, w := range waiters {
		w.report(p)
	}
}

// share joins the flight for key, or starts it with work. The work is canceled
// when nobody waits any more.
func (c *Cache) share(ctx context.Context, key string, progress func(boxlite.Progress), work func(context.Context, func(boxlite.Progress)) (Image, error)) (Image, error) {
	if err := ctx.Err(); err != nil {
		return Image{}, err
	}
	w := &waiter{progress: progress}
	defer w.leave()
	f, err := c.join(key, w, work)
	if err != nil {
		return Image{}, err
	}
	select {
	case <-f.done:
		return f.img, f.err
	case <-ctx.Done():
		c.leave(key, f, w)
		return Image{}, context.Cause(ctx)
	}
}

func (c *Cache) join(key string, w *waiter, work func(context.Context, func(boxlite.Progress)) (Image, error)) (*flight, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, errClosed
	}
	if f := c.flights[key]; f != nil {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.waiters[w] = true
		return f, nil
	}
	ctx, cancel := context.WithCancel(c.ctx)
	f := &flight{done: make(chan struct{}), cancel: cancel, waiters: map[*waiter]bool{w: true}}
	c.flights[key] = f
	c.work.Go(func() {
		f.img, f.err = work(ctx, f.report)
		cancel()
		c.land(key, f)
		close(f.done)
	})
	return f, nil
}

var errClosed = &boxlite.Error{Op: "pull image", Kind: boxlite.Canceled, Err: errors.New("the image cache is closed")}

// leave ends the flight if w was the last to wait for it. A caller who comes
// later starts another.
func (c *Cache) leave(key string, f *flight, w *waiter) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.waiters, w)
	if len(f.waiters) == 0 {
		f.cancel()
		if c.flights[key] == f {
			delete(c.flights, key)
		}
	}
}

func (c *Cache) land(key string, f *flight) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.flights[key] == f {
		delete(c.flights, key)
	}
}

// A keyedMutex is a mutex for every key. The zero value is ready.
type keyedMutex struct {
	mu    sync.Mutex
	locks map[string]*keyedLock // guarded by mu
}

type keyedLock struct {
	held  chan struct{} // full while held
	users int           // guarded by keyedMutex.mu
}

// lock waits for the key's mutex, at most until ctx ends.
func (k *keyedMutex) lock(ctx context.Context, key string) (unlock func(), err error) {
	k.mu.Lock()
	if k.locks == nil {
		k.locks = map[string]*keyedLock{}
	}
	l := k.locks[key]
	if l == nil {
		l = &keyedLock{held: make(chan struct{}, 1)}
		k.locks[key] = l
	}
	l.users++
	k.mu.Unlock()
	release := func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		if l.users--; l.users == 0 {
			delete(k.locks, key)
		}
	}
	select {
	case l.held <- struct{}{}:
		return func() { <-l.held; release() }, nil
	case <-ctx.Done():
		release()
		return nil, context.Cause(ctx)
	}
}

// A tracker turns bytes into progress, at most ten times a second.
type tracker struct {
	report func(boxlite.Progress)

	mu       sync.Mutex // guards the rest
	total    int64      // to download, or to read
	fetched  int64
	unpacked int64 // compressed
	last     time.Time
}

// start begins to count for an image.
func (t *tracker) start(m manifest) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.total, t.fetched, t.unpacked = 0, 0, 0
	for _, l := range m.Layers {
		t.total += l.Size
	}
}

// fetch counts downloaded bytes; n is negative when a download starts over.
func (t *tracker) fetch(n int64) { t.add(n, 0) }

// unpack counts compressed bytes that were read for unpacking.
func (t *tracker) unpack(n int64) { t.add(0, n) }

func (t *tracker) add(fetched, unpacked int64) {
	t.mu.Lock()
	t.fetched += fetched
	t.unpacked += unpacked
	now := time.Now()
	due := now.Sub(t.last) >= 100*time.Millisecond
	if due {
		t.last = now
	}
	p := boxlite.Progress{Phase: "pulling image", Current: t.fetched, Total: t.total}
	if t.fetched >= t.total {
		p = boxlite.Progress{Phase: "unpacking image", Current: t.unpacked, Total: t.total}
	}
	t.mu.Unlock()
	if due && t.report != nil {
		t.report(p)
	}
}
