package gateway_test

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/egress"
	"github.com/boxlite-mcp/boxlite-mcp/egress/gateway"
	"github.com/boxlite-mcp/boxlite-mcp/egress/gateway/guesttest"
)

// hello returns the bytes of a TLS greeting for a name, "" for none.
func hello(t testing.TB, name string, edit ...func(*tls.Config)) []byte {
	t.Helper()
	var raw bytes.Buffer
	cfg := &tls.Config{ServerName: name, InsecureSkipVerify: true}
	for _, f := range edit {
		f(cfg)
	}
	_ = tls.Client(capture{&raw}, cfg).Handshake()
	return raw.Bytes()
}

// capture is a connection of which only what is written matters.
type capture struct{ *bytes.Buffer }

func (capture) Read([]byte) (int, error)         { return 0, io.EOF }
func (capture) Close() error                     { return nil }
func (capture) LocalAddr() net.Addr              { return nil }
func (capture) RemoteAddr() net.Addr             { return nil }
func (capture) SetDeadline(time.Time) error      { return nil }
func (capture) SetReadDeadline(time.Time) error  { return nil }
func (capture) SetWriteDeadline(time.Time) error { return nil }

// withECH returns a greeting with an encrypted one inside, as far as a gateway
// can tell.
func withECH(t testing.TB, outer string) []byte {
	t.Helper()
	h := hello(t, outer)
	const encryptedClientHello = 0xfe0d
	ext := binary.BigEndian.AppendUint16(nil, encryptedClientHello)
	body := append([]byte{0, 0, 1, 0, 1, 7, 0, 32}, make([]byte, 32)...)
	body = append(append(body, 0, 200), bytes.Repeat([]byte{0x5a}, 200)...)
	ext = append(binary.BigEndian.AppendUint16(ext, uint16(len(body))), body...)
	out := append(append([]byte(nil), h...), ext...)
	growHello(out, len(ext))
	return out
}

// growHello adds to the lengths of a greeting's record, message and extensions.
func growHello(out []byte, by int) {
	grow(out, 3, 2, by)
	grow(out, 6, 3, by)
	at := 43 + 1 + int(out[43])
	at += 2 + int(binary.BigEndian.Uint16(out[at:]))
	at += 1 + int(out[at])
	grow(out, at, 2, by)
}

// grow adds to a number of some bytes.
func grow(out []byte, at, size, by int) {
	v := uint32(0)
	for _, b := range out[at : at+size] {
		v = v<<8 | uint32(b)
	}
	v += uint32(by)
	for k := range size {
		out[at+size-1-k] = byte(v >> (8 * k))
	}
}

// withTwoNames returns a greeting whose server_name extension has two names.
func withTwoNames(t testing.TB) []byte {
	t.Helper()
	h := hello(t, "api.good.test")
	i := bytes.Index(h, []byte("api.good.test"))
	second := append([]byte{0, 0, 13}, "api.evil.test"...)
	out := append(append(append([]byte(nil), h[:i+13]...), second...), h[i+13:]...)
	grow(out, i-5, 2, len(second)) // the list
	grow(out, i-7, 2, len(second)) // the extension
	growHello(out, len(second))
	return out
}

