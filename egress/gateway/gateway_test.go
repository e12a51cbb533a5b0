package gateway_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/net/dns/dnsmessage"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/egress"
	"github.com/boxlite-mcp/boxlite-mcp/egress/gateway"
	"github.com/boxlite-mcp/boxlite-mcp/egress/gateway/guesttest"
	"github.com/boxlite-mcp/boxlite-mcp/egress/gateway/link"
	"github.com/boxlite-mcp/boxlite-mcp/egress/policy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A world is a gateway with a guest, and what was recorded.
type world struct {
	*testing.T
	gw    *gateway.Gateway
	guest *guesttest.Guest

	mu     sync.Mutex
	events map[uint64]boxlite.NetworkEvent // guarded by mu; by Seq
	change chan struct{}                   // guarded by mu; closed at each record
}

// newWorld returns a world for an allow_net and the operator's static entries.
func newWorld(t *testing.T, allow []string, static []string, edit ...func(*gateway.Config)) *world {
	t.Helper()
	w := &world{T: t, events: map[uint64]boxlite.NetworkEvent{}, change: make(chan struct{})}
	cfg := gateway.Config{
		Box: "testbox", Policy: newPolicy(t, allow, static), Record: w.record,
		Resolve: func(context.Context, string) ([]netip.Addr, error) {
			return nil, &net.DNSError{Err: "no such host", IsNotFound: true}
		},
	}
	for _, f := range edit {
		f(&cfg)
	}
	ours, theirs, err := link.Pair()
	if err != nil {
		t.Fatal(err)
	}
	if w.gw, err = gateway.New(cfg, ours); err != nil {
		t.Fatal(err)
	}
	w.guest = guesttest.New(t, theirs)
	t.Cleanup(func() { w.gw.Close() })
	return w
}

func newPolicy(t *testing.T, allow, static []string) *policy.Policy {
	t.Helper()
	access, err := policy.ParseAccess(allow)
	if err != nil {
		t.Fatal(err)
	}
	cfg := policy.Config{Access: access, Own: func() ([]netip.Prefix, error) { return nil, nil }, BoxNets: []netip.Prefix{gateway.BoxNet}}
	for _, s := range static {
		e, err := policy.ParseStatic(s)
		if err != nil {
			t.Fatal(err)
		}
		cfg.Static = append(cfg.Static, e)
	}
	p, err := policy.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (w *world) record(e boxlite.NetworkEvent) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events[e.Seq] = e
	close(w.change)
	w.change = make(chan struct{})
}

// await returns the record that matches, once there is one.
func (w *world) await(what string, match func(boxlite.NetworkEvent) bool) boxlite.NetworkEvent {
	w.Helper()
	timeout := time.After(10 * time.Second)
	for {
		w.mu.Lock()
		change := w.change
		for _, e := range w.events {
			if match(e) {
				w.mu.Unlock()
				return e
			}
		}
		w.mu.Unlock()
		select {
		case <-change:
		case <-timeout:
			w.mu.Lock()
			defer w.mu.Unlock()
			for seq, e := range w.events {
				if seq <= 20 {
					w.Logf("%+v", e)
				}
			}
			w.Fatalf("no record of %s; there are %d", what, len(w.events))
		}
	}
}

func (w *world) awaitCode(code string) boxlite.NetworkEvent {
	w.Helper()
	return w.await(code, func(e boxlite.NetworkEvent) bool { return e.Code == code && !e.Open })
}

// upstream listens on loopback, answers each line with "echo LINE", and tells
// what it was sent.
type upstream struct {
	addr netip.AddrPort

	mu  sync.Mutex
	got strings.Builder // guarded by mu
	n   int             // guarded by mu; connections
}

func newUpstream(t *testing.T) *upstream {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	u := &upstream{addr: netip.MustParseAddrPort(l.Addr().String())}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			u.mu.Lock()
			u.n++
			u.mu.Unlock()
			wg.Go(func() { u.serve(c) })
		}
	})
	t.Cleanup(func() { l.Close(); wg.Wait() })
	return u
}

