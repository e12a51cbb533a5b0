package vmcore

import (
	"context"
	"errors"
	"time"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/shim"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/spool"
)

// A Box is a handle to a box, the reference's LiteBox. It stays valid while the
// box exists, whatever its state, and may be copied and used concurrently.
type Box struct {
	rt *Runtime
	id boxlite.BoxID
}

// ID returns the box's identifier.
func (b *Box) ID() boxlite.BoxID { return b.id }

// Name returns the box's name, "" if it has none or the box is gone.
func (b *Box) Name() string {
	rec, _ := b.rt.get(b.id)
	return rec.Name
}

// Info returns what is known of the box without touching its machine. Of a box
// that is gone the status is Unknown.
func (b *Box) Info() boxlite.BoxInfo {
	rec, err := b.rt.get(b.id)
	if err != nil {
		return boxlite.BoxInfo{ID: b.id, BoxState: boxlite.BoxState{Status: boxlite.StatusUnknown}}
	}
	return b.rt.info(rec)
}

// Start brings the box up; a running one stays as it is. report, if not nil, is
// told what is going on. If ctx ends first the box is as it was.
//
// Errors: Image, UnsupportedEngine, Engine, Timeout, Storage, Exhausted,
// InvalidState while it is paused, NotFound, Canceled.
func (b *Box) Start(ctx context.Context, report func(boxlite.Progress)) error {
	_, err := b.rt.start(ctx, b.id, report)
	return err
}

// Stop ends the box's processes and its machine and keeps its disk, or removes
// the box if AutoRemove says so; a stopped one stays as it is. If ctx ends
// first the box still stops.
//
// Errors: NotFound, Canceled, Timeout, Database.
func (b *Box) Stop(ctx context.Context) error {
	_, err := finish(ctx, b.rt, func(ctx context.Context) (boxlite.BoxInfo, error) { return b.rt.stop(ctx, b.id) })
	return err
}

// Remove deletes the box and its disk; an active box only with force. If ctx
// ends first the box is still removed.
//
// Errors: InvalidState, NotFound, Canceled, Timeout, Storage, Database.
func (b *Box) Remove(ctx context.Context, force bool) error {
	_, err := finish(ctx, b.rt, func(ctx context.Context) (boxlite.BoxInfo, error) { return b.rt.remove(ctx, b.id, force) })
	return err
}

// statusTime bounds a question to a shim: one that hangs must not hold up those
// who ask about all boxes.
const statusTime = 5 * time.Second

// Metrics returns the box's figures.
//
// Errors: NotFound.
func (b *Box) Metrics(ctx context.Context) (boxlite.BoxMetrics, error) {
	rec, err := b.rt.get(b.id)
	if err != nil {
		return boxlite.BoxMetrics{}, err
	}
	l := b.rt.liveBox(b.id)
	if l == nil {
		return rec.Totals, nil
	}
	ctx, cancel := context.WithTimeout(ctx, statusTime)
	defer cancel()
	st, err := l.client.Status(ctx)
	if err != nil {
		return rec.Totals, nil // it is just ending, and has no figures any more
	}
	st.Metrics.Stages = rec.Totals.Stages
	return st.Metrics, nil
}

// StopIdle stops the box if nothing runs in it and nothing was used for so long,
// and reports whether it did. Who uses it meanwhile finds it running, or starts
// it again: there is no moment in between.
//
// Errors: NotFound, RpcTransport, Canceled.
func (b *Box) StopIdle(ctx context.Context, idle time.Duration) (stopped bool, err error) {
	if _, err := b.rt.get(b.id); err != nil {
		return false, err
	}
	l := b.rt.liveBox(b.id)
	if l == nil {
		return false, nil
	}
	err = l.client.StopIdle(ctx, idle, stopGrace)
	if boxlite.KindOf(err) == boxlite.InvalidState {
		return false, nil // it is in use
	}
	if err != nil {
		return false, err
	}
	return true, b.rt.awaitEnd(ctx, b.id, l)
}

// IdleTimeout returns how long the box may be unused before it is stopped, and
// when it is removed; zero values mean never.
func (b *Box) IdleTimeout() (idle time.Duration, expires time.Time) {
	rec, err := b.rt.get(b.id)
	if err != nil {
		return 0, time.Time{}
	}
	if rec.ExpiresAt != nil {
		expires = *rec.ExpiresAt
	}
	return rec.IdleTimeout.Duration(), expires
}

