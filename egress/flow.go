// Package egress is the seam between what carries a box's traffic and what
// reads some of it: package gateway carries connections, package intercept
// reads those to hosts that a secret or an HTTP rule is bound to. It decides
// nothing; that is for package policy.
package egress

import (
	"context"
	"net"
	"net/netip"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/egress/policy"
)

// A Flow is one TCP connection of a box to a name, which policy allows.
type Flow struct {
	Name  string         // canonical host name
	Port  uint16         // as the box dialled it
	Guest netip.AddrPort // the box's end

	// Dial connects to the name's host on the host side: static entries,
	// resolution, [policy.Policy.DecideResolved] in Dialer.ControlContext and
	// budgets are all inside. It may be called any number of times; the caller
	// closes what it returns.
	//
	// Errors: [boxlite.Denied] if policy says no, [boxlite.Exhausted] if a
	// budget is spent, [boxlite.Network] if the host is not reached.
	Dial func(ctx context.Context) (net.Conn, error)

	// Policy returns the policy in force now.
	Policy func() *policy.Policy

	// Record takes a record of something inside the connection (a request); it
	// assigns Seq and never blocks. A record that Open was set on is replaced by
	// calling update with the whole new record.
	Record func(boxlite.NetworkEvent) (update func(boxlite.NetworkEvent))
}

// An Interceptor reads connections instead of having them spliced. Its methods
// are called concurrently.
type Interceptor interface {
	// Intercepts reports whether TCP connections to that name and port are to
	// be read, beside those that policy inspects.
	Intercepts(name string, port uint16) bool

	// Serve talks to the box on conn, from its first byte on, until one side is
	// done, ctx ends or policy no longer allows it, and closes conn.
	Serve(ctx context.Context, conn net.Conn, flow Flow)
}