func (u *upstream) serve(c net.Conn) {
	defer c.Close()
	r := bufio.NewReader(c)
	for {
		line, err := r.ReadString('\n')
		u.mu.Lock()
		u.got.WriteString(line)
		u.mu.Unlock()
		if err != nil {
			fmt.Fprint(c, "bye")
			return
		}
		fmt.Fprintf(c, "echo %s", line)
	}
}

func (u *upstream) received() string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.got.String()
}

func (u *upstream) connections() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.n
}

func TestNameReachesItsHost(t *testing.T) {
	up := newUpstream(t)
	w := newWorld(t, []string{"api.good.test:443"}, []string{"api.good.test=" + up.addr.String()})
	c, err := w.guest.DialName("API.Good.Test", 443) // A15: case makes no difference
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprint(c, "hello\n")
	if line, err := bufio.NewReader(c).ReadString('\n'); line != "echo hello\n" {
		t.Fatalf("%q, %v", line, err)
	}
	// Half-closed: what the host says after that still comes.
	c.(interface{ CloseWrite() error }).CloseWrite()
	if rest, err := io.ReadAll(c); string(rest) != "bye" {
		t.Fatalf("%q, %v", rest, err)
	}
	e := w.await("the connection", func(e boxlite.NetworkEvent) bool { return e.Kind == boxlite.NetConnect && !e.Open })
	if !e.Allowed || e.Host != "api.good.test" || e.Port != 443 || e.Addr != up.addr || e.Sent != 6 || e.Received != 14 || e.Rule != "api.good.test:443" || e.Box != "testbox" {
		t.Errorf("%+v", e)
	}
}

