package vmcore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/engine"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/image"
)

// A Policy is the operator's word on what boxes are made of and what they reach.
// The zero Policy is the default. It may be replaced while the runtime is open:
// [Runtime.SetPolicy].
type Policy struct {
	Network NetworkOptions
	Images  ImageRules
	Engines EngineRules

	// Secrets are the operator's, with values, beside those of the vault. One of
	// the same name stands before the vault's, and cannot be set.
	Secrets []boxlite.Secret
}

// ImageRules say where the images of boxes come from, if their [Owner] is not
// Trusted.
type ImageRules struct {
	// Registries are where images come from, in the order of search; of an
	// owner's own those count that are among them. None: no limit to an
	// owner's, and docker.io.
	Registries []image.Registry
	Allow      []image.Pattern // which of their images; none: all
	LocalRoots []string        // directories of the host that images may be read from
}

// EngineRules say what boxes run on.
type EngineRules struct {
	Allowed   []string // engines, the preferred first, if the box's [Owner] is not Trusted; none: all
	Default   string   // of boxes that name none; "": the best
	Isolation string   // least, if the owner is not Trusted: "vm", "hardware-vm"; "": any
}

// SetPolicy replaces the policy. Boxes that run reach what both their own rules
// and the new ceiling allow, and use the new secrets, when it returns; a
// network's limits and certificates, and all else, count from a box's next start.
//
// Errors: those of boxes that could not be told, which are then stopped.
func (rt *Runtime) SetPolicy(ctx context.Context, p Policy) error {
	old := rt.policy.Swap(&p)
	rt.vault.configure(p.Secrets)
	rt.named(p.Images.Registries)
	if reflect.DeepEqual(old.Network, p.Network) && reflect.DeepEqual(old.Secrets, p.Secrets) {
		return nil
	}
	return rt.pushEach(ctx, func(info boxlite.BoxInfo) bool {
		return info.Status.IsActive() || info.Phase != "" // a start may have begun with the old policy
	})
}

// lowered tells the boxes that run, and reach what the ceiling does not have any
// more: it was lowered while nobody owned the home.
func (rt *Runtime) lowered(ctx context.Context) error {
	return rt.pushEach(ctx, func(info boxlite.BoxInfo) bool {
		rec, err := rt.get(info.ID)
		return err == nil && info.Status.IsActive() && boxlite.KindOf(rt.checkNetwork(rec)) == boxlite.Denied
	})
}

