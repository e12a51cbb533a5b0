package policy_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/egress/policy"
)

func TestParseRuleCanonical(t *testing.T) {
	long := strings.Repeat("a", 63)
	for in, want := range map[string]string{
		"api.good.test":                "api.good.test",
		"API.Good.Test.":               "api.good.test",
		"api.good.test:443":            "api.good.test:443",
		"tcp/api.good.test:443":        "api.good.test:443",
		"TCP/api.good.test":            "api.good.test",
		"UDP/ntp.good.test:123":        "udp/ntp.good.test:123",
		"api.good.test:8000-8100":      "api.good.test:8000-8100",
		"api.good.test:80-80":          "api.good.test:80",
		"api.good.test:1-65535":        "api.good.test:1-65535",
		"*.good.test":                  "*.good.test",
		"*.a.b.good.test.:1":           "*.a.b.good.test:1",
		"*.example.uk":                 "*.example.uk",
		"*":                            "*",
		"*:53":                         "*:53",
		"udp/*":                        "udp/*",
		"93.184.216.34":                "93.184.216.34",
		"93.184.216.34/32:80":          "93.184.216.34:80",
		"10.0.0.0/8":                   "10.0.0.0/8",
		"udp/10.0.0.0/8:53":            "udp/10.0.0.0/8:53",
		"0.0.0.0/0":                    "0.0.0.0/0",
		"127.0.0.1:5432":               "127.0.0.1:5432",
		"db":                           "db",
		"r3---sn-4g5e.example.com":     "r3---sn-4g5e.example.com",
		"xn--strae-oqa.de":             "xn--strae-oqa.de",
		"xn--bcher-kva.example":        "xn--bcher-kva.example",
		"tcp":                          "tcp",
		"123.example":                  "123.example",
		long + "." + long + ".example": long + "." + long + ".example",
		"printer.local:631":            "printer.local:631", // may have a static entry
	} {
		r, err := policy.ParseRule(in)
		if err != nil {
			t.Errorf("ParseRule(%q): %v (%s)", in, err, boxlite.HintOf(err))
			continue
		}
		if r.String() != want {
			t.Errorf("ParseRule(%q) = %s, want %s", in, r, want)
		}
		if again, err := policy.ParseRule(r.String()); err != nil || again != r {
			t.Errorf("ParseRule(%q.String()) = %v, %v", in, again, err)
		}
	}
}

