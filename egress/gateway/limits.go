package gateway

import (
	"net"
	"sync/atomic"

	"golang.org/x/time/rate"
)

// Limits bound what one box may use. Zero fields mean the defaults; the
// defaults' aim is that no box can harm the host or another box, and no program
// that is well meant notices them.
type Limits struct {
	Connections int   // TCP connections at once; 512
	Flows       int   // UDP flows at once; 512
	ConnectRate int   // new connections and flows a second; 1000, in bursts of twice that
	LookupRate  int   // DNS questions a second; 200, in bursts of twice that
	Sent        int64 // bytes from the box, in all of the gateway's life; 0: no limit
	Received    int64 // bytes to the box; 0: no limit
}

func (l Limits) withDefaults() Limits {
	def := func(v *int, d int) {
		if *v <= 0 {
			*v = d
		}
	}
	def(&l.Connections, 512)
	def(&l.Flows, 512)
	def(&l.ConnectRate, 1000)
	def(&l.LookupRate, 200)
	return l
}

// limits is what is left of the Limits.
type limits struct {
	max            Limits
	connect        *rate.Limiter
	lookup         *rate.Limiter
	tcp, udp, dns  atomic.Int64 // at once
	sent, received atomic.Int64
}

func newLimits(max Limits) *limits {
	return &limits{max: max, connect: connectRate(max.ConnectRate, 2*max.ConnectRate), lookup: connectRate(max.LookupRate, 2*max.LookupRate)}
}

// take counts one more of n, unless there are most already.
func take(n *atomic.Int64, most int) bool {
	if n.Add(1) > int64(most) {
		n.Add(-1)
		return false
	}
	return true
}

// spent returns which budget of bytes is spent, or "".
func (l *limits) spent() string {
	switch {
	case l.max.Sent > 0 && l.sent.Load() >= l.max.Sent:
		return "the box has sent as many bytes as it may"
	case l.max.Received > 0 && l.received.Load() >= l.max.Received:
		return "the box has received as many bytes as it may"
	}
	return ""
}

// A counted is a connection to a host on whose bytes the box's budgets are
// spent. It fails once one is spent.
type counted struct {
	net.Conn
	limits         *limits
	sent, received *atomic.Int64 // of the flow
}

// errSpent is what reads and writes return once a budget is spent.
type errSpent string

func (e errSpent) Error() string { return string(e) }

// left returns how many of n bytes a budget still has.
func left(spent *atomic.Int64, most int64, n int) int {
	if most == 0 {
		return n
	}
	return int(min(int64(n), max(0, most-spent.Load())))
}

func (c *counted) Read(b []byte) (int, error) {
	if why := c.limits.spent(); why != "" {
		return 0, errSpent(why)
	}
	n, err := c.Conn.Read(b[:left(&c.limits.received, c.limits.max.Received, len(b))])
	c.limits.received.Add(int64(n))
	c.received.Add(int64(n))
	return n, err
}

// Write sends as much as the budget has. Connections that write at the same
// time may exceed it by what each of them writes.
func (c *counted) Write(b []byte) (int, error) {
	n, err := 0, error(nil)
	if c.limits.spent() == "" {
		n, err = c.Conn.Write(b[:left(&c.limits.sent, c.limits.max.Sent, len(b))])
		c.limits.sent.Add(int64(n))
		c.sent.Add(int64(n))
	}
	if n < len(b) && err == nil {
		return n, errSpent(c.limits.spent())
	}
	return n, err
}

// CloseWrite ends what the box sends.
func (c *counted) CloseWrite() error {
	if hc, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return hc.CloseWrite()
	}
	return c.Conn.Close()
}
