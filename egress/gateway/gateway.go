// Package gateway is the one way out of a box: it takes the box's Ethernet
// frames, and carries what policy allows.
//
// It decides nothing (package policy does) and reads no more of a connection
// than the name in a TLS greeting (package intercept reads the rest, where a
// secret or an HTTP rule is bound to a host).
//
//	guest, err := gw.Link()                     // for the engine: one frame a datagram
//	gw, err := gateway.New(gateway.Config{Policy: p, Record: log.Add}, socket)
//	gw.SetPolicy(narrower)                      // what it no longer allows ends now
//	<-gw.Done()                                 // the box has no network any more
//
// # What a box sees
//
// One host on its link, 198.19.255.1, which answers ARP, echo requests and DNS,
// and everything behind it. Each name that policy lets it look up gets an
// address of its own out of 198.18.0.0/16, so that it is known which name a
// connection is for, whatever it carries; the address is one of the range for
// benchmarks, which no host on the Internet has. The names' real addresses are
// looked up on the host, for each connection, and checked at the moment they
// are dialled. There is no IPv6 and no DHCP: the address is given.
//
// # What it does with what policy denies
//
// TCP is reset, names do not exist (NXDOMAIN), datagrams vanish. Whatever is
// attempted becomes a record.
//
// # Failing
//
// A gateway whose link or own code fails closes, and with it every connection.
// Nothing else carries frames, so a box without a gateway has no network.
//
// Everything may be used concurrently.
package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"

	"golang.org/x/time/rate"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/egress"
	"github.com/boxlite-mcp/boxlite-mcp/egress/gateway/link"
	"github.com/boxlite-mcp/boxlite-mcp/egress/policy"
)

// The network that a box sees. It is the same for every box: each has a link of
// its own.
var (
	BoxNet     = netip.MustParsePrefix("198.18.0.0/15")      // never leaves the gateway
	BoxAddress = netip.MustParsePrefix("198.19.255.2/30")    // the box's, with its subnet
	Address    = netip.MustParseAddr("198.19.255.1")         // the gateway's, also the box's resolver
	synthetic  = netip.MustParsePrefix("198.18.0.0/16")      // stand for names
	mac        = net.HardwareAddr{0x02, 0xb0, 0x11, 0, 0, 1} // the gateway's
	boxMAC     = net.HardwareAddr{0x02, 0xb0, 0x11, 0, 0, 2}
)

// MTU is the largest packet on the link, in bytes.
const MTU = 9000

// BoxMAC returns the MAC address of the box.
func BoxMAC() net.HardwareAddr { return append(net.HardwareAddr(nil), boxMAC...) }

// A Config is what a [Gateway] is made of.
type Config struct {
	Box    boxlite.BoxID
	Policy *policy.Policy // required

	// Interceptor reads the connections that it wants to. nil: none are read,
	// and those that an HTTP rule is about are refused.
	Interceptor egress.Interceptor

	// Record takes each record, in order, and must return at once. A later
	// record with the same Seq replaces the earlier one. nil: nobody wants them.
	Record   func(boxlite.NetworkEvent)
	FirstSeq uint64 // of the first record; 0 is 1

	// Resolve returns the IPv4 addresses of a canonical name. nil: the host's
	// resolver, without a search list.
	Resolve func(ctx context.Context, name string) ([]netip.Addr, error)

	Limits Limits
	Log    *slog.Logger // nil discards
}

// A Gateway is the network of one box.
type Gateway struct {
	cfg    Config
	log    *slog.Logger
	link   *link.Endpoint
	stack  *stack.Stack
	names  *names
	answer *answers
	record *recorder
	limits *limits
	policy atomic.Pointer[policy.Policy]
	flows  *flows

	ctx    context.Context //nolint:containedctx // of everything that the box's frames start; ended by Close
	cancel context.CancelFunc
	work   sync.WaitGroup

	closeOnce sync.Once
	done      chan struct{} // closed when all has ended
	mu        sync.Mutex
	err       error // guarded by mu; why it closed by itself
	closed    bool  // guarded by mu; nothing more is begun
}