// Each malformed entry is refused, and most with what was meant. An empty
// suggestion means that none can be made.
func TestParseRuleRefuses(t *testing.T) {
	for in, suggestion := range map[string]string{
		// Text.
		"": "", " ": "", "\x00": "", "a\x00b.test": "", "a b.test": "", "a.test,b.test": "", "a.test\nb.test": "",
		" api.good.test ":          "api.good.test",
		`"api.good.test:443"`:      "api.good.test:443",
		strings.Repeat("a.", 200):  "",
		strings.Repeat("a", 64):    "",
		strings.Repeat("a.b", 100): "",

		// URLs, paths and users.
		"https://api.good.test":               "api.good.test:443",
		"https://api.good.test:8443/v1?x=1#y": "api.good.test:8443",
		"http://API.good.test/":               "api.good.test:80",
		"https://user:pw@api.good.test/":      "api.good.test:443",
		"https://*.good.test":                 "*.good.test:443",
		"https://straße.de/":                  "xn--strae-oqa.de:443",
		"tcp://10.0.0.1:22":                   "10.0.0.1:22",
		"udp://10.0.0.1:53":                   "udp/10.0.0.1:53",
		"postgres://u:p@db.good.test/app":     "db.good.test:5432",
		"http://[::1]/":                       "",
		"https://":                            "",
		"https:///x":                          "",
		"http://0x7f.1/":                      "127.0.0.1:80",
		"api.good.test/v1":                    "api.good.test",
		"api.good.test:443/v1":                "api.good.test:443",
		"git@good.test:owner/repo.git":        "good.test",
		"user@good.test:22":                   "good.test:22",

		// Protocols.
		"icmp/good.test": "", "sctp/good.test:1": "", "tcp4/good.test": "", "https/good.test:443": "good.test:443", "tcp/": "", "udp/udp/good.test": "", "/good.test": "",

		// Ports.
		"good.test:": "good.test", "good.test:*": "good.test", "good.test:0": "", "good.test:65536": "", "good.test:-1": "", "good.test:1-": "", "good.test:-": "",
		"good.test:00443": "good.test:443", "good.test:+443": "good.test:443", "good.test:https": "good.test:443", "good.test:90-80": "good.test:80-90",
		"good.test:0-80": "", "good.test:1-65536": "", "good.test:80:90": "", "good.test:99999999999999999999": "", "good.test:0x50": "", ":443": "", "good.test:８０": "",

		// Wildcards.
		"*.com": "", "*.com:443": "", "*.co.uk": "", "*.com.au": "", "*.": "", "**": "", "*.*": "", "*:*": "*",
		"*good.test": "*.good.test", "**.good.test": "*.good.test", "*.*.good.test": "*.good.test", "a.*.good.test": "*.good.test",
		"api-*.good.test": "*.good.test", "api.*": "", "*.api-*x.good.test:1": "*.good.test:1", ".good.test": "*.good.test", "udp/.good.test:5": "udp/*.good.test:5",
		"*.1.2.3.4": "", "*.10.0.0.0/8": "",

		// A16: names are compared as A-labels only.
		"straße.de": "xn--strae-oqa.de", "bücher.example:443": "xn--bcher-kva.example:443", "*.bücher.example": "*.xn--bcher-kva.example",
		"api．good．test": "api.good.test", "api。good。test:443": "api.good.test:443", "ａｐｉ.good.test": "api.good.test", "аpi.good.test": "xn--pi-6kc.good.test",
		"good.test\u200b": "good.test", "xn--good-.test": "", "xn--.test": "", "xn--a.test": "", "xn--zzzzzzzzzzzz.test": "",
		"under_score.good.test": "", "good..test": "", "..": "", ".": "", "-good.test": "", "good-.test": "", "good.test..": "", "%67ood.test": "", "good.test%00": "", "good!.test": "", "\x80.test": "",

		// Numbers that some programs read as addresses.
		"0177.1": "127.0.0.1", "0x7f.1": "127.0.0.1", "2130706433": "127.0.0.1", "127.1:80": "127.0.0.1:80", "0300.0250.1.1": "192.168.1.1", "1.2.3": "1.2.0.3",
		"010.0.0.1": "8.0.0.1", "1.2.3.4.5": "", "good.123": "", "good.0x1f": "", "256.1.1.1": "", "good.test:+x": "", "a_b/8": "", "1.2.3.4.5/8": "", "1.2.3.4.": "1.2.3.4", "4294967296": "", "0x": "", "good.0x": "",

		// Networks.
		"10.0.0.1/8": "10.0.0.0/8", "10.1.2.3/16:80": "10.1.0.0/16:80", "10.0.0.0/33": "", "10.0.0.0/": "", "10.0.0.0/08": "10.0.0.0/8", "10.0.0.0/-1": "", "10.0.0.0/8/8": "",
		"10.0.0.0/255.0.0.0": "10.0.0.0/8", "10.0.0.0/255.0.255.0": "", "10/8": "", "10.0.0.1-10.0.0.9": "", "udp/10.0.0.1/8": "udp/10.0.0.0/8", "10.0/16": "10.0.0.0/16",

		// B10: no IPv6.
		"[::1]": "", "[::1]:443": "", "::1": "", "2001:db8::1": "", "fd00::/8": "", "[fd00::/8]:443": "", "[fd00::]/8": "", "fe80::1%eth0": "", "[]": "", "[good.test]:443": "good.test:443", "[": "", "]": "",
		"::ffff:93.184.216.34": "93.184.216.34", "[::ffff:93.184.216.34]:443": "93.184.216.34:443", "[93.184.216.34]:443": "93.184.216.34:443", "64:ff9b::1.2.3.4": "",

		// B5, B12: what nothing opens.
		"169.254.169.254": "", "169.254.0.0/16": "", "169.254.1.0/24:80": "", "100.100.100.200": "", "168.63.129.16:80": "", "0.0.0.0": "", "0.1.2.3": "", "224.0.0.251": "", "239.0.0.0/8": "",
		"udp/255.255.255.255": "", "240.0.0.0/4": "", "192.88.99.1": "", "metadata.google.internal": "", "x.metadata.google.internal:80": "", "*.metadata.google.internal": "", "instance-data": "",
		"::ffff:169.254.169.254": "", "http://169.254.169.254/latest": "", "2852039166": "",
		"localhost": "", "localhost:8080": "", "api.localhost": "", "*.api.localhost": "", "*.localhost": "",
	} {
		r, err := policy.ParseRule(in)
		if err == nil {
			t.Errorf("ParseRule(%q) = %s", in, r)
			continue
		}
		if !errors.Is(err, boxlite.Config) {
			t.Errorf("ParseRule(%q): %v, want a Config error", in, err)
		}
		hint := boxlite.HintOf(err)
		switch {
		case suggestion != "" && hint != `Write "`+suggestion+`".`:
			t.Errorf("ParseRule(%q): %v; hint %s, want %s", in, err, hint, suggestion)
		case suggestion == "" && suggested(hint) != "":
			t.Errorf("ParseRule(%q) suggests %s", in, hint)
		}
		if text := err.Error() + hint; strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' }) || len(text) > 600 {
			t.Errorf("ParseRule(%q): the error is not one line of ASCII: %q", in, text)
		}
	}
}

