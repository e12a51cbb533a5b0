package gateway

import (
	"net"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"

	"github.com/boxlite-mcp/boxlite-mcp/egress"
	"github.com/boxlite-mcp/boxlite-mcp/egress/policy"
)

// udpIdle is how long a UDP flow may be quiet before it is over.
const udpIdle = 60 * time.Second

// acceptUDP decides about the first datagram of a flow. It answers nothing to
// what it refuses, not even by ICMP, so it always says that it has dealt with
// it. It runs where frames are read, so all that takes time is done elsewhere.
func (g *Gateway) acceptUDP(req *udp.ForwarderRequest) bool {
	to := dest(req.ID())
	if to.Addr() == Address {
		g.record.dropped("UDP to the gateway itself")
		return true
	}
	f, ok := g.newFlow(policy.UDP, guest(req.ID()), to)
	if !ok {
		f.refuse(egress.CodeNoName, "%s stands for no name that was looked up", to.Addr())
		return true
	}
	d := f.decide(g.Policy())
	switch {
	case !d.Allow:
		f.deny(d)
	case !g.limits.connect.Allow():
		f.refuse(egress.CodeLimit, "more than %d connections a second", g.limits.max.ConnectRate)
	case !take(&g.limits.udp, g.limits.max.Flows):
		f.refuse(egress.CodeLimit, "%d UDP flows are open", g.limits.max.Flows)
	default:
		var wq waiter.Queue
		ep, err := req.CreateEndpoint(&wq)
		if err != nil {
			g.limits.udp.Add(-1)
			return true
		}
		box := gonet.NewUDPConn(&wq, ep)
		if !g.begin(func() { defer g.limits.udp.Add(-1); g.carryUDP(f, d, box) }) {
			g.limits.udp.Add(-1)
			box.Close()
		}
	}
	return true
}

// carryUDP carries datagrams both ways until the flow is quiet.
func (g *Gateway) carryUDP(f *flow, d policy.Decision, box net.Conn) {
	if !f.holds(box) || !g.flows.add(f) {
		box.Close()
		return
	}
	defer g.flows.remove(f)
	defer f.close(false)
	if now := f.decide(g.Policy()); !now.Allow {
		f.deny(now)
		return
	}
	host, err := f.dialHeld(g.ctx)
	if err != nil {
		f.failed(d, err)
		return
	}
	f.open(d)
	quiet := time.AfterFunc(udpIdle, func() { f.close(false) })
	defer quiet.Stop()
	ended := make(chan error, 1)
	if !g.begin(func() { ended <- relay(box, host, quiet) }) {
		return
	}
	err = relay(host, box, quiet)
	f.close(false)
	if back := <-ended; err == nil {
		err = back
	}
	f.done(d, err)
}

// relay passes datagrams on until one side is closed.
func relay(to, from net.Conn, quiet *time.Timer) error {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	for {
		n, err := from.Read(*buf)
		if err != nil {
			return err
		}
		quiet.Reset(udpIdle)
		if _, err := to.Write((*buf)[:n]); err != nil {
			if spent, ok := err.(errSpent); ok { //nolint:errorlint // as counted returns it
				return spent
			}
			// One that is refused or too long is lost, as datagrams may be.
		}
	}
}
