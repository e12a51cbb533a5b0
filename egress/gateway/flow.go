package gateway

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/egress"
	"github.com/boxlite-mcp/boxlite-mcp/egress/policy"
)

// dialTimeout bounds how long a host may take to accept a connection, all its
// addresses together.
const dialTimeout = 30 * time.Second

// A flow is a TCP connection or a UDP flow of the box, from the attempt on.
type flow struct {
	g     *Gateway
	proto policy.Proto
	guest netip.AddrPort
	to    netip.AddrPort // as the box aimed at it
	name  string         // that it stands for; "" if the box used an address

	began          time.Time
	sent, received atomic.Int64
	update         func(boxlite.NetworkEvent)

	mu      sync.Mutex
	dialled netip.AddrPort // guarded by mu; the host's address
	ends    []net.Conn     // guarded by mu; closed by revoke and closeAll
	closed  bool           // guarded by mu
	revoked bool           // guarded by mu
}

// newFlow says what a connection to an address of the box's network is for. If
// the address stands for a name that is not known, ok is false.
func (g *Gateway) newFlow(proto policy.Proto, from, to netip.AddrPort) (f *flow, ok bool) {
	f = &flow{g: g, proto: proto, guest: from, to: to, began: time.Now(), update: func(boxlite.NetworkEvent) {}}
	if synthetic.Contains(to.Addr()) {
		f.name, ok = g.names.name(to.Addr())
		return f, ok
	}
	return f, true
}

// decide asks a policy about the flow.
func (f *flow) decide(p *policy.Policy) policy.Decision {
	if f.name != "" {
		return p.DecideName(f.proto, f.name, f.to.Port())
	}
	return p.DecideAddr(f.proto, f.to.Addr(), f.to.Port())
}

// event returns the flow's record with what a decision says.
func (f *flow) event(allowed bool, code, rule, reason string) boxlite.NetworkEvent {
	f.mu.Lock()
	defer f.mu.Unlock()
	e := boxlite.NetworkEvent{
		Time: f.began, Kind: boxlite.NetConnect, Proto: f.proto.String(), Host: f.name, Addr: f.dialled, Port: f.to.Port(),
		Allowed: allowed, Code: code, Rule: rule, Reason: reason, Sent: f.sent.Load(), Received: f.received.Load(),
		Duration: boxlite.Seconds(time.Since(f.began).Seconds()),
	}
	if f.proto == policy.UDP {
		e.Kind = boxlite.NetFlow
	}
	if f.name == "" && !e.Addr.IsValid() {
		e.Addr = f.to
	}
	return e
}

// deny records that the flow was refused.
func (f *flow) deny(d policy.Decision) {
	f.g.record.add(f.event(false, d.Code.String(), d.Rule, d.Reason))
}

// refuse records that the gateway itself refused the flow.
func (f *flow) refuse(code, format string, args ...any) {
	f.g.record.add(f.event(false, code, "", fmt.Sprintf(format, args...)))
}

// open records that the flow is under way.
func (f *flow) open(d policy.Decision) {
	e := f.event(true, d.Code.String(), d.Rule, d.Reason)
	e.Open = true
	f.update = f.g.record.add(e)
}

// done records how the flow ended, if it was open. err is why, or nil.
func (f *flow) done(d policy.Decision, err error) {
	f.mu.Lock()
	revoked := f.revoked
	f.mu.Unlock()
	code, reason, allowed := d.Code.String(), d.Reason, true
	var spent errSpent
	var bad refusal
	switch {
	case revoked:
		code, reason, allowed = egress.CodeRevoked, "ended, because the box may not reach it any more", false
	case errors.As(err, &spent):
		code, reason, allowed = egress.CodeLimit, spent.Error(), false
	case errors.As(err, &bad):
		code, reason, allowed = bad.code, bad.reason, false
	}
	f.update(f.event(allowed, code, d.Rule, reason))
}

// A refusal is why an open flow was ended by the gateway.
type refusal struct{ code, reason string }

func (r refusal) Error() string { return r.reason }

// holds makes c a connection that ends with the flow. It reports false, and
// closes c, if the flow has ended.
func (f *flow) holds(c net.Conn) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		c.Close()
		return false
	}
	f.ends = append(f.ends, c)
	return true
}

// drop forgets a connection that has been closed, which a flow that dials again
// and again would have more and more of.
func (f *flow) drop(c net.Conn) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if i := slices.Index(f.ends, c); i >= 0 {
		f.ends = slices.Delete(f.ends, i, i+1)
	}
}

func (f *flow) close(revoked bool) {
	f.mu.Lock()
	ends := f.ends
	if f.closed {
		ends = nil
	} else {
		f.closed, f.revoked, f.ends = true, revoked, nil
	}
	f.mu.Unlock()
	for _, c := range ends { // some of which forget themselves
		c.Close()
	}
}

