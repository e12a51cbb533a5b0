package vmcore

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/internal/proc"
	"github.com/boxlite-mcp/boxlite-mcp/store"
)

// A record is a box in the database. Fields are added, never renamed.
type record struct {
	boxlite.BoxInfo
	Options     boxlite.BoxOptions `json:"options"`
	IdleTimeout boxlite.Seconds    `json:"idle_timeout_seconds,omitempty"` // 0: never

	// Starting is set, with the shim's process, from before a shim is started
	// until the box runs or has failed to.
	Starting bool    `json:"starting,omitempty"`
	Shim     proc.ID `json:"shim,omitzero"`
	Machine  proc.ID `json:"machine,omitzero"`

	LocalRoots []string `json:"local_roots,omitempty"` // directories below which its image may be read from the host
	Registries []string `json:"registries,omitempty"`  // where its image may come from, beside the runtime's own
	Trusted    bool     `json:"trusted,omitempty"`     // the operator's rules for images and engines do not bind it
	AnyNetwork bool     `json:"any_network,omitempty"` // its network may reach beyond what boxes may ask for
	Survives   bool     `json:"survives,omitempty"`    // it outlives the process that holds the Runtime, though not Detach

	Removing bool               `json:"removing,omitempty"` // its end is decided; whoever finds it finishes it
	Totals   boxlite.BoxMetrics `json:"totals"`             // counters up to the last stop
}

// attached reports whether the box ends with the process that holds the
// Runtime.
func (r *record) attached() bool { return !r.Detach && !r.Survives }

// newBoxTable returns table "box". Its index keeps a principal's names unique.
func newBoxTable(db *store.DB) *store.Table[record] {
	return store.NewTable(db, "box", store.TableOptions[record]{Indexes: []store.Index[record]{{
		Name: "name",
		Key: func(r record) []string {
			if r.Name == "" {
				return nil
			}
			return []string{r.Principal, r.Name}
		},
	}}})
}

// totals are the runtime's counters, of boxes that are gone.
type totals struct {
	BoxesCreated int64 `json:"boxes_created"`
	BoxesFailed  int64 `json:"boxes_failed"`
	CommandsRun  int64 `json:"commands_run"`
	RunErrors    int64 `json:"run_errors"`
}

// totalsKey is the one key of table "total".
const totalsKey = "runtime"

// get returns a copy of a box's record.
//
// Errors: NotFound, also for a box that is being removed.
func (rt *Runtime) get(id boxlite.BoxID) (record, error) {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	rec := rt.records[id]
	if rec == nil || rec.Removing {
		return record{}, noBox(string(id))
	}
	return *rec, nil
}

func noBox(ref string) error {
	return &boxlite.Error{Op: "find box", Kind: boxlite.NotFound, Ref: fmt.Sprintf("%.80q", ref),
		Hint: "List the boxes to see what there is, or create one."}
}

// info returns a record as the world sees it.
func (rt *Runtime) info(rec record) boxlite.BoxInfo {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	return rt.infoLocked(&rec)
}

func (rt *Runtime) infoLocked(rec *record) boxlite.BoxInfo {
	info := rec.BoxInfo
	info.Phase = rt.phases[rec.ID]
	if l := rt.live[rec.ID]; l != nil && l.lastUsed.After(info.LastUsed) {
		info.LastUsed = l.lastUsed
	}
	return info
}

// update persists what fn makes of a box's record. The caller leads the box.
//
// Errors: fn's; NotFound; Database, Exhausted.
func (rt *Runtime) update(ctx context.Context, id boxlite.BoxID, fn func(*record) error) (record, error) {
	rt.mu.Lock()
	old := rt.records[id]
	rt.mu.Unlock()
	if old == nil {
		return record{}, noBox(string(id))
	}
	next := *old
	if err := fn(&next); err != nil {
		return *old, err
	}
	if next.Status != old.Status {
		next.LastUpdated = time.Now().UTC()
	}
	if err := rt.boxes.Put(ctx, string(id), next); err != nil {
		return *old, err
	}
	rt.mu.Lock()
	rt.records[id] = &next
	rt.mu.Unlock()
	rt.copyRecord(next)
	return next, nil
}