// pushEach tells the boxes that are meant what they reach.
func (rt *Runtime) pushEach(ctx context.Context, meant func(boxlite.BoxInfo) bool) error {
	var wg sync.WaitGroup
	var mu sync.Mutex
	var errs []error
	for _, info := range rt.ListInfo() {
		if !meant(info) {
			continue
		}
		wg.Go(func() {
			if err := rt.pushUnder(ctx, info.ID); err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, err)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// denied returns the refusal by a setting of the operator's.
func denied(op, ref, hint, format string, args ...any) error {
	return &boxlite.Error{Op: op, Kind: boxlite.Denied, Ref: ref, Hint: hint, Err: fmt.Errorf(format, args...)}
}

// pullOptions returns where the image of somebody's box may come from.
func (rt *Runtime) pullOptions(owner Owner) image.PullOptions {
	rules := rt.policy.Load().Images
	own := parseRegistries(owner.Registries)
	o := image.PullOptions{LocalRoots: owner.LocalRoots, Registries: own}
	if len(own) == 0 {
		o.Registries = rules.Registries
	}
	if owner.Trusted {
		return o
	}
	o.LocalRoots = slices.Concat(owner.LocalRoots, rules.LocalRoots)
	if len(rules.Registries) > 0 {
		o.Registries = rules.within(own)
	}
	o.Permit = rules.permit
	return o
}

// within returns those of an owner's registries that the operator has, reached
// as the operator says; all of the operator's if there is none.
func (r ImageRules) within(own []image.Registry) []image.Registry {
	var list []image.Registry
	for _, mine := range own {
		for _, theirs := range r.Registries {
			if mine.Name() == theirs.Name() {
				narrow := theirs
				narrow.Host, narrow.Search = mine.Host, true
				list = append(list, narrow)
				break
			}
		}
	}
	if len(list) == 0 {
		return r.Registries
	}
	return list
}

// permit refuses what the operator's patterns and registries do not have.
func (r ImageRules) permit(ref image.Reference) error {
	if len(r.Registries) > 0 && !slices.ContainsFunc(r.Registries, func(reg image.Registry) bool { return reg.Name() == ref.Registry }) {
		return r.noRegistry(ref)
	}
	if len(r.Allow) == 0 || slices.ContainsFunc(r.Allow, func(p image.Pattern) bool { return p.Matches(ref) }) {
		return nil
	}
	var list []string
	for _, p := range r.Allow {
		list = append(list, p.String())
	}
	return denied("use image", ref.String(), "Use an image that one of these matches, or ask the operator: "+some(list)+".",
		"no pattern of images.allow in config.toml matches it")
}

func (r ImageRules) noRegistry(ref image.Reference) error {
	var list []string
	for _, reg := range r.Registries {
		list = append(list, reg.Host)
	}
	return denied("use image", ref.String(), "Use an image from one of these, or ask the operator: "+some(list)+".",
		"registry %s is not in images.registries in config.toml", ref.Registry)
}

// some returns the first of a list.
func some(list []string) string {
	const most = 10
	if len(list) > most {
		list = append(slices.Clone(list[:most]), fmt.Sprintf("and %d more", len(list)-most))
	}
	return strings.Join(list, ", ")
}

// checkImage says whether a box may be made from the image that it names, as far
// as can be said without asking for it.
//
// Errors: InvalidArgument, Denied.
func (rt *Runtime) checkImage(owner Owner, ref string) error {
	r, err := image.ParseReference(ref)
	if err != nil {
		return nil //nolint:nilerr // the start says so, and keeps the box for whoever wants to know
	}
	rules := rt.policy.Load().Images
	if !owner.Trusted && len(rules.Registries) > 0 && !r.IsLocal() && r.Registry != "" {
		if err := (ImageRules{Registries: rules.Registries}).permit(r); err != nil {
			return err
		}
	}
	o := rt.pullOptions(owner)
	if o.Permit == nil || len(rules.Registries)+len(rules.Allow) == 0 {
		return nil
	}
	return rt.images.Check(ref, o)
}

// chooseEngine returns the engine for a box: one that both it and the operator
// want, and that reads what the box has written before.
//
// Errors: UnsupportedEngine, Denied.
func (rt *Runtime) chooseEngine(ctx context.Context, rec record) (engine.Engine, engine.Report, error) {
	rules, name, isolation := rt.policy.Load().Engines, rec.Options.Engine, rec.Options.Isolation
	if name == "" || name == "auto" {
		name = cmp.Or(rules.Default, "auto")
	}
	if rec.Engine != "" && !covers(family(rec.Engine), name) {
		name = family(rec.Engine)
	}
	if rec.Trusted {
		return rt.engines.choose(ctx, name, isolation)
	}
	names, err := rules.engines(name)
	if err != nil {
		return nil, engine.Report{}, err
	}
	asked := isolation
	if isolation != "hardware-vm" {
		isolation = cmp.Or(rules.Isolation, isolation)
	}
	var errs []error
	for _, name := range names {
		eng, rep, err := rt.engines.choose(ctx, name, isolation)
		if err == nil {
			return eng, rep, nil
		}
		errs = append(errs, err)
	}
	if err = errors.Join(errs...); isolation != asked {
		err = &boxlite.Error{Op: "choose engine", Kind: boxlite.KindOf(err), Hint: boxlite.HintOf(err),
			Err: fmt.Errorf("engine.isolation = %q in config.toml: %w", isolation, err)}
	}
	return nil, engine.Report{}, err
}

// engines returns the engines to try for a box that wants the named one.
//
// Errors: Denied.
func (r EngineRules) engines(name string) ([]string, error) {
	switch {
	case len(r.Allowed) == 0:
		return []string{name}, nil
	case name == "auto":
		return r.Allowed, nil
	case slices.ContainsFunc(r.Allowed, func(allowed string) bool { return covers(allowed, name) }):
		return []string{name}, nil
	}
	some := slices.DeleteFunc(slices.Clone(r.Allowed), func(allowed string) bool { return !covers(name, allowed) })
	if len(some) > 0 { // of a family, as a box wants it that has run on one of it
		return some, nil
	}
	return nil, denied("choose engine", name, "Leave the engine out, or choose one of: "+strings.Join(r.Allowed, ", ")+".",
		"engine.allowed = [%s] in config.toml does not have it", strings.Join(r.Allowed, ", "))
}