// Each row sends something on a connection to api.good.test:443, which the box
// may open. Nothing of what is refused reaches the host.
func TestAttacksOnGreeting(t *testing.T) {
	good := hello(t, "api.good.test")
	long := append([]byte{0x16, 3, 1, 0x40, 0, 1, 0, 0xff, 0xff}, bytes.Repeat([]byte{0}, 0x4000-4)...)
	for _, c := range []struct {
		name string
		send []byte
		code string // "": it passes
	}{
		{"the name that was looked up", good, ""},
		{"A15 another case", hello(t, "API.good.TEST"), ""},
		{"F7 one record a byte pair", split(good), ""},
		{"A1 another name", hello(t, "evil.test"), egress.CodeSNI},
		{"A17 a name below", hello(t, "x.api.good.test"), egress.CodeSNI},
		{"A17 the name as a suffix", hello(t, "evilapi.good.test"), egress.CodeSNI},
		{"A11 no name", hello(t, ""), egress.CodeSNI},
		{"A11 an address", hello(t, "127.0.0.1"), egress.CodeSNI},
		{"A12 an encrypted greeting, and the right name outside", withECH(t, "api.good.test"), ""},
		{"A12 an encrypted greeting, and another name outside", withECH(t, "evil.test"), egress.CodeSNI},
		{"A14 two names", withTwoNames(t), egress.CodeProtocol},
		{"A16 another script", hello(t, "xn--pi-7cd.good.test"), egress.CodeSNI},
		{"A22 a NUL in the name", bytes.Replace(good, []byte("api.good.test"), []byte("api\x00good.test"), 1), egress.CodeSNI},
		{"A20 like TLS and not TLS", append([]byte{0x16}, "GET / HTTP/1.1\r\n\r\n                       "...), egress.CodeProtocol},
		{"a greeting without an end", long, egress.CodeProtocol},
	} {
		t.Run(c.name, func(t *testing.T) {
			up := newUpstream(t)
			w := newWorld(t, []string{"api.good.test:443"}, []string{"api.good.test=" + up.addr.String()})
			conn, err := w.guest.DialName("api.good.test", 443)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			conn.Write(c.send)
			if c.name == "a greeting without an end" {
				for range 5 { // and on
					conn.Write(c.send)
				}
			}
			conn.(interface{ CloseWrite() error }).CloseWrite()
			io.ReadAll(conn)
			e := w.await("the connection", func(e boxlite.NetworkEvent) bool { return e.Kind == boxlite.NetConnect && !e.Open })
			if c.code != "" {
				if e.Code != c.code || e.Allowed || up.received() != "" {
					t.Errorf("%+v; the host was sent %d bytes", e, len(up.received()))
				}
			} else if !e.Allowed || up.received() != string(c.send) {
				t.Errorf("%+v; the host was sent %d bytes of %d", e, len(up.received()), len(c.send))
			}
		})
	}
}

// split returns the greeting in records of two bytes.
func split(h []byte) []byte {
	var out []byte
	for rest := h[5:]; len(rest) > 0; {
		n := min(2, len(rest))
		out = append(out, h[0], h[1], h[2], 0, byte(n))
		out = append(out, rest[:n]...)
		rest = rest[n:]
	}
	return out
}

// Each row is a destination that the box tries by itself.
func TestAttacksOnDestination(t *testing.T) {
	canary := newUpstream(t)
	lan := "10.1.2.3"
	w := newWorld(t, []string{"api.good.test:443", "udp/dns.good.test:53", "0.0.0.0/0:80"}, []string{"api.good.test=" + canary.addr.String()})
	synthetic, err := w.guest.Lookup("api.good.test")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, to string
		code     string
	}{
		{"A1 an address that the name might have", "93.184.215.14:443", "wrong_port"},
		{"A19 another port", netip.AddrPortFrom(synthetic, 8443).String(), "wrong_port"},
		{"B5 metadata", "169.254.169.254:80", "metadata"},
		{"B5 metadata of Alibaba", "100.100.100.200:80", "metadata"},
		{"B5 metadata of Azure", "168.63.129.16:80", "metadata"},
		{"B7 the gateway's ports", "198.19.255.1:80", "box_subnet"},
		{"B7 DNS over TLS at the gateway", "198.19.255.1:853", "box_subnet"},
		{"B12 another host of the LAN", lan + ":80", "special_address"},
		{"B12 another box", "198.19.1.1:80", "box_subnet"},
		{"a synthetic address of nobody", "198.18.77.77:443", egress.CodeNoName},
		{"C3 DNS elsewhere", "8.8.8.8:53", "wrong_port"},
		{"C3 DNS over TLS elsewhere", "1.1.1.1:853", "wrong_port"},
		{"link-local", "169.254.1.1:80", "link_local"},
		{"this network", "0.0.0.1:80", "reserved_address"},
		{"reserved", "240.0.0.1:80", "reserved_address"},
	} {
		t.Run(c.name, func(t *testing.T) {
			conn, err := w.guest.Dial(netip.MustParseAddrPort(c.to))
			if err == nil {
				conn.Close()
				t.Fatal("connected")
			}
			if strings.Contains(err.Error(), "timed out") || strings.Contains(err.Error(), "deadline") {
				t.Errorf("not reset but %v", err)
			}
			w.await(c.code, func(e boxlite.NetworkEvent) bool {
				return e.Kind == boxlite.NetConnect && !e.Allowed && e.Code == c.code && e.Port == netip.MustParseAddrPort(c.to).Port()
			})
		})
	}
	if n := canary.connections(); n != 0 {
		t.Errorf("%d connections reached the host", n)
	}
}

