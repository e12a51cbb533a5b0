package vmcore

import (
	"errors"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
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
}

// checkNetwork says whether a box may have the network it asks for. None is
// always right.
//
// Errors: Config for an entry of AllowNet, with a suggestion; Denied beyond the
// ceiling; Unsupported.
func (rt *Runtime) checkNetwork(rec record) error {
	spec := rec.Options.Network
	if !spec.Enabled {
		return nil
	}
	access, err := policy.ParseAccess(spec.AllowNet)
	if err != nil {
		return err
	}
	if access.ReadsHTTP() {
		return &boxlite.Error{Op: "create box", Kind: boxlite.Unsupported, Err: errors.New("HTTP rules are not enforced in this version"),
			Hint: "Allow the whole host, such as api.example.com:443, or leave it out."}
	}
	if rec.AnyNetwork {
		return nil
	}
	return access.Within(rt.opts.Network.ceiling())
}

func (o NetworkOptions) ceiling() policy.Access {
	if o.Ceiling == nil {
		return policy.Access{Mode: policy.PublicInternet}
	}
	return *o.Ceiling
}

// networkOf says what network a box gets from its shim; nil for none.
func (rt *Runtime) networkOf(rec record) *shim.Network {
	spec := rec.Options.Network
	if !spec.Enabled {
		return nil
	}
	n := &shim.Network{AllowNet: spec.AllowNet}
	for _, s := range rt.opts.Network.Static {
		n.Static = append(n.Static, s.String())
	}
	return n
}

// NetworkLog returns what the box tried to reach, oldest first: at most limit
// records that match, and of more the newest. It may be called in any state.
//
// Errors: NotFound, Storage.
func (b *Box) NetworkLog(limit int, match func(boxlite.NetworkEvent) bool) ([]boxlite.NetworkEvent, error) {
	if _, err := b.rt.get(b.id); err != nil {
		return nil, err
	}
	list, err := shim.ReadNetworkLog(b.rt.boxDir(b.id), limit, match)
	if err != nil {
		return nil, storage("read network log", string(b.id), err)
	}
	return list, nil
}
