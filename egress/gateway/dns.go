package gateway

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/egress"
	"github.com/boxlite-mcp/boxlite-mcp/egress/policy"
)

const (
	dnsPort       = 53
	dnsAtOnce     = 64               // questions that are looked up at once
	dnsTTL        = 60               // seconds that the box may remember an answer
	dnsConns      = 16               // DNS connections at once
	dnsIdle       = 10 * time.Second // of such a connection
	lookupTimeout = 10 * time.Second
)

// hostResolve asks the host's resolver, without a search list.
func hostResolve(ctx context.Context, name string) ([]netip.Addr, error) {
	return net.DefaultResolver.LookupNetIP(ctx, "ip4", name+".")
}

// serveDNS answers questions that come as datagrams.
func (g *Gateway) serveDNS() error {
	at := tcpip.FullAddress{NIC: nic, Addr: address(Address), Port: dnsPort}
	pc, err := gonet.DialUDP(g.stack, &at, nil, ipv4.ProtocolNumber)
	if err != nil {
		return err
	}
	context.AfterFunc(g.ctx, func() { pc.Close() })
	slots := make(chan struct{}, dnsAtOnce)
	g.begin(func() {
		buf := make([]byte, 1500)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			select {
			case slots <- struct{}{}:
			default: // the box asks again
				g.record.dropped("more DNS questions than can be looked up at once")
				continue
			}
			question := append([]byte(nil), buf[:n]...)
			if !g.begin(func() {
				defer func() { <-slots }()
				if reply := g.reply(question); reply != nil {
					_, _ = pc.WriteTo(reply, from)
				}
			}) {
				return
			}
		}
	})
	return nil
}

// serveDNSConn answers questions that come over TCP.
func (g *Gateway) serveDNSConn(req *tcp.ForwarderRequest) {
	if !take(&g.limits.dns, dnsConns) {
		req.Complete(true)
		return
	}
	defer g.limits.dns.Add(-1)
	c := handshake(req)
	if c == nil {
		return
	}
	defer c.Close()
	defer context.AfterFunc(g.ctx, func() { c.Close() })()
	for {
		_ = c.SetDeadline(time.Now().Add(dnsIdle))
		var size [2]byte
		if _, err := io.ReadFull(c, size[:]); err != nil {
			return
		}
		question := make([]byte, binary.BigEndian.Uint16(size[:]))
		if _, err := io.ReadFull(c, question); err != nil {
			return
		}
		reply := g.reply(question)
		if reply == nil {
			return
		}
		_ = c.SetDeadline(time.Now().Add(dnsIdle))
		if _, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(reply))), reply...)); err != nil {
			return
		}
	}
}

// reply answers a question; nil if it is none.
func (g *Gateway) reply(msg []byte) []byte {
	var p dnsmessage.Parser
	h, err := p.Start(msg)
	if err != nil || h.Response {
		g.record.dropped("a DNS message that is no question")
		return nil
	}
	q, err := p.Question()
	if err != nil {
		return answer(h, nil, dnsmessage.RCodeFormatError, netip.Addr{})
	}
	if _, err := p.Question(); !errors.Is(err, dnsmessage.ErrSectionDone) || h.OpCode != 0 {
		return answer(h, &q, dnsmessage.RCodeNotImplemented, netip.Addr{})
	}
	if q.Class != dnsmessage.ClassINET {
		return answer(h, &q, dnsmessage.RCodeRefused, netip.Addr{})
	}
	code, addr := g.lookup(strings.TrimSuffix(q.Name.String(), "."), q.Type)
	return answer(h, &q, code, addr)
}