// New returns a gateway that serves the box behind socket, one end of a
// [link.Pair], which it takes over also when it fails.
//
// Errors: [boxlite.Config], [boxlite.Network].
func New(cfg Config, socket *os.File) (*Gateway, error) {
	if cfg.Policy == nil {
		socket.Close()
		return nil, boxlite.Errorf(boxlite.Config, "open gateway", string(cfg.Box), "there is no policy")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Resolve == nil {
		cfg.Resolve = hostResolve
	}
	cfg.Limits = cfg.Limits.withDefaults()
	g := &Gateway{
		cfg: cfg, log: cfg.Log, names: newNames(synthetic), record: newRecorder(cfg), limits: newLimits(cfg.Limits),
		flows: newFlows(), done: make(chan struct{}),
	}
	g.answer = newAnswers(cfg.Resolve)
	g.policy.Store(cfg.Policy)
	g.ctx, g.cancel = context.WithCancel(context.Background())
	filter := &filter{drop: g.record.dropped}
	var err error
	if g.link, err = link.New(socket, mac, MTU, filter.accept); err != nil {
		g.cancel()
		return nil, &boxlite.Error{Op: "open gateway", Kind: boxlite.Network, Ref: string(cfg.Box), Err: err}
	}
	if err := g.openStack(); err != nil {
		g.link.Close()
		g.cancel()
		return nil, &boxlite.Error{Op: "open gateway", Kind: boxlite.Network, Ref: string(cfg.Box), Err: err}
	}
	go g.run()
	return g, nil
}

// run reads frames until the link ends, and then ends everything.
func (g *Gateway) run() {
	defer close(g.done)
	func() {
		defer g.recover()
		if err := g.link.Serve(); !errors.Is(err, net.ErrClosed) {
			g.fail(err)
		}
	}()
	g.shut()
	g.stack.Close()
	g.work.Wait()
	g.stack.Wait()
	g.record.close()
}

// begin runs f in a goroutine that ends before the gateway does. It reports
// whether it did.
func (g *Gateway) begin(f func()) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return false
	}
	g.work.Go(func() {
		defer g.recover()
		f()
	})
	return true
}

// recover makes a panic the end of the gateway: the box has no network then,
// and nothing of it passes unjudged.
func (g *Gateway) recover() {
	if v := recover(); v != nil {
		g.log.Error("the gateway failed", "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
		g.fail(fmt.Errorf("a bug in the gateway: %v", v))
	}
}

// fail closes the gateway and says why.
func (g *Gateway) fail(err error) {
	g.mu.Lock()
	if !g.closed && g.err == nil {
		g.err = err
	}
	g.mu.Unlock()
	g.shut()
}

// shut begins the end of everything, without waiting for it.
func (g *Gateway) shut() {
	g.closeOnce.Do(func() {
		g.mu.Lock()
		g.closed = true
		g.mu.Unlock()
		g.cancel()
		g.link.Close()
		g.flows.closeAll()
	})
}

// Close ends every connection and returns when all goroutines have ended.
func (g *Gateway) Close() error {
	g.shut()
	<-g.done
	return g.Err()
}

// Done is closed when the gateway has ended, by Close or because it failed.
func (g *Gateway) Done() <-chan struct{} { return g.done }

// Err returns why the gateway ended by itself; nil if it did not.
func (g *Gateway) Err() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.err == nil {
		return nil
	}
	return &boxlite.Error{Op: "carry traffic", Kind: boxlite.Network, Ref: string(g.cfg.Box), Err: g.err}
}

// Policy returns the policy in force.
func (g *Gateway) Policy() *policy.Policy { return g.policy.Load() }

// SetPolicy puts another policy in force and ends the connections that it does
// not allow, before it returns.
func (g *Gateway) SetPolicy(p *policy.Policy) {
	g.policy.Store(p)
	g.flows.revoke(func(f *flow) bool { return f.decide(p).Allow })
}

// connectRate returns a limiter; a rate of zero or less is none.
func connectRate(perSecond, burst int) *rate.Limiter {
	return rate.NewLimiter(rate.Limit(perSecond), burst)
}
