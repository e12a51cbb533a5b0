package vmcore

import (
	"errors"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/egress/policy"
)

// checkNetwork says whether a box may have the network it asks for. None is
// always right. Until shims have a gateway any other is refused here, once it is
// known to be well formed and within the ceiling: a box that was promised a
// network would otherwise never start.
//
// Errors: Config for an entry of AllowNet, with a suggestion; Denied beyond the
// ceiling; Unsupported.
func checkNetwork(spec boxlite.NetworkSpec, ceiling *policy.Access) error {
	if !spec.Enabled {
		return nil
	}
	access, err := policy.ParseAccess(spec.AllowNet)
	if err != nil {
		return err
	}
	if ceiling != nil {
		if err := access.Within(*ceiling); err != nil {
			return err
		}
	}
	return &boxlite.Error{Op: "create box", Kind: boxlite.Unsupported, Err: errors.New("boxes have no network in this version"),
		Hint: "Leave out the network: a box without one works, and its image may hold what it needs."}
}
