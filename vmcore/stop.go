package vmcore

import (
	"context"
	"errors"
	"os"
	"time"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/internal/proc"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/shim"
)

// stopGrace is how long a box's processes have between SIGTERM and SIGKILL.
const stopGrace = 5 * time.Second

// watch waits until a box's shim is gone and writes that down.
func (rt *Runtime) watch(id boxlite.BoxID, l *live) {
	_ = l.client.Watch(rt.ctx)
	if rt.ctx.Err() != nil {
		return
	}
	release, err := rt.acquire(rt.ctx, id)
	if err != nil {
		return
	}
	defer release()
	if _, err := rt.settle(rt.ctx, id, l); err != nil && boxlite.KindOf(err) != boxlite.NotFound { // removed meanwhile
		rt.log.Error("the end of a box was not written down", "box", id, "err", err)
	}
}

// settle persists that a box's machine is gone, once nothing of it is left. If
// another has done so already it does nothing. It is done to its end, also if
// ctx ends. The caller leads the box.
func (rt *Runtime) settle(ctx context.Context, id boxlite.BoxID, l *live) (boxlite.BoxInfo, error) {
	ctx = context.WithoutCancel(ctx) // half of it would leave a box that runs, by its record, and has no shim
	rt.mu.Lock()
	current := rt.live[id] == l
	lastUsed := l.lastUsed
	rt.mu.Unlock()
	if !current {
		rec, err := rt.get(id)
		return rt.info(rec), err
	}
	const toLeave = 10 * time.Second // a shim that has said goodbye
	for end := time.Now().Add(toLeave); l.shim.Alive() && time.Now().Before(end); {
		sleep(ctx, 2*time.Millisecond)
	}
	rt.endProcesses(l.shim, l.machine)
	rt.mu.Lock()
	delete(rt.live, id)
	rt.mu.Unlock()
	_ = l.close()
	return rt.ended(ctx, id, l.container, lastUsed)
}

// endProcesses makes sure that a shim and its machine are gone.
func (rt *Runtime) endProcesses(ids ...proc.ID) {
	for _, id := range ids {
		if err := id.Kill(10 * time.Second); err != nil {
			rt.log.Error("a process of a box cannot be ended", "pid", id.PID, "err", err)
		}
	}
	rt.engines.sweep()
}

// ended persists the end of a box's machine and removes the box if it was made
// to be.
func (rt *Runtime) ended(ctx context.Context, id boxlite.BoxID, container boxlite.ContainerID, lastUsed time.Time) (boxlite.BoxInfo, error) {
	os.Remove(shim.SocketPath(rt.boxDir(id)))
	exit, ok := shim.ReadExit(rt.boxDir(id), container)
	if !ok {
		exit.Reason = "its shim was killed; what it wrote in the last seconds may be lost"
	}
	rec, err := rt.move(ctx, id, boxlite.Exit, func(rec *record) {
		rec.PID, rec.Shim, rec.Machine, rec.Starting = 0, proc.ID{}, proc.ID{}, false
		rec.Reason = firstLine(exit.Reason)
		if lastUsed.After(rec.LastUsed) {
			rec.LastUsed = lastUsed.UTC()
		}
		if ok {
			stages := rec.Totals.Stages
			rec.Totals = exit.Totals
			rec.Totals.Stages = stages
		}
	})
	info := rt.info(rec)
	if err == nil && rec.AutoRemove {
		err = rt.destroy(ctx, id)
	}
	return info, err
}

// lost persists the end of a box that is active by its record and has no shim
// that is known: an earlier end was not written down, because the disk was full
// then. The caller leads the box.
func (rt *Runtime) lost(ctx context.Context, rec record) (boxlite.BoxInfo, error) {
	if err := rt.usable(); err != nil { // a runtime that is closing lets go of shims
		return rt.info(rec), err
	}
	rt.endProcesses(rec.Shim, rec.Machine)
	return rt.ended(context.WithoutCancel(ctx), rec.ID, rec.ContainerID, rec.LastUsed)
}