func TestLookups(t *testing.T) {
	resolve := func(_ context.Context, name string) ([]netip.Addr, error) {
		switch name {
		case "v6.good.test":
			return nil, nil
		case "broken.good.test":
			return nil, &net.DNSError{Err: "server misbehaving", IsTemporary: true}
		case "none.good.test":
			return nil, &net.DNSError{Err: "no such host", IsNotFound: true}
		}
		return []netip.Addr{netip.MustParseAddr("93.184.215.14")}, nil
	}
	w := newWorld(t, []string{"*.good.test"}, nil, func(c *gateway.Config) { c.Resolve = resolve })
	for _, c := range []struct{ name, want, code string }{
		{"a.good.test", "", "allowed"},
		{"v6.good.test", "no address", egress.CodeNotResolved},
		{"none.good.test", "RCodeNameError", egress.CodeNotResolved},
		{"broken.good.test", "RCodeServerFailure", egress.CodeNotResolved},
		{"good.test", "RCodeNameError", "no_rule"},
		{"evil.test", "RCodeNameError", "no_rule"},
		{"metadata.google.internal", "RCodeNameError", "metadata"},
		{"1.2.0.192.in-addr.arpa", "RCodeNameError", "special_name"},
		{"bad_name.good.test", "RCodeNameError", "bad_name"},
	} {
		addr, err := w.guest.Lookup(c.name)
		got := ""
		if err != nil {
			got = err.Error()
		} else if !netip.MustParsePrefix("198.18.0.0/16").Contains(addr) {
			t.Errorf("%s is %s", c.name, addr)
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
		w.await(c.name, func(e boxlite.NetworkEvent) bool {
			return e.Kind == boxlite.NetLookup && e.Host == c.name && e.Code == c.code
		})
	}
	a, _ := w.guest.Lookup("a.good.test")
	b, _ := w.guest.Lookup("b.good.test")
	if again, _ := w.guest.Lookup("a.good.test"); a == b || again != a {
		t.Errorf("a is %s and then %s, b is %s", a, again, b)
	}
	for _, kind := range []dnsmessage.Type{dnsmessage.TypeAAAA, dnsmessage.TypeTXT, dnsmessage.TypeMX, dnsmessage.TypeHTTPS, dnsmessage.TypeALL} {
		reply, err := w.guest.Ask(guesttest.Question(t, "a.good.test", kind))
		if err != nil || reply.RCode != dnsmessage.RCodeSuccess || len(reply.Answers) != 0 {
			t.Errorf("%v: %v %v", kind, reply, err)
		}
	}
}

func TestLookupOverTCP(t *testing.T) {
	w := newWorld(t, []string{"api.good.test"}, []string{"api.good.test=127.0.0.1:1"})
	c, err := w.guest.Dial(netip.AddrPortFrom(gateway.Address, 53))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	q := guesttest.Question(t, "api.good.test", dnsmessage.TypeA)
	c.Write(append([]byte{0, byte(len(q))}, q...))
	buf := make([]byte, 512)
	n, err := c.Read(buf)
	var m dnsmessage.Message
	if err != nil || m.Unpack(buf[2:n]) != nil || len(m.Answers) != 1 {
		t.Fatalf("%v %v", m, err)
	}
}

func TestUDP(t *testing.T) {
	pc, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		buf := make([]byte, 2000)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			pc.WriteTo(append([]byte("echo "), buf[:n]...), from)
		}
	}()
	t.Cleanup(func() { pc.Close(); <-served })
	w := newWorld(t, []string{"udp/time.good.test:123", "tcp.good.test"}, []string{"time.good.test=" + pc.LocalAddr().String(), "tcp.good.test=127.0.0.1:1"})
	addr, err := w.guest.Lookup("time.good.test")
	if err != nil {
		t.Fatal(err)
	}
	c, err := w.guest.DialUDP(netip.AddrPortFrom(addr, 123))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	buf := make([]byte, 2000)
	for i := range 3 {
		fmt.Fprintf(c, "tick %d", i)
		c.SetReadDeadline(time.Now().Add(5 * time.Second))
		n, err := c.Read(buf)
		if want := fmt.Sprintf("echo tick %d", i); string(buf[:n]) != want {
			t.Fatalf("%q, %v", buf[:n], err)
		}
	}
	w.await("the flow", func(e boxlite.NetworkEvent) bool { return e.Kind == boxlite.NetFlow && e.Allowed && e.Open })

	addr, err = w.guest.Lookup("tcp.good.test")
	if err != nil {
		t.Fatal(err)
	}
	no, _ := w.guest.DialUDP(netip.AddrPortFrom(addr, 443))
	defer no.Close()
	fmt.Fprint(no, "quic?")
	w.awaitCode("wrong_protocol")
}

func TestTLSIsSpliced(t *testing.T) {
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "%s over %s", r.Host, r.Proto) }))
	srv.EnableHTTP2 = true
	srv.StartTLS()
	defer srv.Close()
	w := newWorld(t, []string{"example.com:443"}, []string{"example.com=" + srv.Listener.Addr().String()})
	pool := x509.NewCertPool()
	pool.AddCert(srv.Certificate())
	client := &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true,
		DialContext: func(_ context.Context, _, addr string) (net.Conn, error) {
			host, _, _ := net.SplitHostPort(addr)
			return w.guest.DialName(host, 443)
		},
	}}
	defer client.CloseIdleConnections()
	resp, err := client.Get("https://example.com/")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, _ := io.ReadAll(resp.Body); string(body) != "example.com over HTTP/2.0" {
		t.Errorf("%q", body)
	}
}

// A host that is allowed and does not answer is not reset at once: the box sees
// what it would see without us.
func TestUnreachableIsRefused(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close() // nobody listens there now
	w := newWorld(t, []string{"api.good.test"}, []string{"api.good.test=" + l.Addr().String()})
	if c, err := w.guest.DialName("api.good.test", 80); err == nil {
		c.Close()
		t.Fatal("connected to nobody")
	}
	if e := w.awaitCode(egress.CodeUnreachable); !e.Allowed || !strings.Contains(e.Reason, "refused") {
		t.Errorf("%+v", e)
	}
}