// B3, B8, F12: a name that resolves to what the box must not reach.
func TestAttacksByResolution(t *testing.T) {
	canary := newUpstream(t)
	for _, addr := range []string{"127.0.0.1", "10.0.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "198.18.0.5", "0.0.0.0", "192.0.2.1", "224.0.0.1", "255.255.255.255"} {
		t.Run(addr, func(t *testing.T) {
			w := newWorld(t, []string{"*"}, nil, func(c *gateway.Config) { c.Resolve = always(addr) })
			conn, err := w.guest.DialName("rebind.evil.test", canary.addr.Port())
			if err == nil {
				conn.Close()
				t.Fatal("connected")
			}
			w.await("the refusal", func(e boxlite.NetworkEvent) bool { return e.Kind == boxlite.NetConnect && !e.Allowed })
		})
	}
	if n := canary.connections(); n != 0 {
		t.Errorf("%d connections reached the host", n)
	}
}

// B4: what a name resolves to is asked for each connection, and what is refused
// once does not stay refused, nor the other way round.
func TestFlappingName(t *testing.T) {
	up := newUpstream(t)
	answers := make(chan string, 1)
	w := newWorld(t, []string{"flap.test:" + fmt.Sprint(up.addr.Port()), up.addr.String()}, nil, func(c *gateway.Config) {
		c.Resolve = func(ctx ctx, name string) ([]netip.Addr, error) {
			select {
			case a := <-answers:
				return always(a)(ctx, name)
			default:
				return always("93.184.215.14")(ctx, name)
			}
		}
	})
	addr, err := w.guest.Lookup("flap.test")
	if err != nil {
		t.Fatal(err)
	}
	answers <- "127.0.0.1" // an address rule opens it, and a name does not lead there
	if c, err := w.guest.Dial(netip.AddrPortFrom(addr, up.addr.Port())); err == nil {
		c.Close()
		t.Fatal("rebound to loopback")
	}
	if e := w.awaitCode("special_address"); e.Host != "flap.test" {
		t.Errorf("%+v", e)
	}
	if up.connections() != 0 {
		t.Error("the host was reached")
	}
}