// SetLabels sets labels of the box, and removes those whose value is "".
//
// Errors: NotFound, Config, Database.
func (b *Box) SetLabels(ctx context.Context, labels map[string]string) error {
	release, err := b.rt.acquire(ctx, b.id)
	if err != nil {
		return err
	}
	defer release()
	if _, err := b.rt.get(b.id); err != nil {
		return err
	}
	_, err = b.rt.update(ctx, b.id, func(rec *record) error {
		next := maps.Clone(rec.Labels)
		if next == nil {
			next = map[string]string{}
		}
		maps.Copy(next, labels)
		maps.DeleteFunc(next, func(_, v string) bool { return v == "" })
		rec.Labels, rec.Options.Labels = next, next
		return boxlite.CheckLabels(next)
	})
	return err
}

// move persists a transition and what fn adds to it.
//
// Errors: InvalidState; those of update.
func (rt *Runtime) move(ctx context.Context, id boxlite.BoxID, t boxlite.Transition, fn func(*record)) (record, error) {
	return rt.update(ctx, id, func(rec *record) error {
		next, _, err := rec.Status.Next(t)
		if err != nil {
			return err
		}
		rec.Status = next
		if fn != nil {
			fn(rec)
		}
		return nil
	})
}

// copyRecord keeps a copy beside the box, from which a lost database is
// restored.
func (rt *Runtime) copyRecord(rec record) {
	path := filepath.Join(rt.boxDir(rec.ID), "box.json")
	data, err := json.Marshal(rec)
	if err == nil {
		err = os.WriteFile(path+".new", data, 0o600)
	}
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		rt.log.Warn("the copy of a box's record was not written", "box", rec.ID, "err", err)
	}
}

// count changes the runtime's counters. They are not worth failing a call.
func (rt *Runtime) count(fn func(*totals)) {
	err := rt.db.Update(context.Background(), func(tx *store.Tx) error {
		t, err := rt.totals.In(tx).Get(totalsKey)
		if err != nil && boxlite.KindOf(err) != boxlite.NotFound {
			return err
		}
		fn(&t)
		return rt.totals.In(tx).Put(totalsKey, t)
	})
	if err != nil {
		rt.log.Warn("counters were not saved", "err", err)
	}
}

// A Scope is whose boxes a lookup sees: those of one principal, or all.
type Scope struct {
	Principal string
	All       bool // the operator's
}

// Everything is the operator's scope.
var Everything = Scope{All: true}

func (s Scope) sees(rec *record) bool {
	return !rec.Removing && (s.All || rec.Principal == s.Principal)
}

// Lookup returns the box that ref means: exact id, exact name, unique prefix of
// an id. Boxes outside the scope look absent.
//
// Errors: NotFound; InvalidArgument if ref means several.
func (rt *Runtime) Lookup(scope Scope, ref string) (*Box, error) {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	if rec := rt.records[boxlite.BoxID(ref)]; rec != nil && scope.sees(rec) {
		return &Box{rt, rec.ID}, nil
	}
	var named, prefixed []boxlite.BoxID
	for id, rec := range rt.records {
		if !scope.sees(rec) || ref == "" {
			continue
		}
		if rec.Name == ref {
			named = append(named, id)
		}
		if strings.HasPrefix(string(id), ref) {
			prefixed = append(prefixed, id)
		}
	}
	found := named
	if len(found) == 0 {
		found = prefixed
	}
	switch len(found) {
	case 0:
		return nil, noBox(ref)
	case 1:
		return &Box{rt, found[0]}, nil
	}
	slices.Sort(found)
	return nil, &boxlite.Error{Op: "find box", Kind: boxlite.InvalidArgument, Ref: fmt.Sprintf("%.80q", ref),
		Err: fmt.Errorf("it means %d boxes: %s", len(found), join(found)), Hint: "Use the whole id of one of them."}
}

func join(ids []boxlite.BoxID) string {
	const most = 5
	var b strings.Builder
	for i, id := range ids {
		if i == most {
			return b.String() + ", …"
		}
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(string(id))
	}
	return b.String()
}

// List returns the boxes in the scope in the order of their creation.
func (rt *Runtime) List(scope Scope) []boxlite.BoxInfo {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	recs := make([]*record, 0, len(rt.records)) // none changes: a new one takes its place
	for _, rec := range rt.records {
		if scope.sees(rec) {
			recs = append(recs, rec)
		}
	}
	slices.SortFunc(recs, func(a, b *record) int {
		if c := a.CreatedAt.Compare(b.CreatedAt); c != 0 {
			return c
		}
		return strings.Compare(string(a.ID), string(b.ID))
	})
	out := make([]boxlite.BoxInfo, len(recs))
	for i, rec := range recs {
		out[i] = rt.infoLocked(rec)
	}
	return out
}
