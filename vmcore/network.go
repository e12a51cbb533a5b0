package vmcore

import (
	"context"
	"errors"
	"fmt"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/egress/gateway"
	"github.com/boxlite-mcp/boxlite-mcp/egress/policy"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/shim"
)

// NetworkOptions are the operator's word on what boxes may reach.
type NetworkOptions struct {
	// Ceiling is the most that a box may be allowed to reach, if its [Owner] has
	// not AnyNetwork. nil: the public Internet.
	Ceiling *policy.Access

	// Static says where some names lead, in place of DNS.
	Static []policy.Static

	// RootCAs are certificates, as PEM, that verify hosts beside the system's
	// where connections are read, because of a secret or an HTTP rule.
	RootCAs []byte

	Limits gateway.Limits // of each box, from its start to its stop
}

// checkNetwork says whether a box may have the network it asks for. None is
// always right.
//
// Errors: Config for an entry of AllowNet, with a suggestion; Denied beyond the
// ceiling.
func (rt *Runtime) checkNetwork(rec record) error {
	spec := rec.Options.Network
	if !spec.Enabled {
		return nil
	}
	access, err := policy.ParseAccess(spec.AllowNet)
	if err != nil {
		return err
	}
	if rec.AnyNetwork {
		return nil
	}
	err = access.Within(rt.policy.Load().Network.ceiling())
	if boxlite.KindOf(err) == boxlite.Denied {
		err = &boxlite.Error{Op: "limit network access", Kind: boxlite.Denied, Ref: string(rec.ID), Hint: boxlite.HintOf(err),
			Err: fmt.Errorf("network.allow_net in config.toml: %w", err)}
	}
	return err
}

func (o NetworkOptions) ceiling() policy.Access {
	if o.Ceiling == nil {
		return policy.Access{Mode: policy.PublicInternet}
	}
	return *o.Ceiling
}

// networkOf says what network a box gets from its shim; nil for none. A box that
// runs goes on without a secret that is gone, and none is started without.
//
// Errors: NotFound and others for a secret that cannot be had.
func (rt *Runtime) networkOf(rec record, runs bool) (*shim.Network, error) {
	spec := rec.Options.Network
	if !spec.Enabled {
		return nil, nil
	}
	rules := rt.policy.Load().Network
	n := &shim.Network{AllowNet: spec.AllowNet, RootCAs: rules.RootCAs, Limits: rules.Limits}
	if !rec.AnyNetwork {
		if err := rules.narrow(n); err != nil {
			return nil, err
		}
	}
	for _, s := range rules.Static {
		n.Static = append(n.Static, s.String())
	}
	for _, asked := range rec.Options.Secrets {
		s, err := rt.vault.get(rec.ID, asked)
		if runs && boxlite.KindOf(err) == boxlite.NotFound {
			continue
		}
		if err != nil {
			return nil, err
		}
		n.Secrets = append(n.Secrets, shim.Grant{Secret: s})
	}
	return n, nil
}

// narrow takes from a network what the ceiling does not have. A box that asks for
// more does not start; one that runs, when the operator lowers the ceiling, goes on
// with less.
//
// Errors: Config.
func (o NetworkOptions) narrow(n *shim.Network) error {
	access, err := policy.ParseAccess(n.AllowNet)
	if err != nil || access.Within(o.ceiling()) == nil {
		return err
	}
	n.AllowNet = access.Narrow(o.ceiling()).Strings()
	n.Off = len(n.AllowNet) == 0 // an empty list would be the public Internet
	return nil
}

// SetNetwork replaces what the box may reach, whether it runs or not. Without
// widen it must be within what the box may reach now. Connections that are not
// allowed any more have ended when it returns.
//
// Errors: NotFound; Config; Denied for what is wider; InvalidState for a box
// that has no network interface; Database; of a running box RpcTransport and
// others, and then it is stopped, because it is not known what it can reach.
func (b *Box) SetNetwork(ctx context.Context, spec boxlite.NetworkSpec, widen bool) error {
	_, err := finish(ctx, b.rt, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, b.rt.setNetwork(ctx, b.id, spec, widen)
	})
	return err
}

func (rt *Runtime) setNetwork(ctx context.Context, id boxlite.BoxID, spec boxlite.NetworkSpec, widen bool) error {
	release, err := rt.acquire(ctx, id)
	if err != nil {
		return err
	}
	defer release()
	rec, err := rt.get(id)
	if err != nil {
		return err
	}
	if err := mayBecome(rec, spec, widen); err != nil {
		return err
	}
	rec, err = rt.update(ctx, id, func(rec *record) error {
		rec.Options.Network, rec.Network = spec, spec
		rec.AnyNetwork = rec.AnyNetwork || widen
		return nil
	})
	if err != nil {
		return err
	}
	return rt.pushNetwork(ctx, rec)
}

// mayBecome says whether a box's network may be replaced.
func mayBecome(rec record, spec boxlite.NetworkSpec, widen bool) error {
	if !spec.Enabled {
		if len(spec.AllowNet) > 0 {
			return boxlite.Errorf(boxlite.Config, "set network", string(rec.ID), "allow_net says what to reach, and the network is not enabled")
		}
		return nil
	}
	next, err := policy.ParseAccess(spec.AllowNet)
	if err != nil || widen {
		return err
	}
	if !rec.Network.Enabled {
		return &boxlite.Error{Op: "set network", Kind: boxlite.Denied, Ref: string(rec.ID), Err: errors.New("the box has no network, and one can only be narrowed"),
			Hint: "Create a box with the network that it needs."}
	}
	now, err := policy.ParseAccess(rec.Network.AllowNet)
	if err != nil {
		return err
	}
	return next.Within(now)
}

// pushNetwork tells a running box's shim what its record says. If that fails the
// box is stopped: what it can reach is not what it may.
func (rt *Runtime) pushNetwork(ctx context.Context, rec record) error {
	l := rt.liveBox(rec.ID)
	if l == nil {
		return nil
	}
	n, err := rt.networkOf(rec, true)
	if err == nil {
		if n == nil {
			n = &shim.Network{Off: true}
		}
		ctx, cancel := context.WithTimeout(ctx, statusTime)
		defer cancel()
		err = l.client.SetNetwork(ctx, *n)
	}
	switch boxlite.KindOf(err) {
	case 0:
		return nil
	case boxlite.InvalidState: // it was started without an interface, which reaches nothing
		if !rec.Options.Network.Enabled {
			return nil
		}
		return err
	}
	_ = l.client.Stop(context.WithoutCancel(ctx), 0)
	return fmt.Errorf("the box is stopped, because its network could not be changed: %w", err)
}

// NetworkLog returns what the box tried to reach, oldest first: at most limit
// records that match, and of more the newest. With recent it looks no further
// back than some hundred records. It may be called in any state.
//
// Errors: NotFound, Storage.
func (b *Box) NetworkLog(limit int, recent bool, match func(boxlite.NetworkEvent) bool) ([]boxlite.NetworkEvent, error) {
	if _, err := b.rt.get(b.id); err != nil {
		return nil, err
	}
	list, err := shim.ReadNetworkLog(b.rt.boxDir(b.id), limit, recent, match)
	if err != nil {
		return nil, storage("read network log", string(b.id), err)
	}
	return list, nil
}