// suggested returns the rule that a hint suggests, or "".
func suggested(hint string) string {
	rest, ok := strings.CutPrefix(hint, `Write "`)
	rest, ok2 := strings.CutSuffix(rest, `".`)
	if !ok || !ok2 || strings.Contains(rest, `"`) {
		return ""
	}
	return rest
}

func TestParseRulesBounds(t *testing.T) {
	for _, c := range []struct {
		entries []string
		want    string
	}{
		{[]string{"good.test", "GOOD.test."}, "the same as"},
		{[]string{"good.test", "10.0.0.1/8"}, "bits are set"},
		{make([]string, 1001), "more than 1000"},
	} {
		if _, err := policy.ParseRules(c.entries); err == nil || !strings.Contains(err.Error(), c.want) || boxlite.HintOf(err) == "" {
			t.Errorf("ParseRules of %d: %v (%s), want %q and a hint", len(c.entries), err, boxlite.HintOf(err), c.want)
		}
	}
	if r, err := policy.ParseRules([]string{"good.test", "udp/good.test", "good.test:1"}); err != nil || len(r) != 3 {
		t.Errorf("ParseRules of three: %v, %v", r, err)
	}
}

func TestRuleIsJSON(t *testing.T) {
	want := policy.Access{Mode: policy.List, Rules: rules(t, "*.good.test:443", "udp/10.0.0.0/8:53")}
	text, err := json.Marshal(want)
	if err != nil || string(text) != `{"mode":"list","allow_net":["*.good.test:443","udp/10.0.0.0/8:53"]}` {
		t.Fatalf("%s, %v", text, err)
	}
	var got policy.Access
	if err := json.Unmarshal(text, &got); err != nil || got.String() != want.String() || got.Mode != want.Mode {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{`{"mode":"all"}`, `{"mode":"list","allow_net":["https://x"]}`, `{"mode":7}`, `{"mode":"list","allow_net":[""]}`} {
		if err := json.Unmarshal([]byte(bad), new(policy.Access)); err == nil {
			t.Errorf("%s is read", bad)
		}
	}
	if text, err := json.Marshal(policy.Rule{}); err == nil {
		t.Errorf("the zero rule is %s", text)
	}
}

// A17: a wildcard covers any depth below the name and nothing else.
func TestRuleMatchesName(t *testing.T) {
	for _, c := range []struct {
		rule, name string
		want       bool
	}{
		{"*.good.test", "a.good.test", true},
		{"*.good.test", "a.b.c.good.test", true},
		{"*.good.test", "A.GOOD.test.", true},
		{"*.good.test", "good.test", false},
		{"*.good.test", ".good.test", false},
		{"*.good.test", "evilgood.test", false},
		{"*.good.test", "a.good.test.evil", false},
		{"*.good.test", "a.good.testevil", false},
		{"*.good.test", "evil.test/.good.test", false},
		{"*.good.test", "evil\x00.good.test", false},
		{"*.good.test", "*.good.test", false},
		{"good.test", "good.test", true},
		{"good.test", "a.good.test", false},
		{"10.0.0.0/8", "10.0.0.1", false},
		{"*", "a.good.test", true},
	} {
		if got := rule(t, c.rule).MatchesName(c.name); got != c.want {
			t.Errorf("%s.MatchesName(%q) = %v", c.rule, c.name, got)
		}
	}
	if (policy.Rule{}).MatchesName("good.test") {
		t.Error("the zero rule is about a name")
	}
}

func FuzzParseRule(f *testing.F) {
	for _, s := range []string{"api.good.test:443", "udp/*.good.test:1-2", "10.0.0.1/8:80", "[::ffff:1.2.3.4]:1", "https://ß.test", "0x7f.1", "a@b:c/d", "a*b.c.d", "*:*", "::", "tcp/[x]/", "GET,HEAD https://a.test/v1/**", "inspect *.a.test:80", "* http://*:81/a*b/%20", "post https://A.test/"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := policy.ParseRule(s)
		if err != nil {
			if r != (policy.Rule{}) || boxlite.KindOf(err) != boxlite.Config {
				t.Fatalf("ParseRule(%q) = %v, %v", s, r, err)
			}
			if try := suggested(boxlite.HintOf(err)); try != "" {
				if meant, err := policy.ParseRule(try); err != nil || meant.String() != try {
					t.Fatalf("ParseRule(%q) suggests %q: %v", s, try, err)
				}
			}
			return
		}
		if again, err := policy.ParseRule(r.String()); err != nil || again != r {
			t.Fatalf("ParseRule(%q) = %q, which is read as %v, %v", s, r.String(), again, err)
		}
		if !r.Covers(r) {
			t.Fatalf("%v does not cover itself", r)
		}
		if canonical := strings.TrimSuffix(strings.ToLower(s), "."); len(r.String()) > len(canonical)+8 {
			t.Fatalf("ParseRule(%q) = %q, which is longer", s, r.String())
		}
	})
}

func FuzzCanonicalName(f *testing.F) {
	for _, s := range []string{"API.Good.Test.", "xn--strae-oqa.de", "straße.de", "127.1", "a\x00.b", "a．b", "_x.y", "xn--"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		host, err := policy.CanonicalName(s)
		if err != nil {
			if host != "" {
				t.Fatalf("CanonicalName(%q) = %q and %v", s, host, err)
			}
			return
		}
		if again, err := policy.CanonicalName(host); err != nil || again != host {
			t.Fatalf("CanonicalName(%q) = %q, whose form is %q, %v", s, host, again, err)
		}
		if !strings.EqualFold(strings.TrimSuffix(s, "."), host) || strings.Trim(host, "abcdefghijklmnopqrstuvwxyz0123456789-.") != "" {
			t.Fatalf("CanonicalName(%q) = %q", s, host)
		}
	})
}

func rule(t testing.TB, s string) policy.Rule {
	t.Helper()
	r, err := policy.ParseRule(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func rules(t testing.TB, list ...string) []policy.Rule {
	t.Helper()
	var all []policy.Rule
	for _, s := range list {
		all = append(all, rule(t, s))
	}
	return all
}
