package gateway

import (
	"context"
	"io"
	"net"
	"net/netip"
	"sync"

	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/egress"
	"github.com/boxlite-mcp/boxlite-mcp/egress/policy"
)

// acceptTCP decides about a connection that the box asks for. It runs in a
// goroutine of the stack's; the request is answered in one of ours, which Close
// waits for.
func (g *Gateway) acceptTCP(req *tcp.ForwarderRequest) {
	if !g.begin(func() { g.serveTCP(req) }) {
		req.Complete(true)
	}
}

func (g *Gateway) serveTCP(req *tcp.ForwarderRequest) {
	to := dest(req.ID())
	switch {
	case to == netip.AddrPortFrom(Address, dnsPort):
		g.serveDNSConn(req)
		return
	case to.Addr() == Address:
		req.Complete(true)
		g.record.add(boxlite.NetworkEvent{Kind: boxlite.NetConnect, Proto: "tcp", Addr: to, Port: to.Port(), Code: policy.BoxSubnet.String(),
			Reason: "the gateway has no such service"})
		return
	}
	f, ok := g.newFlow(policy.TCP, guest(req.ID()), to)
	if !ok {
		req.Complete(true)
		f.refuse(egress.CodeNoName, "%s stands for no name that was looked up", to.Addr())
		return
	}
	d := f.decide(g.Policy())
	intercept := g.intercepts(f.name, to.Port())
	switch {
	case !d.Allow:
		req.Complete(true)
		f.deny(d)
	case d.Inspect && !intercept:
		req.Complete(true)
		f.refuse(egress.CodeHTTPRule, "rule %s is about requests, and this gateway reads none", d.Rule)
	case !g.limits.connect.Allow():
		req.Complete(true)
		f.refuse(egress.CodeLimit, "more than %d connections a second", g.limits.max.ConnectRate)
	case !take(&g.limits.tcp, g.limits.max.Connections):
		req.Complete(true)
		f.refuse(egress.CodeLimit, "%d connections are open", g.limits.max.Connections)
	default:
		defer g.limits.tcp.Add(-1)
		g.carry(req, f, d, intercept)
	}
}

func (g *Gateway) intercepts(name string, port uint16) bool {
	return name != "" && g.cfg.Interceptor != nil && (g.Policy().Inspects(name, port) || g.cfg.Interceptor.Intercepts(name, port))
}

// carry serves a connection that policy allows, to its end.
func (g *Gateway) carry(req *tcp.ForwarderRequest, f *flow, d policy.Decision, intercept bool) {
	if !g.flows.add(f) {
		req.Complete(true)
		return
	}
	defer g.flows.remove(f)
	defer f.close(false)
	// Policy may have changed between the decision and the entry among the flows
	// that a change looks through.
	if now := f.decide(g.Policy()); !now.Allow {
		req.Complete(true)
		f.deny(now)
		return
	}
	if intercept {
		if box := handshake(req); box != nil && f.holds(box) {
			g.intercept(f, d, box)
		}
		return
	}
	host, err := f.dial(g.ctx)
	if err != nil {
		req.Complete(true)
		f.failed(d, err)
		return
	}
	if !f.holds(host) {
		req.Complete(true)
		return
	}
	if box := handshake(req); box != nil && f.holds(box) {
		g.splice(f, d, box, host)
	}
}

// intercept hands a connection over to who reads it.
func (g *Gateway) intercept(f *flow, d policy.Decision, box net.Conn) {
	f.open(d)
	g.cfg.Interceptor.Serve(g.ctx, box, egress.Flow{
		Name: f.name, Port: f.to.Port(), Guest: f.guest,
		Dial: f.dialHeld, Policy: g.Policy, Record: g.record.add,
	})
	f.done(d, nil)
}

