package policy_test

import (
	"net/url"
	"strings"
	"testing"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/egress/policy"
)

func TestHTTPRuleCanonical(t *testing.T) {
	for in, want := range map[string]string{
		"GET https://api.good.test/v1/**":          "GET https://api.good.test/v1/**",
		"head,get,GET HTTPS://API.good.test.:443/": "GET,HEAD https://api.good.test/",
		"* http://*.good.test:8080/a*/b":           "* http://*.good.test:8080/a*/b",
		"inspect api.good.test":                    "* https://api.good.test/**",
		"inspect api.good.test:80":                 "* http://api.good.test/**",
		"inspect *":                                "* https://*/**",
	} {
		r, err := policy.ParseRule(in)
		if err != nil || r.String() != want {
			t.Errorf("ParseRule(%q) = %v, %v (%s), want %s", in, r, err, boxlite.HintOf(err), want)
		} else if again := rule(t, want); again != r {
			t.Errorf("%s is read as another rule", want)
		}
	}
	for _, in := range []string{
		"GET https://api.good.test", "GET ftp://a.test/", "GET https://a.test/../x", "GET https://a.test//x", "GET https://a.test/a;b", "GET https://a.test/**/x",
		"GET https://a.test/x**", "GET https://a.test/%2fx", "GET https://a.test/%7ex", "GET https://10.0.0.1/", "GET https://a.test:1-2/", "GE/T https://a.test/", "GET https://a.test/x y",
		"GET https://a.test/x?y", ", https://a.test/", "inspect a.test/x", "inspect 10.0.0.1", "GET https://localhost/",
	} {
		if r, err := policy.ParseRule(in); err == nil || boxlite.HintOf(err) == "" {
			t.Errorf("ParseRule(%q) = %v, %v, want an error with a hint", in, r, err)
		}
	}
}

// E11, E12: what a path rule lets through, and in which form.
func TestDecideRequest(t *testing.T) {
	p := newPolicy(t, nil, "GET,HEAD https://api.good.test/v1/**", "POST https://api.good.test/v1/*/runs", "inspect seen.test", "* http://plain.test/pub/**", "conn.test:443")
	for _, c := range []struct {
		method, url, forward string
		code                 policy.Code
	}{
		{"GET", "https://api.good.test/v1/a/b", "/v1/a/b", policy.Allowed},
		{"GET", "https://api.good.test/v1/", "/v1/", policy.Allowed},
		{"GET", "https://api.good.test/%76%31/%7Ea%20b%c3%a9", "/v1/~a%20b%C3%A9", policy.Allowed},
		{"POST", "https://api.good.test/v1/x/runs", "/v1/x/runs", policy.Allowed},
		{"POST", "https://api.good.test/v1/x/y/runs", "", policy.WrongPath},
		{"DELETE", "https://api.good.test/v1/a", "", policy.WrongMethod},
		{"get", "https://api.good.test/v1/a", "", policy.WrongMethod},
		{"GET", "https://api.good.test/v1", "", policy.WrongPath},
		{"GET", "https://api.good.test/V1/a", "", policy.WrongPath},
		{"GET", "https://api.good.test/v2/a", "", policy.WrongPath},
		{"GET", "https://api.good.test/v1/../admin", "", policy.BadPath},
		{"GET", "https://api.good.test/v1/%2e%2E/admin", "", policy.BadPath},
		{"GET", "https://api.good.test/v1/.%2e/admin", "", policy.BadPath},
		{"GET", "https://api.good.test/v1/..", "", policy.BadPath},
		{"GET", "https://api.good.test/v1//a", "", policy.BadPath},
		{"GET", "https://api.good.test//v1/a", "", policy.BadPath},
		{"GET", "https://api.good.test/v1/a;b=c", "", policy.BadPath},
		{"GET", "https://api.good.test/v1/..;/admin", "", policy.BadPath},
		{"GET", "https://api.good.test/v1/a%3Bb", "", policy.BadPath},
		{"GET", "https://api.good.test/v1/a%2fb", "", policy.BadPath},
		{"GET", "https://api.good.test/v1/%5c..%5cadmin", "", policy.BadPath},
		{"GET", `https://api.good.test/v1/..\admin`, "", policy.BadPath},
		{"GET", "https://api.good.test/v1/%00", "", policy.BadPath},
		{"GET", "https://api.good.test/v1/%252e%252e/admin", "", policy.BadPath},
		{"GET", "https://api.good.test/v1/%c0%ae%c0%ae/admin", "", policy.BadPath},
		{"GET", "https://api.good.test/v1/%zz", "", policy.BadPath},
		{"GET", "https://api.good.test/v1/%2", "", policy.BadPath},
		{"GET", "http://api.good.test:443/v1/a", "", policy.WrongScheme},
		{"GET", "http://api.good.test/v1/a", "", policy.WrongPort},
		{"PURGE", "https://seen.test/a//../;x", "/a//../;x", policy.Allowed},
		{"PUT", "http://plain.test/pub/x", "/pub/x", policy.Allowed},
		{"PUT", "https://plain.test:80/pub/x", "", policy.WrongScheme},
		{"PUT", "https://conn.test/x//y", "/x//y", policy.Allowed},
		{"PUT", "https://evil.test/x", "", policy.NoRule},
	} {
		scheme, rest, _ := strings.Cut(c.url, "://")
		host, path, _ := strings.Cut(rest, "/")
		port := uint16(443)
		if scheme == "http" {
			port = 80
		}
		if name, text, ok := strings.Cut(host, ":"); ok {
			host, port = name, map[string]uint16{"80": 80, "443": 443}[text]
		}
		d, forward := p.DecideRequest(policy.Request{Secure: scheme == "https", Host: host, Port: port, Method: c.method, Path: "/" + path})
		if d.Code != c.code || d.Allow != (c.code == policy.Allowed) || d.Allow && forward != c.forward || d.Reason == "" {
			t.Errorf("%s %s: %+v, forward %q; want %v, %q", c.method, c.url, d, forward, c.code, c.forward)
		}
	}
	if d := p.DecideName(policy.UDP, "api.good.test", 443); d.Code != policy.QUIC {
		t.Errorf("UDP 443 of an inspected host: %v", d)
	}
	if !p.Inspects("API.good.test.", 443) || p.Inspects("conn.test", 443) || p.Inspects("api.good.test", 80) || !p.DecideName(policy.TCP, "seen.test", 443).Inspect {
		t.Error("what is inspected")
	}
}

