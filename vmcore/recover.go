package vmcore

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"time"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/internal/proc"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/shim"
)

// recover reads all records and makes them and the world agree: whatever an
// earlier runtime had begun is finished or undone.
//
//	record says      and the world                 then
//	being removed    –                             it is removed
//	active           its shim answers              it is adopted
//	active           its shim is gone              Stopped, with the shim's last words or "killed"
//	starting         its shim lives                it is waited for, then adopted or ended
//	starting         its shim is gone              as before the start
//	no record        a directory with box.json     the record is restored (the database was lost)
//	no record        a directory whose box.json    its shim is ended, and it goes to lost/,
//	                 cannot be read                as nobody can tell what it was
//	no record        any other directory           it is deleted, as its box was never there or is removed
func (rt *Runtime) recover(ctx context.Context) error {
	for rec, err := range rt.boxes.All() {
		if err != nil {
			return wayOut(err)
		}
		rt.records[rec.Value.ID] = &rec.Value
	}
	if err := rt.recoverDirs(ctx); err != nil {
		return err
	}
	rt.work.Go(rt.collect)
	rt.work.Go(rt.keepAudit)
	for id, rec := range maps.Clone(rt.records) { // the goroutines below change it
		if !rec.Removing && !rec.Starting && !rec.Status.IsActive() {
			continue
		}
		release, err := rt.acquire(ctx, id) // callers wait for what becomes of it
		if err != nil {
			return err
		}
		rt.work.Go(func() {
			defer release()
			if err := rt.recoverBox(*rec); err != nil && rt.ctx.Err() == nil {
				rt.log.Error("a box was not recovered", "box", id, "err", err)
			}
		})
	}
	return nil
}

// recoverDirs deletes directories that nobody owns and restores the records of
// those whose database was lost.
func (rt *Runtime) recoverDirs(ctx context.Context) error {
	entries, err := os.ReadDir(rt.path("boxes"))
	if err != nil {
		return storage("open home", rt.opts.Home, err)
	}
	for _, entry := range entries {
		id := boxlite.BoxID(entry.Name())
		if rt.records[id] != nil {
			continue
		}
		if rec, ok := rt.readCopy(entry.Name()); ok {
			if err := rt.boxes.Put(ctx, string(rec.ID), rec); err != nil {
				return err
			}
			rt.records[rec.ID] = &rec
			rt.log.Warn("a box's record was restored from its directory", "box", rec.ID)
			continue
		}
		if err := rt.disown(ctx, entry.Name()); err != nil {
			rt.log.Warn("a directory that nobody owns is still there", "path", entry.Name(), "err", err)
		}
	}
	return nil
}

// disown deals with a directory below boxes that no record is about. What may
// hold somebody's work is put aside, not deleted.
func (rt *Runtime) disown(ctx context.Context, name string) error {
	dir := rt.path("boxes", name)
	if err := shim.End(ctx, dir); err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(dir, "box.json")); err != nil || strings.HasPrefix(name, ".") {
		return os.RemoveAll(dir)
	}
	rt.log.Error("a box's record cannot be read, neither in the database nor in its directory: it is put aside", "box", name, "path", rt.path("lost", name))
	if err := os.MkdirAll(rt.path("lost"), 0o700); err != nil {
		return err
	}
	return os.Rename(dir, rt.path("lost", name))
}

func (rt *Runtime) readCopy(name string) (record, bool) {
	var rec record
	if strings.HasPrefix(name, ".") {
		return rec, false
	}
	data, err := os.ReadFile(rt.path("boxes", name, "box.json"))
	if err != nil || json.Unmarshal(data, &rec) != nil {
		return rec, false
	}
	return rec, string(rec.ID) == name
}

// recoverBox deals with one box that an earlier runtime was busy with.
func (rt *Runtime) recoverBox(rec record) error {
	if rec.Removing {
		return rt.destroy(rt.ctx, rec.ID)
	}
	if rec.Shim.Alive() {
		if l, err := rt.findShim(rec); err == nil {
			return rt.adopt(rec, l)
		} else if rt.ctx.Err() != nil {
			return err
		}
	}
	rt.endProcesses(rec.Shim, rec.Machine)
	rt.awaitMachine(rec)
	if rec.Status.IsActive() {
		_, err := rt.ended(rt.ctx, rec.ID, rec.ContainerID, rec.LastUsed)
		return err
	}
	_, err := rt.update(rt.ctx, rec.ID, func(rec *record) error {
		rec.Starting, rec.Shim, rec.ContainerID = false, proc.ID{}, ""
		rec.Reason = "its start was interrupted"
		return nil
	})
	return err
}

// awaitMachine gives the machine of a shim that was killed during a start the
// moment it takes to notice: its process is not on record yet.
func (rt *Runtime) awaitMachine(rec record) {
	if rec.Starting && rec.Machine.PID == 0 {
		sleep(rt.ctx, 300*time.Millisecond)
	}
}

// findShim connects to the shim on record. One that is still starting is given
// the time that a start may take.
func (rt *Runtime) findShim(rec record) (*live, error) {
	wait := 10 * time.Second
	if rec.Starting {
		wait = rt.opts.BootTimeout
	}
	ctx, cancel := context.WithTimeout(rt.ctx, wait)
	defer cancel()
	for {
		client, err := shim.Dial(ctx, rt.boxDir(rec.ID), rec.ID, rec.ContainerID)
		if err == nil {
			machine, _ := proc.Of(client.MachinePID())
			return &live{client: client, container: rec.ContainerID, shim: rec.Shim, machine: machine, lastUsed: rec.LastUsed}, nil
		}
		if ctx.Err() != nil || !rec.Shim.Alive() || boxlite.KindOf(err) == boxlite.InvalidState {
			return nil, err
		}
		sleep(ctx, 20*time.Millisecond)
	}
}

// adopt takes a live shim over.
func (rt *Runtime) adopt(rec record, l *live) error {
	if st, err := l.client.Status(rt.ctx); err == nil {
		l.lastUsed = st.LastUsed
	}
	rt.log.Info("box adopted", "box", rec.ID)
	if rec.Starting {
		_, err := rt.up(rt.ctx, rec.ID, l, boxlite.StageTiming{})
		return err
	}
	rt.enter(rec.ID, l)
	if rec.Status != boxlite.StatusStopping {
		return nil
	}
	err := l.client.Stop(rt.ctx, stopGrace) // finish what the last runtime began
	_, settled := rt.settle(rt.ctx, rec.ID, l)
	return errors.Join(settled, ignoreGone(err))
}

func ignoreGone(err error) error {
	if boxlite.KindOf(err) == boxlite.RpcTransport {
		return nil
	}
	return err
}