// dial connects to the flow's host by whatever policy is in force.
//
// Errors: Denied, Exhausted, Network.
func (f *flow) dial(ctx context.Context) (net.Conn, error) {
	if why := f.g.limits.spent(); why != "" {
		return nil, &boxlite.Error{Op: "dial", Kind: boxlite.Exhausted, Err: errSpent(why)}
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	targets, err := f.targets(ctx)
	if err != nil {
		return nil, err
	}
	var first error
	for _, to := range targets {
		c, err := f.dialAddr(ctx, to)
		if err == nil {
			f.mu.Lock()
			f.dialled = to
			f.mu.Unlock()
			return &counted{Conn: c, limits: f.g.limits, sent: &f.sent, received: &f.received}, nil
		}
		if first == nil || boxlite.KindOf(err) == boxlite.Denied {
			first = err
		}
		if ctx.Err() != nil {
			break
		}
	}
	return nil, first
}

// subject is what policy is asked about.
func (f *flow) subject() string {
	if f.name != "" {
		return f.name
	}
	return f.to.Addr().String()
}

// targets returns where the flow may lead, in the order to try.
func (f *flow) targets(ctx context.Context) ([]netip.AddrPort, error) {
	if f.name == "" {
		return []netip.AddrPort{f.to}, nil
	}
	if to, ok := f.g.Policy().Static(f.name, f.to.Port()); ok {
		return []netip.AddrPort{to}, nil
	}
	addrs, err := f.g.cfg.Resolve(ctx, f.name)
	if err == nil && len(addrs) == 0 {
		err = errors.New("it has no IPv4 address")
	}
	if err != nil {
		return nil, notResolved(f.name, err)
	}
	var list []netip.AddrPort
	for _, a := range addrs {
		list = append(list, netip.AddrPortFrom(a.Unmap(), f.to.Port()))
	}
	return list, nil
}

func notResolved(name string, err error) error {
	return &boxlite.Error{Op: "resolve", Kind: boxlite.Network, Ref: name, Err: err}
}

// dialAddr connects to one address, after policy was asked about it as it is in
// the very call that connects.
func (f *flow) dialAddr(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	var verdict policy.Decision
	d := net.Dialer{
		KeepAliveConfig: net.KeepAliveConfig{Enable: true},
		ControlContext: func(_ context.Context, _, addr string, _ syscall.RawConn) error {
			at, err := netip.ParseAddrPort(addr)
			if err != nil {
				return err
			}
			if verdict = f.g.Policy().DecideResolved(f.proto, f.subject(), f.to.Port(), at); !verdict.Allow {
				return errors.New(verdict.Reason)
			}
			return nil
		},
	}
	c, err := d.DialContext(ctx, f.proto.String()+"4", to.String())
	switch {
	case err == nil:
		return c, nil
	case verdict.Code != policy.Undecided && !verdict.Allow:
		return nil, &boxlite.Error{Op: "dial", Kind: boxlite.Denied, Ref: f.subject(), Err: denied{verdict}}
	}
	return nil, &boxlite.Error{Op: "dial", Kind: boxlite.Network, Ref: f.subject(), Err: err}
}

// denied is a decision as an error.
type denied struct{ policy.Decision }

func (d denied) Error() string { return d.Reason }

// failed records why the flow's host was not reached.
func (f *flow) failed(d policy.Decision, err error) {
	var no denied
	var spent errSpent
	switch {
	case errors.As(err, &no):
		f.deny(no.Decision)
	case errors.As(err, &spent):
		f.refuse(egress.CodeLimit, "%s", spent)
	default:
		e := f.event(true, egress.CodeUnreachable, d.Rule, printable(err.Error(), 300))
		f.g.record.add(e)
	}
}

// flows are those that are under way.
type flows struct {
	mu  sync.Mutex
	set map[*flow]struct{} // guarded by mu; nil once all are closed
}

func newFlows() *flows { return &flows{set: map[*flow]struct{}{}} }

// add enters a flow, if the gateway is open.
func (fs *flows) add(f *flow) bool {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if fs.set == nil {
		return false
	}
	fs.set[f] = struct{}{}
	return true
}

func (fs *flows) remove(f *flow) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	delete(fs.set, f)
}

// revoke ends the flows that keep says no to.
func (fs *flows) revoke(keep func(*flow) bool) {
	for _, f := range fs.list() {
		if !keep(f) {
			f.close(true)
		}
	}
}

func (fs *flows) list() []*flow {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	list := make([]*flow, 0, len(fs.set))
	for f := range fs.set {
		list = append(list, f)
	}
	return list
}

// closeAll ends all flows, and those to come.
func (fs *flows) closeAll() {
	for _, f := range fs.list() {
		f.close(false)
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for f := range fs.set { // entered in between
		f.close(false)
	}
	fs.set = nil
}
