package policy_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/boxlite-mcp/boxlite-mcp/egress/policy"
)

func TestExplain(t *testing.T) {
	p := newPolicy(t, static(t, "api.demo.test=127.0.0.1:8443"), "api.good.test:443", "*.demo.test", "udp/ntp.test:123", "10.0.0.5:22")
	resolve := func(name string) ([]netip.Addr, error) {
		switch name {
		case "api.good.test":
			return []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("2606:2800::1"), netip.MustParseAddr("93.184.216.34")}, nil
		case "inner.demo.test":
			return []netip.Addr{netip.MustParseAddr("10.0.0.1")}, nil
		case "six.demo.test":
			return []netip.Addr{netip.MustParseAddr("2606:2800::1")}, nil
		case "ntp.test":
			return []netip.Addr{netip.MustParseAddr("93.184.216.34")}, nil
		case "gone.demo.test":
			return nil, errors.New("no such host")
		}
		t.Errorf("%s is resolved", name)
		return nil, errors.New("not allowed")
	}
	for _, c := range []struct{ dest, want string }{
		{"api.good.test", "name:allowed address:special_address address:ipv6 address:allowed verdict:allowed"},
		{"https://API.good.test/path?x", "name:allowed address:special_address address:ipv6 address:allowed verdict:allowed"},
		{"http://api.good.test/", "name:wrong_port verdict:wrong_port"},
		{"api.good.test:8443", "name:wrong_port verdict:wrong_port"},
		{"evil.test:443", "name:no_rule verdict:no_rule"},
		{"udp/ntp.test:123", "name:allowed address:allowed verdict:allowed"},
		{"udp://ntp.test:123", "name:allowed address:allowed verdict:allowed"},
		{"inner.demo.test", "name:allowed address:special_address verdict:special_address"},
		{"six.demo.test", "name:allowed address:ipv6 verdict:ipv6"}, // B11
		{"gone.demo.test", "name:allowed verdict:no_address"},
		{"api.demo.test", "name:allowed address:allowed verdict:allowed"},
		{"10.0.0.5:22", "address:allowed verdict:allowed"},
		{"tcp/10.0.0.5", "address:wrong_port verdict:wrong_port"},
		{"http://169.254.169.254/latest/meta-data", "address:metadata verdict:metadata"},
		{"[::1]:443", "address:ipv6 verdict:ipv6"},
		{"::1", "address:ipv6 verdict:ipv6"},
		{"[fd00:ec2::254]", "address:metadata verdict:metadata"},
		{"http://[::1]:80/", "address:ipv6 verdict:ipv6"},
		{"0x7f.1:80", "name:bad_name verdict:bad_name"},
		{"ev\x1bil.test:80", "name:bad_name verdict:bad_name"},
		{"", "destination:bad_name verdict:bad_name"},
		{"good.test:99999", "destination:bad_name verdict:bad_name"},
		{"[x", "destination:bad_name verdict:bad_name"},
		{"http://%zz/", "destination:bad_name verdict:bad_name"},
		{strings.Repeat("a", 5000), "destination:bad_name verdict:bad_name"},
	} {
		var got []string
		for _, s := range p.Explain(c.dest, resolve) {
			got = append(got, s.Stage+":"+s.Decision.Code.String())
			if strings.ContainsFunc(s.String(), func(r rune) bool { return r < ' ' || r > '~' }) {
				t.Errorf("Explain(%q) prints %q", c.dest, s)
			}
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("Explain(%.80q) = %v, want %s", c.dest, got, c.want)
		}
	}
	steps := p.Explain("api.good.test", nil)
	if last := steps[len(steps)-1]; !last.Decision.Allow || !strings.Contains(last.Decision.Reason, "if it resolves") {
		t.Errorf("without resolving: %v", steps)
	}
}

func FuzzExplain(f *testing.F) {
	for _, s := range []string{"a.test:443", "udp/1.2.3.4:53", "https://x@y/", "[::1]:1", "x://%"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, dest string) {
		p := newPolicy(t, nil, "*.good.test")
		steps := p.Explain(dest, func(string) ([]netip.Addr, error) { return []netip.Addr{netip.MustParseAddr("93.184.216.34")}, nil })
		last := steps[len(steps)-1]
		if last.Stage != "verdict" {
			t.Fatal(steps)
		}
		if last.Decision.Allow && !strings.Contains(strings.ToLower(dest), ".good.test") {
			t.Fatalf("%q: %v", dest, steps)
		}
		if _, ok := strings.CutPrefix(policy.Step.String(last), "verdict "); !ok {
			t.Fatal(last)
		}
	})
}