// dialHeld is dial for a connection that ends with the flow. The box's budget of
// new connections counts each, whatever it asked for on its own.
func (f *flow) dialHeld(ctx context.Context) (net.Conn, error) {
	if !f.g.limits.connect.Allow() {
		return nil, &boxlite.Error{Op: "dial", Kind: boxlite.Exhausted, Ref: f.subject(), Err: errSpent("there are too many new connections a second")}
	}
	c, err := f.dial(ctx)
	if err != nil {
		return nil, err
	}
	h := &held{Conn: c, flow: f}
	if !f.holds(h) {
		return nil, &boxlite.Error{Op: "dial", Kind: boxlite.Denied, Ref: f.subject(), Err: net.ErrClosed}
	}
	return h, nil
}

// held is a connection that its flow knows of.
type held struct {
	net.Conn
	flow *flow
}

// Close closes the connection, and its flow forgets it.
func (h *held) Close() error {
	h.flow.drop(h)
	return h.Conn.Close()
}

// CloseWrite ends what the box sends.
func (h *held) CloseWrite() error { return closeWrite(h.Conn) }

// splice carries bytes both ways until both have ended. What the host sends is
// not held up; what the box sends is, until it is known whether it is a TLS
// greeting for the right name.
func (g *Gateway) splice(f *flow, d policy.Decision, box, host net.Conn) {
	f.open(d)
	var once sync.Once
	var cause error
	fail := func(err error) {
		once.Do(func() { cause = err })
		f.close(false)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		defer g.recover()
		if err := pump(box, host); err != nil {
			fail(err)
		}
	})
	if from, err := g.greet(f, box, host); err != nil {
		fail(err)
	} else if from != nil {
		if err := pump(host, from); err != nil {
			fail(err)
		}
	}
	wg.Wait()
	f.done(d, cause)
}

// greet passes the box's first bytes on to the host, and returns what to read
// the rest from; nil, if there is nothing more. A TLS greeting is passed on only
// if the name in it is the one that policy was asked about. An address that
// policy opens as such may have any name.
func (g *Gateway) greet(f *flow, box, host net.Conn) (net.Conn, error) {
	var first [1]byte
	n, err := box.Read(first[:])
	if n == 0 {
		if err == io.EOF { //nolint:errorlint // as io.Copy has it
			return nil, closeWrite(host)
		}
		return nil, err
	}
	seen := first[:1]
	if first[0] == tlsHandshake {
		var sni string
		if seen, sni, err = readHello(g.ctx, box, first[:1]); err != nil {
			return nil, refusal{egress.CodeProtocol, "it begins like TLS and is not: " + printable(err.Error(), 200)}
		}
		if err := f.agrees(sni); err != nil {
			return nil, err
		}
	}
	_, err = host.Write(seen)
	return box, err
}

// agrees refuses a TLS name that is not the flow's.
func (f *flow) agrees(sni string) error {
	f.mu.Lock()
	dialled := f.dialled
	f.mu.Unlock()
	p := f.g.Policy()
	if f.name != "" {
		if name, err := policy.CanonicalName(sni); err == nil && name == f.name {
			return nil
		}
		if p.DecideAddr(f.proto, dialled.Addr(), dialled.Port()).Allow && (sni == "" || p.DecideName(f.proto, sni, f.to.Port()).Allow) {
			return nil // the host may be reached by its address, so its other names are no secret
		}
		if sni == "" {
			return refusal{egress.CodeSNI, "the TLS greeting names no host, and " + f.name + " was looked up"}
		}
		return refusal{egress.CodeSNI, "the TLS greeting names " + printable(sni, 253) + ", and " + f.name + " was looked up"}
	}
	if sni != "" && (f.g.intercepts(canonical(sni), f.to.Port()) || p.Inspects(sni, f.to.Port())) {
		return refusal{egress.CodeSNI, printable(sni, 253) + " is read on its way, so it is reached by its name and not by an address"}
	}
	return nil
}

func canonical(name string) string {
	c, err := policy.CanonicalName(name)
	if err != nil {
		return ""
	}
	return c
}

// buffers are for pump.
var buffers = sync.Pool{New: func() any { b := make([]byte, 64<<10); return &b }}

// pump copies until the end of one direction, and passes the end on.
func pump(to, from net.Conn) error {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	// Neither side's own copying is used: it would allocate a buffer for each.
	_, err := io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{from}, *buf)
	if err != nil {
		return err
	}
	return closeWrite(to)
}