// lookup decides about a question and returns the address that stands for the
// name, if there is to be one. Only questions for IPv4 addresses have answers.
func (g *Gateway) lookup(asked string, kind dnsmessage.Type) (dnsmessage.RCode, netip.Addr) {
	p := g.Policy()
	d := p.NameMayResolve(asked)
	e := boxlite.NetworkEvent{Kind: boxlite.NetLookup, Time: time.Now(), Proto: "dns", Host: asked, Allowed: d.Allow, Code: d.Code.String(), Rule: d.Rule, Reason: d.Reason}
	if !d.Allow {
		g.record.add(e)
		return dnsmessage.RCodeNameError, netip.Addr{}
	}
	if !g.limits.lookup.Allow() {
		e.Allowed, e.Code, e.Rule, e.Reason = false, egress.CodeLimit, "", "too many lookups a second"
		g.record.add(e)
		return dnsmessage.RCodeServerFailure, netip.Addr{}
	}
	name, err := policy.CanonicalName(asked)
	if err != nil { // policy has read it
		return dnsmessage.RCodeNameError, netip.Addr{}
	}
	e.Host = name
	if !p.HasStatic(name) {
		ctx, cancel := context.WithTimeout(g.ctx, lookupTimeout)
		defer cancel()
		if found := g.answer.get(ctx, name); found.err != nil {
			e.Code, e.Reason = egress.CodeNotResolved, printable(found.err.Error(), 300)
			g.record.add(e)
			return found.code, netip.Addr{}
		}
	}
	if kind != dnsmessage.TypeA {
		return dnsmessage.RCodeSuccess, netip.Addr{}
	}
	g.record.add(e)
	return dnsmessage.RCodeSuccess, g.names.address(name)
}

// answer returns a reply with at most one address.
func answer(h dnsmessage.Header, q *dnsmessage.Question, code dnsmessage.RCode, addr netip.Addr) []byte {
	b := dnsmessage.NewBuilder(nil, dnsmessage.Header{
		ID: h.ID, Response: true, OpCode: h.OpCode, RecursionDesired: h.RecursionDesired, RecursionAvailable: true, RCode: code,
	})
	err := b.StartQuestions()
	if q != nil && err == nil {
		err = b.Question(*q)
	}
	if addr.IsValid() && err == nil {
		if err = b.StartAnswers(); err == nil {
			err = b.AResource(dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: dnsTTL}, dnsmessage.AResource{A: addr.As4()})
		}
	}
	msg, finish := b.Finish()
	if err != nil || finish != nil {
		return nil
	}
	return msg
}

// answers remembers for a moment whether names have addresses, so that a box
// that asks for A and AAAA, twice, is one question to the host's resolver. What
// the addresses are is not remembered: each connection looks them up.
type answers struct {
	resolve func(context.Context, string) ([]netip.Addr, error)

	mu    sync.Mutex
	known map[string]*lookup // guarded by mu
}

type lookup struct {
	done chan struct{} // closed when the rest is set
	at   time.Time
	err  error
	code dnsmessage.RCode
}

const (
	answerAge   = 5 * time.Second
	mostAnswers = 1024
)

func newAnswers(resolve func(context.Context, string) ([]netip.Addr, error)) *answers {
	return &answers{resolve: resolve, known: map[string]*lookup{}}
}

// get returns what is known of the name, after looking it up if it is old.
func (a *answers) get(ctx context.Context, name string) *lookup {
	a.mu.Lock()
	l := a.known[name]
	if l == nil || l.old() {
		l = &lookup{done: make(chan struct{}), at: time.Now()}
		a.forgetOld()
		a.known[name] = l
		a.mu.Unlock()
		addrs, err := a.resolve(ctx, name)
		l.code, l.err = outcome(addrs, err)
		close(l.done)
		return l
	}
	a.mu.Unlock()
	select {
	case <-l.done:
		return l
	case <-ctx.Done():
		return &lookup{err: ctx.Err(), code: dnsmessage.RCodeServerFailure}
	}
}

func (l *lookup) old() bool {
	select {
	case <-l.done:
		return time.Since(l.at) > answerAge
	default:
		return false
	}
}

func (a *answers) forgetOld() {
	if len(a.known) < mostAnswers {
		return
	}
	for name, l := range a.known {
		if l.old() {
			delete(a.known, name)
		}
	}
	if len(a.known) >= mostAnswers {
		clear(a.known) // questions under way go on
	}
}

// outcome returns what the box is told.
func outcome(addrs []netip.Addr, err error) (dnsmessage.RCode, error) {
	var de *net.DNSError
	switch {
	case err == nil && len(addrs) > 0:
		return dnsmessage.RCodeSuccess, nil
	case err == nil:
		return dnsmessage.RCodeSuccess, errors.New("the name has no IPv4 address")
	case errors.As(err, &de) && de.IsNotFound:
		return dnsmessage.RCodeNameError, err
	}
	return dnsmessage.RCodeServerFailure, err
}