// D: frames that no stack sends. None of them is answered, and the gateway lives
// on.
func TestAttacksByFrame(t *testing.T) {
	box, gw := gateway.BoxAddress.Addr(), gateway.Address
	w := newWorld(t, []string{"*", "udp/*"}, nil)
	syn := guesttest.SYN(4000, 80)
	public := netip.MustParseAddr("93.184.215.14")
	w.guest.Lookup("nobody.test") // from here on the guest knows the gateway's MAC address
	edit := func(f []byte, change func([]byte)) []byte { change(f); return f }
	for _, c := range []struct {
		name  string
		frame []byte
	}{
		{"D2 runt", []byte{1, 2, 3}},
		{"D2 only a header", guesttest.Frame(0x0800, nil)},
		{"D2 giant", guesttest.Frame(0x0800, make([]byte, gateway.MTU+1))},
		{"D2 802.1Q", guesttest.Frame(0x8100, make([]byte, 64))},
		{"D2 QinQ", guesttest.Frame(0x88a8, make([]byte, 64))},
		{"D2 LLC", guesttest.Frame(0x0040, make([]byte, 64))},
		{"D2 LLDP", guesttest.Frame(0x88cc, make([]byte, 64))},
		{"D2 EAPOL", guesttest.Frame(0x888e, make([]byte, 64))},
		{"B10 IPv6", guesttest.Frame(0x86dd, make([]byte, 64))},
		{"A24 another MAC", edit(guesttest.IPv4(6, box, public, syn), func(f []byte) { f[11]++ })},
		{"A24 another IP address", guesttest.IPv4(6, netip.MustParseAddr("198.19.255.3"), public, syn)},
		{"A24 the gateway's address", guesttest.IPv4(6, gw, public, syn)},
		{"A24 loopback as source", guesttest.IPv4(6, netip.MustParseAddr("127.0.0.1"), public, syn)},
		{"B12 limited broadcast", guesttest.IPv4(17, box, netip.MustParseAddr("255.255.255.255"), guesttest.UDP(68, 67, make([]byte, 240)))},
		{"B12 mDNS", guesttest.IPv4(17, box, netip.MustParseAddr("224.0.0.251"), guesttest.UDP(5353, 5353, nil))},
		{"B12 SSDP", guesttest.IPv4(17, box, netip.MustParseAddr("239.255.255.250"), guesttest.UDP(1900, 1900, nil))},
		{"D6 DHCP", edit(guesttest.IPv4(17, netip.IPv4Unspecified(), netip.MustParseAddr("255.255.255.255"), guesttest.UDP(68, 67, make([]byte, 240))), func(f []byte) { copy(f, "\xff\xff\xff\xff\xff\xff") })},
		{"C11 echo to the Internet", guesttest.IPv4(1, box, public, []byte{8, 0, 0xf7, 0xff, 0, 0, 0, 0})},
		{"C11 timestamp to the gateway", guesttest.IPv4(1, box, gw, []byte{13, 0, 0xf2, 0xff, 0, 0, 0, 0})},
		{"C11 redirect", guesttest.IPv4(1, box, gw, []byte{5, 0, 0xfa, 0xff, 0, 0, 0, 0})},
		{"C13 SCTP", guesttest.IPv4(132, box, public, make([]byte, 32))},
		{"C13 IGMP", guesttest.IPv4(2, box, netip.MustParseAddr("224.0.0.1"), make([]byte, 8))},
		{"C13 VRRP", guesttest.IPv4(112, box, gw, make([]byte, 20))},
		{"a fragment", edit(guesttest.IPv4(6, box, public, syn), func(f []byte) { f[14+6] = 0x20 })},
		{"options", edit(guesttest.IPv4(6, box, public, syn), func(f []byte) { f[14] = 0x46 })},
		{"a length that lies", edit(guesttest.IPv4(6, box, public, syn), func(f []byte) { f[14+2] = 0x7f })},
		{"ARP for another address", guesttest.Frame(0x0806, arp(1, box, netip.MustParseAddr("198.19.255.9")))},
		{"ARP with another address", guesttest.Frame(0x0806, arp(1, gw, gw))},
		{"ARP reply", guesttest.Frame(0x0806, arp(2, box, gw))},
		{"B9 the host's loopback", guesttest.IPv4(6, box, netip.MustParseAddr("127.0.0.1"), syn)},
		{"UDP to the gateway", guesttest.IPv4(17, box, gw, guesttest.UDP(1, 9, []byte("x")))},
	} {
		t.Run(c.name, func(t *testing.T) {
			w.guest.Frames()
			w.guest.Send(c.frame)
			if err := w.gw.Err(); err != nil {
				t.Fatal(err)
			}
			// Frames are answered in their order, so once this is, the other will
			// not be any more.
			if _, err := w.guest.Ask(guesttest.Question(t, "nobody.test", dnsmessage.TypeA)); err != nil {
				t.Fatal(err)
			}
			for _, f := range w.guest.Frames() {
				if !isDNS(f) {
					t.Errorf("answered by %s", hex.EncodeToString(f[:min(len(f), 60)]))
				}
			}
		})
	}
	w.awaitCode(egress.CodeFrame)
	if w.gw.Err() != nil {
		t.Error(w.gw.Err())
	}
}