func TestNarrowedPolicyEndsConnections(t *testing.T) {
	up := newUpstream(t)
	static := []string{"a.good.test=" + up.addr.String(), "b.good.test=" + up.addr.String()}
	w := newWorld(t, []string{"*.good.test"}, static)
	a, err := w.guest.DialName("a.good.test", 80)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	b, err := w.guest.DialName("b.good.test", 80)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	ra, rb := bufio.NewReader(a), bufio.NewReader(b)
	for _, c := range []struct {
		w io.Writer
		r *bufio.Reader
	}{{a, ra}, {b, rb}} {
		fmt.Fprint(c.w, "one\n")
		if _, err := c.r.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
	w.gw.SetPolicy(newPolicy(t, []string{"b.good.test"}, static))
	a.SetReadDeadline(time.Now().Add(time.Second))
	if _, err := ra.ReadByte(); err == nil || strings.Contains(err.Error(), "timeout") {
		t.Errorf("the connection goes on: %v", err)
	}
	fmt.Fprint(b, "two\n")
	if line, err := rb.ReadString('\n'); line != "echo two\n" {
		t.Errorf("%q, %v", line, err)
	}
	if e := w.awaitCode(egress.CodeRevoked); e.Host != "a.good.test" || e.Allowed {
		t.Errorf("%+v", e)
	}
	if _, err := w.guest.Lookup("a.good.test"); err == nil {
		t.Error("a.good.test still resolves")
	}
}

func TestBudgets(t *testing.T) {
	up := newUpstream(t)
	static := []string{"api.good.test=" + up.addr.String()}
	w := newWorld(t, []string{"api.good.test"}, static, func(c *gateway.Config) { c.Limits = gateway.Limits{Connections: 2, Sent: 100} })
	var open []net.Conn
	for range 2 {
		c, err := w.guest.DialName("api.good.test", 80)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		open = append(open, c)
	}
	if c, err := w.guest.DialName("api.good.test", 80); err == nil {
		c.Close()
		t.Error("a third connection was made")
	}
	w.awaitCode(egress.CodeLimit)
	for range 100 {
		if _, err := fmt.Fprint(open[0], strings.Repeat("x", 99), "\n"); err != nil {
			break
		}
	}
	w.await("the bytes", func(e boxlite.NetworkEvent) bool {
		return e.Code == egress.CodeLimit && strings.Contains(e.Reason, "bytes") && !e.Open
	})
	open[0].Close()
	for began := time.Now(); len(up.received()) != 100; {
		if time.Since(began) > 5*time.Second {
			t.Fatalf("the host was sent %d bytes", len(up.received()))
		}
		time.Sleep(time.Millisecond)
	}
}

// What the gateway does when its own code fails is to take the network away.
func TestPanicFailsClosed(t *testing.T) {
	up := newUpstream(t)
	w := newWorld(t, []string{"*.good.test"}, []string{"a.good.test=" + up.addr.String()}, func(c *gateway.Config) {
		c.Resolve = func(context.Context, string) ([]netip.Addr, error) { panic("boom") }
	})
	c, err := w.guest.DialName("a.good.test", 80)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	go w.guest.Lookup("b.good.test")
	select {
	case <-w.gw.Done():
	case <-time.After(5 * time.Second):
		t.Fatal("the gateway goes on")
	}
	if err := w.gw.Err(); err == nil || !strings.Contains(err.Error(), "boom") {
		t.Errorf("%v", err)
	}
}

func TestCloseEndsEverything(t *testing.T) {
	up := newUpstream(t)
	w := newWorld(t, []string{"*"}, []string{"a.good.test=" + up.addr.String()})
	for range 20 {
		c, err := w.guest.DialName("a.good.test", 80)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	for i := range 200 { // half-open connections
		w.guest.Send(guesttest.IPv4(6, gateway.BoxAddress.Addr(), netip.MustParseAddr("198.18.0.1"), guesttest.SYN(uint16(10000+i), 80)))
	}
	began := time.Now()
	w.gw.Close()
	if d := time.Since(began); d > 3*time.Second {
		t.Errorf("Close took %v", d)
	}
}
