package vmcore

import (
	"cmp"
	"context"
	"errors"
	"os"
	"time"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
)

// DefaultIdleTimeout is how long a box may be unused before it is stopped,
// where its maker did not say otherwise.
const DefaultIdleTimeout = 30 * time.Minute

// Create persists a box; it does not start it. name may be "".
//
// Errors: Config, InvalidArgument, AlreadyExists, Database; Denied for a network
// beyond what Options.Network lets boxes ask for.
func (rt *Runtime) Create(ctx context.Context, opts boxlite.BoxOptions, name string) (*Box, error) {
	req := boxlite.CreateRequest{Name: name, Options: opts, IdleTimeout: new(boxlite.Seconds(0))}
	return rt.CreateFor(ctx, Owner{LocalRoots: []string{"/"}, AnyNetwork: true, Trusted: true}, req)
}

// An Owner is on whose behalf a box is made.
type Owner struct {
	Principal  string
	LocalRoots []string // directories below which the box's image may be read from the host; none: not at all
	Registries []string // where images may come from, beside the runtime's own; as ParseRegistries reads them
	Trusted    bool     // the operator's rules for images and engines do not bind it
	AnyNetwork bool     // its network may reach beyond what Options.Network lets boxes ask for
	Survives   bool     // the box outlives this process, whether or not it is detached

	// ID is the identifier of the one box that is made on this behalf; "": a new
	// one.
	ID boxlite.BoxID
}

// CreateFor persists a box for somebody.
//
// Errors: as Create.
func (rt *Runtime) CreateFor(ctx context.Context, owner Owner, req boxlite.CreateRequest) (*Box, error) {
	if err := rt.usable(); err != nil {
		return nil, err
	}
	rec, err := newRecord(owner, req)
	if err != nil {
		return nil, err
	}
	if err := rt.checkNetwork(rec); err != nil {
		return nil, err
	}
	if opts := rec.Options; opts.RootfsPath == "" {
		if err := rt.checkImage(owner, opts.Image); err != nil {
			return nil, err
		}
	}
	given, err := rt.checkSecrets(&rec, req.Options.Secrets)
	if err != nil {
		return nil, err
	}
	lead, err := rt.acquire(ctx, rec.ID) // others find it by its name before it is persisted
	if err != nil {
		return nil, err
	}
	defer lead()
	if err := rt.takeName(ctx, &rec); err != nil {
		rt.forget(rec.ID)
		return nil, err
	}
	err = rt.vault.give(ctx, rec.ID, given)
	if err == nil {
		err = rt.boxes.Insert(ctx, string(rec.ID), rec)
	}
	if err != nil {
		rt.forget(rec.ID)
		return nil, errors.Join(err, rt.vault.takeBack(ctx, rec.ID))
	}
	rt.count(func(t *totals) { t.BoxesCreated++ })
	if err := os.Mkdir(rt.boxDir(rec.ID), 0o700); err != nil {
		return nil, errors.Join(storage("create box", string(rec.ID), err), rt.destroy(ctx, rec.ID))
	}
	rt.copyRecord(rec)
	return &Box{rt, rec.ID}, nil
}

func newRecord(owner Owner, req boxlite.CreateRequest) (record, error) {
	if req.Name != "" {
		if _, err := boxlite.ParseBoxName(req.Name); err != nil {
			return record{}, err
		}
	}
	opts, err := req.Options.WithDefaults()
	if err != nil {
		return record{}, err
	}
	now := time.Now().UTC()
	rec := record{Options: opts, LocalRoots: owner.LocalRoots, Registries: owner.Registries, Trusted: owner.Trusted, AnyNetwork: owner.AnyNetwork, Survives: owner.Survives,
		IdleTimeout: boxlite.Seconds(DefaultIdleTimeout / time.Second)}
	if req.IdleTimeout != nil {
		rec.IdleTimeout = *req.IdleTimeout
	}
	rec.BoxInfo = boxlite.BoxInfo{
		ID: cmp.Or(owner.ID, boxlite.NewBoxID()), Name: req.Name, Principal: owner.Principal, Labels: opts.Labels, CreatedAt: now, LastUsed: now,
		BoxState: boxlite.BoxState{Status: boxlite.StatusConfigured, LastUpdated: now},
		Image:    opts.Image, CPUs: opts.CPUs, MemoryMiB: opts.MemoryMiB, DiskSizeGB: opts.DiskSizeGB,
		AutoRemove: *opts.AutoRemove, Detach: opts.Detach, Network: opts.Network,
	}
	if opts.RootfsPath != "" {
		rec.Image = opts.RootfsPath
	}
	if req.TTL > 0 {
		rec.ExpiresAt = new(now.Add(req.TTL.Duration()))
	}
	return rec, nil
}