func isDNS(f []byte) bool {
	return len(f) > 36 && f[12] == 8 && f[13] == 0 && f[23] == 17 && binary.BigEndian.Uint16(f[34:]) == 53
}

func arp(op byte, sender, target netip.Addr) []byte {
	p := []byte{0, 1, 8, 0, 6, 4, 0, op}
	s, d := sender.As4(), target.As4()
	p = append(append(p, gateway.BoxMAC()...), s[:]...)
	return append(append(p, make([]byte, 6)...), d[:]...)
}

// D4: a flood of connections that are never completed stays in bounds and does
// not stop the box's own.
func TestSYNFlood(t *testing.T) {
	up := newUpstream(t)
	w := newWorld(t, []string{"api.good.test", "other.good.test"}, []string{"api.good.test=" + up.addr.String(), "other.good.test=" + up.addr.String()},
		func(c *gateway.Config) { c.Limits.Connections = 64 })
	evil := netip.MustParseAddr("93.184.215.14")
	for i := range 20000 { // to where it may not go
		w.guest.Send(guesttest.IPv4(6, gateway.BoxAddress.Addr(), evil, guesttest.SYN(uint16(1024+i), 80)))
	}
	c, err := w.guest.DialName("api.good.test", 80)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	w.await("a gap", func(e boxlite.NetworkEvent) bool { return e.Kind == boxlite.NetGap && e.Count > 100 })
}

// C9: a flood of questions is bounded, and the host's resolver is asked little.
func TestLookupFlood(t *testing.T) {
	w := newWorld(t, []string{"*.good.test"}, nil, func(c *gateway.Config) {
		c.Resolve = always("93.184.215.14")
		c.Limits.LookupRate = 10
	})
	limited := 0
	for i := range 100 {
		if _, err := w.guest.Lookup(fmt.Sprintf("x%d.good.test", i)); err != nil && err.Error() == "RCodeServerFailure" {
			limited++
		}
	}
	if limited < 50 {
		t.Errorf("%d of 100 questions were refused", limited)
	}
	w.awaitCode(egress.CodeLimit)
}

// C2: nothing of a name that no rule is about leaves the host.
func TestDeniedNameIsNotResolved(t *testing.T) {
	w := newWorld(t, []string{"api.good.test"}, nil, func(c *gateway.Config) {
		c.Resolve = func(_ ctx, name string) ([]netip.Addr, error) {
			t.Errorf("%s was looked up", name)
			return nil, errors.New("no")
		}
	})
	for _, name := range []string{"data.api.good.test", "evil.test", "good.test", "api.good.test.evil.test"} {
		for _, kind := range []dnsmessage.Type{dnsmessage.TypeA, dnsmessage.TypeAAAA, dnsmessage.TypeTXT, dnsmessage.TypeNS, dnsmessage.TypeSRV, dnsmessage.TypeCNAME, dnsmessage.TypeALL, 10} {
			reply, err := w.guest.Ask(guesttest.Question(t, name, kind))
			if err != nil || reply.RCode != dnsmessage.RCodeNameError {
				t.Errorf("%s %v: %v %v", name, kind, reply.RCode, err)
			}
		}
	}
}

// An HTTP rule is not enforced by a gateway that reads no requests, so such
// connections do not pass.
func TestHTTPRuleWithoutInterceptor(t *testing.T) {
	up := newUpstream(t)
	w := newWorld(t, []string{"GET https://api.good.test/public/**"}, []string{"api.good.test=" + up.addr.String()})
	if c, err := w.guest.DialName("api.good.test", 443); err == nil {
		c.Close()
		t.Error("connected")
	}
	w.awaitCode(egress.CodeHTTPRule)
	if up.connections() != 0 {
		t.Error("the host was reached")
	}
}
