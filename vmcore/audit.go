package vmcore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/store"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/shim"
)

// What is kept of what boxes tried to reach, beyond their own lives.
const (
	auditAge   = 30 * 24 * time.Hour
	auditMost  = 200_000         // records
	auditEvery = 2 * time.Second // how often the logs of running boxes are looked at
	auditBatch = 500             // records in a transaction
)

// An audit keeps the records of all boxes in table "audit", whose keys are the
// time in nanoseconds, the box and the record's number. Shims write their boxes'
// logs; the audit follows these, and reads to the end before a log is deleted. So
// nothing depends on this process being there, and what it has read already is
// the same when it is read again.
type audit struct {
	table *store.Table[boxlite.NetworkEvent]
	db    *store.DB

	mu      sync.Mutex
	readers map[boxlite.BoxID]*shim.NetworkLogReader // guarded by mu
	count   int                                      // guarded by mu; records, at most; 0: not known
}

func newAudit(db *store.DB) *audit {
	return &audit{
		table: store.NewTable(db, "audit", store.TableOptions[boxlite.NetworkEvent]{TTL: auditAge}), db: db,
		readers: map[boxlite.BoxID]*shim.NetworkLogReader{},
	}
}

// keepAudit follows the logs of the boxes that run.
func (rt *Runtime) keepAudit() {
	for rt.ctx.Err() == nil {
		for _, info := range rt.ListInfo() {
			if info.Status.IsActive() && info.Network.Enabled {
				if err := rt.takeLog(rt.ctx, info.ID, info.Principal); err != nil && rt.ctx.Err() == nil {
					rt.log.Warn("a network log was not kept", "box", info.ID, "err", err)
				}
			}
		}
		sleep(rt.ctx, auditEvery)
	}
}

// takeLog reads what is new in a box's log into the audit.
func (rt *Runtime) takeLog(ctx context.Context, id boxlite.BoxID, principal string) error {
	a := rt.audit
	a.mu.Lock()
	defer a.mu.Unlock()
	r := a.readers[id]
	if r == nil {
		r = shim.FollowNetworkLog(rt.boxDir(id))
		a.readers[id] = r
	}
	for {
		list, err := r.Next()
		if err != nil || len(list) == 0 {
			return err
		}
		for i := range list {
			list[i].Principal = principal
		}
		if err := a.put(ctx, list); err != nil {
			delete(a.readers, id) // from the beginning next time
			return err
		}
	}
}

// put adds records, and makes room for them. The caller holds a.mu.
func (a *audit) put(ctx context.Context, list []boxlite.NetworkEvent) error {
	for batch := range slices.Chunk(list, auditBatch) {
		err := a.db.Update(ctx, func(tx *store.Tx) error {
			t := a.table.In(tx)
			for _, e := range batch {
				key, err := auditKey(e)
				if err == nil {
					err = t.Put(key, e)
				}
				if err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return a.trim(ctx, len(list))
}

// auditKey puts records in the order of time.
func auditKey(e boxlite.NetworkEvent) (string, error) {
	return store.Key(fmt.Sprintf("%020d", e.Time.UnixNano()), string(e.Box), strconv.FormatUint(e.Seq, 10))
}

// trim deletes the oldest records of too many.
func (a *audit) trim(ctx context.Context, added int) error {
	if a.count == 0 {
		n, err := a.table.Len()
		if err != nil {
			return err
		}
		a.count = n
	} else {
		a.count += added // or fewer, where records were replaced
	}
	if a.count <= auditMost {
		return nil
	}
	var doomed []string
	for rec, err := range a.table.All() {
		if err != nil {
			return err
		}
		if len(doomed) == auditMost/10 {
			break
		}
		doomed = append(doomed, rec.Key)
	}
	a.count = 0 // counted anew next time
	for batch := range slices.Chunk(doomed, auditBatch) {
		err := a.db.Update(ctx, func(tx *store.Tx) error {
			var errs []error
			for _, key := range batch {
				errs = append(errs, a.table.In(tx).Delete(key))
			}
			return errors.Join(errs...)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// note adds a record of this process's own.
func (a *audit) note(ctx context.Context, e boxlite.NetworkEvent) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.put(ctx, []boxlite.NetworkEvent{e})
}

// forgetLog reads a box's log to its end, before it is deleted.
func (rt *Runtime) forgetLog(ctx context.Context, id boxlite.BoxID, principal string) {
	if err := rt.takeLog(ctx, id, principal); err != nil {
		rt.log.Warn("the end of a network log was not kept", "box", id, "err", err)
	}
	rt.audit.mu.Lock()
	defer rt.audit.mu.Unlock()
	delete(rt.audit.readers, id)
}

// Audit returns what all boxes tried to reach, those that are removed too,
// oldest first: at most limit records that match, and of more the newest. It is
// behind running boxes by some seconds.
//
// Errors: Database.
func (rt *Runtime) Audit(limit int, match func(boxlite.NetworkEvent) bool) ([]boxlite.NetworkEvent, error) {
	var list []boxlite.NetworkEvent
	for rec, err := range rt.audit.table.All() {
		if err != nil {
			return nil, err
		}
		if !match(rec.Value) {
			continue
		}
		if list = append(list, rec.Value); len(list) > 2*limit {
			list = append(list[:0], list[len(list)-limit:]...)
		}
	}
	return list[max(0, len(list)-limit):], nil
}