// takeName makes a box known under its name, so that nobody else can take it. A
// box of that name that is being removed looks absent, and is waited for.
//
// Errors: AlreadyExists, Canceled.
func (rt *Runtime) takeName(ctx context.Context, rec *record) error {
	for range mostTries {
		leaving, err := rt.reserve(rec)
		if err != nil || leaving == "" {
			return err
		}
		release, err := rt.acquire(ctx, leaving) // whoever removes it has this
		if err != nil {
			return err
		}
		release()
	}
	return &boxlite.Error{Op: "create box", Kind: boxlite.AlreadyExists, Ref: rec.Name, Err: errors.New("a box of that name could not be removed yet"),
		Hint: "Choose another name, or try again later."}
}

// reserve takes the name, unless a box has it. leaving is one that is being
// removed.
func (rt *Runtime) reserve(rec *record) (leaving boxlite.BoxID, err error) {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	for _, other := range rt.records {
		if rec.Name == "" || other.Name != rec.Name || other.Principal != rec.Principal {
			continue
		}
		if other.Removing {
			return other.ID, nil
		}
		return "", &boxlite.Error{Op: "create box", Kind: boxlite.AlreadyExists, Ref: rec.Name,
			Hint: "Use that box (id " + string(other.ID) + "), remove it first, or choose another name."}
	}
	rt.records[rec.ID] = rec
	return "", nil
}

// Get returns the box with the given id, name or unique prefix.
//
// Errors: NotFound, InvalidArgument if ref means several.
func (rt *Runtime) Get(ref string) (*Box, error) { return rt.Lookup(Everything, ref) }

// GetInfo returns what is known of the box with the given id, name or prefix.
//
// Errors: as Get.
func (rt *Runtime) GetInfo(ref string) (boxlite.BoxInfo, error) {
	b, err := rt.Get(ref)
	if err != nil {
		return boxlite.BoxInfo{}, err
	}
	return b.Info(), nil
}

// ListInfo returns all boxes in the order of their creation.
func (rt *Runtime) ListInfo() []boxlite.BoxInfo { return rt.List(Everything) }

// Exists reports whether there is a box with the given id, name or prefix.
func (rt *Runtime) Exists(ref string) bool {
	_, err := rt.Get(ref)
	return boxlite.KindOf(err) != boxlite.NotFound || err == nil
}

// Remove deletes the box with the given id, name or prefix; an active one only
// with force.
//
// Errors: as Get and [Box.Remove].
func (rt *Runtime) Remove(ctx context.Context, ref string, force bool) error {
	b, err := rt.Get(ref)
	if err != nil {
		return err
	}
	return b.Remove(ctx, force)
}

// Metrics returns the runtime's totals.
func (rt *Runtime) Metrics(ctx context.Context) boxlite.RuntimeMetrics {
	t, _ := rt.totals.Get(totalsKey) // not there: nothing was counted yet
	m := boxlite.RuntimeMetrics{BoxesCreated: t.BoxesCreated, BoxesFailed: t.BoxesFailed, CommandsRun: t.CommandsRun, RunErrors: t.RunErrors}
	for _, info := range rt.ListInfo() {
		if info.Status.IsRunning() {
			m.BoxesRunning++
		}
		if bm, err := (&Box{rt, info.ID}).Metrics(ctx); err == nil {
			m.CommandsRun += bm.CommandsRun
			m.RunErrors += bm.RunErrors
		}
	}
	return m
}
