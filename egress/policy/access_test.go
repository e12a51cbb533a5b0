package policy_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/egress/policy"
)

func access(t testing.TB, list string) policy.Access {
	t.Helper()
	switch list {
	case "disabled":
		return policy.Access{}
	case "nothing":
		return policy.Access{Mode: policy.List}
	}
	a, err := policy.ParseAccess(strings.Fields(list))
	if err != nil {
		t.Fatal(err, boxlite.HintOf(err))
	}
	return a
}

func TestWithin(t *testing.T) {
	for _, c := range []struct {
		asked, ceiling string // "" is the public Internet
		want           bool
	}{
		{"disabled", "disabled", true},
		{"nothing", "disabled", true},
		{"a.test", "disabled", false},
		{"", "disabled", false},
		{"disabled", "", true},
		{"", "", true},
		{"", "*", false},
		{"", "* udp/*", true},
		{"* udp/*", "", true},
		{"a.test", "", true},
		{"a.test:443 *.b.test", "", true},
		{"udp/a.test", "*", false},
		{"*", "*.test.test", false},
		{"a.test", "a.test", true},
		{"a.test", "b.test", false},
		{"a.test:443", "a.test", true},
		{"a.test", "a.test:443", false},
		{"a.test", "a.test:1-65535", true},
		{"a.test:1-65535", "a.test", false}, // has the ports of DNS
		{"a.test:53", "a.test", false},
		{"a.test:50-60", "a.test", false},
		{"a.test:54-852", "a.test", true},
		{"a.test:80-90", "a.test:80-100", true},
		{"a.test:80-90", "a.test:80-85 a.test:86-90", false}, // not certain by one rule
		{"udp/a.test:1", "a.test:1", false},
		{"*.a.test", "*.a.test", true},
		{"*.b.a.test", "*.a.test", true},
		{"x.a.test", "*.a.test", true},
		{"a.test", "*.a.test", false},
		{"*.a.test", "a.test", false},
		{"*.evila.test", "*.a.test", false},
		{"93.184.0.0/16", "", true},
		{"0.0.0.0/0", "", true},
		{"10.0.0.0/8", "", false},
		{"10.0.0.0/8", "*", false},
		{"10.0.0.0/8", "0.0.0.0/0", false}, // which opens nothing private
		{"10.1.0.0/16:80", "10.0.0.0/8", true},
		{"10.0.0.0/8", "10.1.0.0/16", false},
		{"10.1.2.3", "8.0.0.0/6", false},
		{"9.0.0.0/8", "8.0.0.0/6", true},
		{"127.0.0.1:80", "", false},
		{"a.test", "0.0.0.0/0", false},
		{"*", "0.0.0.0/0", false},
		{"a.test b.test", "a.test", false},
	} {
		err := access(t, c.asked).Within(access(t, c.ceiling))
		if (err == nil) != c.want {
			t.Errorf("(%s).Within(%s) = %v", c.asked, c.ceiling, err)
		}
		if err != nil && (!errors.Is(err, boxlite.Denied) || boxlite.HintOf(err) == "") {
			t.Errorf("(%s).Within(%s) = %#v, want a denial with a hint", c.asked, c.ceiling, err)
		}
	}
	err := access(t, "a.test evil.test:22").Within(access(t, "a.test *.good.test:443"))
	if err == nil || !strings.Contains(err.Error(), "rule evil.test:22 is not within the ceiling: a.test, *.good.test:443") {
		t.Errorf("the error names neither the rule nor the ceiling: %v", err)
	}
}

func TestAccess(t *testing.T) {
	if _, err := policy.ParseAccess([]string{"a.test", "https://b.test"}); boxlite.HintOf(err) != `Write "b.test:443".` {
		t.Errorf("ParseAccess: %v", err)
	}
	p := newPolicy(t, nil, "a.test", "udp/b.test:1-9")
	got := p.Access()
	if got.String() != "a.test, udp/b.test:1-9" || (*policy.Policy)(nil).Access().String() != "nothing" || access(t, "").String() != "the public Internet" {
		t.Errorf("Access: %v", got)
	}
	got.Rules[0] = rule(t, "evil.test")
	if p.DecideName(policy.TCP, "evil.test", 443).Allow || !p.DecideName(policy.TCP, "a.test", 443).Allow {
		t.Error("a policy changes by what it returned")
	}
	if (policy.Rule{}).Covers(policy.Rule{}) || access(t, "*").Rules[0].Covers(policy.Rule{}) {
		t.Error("the zero rule is covered")
	}

	var many policy.Access
	many.Mode = policy.List
	for i := range 500 {
		many.Rules = append(many.Rules, rule(t, fmt.Sprintf("host%d.test", i)))
	}
	err := access(t, "a.test").Within(many)
	if err == nil || len(err.Error()) > 1000 || !strings.Contains(err.Error(), "500 rules") {
		t.Errorf("a long ceiling: %v", err)
	}
}