// use runs f with the box's shim, starting the box where that is needed. If the
// box turns out to be shutting down it is started again, once.
func use[T any](ctx context.Context, b *Box, report func(boxlite.Progress), f func(*shim.Client) (T, error)) (T, error) {
	var zero T
	for try := 0; ; try++ {
		l := b.rt.liveBox(b.id)
		if l == nil {
			if _, err := b.rt.start(ctx, b.id, report); err != nil {
				return zero, err
			}
			l = b.rt.liveBox(b.id)
		}
		if rec, err := b.rt.get(b.id); err != nil {
			return zero, err
		} else if rec.Status == boxlite.StatusPaused {
			return zero, &boxlite.Error{Op: "use box", Kind: boxlite.InvalidState, Ref: string(b.id),
				Err: errors.New("it is paused"), Hint: "Resume it first."}
		}
		if l != nil {
			v, err := f(l.client)
			if err == nil {
				b.rt.touch(b.id)
			}
			if !b.rt.ending(err) || try > 0 {
				return v, err
			}
		}
		if try == mostTries {
			return zero, &boxlite.Error{Op: "start box", Kind: boxlite.Engine, Ref: string(b.id),
				Err: errors.New("it ends as soon as it has started"), Hint: "Its reason and its log say more: box_get."}
		}
		if err := b.rt.awaitEnd(ctx, b.id, l); err != nil {
			return zero, err
		}
	}
}

// mostTries is how often a box is started again for one call.
const mostTries = 3

// ending reports whether err says that nothing was done because the box was on
// its way down.
func (rt *Runtime) ending(err error) bool {
	e, ok := errors.AsType[*boxlite.Error](err)
	return ok && e.Kind == boxlite.InvalidState && e.Op == "use box"
}

// awaitEnd waits until a shim that is shutting down is gone. It may be saving
// the box's disk, which takes its time.
func (rt *Runtime) awaitEnd(ctx context.Context, id boxlite.BoxID, l *live) error {
	if l == nil {
		return nil
	}
	if err := l.client.Watch(ctx); ctx.Err() != nil {
		return err
	}
	release, err := rt.acquire(ctx, id)
	if err != nil {
		return err
	}
	defer release()
	_, err = rt.settle(ctx, id, l)
	return err
}

// touch notes that a box was used.
func (rt *Runtime) touch(id boxlite.BoxID) {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	if l := rt.live[id]; l != nil {
		l.lastUsed = time.Now()
	}
}

// ReadFile returns at most limit bytes of a file in the box from offset on,
// starting the box where that is needed. A negative offset counts from the end.
//
// Errors: NotFound, InvalidArgument, Denied, those of Start.
func (b *Box) ReadFile(ctx context.Context, path string, offset int64, limit int) (boxlite.FileData, error) {
	return use(ctx, b, nil, func(c *shim.Client) (boxlite.FileData, error) { return c.ReadFile(ctx, path, offset, limit) })
}

// WriteFile writes a file in the box, starting the box where that is needed.
//
// Errors: InvalidArgument, Denied, Exhausted, those of Start.
func (b *Box) WriteFile(ctx context.Context, req boxlite.WriteFileRequest) (boxlite.FileInfo, error) {
	return use(ctx, b, nil, func(c *shim.Client) (boxlite.FileInfo, error) { return c.WriteFile(ctx, req) })
}

// Executions lists the box's executions, oldest first.
//
// Errors: NotFound, Storage.
func (b *Box) Executions(ctx context.Context) ([]boxlite.ExecInfo, error) {
	if _, err := b.rt.get(b.id); err != nil {
		return nil, err
	}
	if l, err := b.rt.reach(ctx, b.id); err != nil {
		return nil, err
	} else if l != nil {
		if list, err := l.client.Executions(ctx); err == nil || ctx.Err() != nil {
			return list, err
		}
	}
	loaded, err := spool.Read(b.executionsDir(), spool.Limits{}) // a shim may be starting
	list := []boxlite.ExecInfo{}
	for _, e := range loaded {
		list = append(list, e.Info())
		e.Close()
	}
	return list, err
}

func (b *Box) executionsDir() string { return shim.ExecutionsDir(b.rt.boxDir(b.id)) }