func TestHTTPWithin(t *testing.T) {
	for _, c := range []struct {
		asked, ceiling string
		want           bool
	}{
		{"GET https://a.test/v1/**", "a.test:443", true},
		{"GET https://a.test/v1/**", "*", true},
		{"a.test:443", "GET https://a.test/v1/**", false},
		{"a.test:443", "* https://a.test/**", false}, // would not be read
		{"GET https://a.test/v1/x", "GET,POST https://*.test.test/**", false},
		{"GET https://a.b.test/v1/x", "GET,POST https://*.b.test/v1/**", true},
		{"GET,PUT https://a.test/x", "GET https://a.test/x", false},
		{"* https://a.test/x", "GET https://a.test/x", false},
		{"GET https://a.test/x", "* https://a.test/**", true},
		{"GET https://a.test/v2/x", "* https://a.test/v1/**", false},
		{"GET https://a.test/*/x", "* https://a.test/v1/**", false},
		{"GET https://a.test/**", "* https://a.test/v1/**", false},
		{"GET http://a.test:443/x", "* https://a.test/**", false},
		{"GET https://a.test/v1/x", "GET https://a.test/v1/*", true},
		{"* https://*/**", "* https://a.test/**", false},
	} {
		got := rule(t, c.ceiling).Covers(rule(t, c.asked))
		if got != c.want {
			t.Errorf("%s covers %s: %v", c.ceiling, c.asked, got)
		}
	}
	for _, list := range [][]string{{"GET https://a.test/**", "a.test"}, {"*", "* https://a.test/v1/**"}} {
		if _, err := policy.ParseRules(list); err == nil || boxlite.HintOf(err) == "" {
			t.Errorf("%v: %v, want an error: the HTTP rule restricts nothing", list, err)
		}
	}
	if _, err := policy.ParseRules([]string{"*", "inspect a.test"}); err != nil {
		t.Error(err)
	}
}

func TestExplainRequest(t *testing.T) {
	p := newPolicy(t, nil, "GET https://api.good.test/v1/**")
	for dest, want := range map[string]policy.Code{
		"https://api.good.test/v1/x?y":      policy.Allowed,
		"POST https://api.good.test/v1/x":   policy.WrongMethod,
		"GET https://api.good.test/v2/":     policy.WrongPath,
		"get https://api.good.test/v1/../x": policy.BadPath,
		"api.good.test":                     policy.Allowed,
	} {
		steps := p.Explain(dest, nil)
		if got := steps[len(steps)-1].Decision; got.Code != want {
			t.Errorf("Explain(%s) = %v, want %v", dest, steps, want)
		}
	}
}

// A path that was judged is read the same by what decodes it.
func FuzzCanonicalPath(f *testing.F) {
	for _, s := range []string{"/v1/a", "/%7e/%2E", "/a//b", "/%c3%a9", "/a;b", `/\`, "/%25", "/a b", "/."} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		out, err := policy.CanonicalPath(s)
		if err != nil {
			return
		}
		if again, err := policy.CanonicalPath(out); err != nil || again != out {
			t.Fatalf("%q → %q → %q, %v", s, out, again, err)
		}
		before, err1 := url.PathUnescape(s)
		after, err2 := url.PathUnescape(out)
		if err1 != nil || err2 != nil || before != after || strings.Contains(after+"/", "/../") || strings.Contains(after, "//") {
			t.Fatalf("%q → %q", s, out)
		}
	})
}