// What is within a ceiling allows nothing that the ceiling does not, on
// whatever destinations: rules and destinations are drawn from a small world, in
// which most of them meet.
func TestWithinIsSound(t *testing.T) {
	rng := rand.New(rand.NewPCG(4, 90))
	pick := func(list []string) string { return list[rng.IntN(len(list))] }
	hosts := []string{"*", "a.test", "b.a.test", "c.b.a.test", "*.a.test", "*.b.a.test", "db.corp", "*.db.corp",
		"10.0.0.0/8", "10.1.0.0/16", "10.1.2.3", "8.0.0.0/5", "8.0.0.0/6", "9.1.2.3", "9.1.0.0/16", "0.0.0.0/0", "127.0.0.1", "127.0.0.0/8", "192.168.1.0/24", "192.0.0.0/8", "172.0.0.0/8"}
	ports := []string{"", "", ":443", ":53", ":1-65535", ":50-60", ":54-852", ":400-500"}
	draw := func() policy.Access {
		if n := rng.IntN(12); n < 2 {
			return policy.Access{Mode: policy.Mode(n)}
		}
		a := policy.Access{Mode: policy.List}
		for range rng.IntN(4) {
			a.Rules = append(a.Rules, rule(t, pick([]string{"", "", "udp/"})+pick(hosts)+pick(ports)))
		}
		return a
	}
	names := []string{"a.test", "b.a.test", "c.b.a.test", "x.c.b.a.test", "evila.test", "db.corp", "x.db.corp", "localhost", "other.test"}
	addrs := []string{"10.0.0.1", "10.1.2.3", "10.1.9.9", "9.1.2.3", "8.8.8.8", "11.0.0.1", "127.0.0.1", "127.0.0.2", "192.168.1.5", "192.168.1.6", "192.168.2.6", "172.16.1.1", "172.15.1.1", "169.254.169.254", "10.99.0.1"}
	dialPorts := []uint16{0, 22, 53, 54, 55, 443, 450, 853, 65535}

	within, allowed := 0, 0
	for range 6000 {
		narrow, ceiling := draw(), draw()
		if narrow.Within(ceiling) != nil {
			continue
		}
		within++
		p := newPolicy(t, func(cfg *policy.Config) { static(t, "db.corp=10.0.0.5:5432")(cfg); cfg.Access = narrow })
		limit := p.With(ceiling)
		compare := func(what string, d, max policy.Decision) {
			if d.Allow {
				allowed++
			}
			if d.Allow && !max.Allow {
				t.Fatalf("(%v) is within (%v), but %s: %v; ceiling %v", narrow, ceiling, what, d, max)
			}
		}
		for range 40 {
			proto, name, port := policy.Proto(1+rng.IntN(2)), pick(names), dialPorts[rng.IntN(len(dialPorts))]
			addr := netip.MustParseAddr(pick(addrs))
			to := netip.AddrPortFrom(addr, port)
			what := fmt.Sprint(proto, " ", name, " ", to)
			compare(what, p.DecideName(proto, name, port), limit.DecideName(proto, name, port))
			compare(what, p.DecideAddr(proto, addr, port), limit.DecideAddr(proto, addr, port))
			compare(what, p.DecideResolved(proto, name, port, to), limit.DecideResolved(proto, name, port, to))
			compare(what, p.NameMayResolve(name), limit.NameMayResolve(name))
		}
	}
	if within < 500 || allowed < 1000 {
		t.Errorf("the test is hollow: %d pairs within, %d allowed", within, allowed)
	}
}

func TestNarrow(t *testing.T) {
	for _, c := range []struct{ asked, ceiling, want string }{
		{"a.test b.test", "b.test c.test", "b.test"},
		{"", "a.test 10.0.0.0/8", "a.test"}, // private addresses are no part of the Internet
		{"", "", "* udp/*"},
		{"*.a.test", "x.a.test:443 y.test", "x.a.test:443"},
		{"x.a.test:443", "*.a.test", "x.a.test:443"},
		{"a.test", "b.test", "nothing"},
		{"a.test", "disabled", "nothing"},
		{"disabled", "", "nothing"},
		{"a.test:443", "GET https://a.test/x/**", "GET https://a.test/x/**"},
	} {
		fields := func(s string) string {
			if strings.HasPrefix(s, "GET ") {
				return s
			}
			return strings.Join(access(t, s).Strings(), " ")
		}
		parse := func(s string) policy.Access {
			if !strings.HasPrefix(s, "GET ") {
				return access(t, s)
			}
			a, err := policy.ParseAccess([]string{s})
			if err != nil {
				t.Fatal(err)
			}
			return a
		}
		asked, ceiling := parse(c.asked), parse(c.ceiling)
		got := asked.Narrow(ceiling)
		if text := strings.Join(got.Strings(), " "); text != fields(c.want) {
			t.Errorf("%q under %q: %q, want %q", c.asked, c.ceiling, text, c.want)
		}
		if got.Mode != policy.List || got.Within(asked) != nil || got.Within(ceiling) != nil {
			t.Errorf("%q under %q is %v, which is not within both", c.asked, c.ceiling, got)
		}
	}
}
