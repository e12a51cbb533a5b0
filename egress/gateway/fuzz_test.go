package gateway_test

import (
	"context"
	"net/netip"
	"testing"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/boxlite-mcp/boxlite-mcp/egress/gateway"
	"github.com/boxlite-mcp/boxlite-mcp/egress/gateway/guesttest"
)

type ctx = context.Context

func always(addr string) func(ctx, string) ([]netip.Addr, error) {
	return func(ctx, string) ([]netip.Addr, error) { return []netip.Addr{netip.MustParseAddr(addr)}, nil }
}

// What passes the filter is IPv4 of the box or ARP for the gateway, whatever
// bytes there are.
func FuzzFrame(f *testing.F) {
	f.Add(guesttest.IPv4(6, gateway.BoxAddress.Addr(), netip.MustParseAddr("93.184.215.14"), guesttest.SYN(1, 2)))
	f.Add(guesttest.Frame(0x0806, arp(1, gateway.BoxAddress.Addr(), gateway.Address)))
	f.Add(guesttest.Frame(0x86dd, make([]byte, 40)))
	f.Fuzz(func(t *testing.T, frame []byte) {
		if gateway.CheckFrame(frame) != "" {
			return
		}
		ok := len(frame) >= 34 && string(frame[6:12]) == string(gateway.BoxMAC()) &&
			(frame[13] == 6 || netip.AddrFrom4([4]byte(frame[26:30])) == gateway.BoxAddress.Addr())
		if !ok || frame[12] != 8 {
			t.Errorf("%x passes", frame)
		}
	})
}

// A reply to any message is a DNS reply to it, or nothing.
func FuzzDNS(f *testing.F) {
	f.Add(guesttest.Question(f, "api.good.test", dnsmessage.TypeA))
	f.Add(guesttest.Question(f, "evil.test", dnsmessage.TypeTXT))
	reply := gateway.NewReplier(f, always("93.184.215.14"), "api.good.test", "*.good.test")
	f.Fuzz(func(t *testing.T, msg []byte) {
		out := reply(msg)
		if out == nil {
			return
		}
		var m dnsmessage.Message
		if err := m.Unpack(out); err != nil || !m.Response || len(msg) < 2 || out[0] != msg[0] || out[1] != msg[1] {
			t.Errorf("%x: %v", out, err)
		}
	})
}

// A greeting is read, or it is not; what is returned is a prefix of what was
// sent.
func FuzzHello(f *testing.F) {
	f.Add(hello(f, "api.good.test"))
	f.Add(split(hello(f, "api.good.test")))
	f.Add(withTwoNames(f))
	f.Fuzz(func(t *testing.T, sent []byte) {
		if len(sent) == 0 {
			return
		}
		raw, sni, err := gateway.ReadHello(sent)
		if len(raw) > len(sent) || string(raw) != string(sent[:len(raw)]) {
			t.Errorf("%x was read from %x", raw, sent)
		}
		if err != nil && sni != "" {
			t.Errorf("%q and %v", sni, err)
		}
	})
}