// stop ends a box in order and keeps its disk; a stopped one stays as it is.
func (rt *Runtime) stop(ctx context.Context, id boxlite.BoxID) (boxlite.BoxInfo, error) {
	release, err := rt.acquire(ctx, id)
	if err != nil {
		return boxlite.BoxInfo{}, err
	}
	defer release()
	rec, err := rt.get(id)
	if err != nil || !rec.Status.IsActive() {
		return rt.info(rec), err
	}
	l := rt.liveBox(id)
	if l == nil {
		return rt.lost(ctx, rec)
	}
	if rec.Status.CanStop() {
		if _, err := rt.move(ctx, id, boxlite.Stop, nil); err != nil {
			return rt.info(rec), err
		}
	}
	if err := l.client.Stop(ctx, stopGrace); err != nil {
		rt.log.Warn("a shim did not stop in order", "box", id, "err", err)
	}
	return rt.settle(ctx, id, l)
}

func (rt *Runtime) liveBox(id boxlite.BoxID) *live {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	return rt.live[id]
}

// reach returns the shim of a box, nil if it has none. One that is on record
// and not known yet, because it is just being adopted or started, is waited
// for.
//
// Errors: Canceled, Timeout.
func (rt *Runtime) reach(ctx context.Context, id boxlite.BoxID) (*live, error) {
	if l := rt.liveBox(id); l != nil {
		return l, nil
	}
	if rec, err := rt.get(id); err != nil || !rec.Status.IsActive() && !rec.Starting {
		return nil, nil
	}
	release, err := rt.acquire(ctx, id)
	if err != nil {
		return nil, err
	}
	defer release()
	return rt.liveBox(id), nil
}

// remove deletes a box; an active one only by force.
func (rt *Runtime) remove(ctx context.Context, id boxlite.BoxID, force bool) (boxlite.BoxInfo, error) {
	release, err := rt.acquire(ctx, id)
	if err != nil {
		return boxlite.BoxInfo{}, err
	}
	defer release()
	rec, err := rt.get(id)
	if err != nil {
		return boxlite.BoxInfo{}, err
	}
	if rec.Status.IsActive() && !force {
		return rt.info(rec), &boxlite.Error{Op: "remove box", Kind: boxlite.InvalidState, Ref: string(id),
			Err: errors.New("it is " + string(rec.Status)), Hint: "Stop it first, or remove it with force."}
	}
	info := rt.info(rec)
	return info, rt.destroy(ctx, id)
}

// destroy decides a box's end, and makes it so. Whoever finds a box whose end
// is decided calls it again. The caller leads the box.
func (rt *Runtime) destroy(ctx context.Context, id boxlite.BoxID) error {
	rec, err := rt.update(ctx, id, func(rec *record) error { rec.Removing = true; return nil })
	if err != nil {
		return err
	}
	rt.mu.Lock()
	l := rt.live[id]
	delete(rt.live, id)
	rt.mu.Unlock()
	if l != nil {
		bound, cancel := context.WithTimeout(ctx, 10*time.Second)
		_ = l.client.Discard(bound) // if it cannot, it is killed below
		cancel()
		_ = l.close()
	}
	rt.endProcesses(rec.Shim, rec.Machine)

	rt.forgetLog(ctx, id, rec.Principal)
	doomed := rt.path("boxes", ".removing-"+string(id))
	if err := os.Rename(rt.boxDir(id), doomed); err != nil && !errors.Is(err, os.ErrNotExist) {
		return storage("remove box", string(id), err)
	}
	rt.addTotals(rec)
	if err := rt.vault.takeBack(ctx, id); err != nil {
		return err
	}
	if err := rt.boxes.Delete(ctx, string(id)); err != nil {
		return err
	}
	rt.forget(id)
	if err := os.RemoveAll(doomed); err != nil {
		return storage("remove box", string(id), err)
	}
	return nil
}

// forget drops all that is in memory of a box. The caller leads the box; whoever
// waits to lead it finds that there is none.
func (rt *Runtime) forget(id boxlite.BoxID) {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	delete(rt.records, id)
	delete(rt.locks, id)
	delete(rt.phases, id)
}

func (rt *Runtime) addTotals(rec record) {
	rt.count(func(t *totals) {
		t.CommandsRun += rec.Totals.CommandsRun
		t.RunErrors += rec.Totals.RunErrors
	})
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
