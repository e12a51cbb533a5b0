package policy_test

import (
	"encoding/json"
	"errors"
	"net/netip"
	"strings"
	"testing"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/egress/policy"
)

// config is of a host at 203.0.113.9 (public, as far as the test goes: on no
// list) and 192.168.1.5.
func config(a policy.Access) policy.Config {
	return policy.Config{
		Access: a,
		Own: func() ([]netip.Prefix, error) {
			return []netip.Prefix{
				netip.MustParsePrefix("127.0.0.1/8"), netip.MustParsePrefix("::1/128"),
				netip.MustParsePrefix("192.168.1.5/24"), netip.MustParsePrefix("93.1.1.5/31"),
			}, nil
		},
		Listeners: func() []netip.AddrPort {
			return []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:7777"), netip.MustParseAddrPort("[::]:8888")}
		},
		BoxNets: []netip.Prefix{netip.MustParsePrefix("10.99.0.0/16"), netip.MustParsePrefix("198.19.0.0/16")},
	}
}

func newPolicy(t testing.TB, change func(*policy.Config), allow ...string) *policy.Policy {
	t.Helper()
	a, err := policy.ParseAccess(allow)
	if err != nil {
		t.Fatal(err, boxlite.HintOf(err))
	}
	cfg := config(a)
	if change != nil {
		change(&cfg)
	}
	p, err := policy.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func static(t testing.TB, list ...string) func(*policy.Config) {
	t.Helper()
	return func(cfg *policy.Config) {
		for _, s := range list {
			e, err := policy.ParseStatic(s)
			if err != nil {
				t.Fatal(err)
			}
			cfg.Static = append(cfg.Static, e)
		}
	}
}

// A verdict is what a test expects of a destination.
type verdict struct {
	attack string // the row of the catalogue of attacks, or ""
	dest   string // as for check
	code   policy.Code
}

// check compares verdicts. A destination is "[udp/]host:port", where the host
// may be an address, or "host:port>address:port", which is a name that is about
// to be dialled at that address.
func check(t *testing.T, p *policy.Policy, verdicts []verdict) {
	t.Helper()
	for _, v := range verdicts {
		dest, proto := v.dest, policy.TCP
		if rest, ok := strings.CutPrefix(dest, "udp/"); ok {
			dest, proto = rest, policy.UDP
		}
		dest, to, resolved := strings.Cut(dest, ">")
		colon := strings.LastIndex(dest, ":")
		host := dest[:colon]
		port := netip.MustParseAddrPort("0.0.0.0" + dest[colon:]).Port()
		var d policy.Decision
		if a, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil && !resolved {
			d = p.DecideAddr(proto, a, port)
			if byName := p.DecideName(proto, a.String(), port); byName != d {
				t.Errorf("%s %s: as a name %v, as an address %v", v.attack, v.dest, byName, d)
			}
		} else if resolved {
			d = p.DecideResolved(proto, host, port, netip.MustParseAddrPort(to))
		} else {
			d = p.DecideName(proto, host, port)
		}
		if d.Code != v.code || d.Allow != (v.code == policy.Allowed) || d.Allow && d.Rule == "" {
			t.Errorf("%s %s: %+v, want %v", v.attack, v.dest, d, v.code)
		}
		if d.Reason == "" || len(d.Reason) > 400 || strings.ContainsFunc(d.Reason, func(r rune) bool { return r < ' ' || r > '~' }) {
			t.Errorf("%s %s: the reason is not one line of ASCII: %q", v.attack, v.dest, d.Reason)
		}
	}
}

// The box of the catalogue: one host, one port.
func TestOneHost(t *testing.T) {
	check(t, newPolicy(t, nil, "api.good.test:443"), []verdict{
		{"", "api.good.test:443", policy.Allowed},
		{"", "api.good.test:443>93.184.216.34:443", policy.Allowed},
		{"A1 address instead of the name", "93.184.216.34:443", policy.NoRule},
		{"A11 no SNI, address not allowed", "203.0.114.1:443", policy.NoRule},
		{"A12 outer SNI", "cloudflare-ech.test:443", policy.NoRule},
		{"A15 trailing dot", "api.good.test.:443", policy.Allowed},
		{"A15 mixed case", "API.Good.Test:443", policy.Allowed},
		{"A15 two dots", "api.good.test..:443", policy.BadName},
		{"A16 full-width dots", "api．good．test:443", policy.BadName},
		{"A16 full-width letters", "ａpi.good.test:443", policy.BadName},
		{"A16 cyrillic a", "аpi.good.test:443", policy.BadName},
		{"A16 A-label of cyrillic a", "xn--pi-6kc.good.test:443", policy.NoRule},
		{"A16 underscore", "a_i.good.test:443", policy.BadName},
		{"A16 empty A-label", "xn--api-.good.test:443", policy.BadName},
		{"A16 soft hyphen", "api\u00ad.good.test:443", policy.BadName},
		{"A19 other port", "api.good.test:8443", policy.WrongPort},
		{"A19 port 80", "api.good.test:80", policy.WrongPort},
		{"A22 NUL in the name", "evil\x00.good.test:443", policy.BadName},
		{"A22 NUL behind the name", "api.good.test\x00.evil.test:443", policy.BadName},
		{"A28 redirect", "evil.test:443", policy.NoRule},
		{"C2 below an exact rule", "data.api.good.test:443", policy.NoRule},
		{"C3 DNS over TCP", "8.8.8.8:53", policy.NoRule},
		{"C3 DNS over UDP", "udp/8.8.8.8:53", policy.NoRule},
		{"C3 DNS over TLS", "8.8.8.8:853", policy.NoRule},
		{"C3 DNS over HTTPS", "1.1.1.1:443", policy.NoRule},
		{"C3 DNS over HTTPS", "dns.google:443", policy.NoRule},
		{"C10 QUIC to the host", "udp/api.good.test:443", policy.WrongProtocol},
		{"C10 QUIC to an address", "udp/93.184.216.34:443", policy.NoRule},
		{"C14 NTP", "udp/pool.ntp.test:123", policy.NoRule},
		{"port of the guest is not the one dialled", "api.good.test:443>93.184.216.34:22", policy.OtherAddress},
		{"a name with blanks", "api.good.test :443", policy.BadName},
		{"a name with an end of line", "api.good.test\r\nX-Evil: 1:443", policy.BadName},
		{"escape sequences", "\x1b[2J.good.test:443", policy.BadName},
		{"a number for a name", "2130706433:443", policy.BadName},
		{"an octal address", "0177.0.0.1:443", policy.BadName},
		{"a very long name", strings.Repeat("ü", 1<<20) + ".test:443", policy.BadName},
		{"a long name", strings.Repeat("x.", 400) + "good.test:443", policy.BadName},
	})
}

func TestWildcard(t *testing.T) {
	check(t, newPolicy(t, nil, "*.good.test:443"), []verdict{
		{"A17", "a.good.test:443", policy.Allowed},
		{"A17 any depth", "a.b.c.good.test:443", policy.Allowed},
		{"A17 not the apex", "good.test:443", policy.NoRule},
		{"A17 suffix", "a.good.test.evil:443", policy.NoRule},
		{"A17 no dot", "evilgood.test:443", policy.NoRule},
		{"A17 asterisk", "*.good.test:443", policy.BadName},
		{"B8 resolves to loopback", "localhost.good.test:443>127.0.0.1:443", policy.SpecialAddress},
	})
}

// DNS answers give no access to special ranges, whatever addresses are allowed.
func TestResolvedAddresses(t *testing.T) {
	p := newPolicy(t, nil, "api.good.test:443", "10.0.0.0/8", "127.0.0.0/8", "0.0.0.0/0", "192.0.2.0/24")
	check(t, p, []verdict{
		{"B3 private", "api.good.test:443>10.1.2.3:443", policy.SpecialAddress},
		{"B3 private", "api.good.test:443>172.16.0.1:443", policy.SpecialAddress},
		{"B3 private", "api.good.test:443>192.168.7.1:443", policy.SpecialAddress},
		{"B3 shared", "api.good.test:443>100.64.0.1:443", policy.SpecialAddress},
		{"B3 documentation", "api.good.test:443>192.0.2.1:443", policy.SpecialAddress},
		{"B3 benchmarks", "api.good.test:443>198.18.0.1:443", policy.SpecialAddress},
		{"B4 flapping, first", "api.good.test:443>93.184.216.34:443", policy.Allowed},
		{"B4 flapping, second", "api.good.test:443>127.0.0.1:443", policy.SpecialAddress},
		{"B4 flapping, third", "api.good.test:443>93.184.216.34:443", policy.Allowed},
		{"B5", "api.good.test:443>169.254.169.254:443", policy.Metadata},
		{"B5", "api.good.test:443>100.100.100.200:443", policy.Metadata},
		{"B5", "api.good.test:443>168.63.129.16:443", policy.Metadata},
		{"B5", "api.good.test:443>[fd00:ec2::254]:443", policy.Metadata},
		{"B5 mapped", "api.good.test:443>[::ffff:169.254.169.254]:443", policy.IPv6},
		{"B7 box network", "api.good.test:443>10.99.0.1:443", policy.BoxSubnet},
		{"B9 host", "api.good.test:443>192.168.1.5:443", policy.HostAddress},
		{"B9 host", "api.good.test:443>93.1.1.5:443", policy.HostAddress},
		{"B10 mapped", "api.good.test:443>[::ffff:93.184.216.34]:443", policy.IPv6},
		{"B10 NAT64", "api.good.test:443>[64:ff9b::5db8:d822]:443", policy.IPv6},
		{"B10 6to4", "api.good.test:443>[2002:5db8:d822::1]:443", policy.IPv6},
		{"B10 Teredo", "api.good.test:443>[2001::1]:443", policy.IPv6},
		{"B11 only AAAA", "api.good.test:443>[2606:2800::1]:443", policy.IPv6},
		{"B12 multicast", "api.good.test:443>224.0.0.251:443", policy.Reserved},
		{"unspecified", "api.good.test:443>0.0.0.0:443", policy.Reserved},
		{"name not allowed", "evil.test:443>93.184.216.34:443", policy.NoRule},
		{"an address for a name", "93.184.216.34:443>93.184.216.34:443", policy.Allowed},
		{"an address that turns into another", "93.184.216.34:443>93.184.216.35:443", policy.OtherAddress},
		{"an address that turns into another", "10.1.1.1:443>10.1.1.2:443", policy.OtherAddress},
	})
}

// B5, B7, B9, B12: holes in every list.
func TestNeverReached(t *testing.T) {
	for _, allow := range [][]string{nil, {"*", "udp/*"}, {"0.0.0.0/0", "udp/0.0.0.0/0", "10.0.0.0/8", "192.168.0.0/16", "127.0.0.0/8:1-65535", "udp/192.168.0.0/16", "198.18.0.0/15", "*"}} {
		check(t, newPolicy(t, nil, allow...), []verdict{
			{"B5", "169.254.169.254:80", policy.Metadata},
			{"B5", "169.254.170.2:80", policy.Metadata},
			{"B5", "100.100.100.200:80", policy.Metadata},
			{"B5", "168.63.129.16:80", policy.Metadata},
			{"B5", "192.0.0.192:80", policy.Metadata},
			{"B5", "[fd00:ec2::254]:80", policy.Metadata},
			{"B5", "metadata.google.internal:80", policy.Metadata},
			{"B5", "METADATA.google.internal.:80", policy.Metadata},
			{"B5", "x.metadata.google.internal:80", policy.Metadata},
			{"B5", "metadata:80", policy.Metadata},
			{"link-local", "169.254.3.4:80", policy.LinkLocal},
			{"link-local", "[fe80::1]:80", policy.LinkLocal},
			{"B7 gateway", "10.99.0.1:22", policy.BoxSubnet},
			{"B7 synthetic address of no name", "198.19.3.4:443", policy.BoxSubnet},
			{"B8", "localhost:80", policy.SpecialName},
			{"B8", "a.localhost:80", policy.SpecialName},
			{"B9 listener on loopback", "127.0.0.1:7777", policy.Listener},
			{"B9 listener everywhere", "127.0.0.1:8888", policy.Listener},
			{"B9 listener everywhere", "127.3.2.1:8888", policy.Listener},
			{"B9 host", "192.168.1.5:9999", policy.HostAddress},
			{"B9 host", "93.1.1.5:443", policy.HostAddress},
			{"B10", "[2606:2800::1]:443", policy.IPv6},
			{"B10", "[::ffff:10.1.2.3]:443", policy.IPv6},
			{"B10", "[::1]:443", policy.IPv6},
			{"B10", "[::10.1.2.3]:443", policy.IPv6},
			{"B12 another box", "10.99.0.7:80", policy.BoxSubnet},
			{"B12 broadcast of the LAN", "udp/192.168.1.255:137", policy.Reserved},
			{"B12 network of the LAN", "udp/192.168.1.0:137", policy.Reserved},
			{"B12 broadcast", "udp/255.255.255.255:67", policy.Reserved},
			{"B12 mDNS", "udp/224.0.0.251:5353", policy.Reserved},
			{"B12 SSDP", "udp/239.255.255.250:1900", policy.Reserved},
			{"B12 LLMNR", "udp/224.0.0.252:5355", policy.Reserved},
			{"B12 a name of mDNS", "printer.local:631", policy.SpecialName},
			{"C7 reverse", "1.0.168.192.in-addr.arpa:53", policy.SpecialName},
			{"reserved", "250.1.1.1:80", policy.Reserved},
			{"unspecified", "0.0.0.0:80", policy.Reserved},
			{"unspecified", "0.0.0.1:80", policy.Reserved},
			{"unspecified", "[::]:80", policy.Reserved},
			{"6to4 relay", "192.88.99.1:80", policy.Reserved},
		})
	}
}

func TestPublicInternet(t *testing.T) {
	for _, p := range []*policy.Policy{newPolicy(t, nil), newPolicy(t, nil, "*", "udp/*"), newPolicy(t, nil, "*", "udp/*", "0.0.0.0/0", "udp/0.0.0.0/0")} {
		check(t, p, []verdict{
			{"", "anything.test:443", policy.Allowed},
			{"", "anything.test:22>93.184.216.34:22", policy.Allowed},
			{"", "93.184.216.34:443", policy.Allowed},
			{"", "udp/93.184.216.34:443", policy.Allowed},
			{"", "udp/time.test:123", policy.Allowed},
			{"C3 DNS elsewhere", "8.8.8.8:53", policy.WrongPort},
			{"C3 DNS elsewhere", "udp/8.8.8.8:53", policy.WrongPort},
			{"C3 DNS over TLS", "one.one.one.one:853", policy.WrongPort},
			{"C3 DNS over QUIC", "udp/1.1.1.1:853", policy.WrongPort},
			{"private", "10.1.2.3:443", policy.SpecialAddress},
			{"private", "172.31.2.3:443", policy.SpecialAddress},
			{"loopback", "127.0.0.1:443", policy.SpecialAddress},
			{"shared", "100.127.0.1:443", policy.SpecialAddress},
			{"benchmarks", "198.18.0.1:443", policy.SpecialAddress},
			{"documentation", "203.0.113.1:443", policy.SpecialAddress},
			{"B8", "localhost.good.test:443>127.0.0.1:443", policy.SpecialAddress},
			{"port 0", "anything.test:0", policy.WrongPort},
		})
	}
	check(t, newPolicy(t, nil, "*"), []verdict{
		{"C10 UDP must be said", "udp/anything.test:443", policy.WrongProtocol},
		{"C10 UDP must be said", "udp/93.184.216.34:9", policy.WrongProtocol},
	})
}

func TestAddressRules(t *testing.T) {
	check(t, newPolicy(t, nil, "10.1.0.0/16:5432", "127.0.0.1:6379", "93.184.0.0/16", "udp/10.0.0.53:53", "192.168.1.0/24", "11.0.0.0/8", "8.0.0.0/6"), []verdict{
		{"A11 the address itself is allowed", "93.184.216.34:443", policy.Allowed},
		{"", "10.1.2.3:5432", policy.Allowed},
		{"", "10.1.2.3:5433", policy.WrongPort},
		{"", "10.2.2.3:5432", policy.SpecialAddress},
		{"", "127.0.0.1:6379", policy.Allowed},
		{"", "127.0.0.2:6379", policy.SpecialAddress},
		{"", "udp/10.0.0.53:53", policy.Allowed},
		{"", "10.0.0.53:53", policy.WrongProtocol},
		{"", "192.168.1.7:80", policy.Allowed},
		{"the host's own address inside", "192.168.1.5:80", policy.HostAddress},
		{"a wider range opens only what is public in it", "9.1.2.3:80", policy.Allowed},
		{"a wider range opens only what is public in it", "10.3.2.3:80", policy.SpecialAddress},
		{"addresses allow no names", "anything.test:443", policy.NoRule},
	})
}

func TestStaticEntries(t *testing.T) {
	entries := static(t, "api.demo.test=127.0.0.1:8443", "db.corp:5432=10.0.0.5:15432", "mdns.local=10.0.0.6:80", "bad.corp=10.99.0.4:80", "own.corp=127.0.0.1:7777", "host.corp=192.168.1.5:80")
	check(t, newPolicy(t, entries, "*.demo.test:443", "db.corp", "mdns.local", "bad.corp", "own.corp", "host.corp"), []verdict{
		{"", "api.demo.test:443", policy.Allowed},
		{"", "api.demo.test:443>127.0.0.1:8443", policy.Allowed},
		{"exactly that", "api.demo.test:443>127.0.0.1:443", policy.StaticEntry},
		{"exactly that", "api.demo.test:443>127.0.0.2:8443", policy.StaticEntry},
		{"exactly that, no DNS", "api.demo.test:443>93.184.216.34:443", policy.StaticEntry},
		{"the list decides", "api.demo.test:80>127.0.0.1:8443", policy.WrongPort},
		{"not by address", "127.0.0.1:8443", policy.SpecialAddress},
		{"other names resolve there", "www.demo.test:443>127.0.0.1:8443", policy.OtherAddress},
		{"other names resolve there", "www.demo.test:443>127.0.0.1:443", policy.SpecialAddress},
		{"", "db.corp:5432>10.0.0.5:15432", policy.Allowed},
		{"other ports are not resolved", "db.corp:22", policy.StaticEntry},
		{"a name that is otherwise local", "mdns.local:80>10.0.0.6:80", policy.Allowed},
		{"into the box network", "bad.corp:80>10.99.0.4:80", policy.BoxSubnet},
		{"to a listener of ours", "own.corp:80>127.0.0.1:7777", policy.Listener},
		{"to the host's own address", "host.corp:80>192.168.1.5:80", policy.HostAddress},
	})
	check(t, newPolicy(t, entries, "other.test"), []verdict{{"an entry opens nothing", "api.demo.test:443", policy.NoRule}})

	p := newPolicy(t, entries)
	if to, ok := p.Static("API.demo.test.", 443); !ok || to.String() != "127.0.0.1:8443" {
		t.Errorf("static entry: %v, %v", to, ok)
	}
	if to, ok := p.Static("db.corp", 1); ok {
		t.Errorf("static entry for another port: %v", to)
	}
}

func TestParseStatic(t *testing.T) {
	for in, want := range map[string]string{"Api.Test.=127.0.0.1:80": "api.test=127.0.0.1:80", "a.test:443=10.0.0.1:80": "a.test:443=10.0.0.1:80"} {
		if s, err := policy.ParseStatic(in); err != nil || s.String() != want {
			t.Errorf("ParseStatic(%q) = %v, %v", in, s, err)
		}
	}
	for _, in := range []string{"", "a.test", "a.test=", "a.test=127.0.0.1", "a.test=127.0.0.1:0", "a.test=b.test:80", "a.test=[::1]:80", "a.test=[::ffff:127.0.0.1]:80", "=127.0.0.1:80",
		"a.test:0=127.0.0.1:80", "a.test:x=127.0.0.1:80", "*.test=127.0.0.1:80", "1.2.3.4=127.0.0.1:80", "metadata.google.internal=127.0.0.1:80", "a.test=169.254.169.254:80", "a.test=0.0.0.0:80", "localhost=127.0.0.1:80"} {
		if s, err := policy.ParseStatic(in); !errors.Is(err, boxlite.Config) || boxlite.HintOf(err) == "" {
			t.Errorf("ParseStatic(%q) = %v, %v", in, s, err)
		}
	}
}

func TestInterceptedHostsHaveNoQUIC(t *testing.T) {
	p := newPolicy(t, func(cfg *policy.Config) { cfg.Intercepts = func(name string) bool { return name == "api.good.test" } }, "*", "udp/*", "udp/93.184.0.0/16:443")
	check(t, p, []verdict{
		{"A27", "udp/API.good.test.:443", policy.QUIC},
		{"A27 by address", "udp/94.0.0.1:443", policy.QUIC},
		{"", "udp/other.test:443", policy.Allowed},
		{"", "udp/93.184.216.34:8443", policy.Allowed},
		{"", "api.good.test:443", policy.Allowed},
	})
	p = newPolicy(t, func(cfg *policy.Config) { cfg.Intercepts = func(string) bool { return true } }, "udp/93.184.0.0/16:443")
	check(t, p, []verdict{{"an address rule says so", "udp/93.184.216.34:443", policy.Allowed}})
}

func TestNameMayResolve(t *testing.T) {
	p := newPolicy(t, nil, "api.good.test:443", "*.wild.test", "udp/ntp.test:123", "0.0.0.0/0")
	for name, want := range map[string]policy.Code{
		"api.good.test": policy.Allowed, "API.good.test.": policy.Allowed, "a.wild.test": policy.Allowed, "ntp.test": policy.Allowed,
		"data.evil.test":           policy.NoRule, // C1
		"data.api.good.test":       policy.NoRule, // C2
		"wild.test":                policy.NoRule,
		"good.test":                policy.NoRule,
		"8.8.8.8.in-addr.arpa":     policy.SpecialName, // C7
		"localhost":                policy.SpecialName,
		"wpad.local":               policy.SpecialName,
		"metadata.google.internal": policy.Metadata,
		"_http._tcp.wild.test":     policy.BadName,
		"":                         policy.BadName,
		".":                        policy.BadName,
		"1.2.3.4":                  policy.BadName,
		"a\\.wild.test":            policy.BadName,
	} {
		if d := p.NameMayResolve(name); d.Code != want || d.Allow != (want == policy.Allowed) {
			t.Errorf("NameMayResolve(%q) = %+v, want %v", name, d, want)
		}
	}
	if d := newPolicy(t, nil, "*").NameMayResolve("anything.test"); !d.Allow {
		t.Error(d)
	}
}

// B16, B17: what is not there allows nothing.
func TestZeroPolicyDenies(t *testing.T) {
	disabled, err := policy.New(config(policy.Access{}))
	if err != nil {
		t.Fatal(err)
	}
	everything, err := policy.ParseAccess(nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, p := range map[string]*policy.Policy{"nil": nil, "zero": {}, "zero with access": new(policy.Policy).With(everything), "disabled": disabled} {
		for _, d := range []policy.Decision{
			p.DecideName(policy.TCP, "good.test", 443), p.DecideAddr(policy.TCP, netip.MustParseAddr("93.184.216.34"), 443), p.NameMayResolve("good.test"),
			p.DecideResolved(policy.TCP, "good.test", 443, netip.MustParseAddrPort("93.184.216.34:443")),
		} {
			if d.Allow || d.Code != policy.NoNetwork {
				t.Errorf("%s: %+v", name, d)
			}
		}
	}
	check(t, newPolicy(t, func(cfg *policy.Config) { cfg.Access = policy.Access{Mode: policy.List} }), []verdict{{"", "good.test:443", policy.NoRule}, {"", "93.184.216.34:443", policy.NoRule}})
	check(t, newPolicy(t, func(cfg *policy.Config) { cfg.Access = policy.Access{Mode: policy.List, Rules: make([]policy.Rule, 1)} }), []verdict{{"", "good.test:443", policy.NoRule}, {"", "93.184.216.34:443", policy.NoRule}})
	unsure := newPolicy(t, func(cfg *policy.Config) {
		cfg.Own = func() ([]netip.Prefix, error) { return nil, errors.New("netlink") }
	})
	check(t, unsure, []verdict{{"", "93.184.216.34:443", policy.HostAddress}, {"", "a.test:443>93.184.216.34:443", policy.HostAddress}})
	for _, proto := range []policy.Proto{0, 3, 17} {
		if d := newPolicy(t, nil).DecideName(proto, "good.test", 443); d.Allow { // C13
			t.Errorf("%v: %+v", proto, d)
		}
	}
	if d := newPolicy(t, nil).DecideAddr(policy.TCP, netip.Addr{}, 443); d.Allow {
		t.Errorf("no address: %+v", d)
	}
}

// Own is asked each time: the host may get an address while the box runs.
func TestOwnAddressesAreFresh(t *testing.T) {
	var own []netip.Prefix
	p := newPolicy(t, func(cfg *policy.Config) { cfg.Own = func() ([]netip.Prefix, error) { return own, nil } }, "93.184.216.34:443")
	check(t, p, []verdict{{"", "93.184.216.34:443", policy.Allowed}})
	own = append(own, netip.MustParsePrefix("::ffff:93.184.216.34/128"))
	check(t, p, []verdict{{"B9", "93.184.216.34:443", policy.HostAddress}})
}

func TestNewRefuses(t *testing.T) {
	for name, change := range map[string]func(*policy.Config){
		"no addresses of the host": func(c *policy.Config) { c.Own = nil },
		"no networks of boxes":     func(c *policy.Config) { c.BoxNets = nil },
		"an invalid network":       func(c *policy.Config) { c.BoxNets = make([]netip.Prefix, 1) },
		"an unknown mode":          func(c *policy.Config) { c.Access.Mode = 9 },
		"too many rules":           func(c *policy.Config) { c.Access.Rules = make([]policy.Rule, 1001) },
		"an invalid static entry":  func(c *policy.Config) { c.Static = make([]policy.Static, 1) },
		"a contradiction":          static(t, "a.test=127.0.0.1:80", "A.test=127.0.0.1:81"),
	} {
		cfg := config(policy.Access{})
		change(&cfg)
		if _, err := policy.New(cfg); !errors.Is(err, boxlite.Config) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The names of codes are stored, so they stay.
func TestCodes(t *testing.T) {
	want := "undecided allowed no_network no_rule wrong_port wrong_protocol bad_name special_name special_address link_local metadata " +
		"reserved_address ipv6 box_subnet host_address listener quic static_entry other_address no_address wrong_scheme wrong_method bad_path wrong_path bad_request wrong_authority"
	var got []string
	for c := policy.Code(0); !strings.HasPrefix(c.String(), "Code("); c++ {
		got = append(got, c.String())
		var again policy.Code
		if err := again.UnmarshalText([]byte(c.String())); err != nil || again != c {
			t.Errorf("%v is read as %v, %v", c, again, err)
		}
	}
	if text, err := json.Marshal(newPolicy(t, nil, "a.test").DecideName(policy.TCP, "b.test", 1)); string(text) != `{"allow":false,"code":"no_rule","reason":"no allow_net rule names b.test"}` {
		t.Errorf("a decision is %s, %v", text, err)
	}
	if strings.Join(got, " ") != want {
		t.Errorf("codes are\n%s, want\n%s", strings.Join(got, " "), want)
	}
}
