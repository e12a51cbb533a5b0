package policy

import (
	"fmt"
	"net/netip"
	"net/url"
	"strings"
)

// A Step is one thing that the gateway would decide about a connection.
type Step struct {
	Stage    string   `json:"stage"`   // "destination", "name", "address", "verdict"
	Subject  string   `json:"subject"` // what is decided about
	Decision Decision `json:"decision"`
}

// String returns "stage subject: allow: reason".
func (s Step) String() string { return s.Stage + " " + s.Subject + ": " + s.Decision.String() }

// Explain says what would become of a connection, step by step, by the code that
// decides about real ones. dest is a host or an address, with or without a port
// (443 is meant), with or without tcp/ or udp/, or a URL. resolve returns the
// addresses of a name, IPv4 ones as such and not mapped; it is asked only where
// the gateway would resolve, and nil means not to. The last step is the verdict.
func (p *Policy) Explain(dest string, resolve func(name string) ([]netip.Addr, error)) []Step {
	proto, host, port, f := parseDest(dropMethod(dest))
	if f != nil {
		no := deny(BadName, "", "%s cannot be dialled: %s", quote(dest), f.text)
		return []Step{{"destination", quote(dest), no}, {"verdict", quote(dest), no}}
	}
	shown := fmt.Sprintf("%v/%s:%d", proto, host, port)
	if a, err := netip.ParseAddr(host); err == nil {
		shown = fmt.Sprintf("%v/%s", proto, netip.AddrPortFrom(a, port))
		d := p.DecideAddr(proto, a, port)
		return []Step{{"address", shown, d}, {"verdict", shown, d}}
	}
	if name, err := CanonicalName(host); err == nil {
		host = name
		shown = fmt.Sprintf("%v/%s:%d", proto, host, port)
	} else {
		shown = quote(shown)
	}
	d := p.DecideName(proto, host, port)
	steps := []Step{{"name", shown, d}}
	if d.Allow {
		var more []Step
		if more, d = p.explainAddrs(proto, host, port, d, resolve); len(more) > 0 {
			steps = append(steps, more...)
		}
	}
	if step, ok := p.explainRequest(dest, host, port); ok && d.Allow {
		steps, d = append(steps, step), step.Decision
	}
	return append(steps, Step{"verdict", shown, d})
}

// dropMethod returns "METHOD https://host/path" without its method.
func dropMethod(dest string) string {
	if m, url, ok := strings.Cut(dest, " "); ok && strings.Contains(url, "://") && len(m) <= 20 && m != "" && strings.Trim(strings.ToUpper(m), "ABCDEFGHIJKLMNOPQRSTUVWXYZ-_") == "" {
		return url
	}
	return dest
}

// explainAddrs judges the addresses of a name that is allowed by d.
func (p *Policy) explainAddrs(proto Proto, host string, port uint16, d Decision, resolve func(string) ([]netip.Addr, error)) ([]Step, Decision) {
	var to []netip.AddrPort
	if static, ok := p.Static(host, port); ok {
		to = append(to, static)
	} else {
		if resolve == nil {
			d.Reason += ", if it resolves to a public address"
			return nil, d
		}
		addrs, err := resolve(host)
		if err != nil || len(addrs) == 0 {
			return nil, deny(NoAddress, d.Rule, "the name is allowed, but it does not resolve")
		}
		for _, a := range addrs {
			to = append(to, netip.AddrPortFrom(a, port))
		}
	}
	var steps []Step
	verdict := Decision{}
	for _, a := range to {
		one := p.DecideResolved(proto, host, port, a)
		steps = append(steps, Step{"address", a.String(), one})
		if !verdict.Allow {
			verdict = one
		}
	}
	return steps, verdict
}

// parseDest reads a destination. It is more lenient than a rule: what a guest
// can dial can be asked about.
func parseDest(s string) (proto Proto, host string, port uint16, f *fault) {
	proto, port = TCP, 443
	if len(s) > 4096 {
		return 0, "", 0, &fault{text: "it is too long"}
	}
	if scheme, rest, ok := strings.Cut(s, "://"); ok {
		u, err := url.Parse("x://" + rest)
		if err != nil {
			return 0, "", 0, &fault{text: "it is not a URL"}
		}
		scheme = strings.ToLower(scheme)
		if scheme == "udp" {
			proto = UDP
		}
		if known, ok := parsePort(schemePorts[scheme]); ok {
			port = known
		}
		return withPort(proto, u.Hostname(), port, u.Port(), u.Port() != "")
	}
	if prefix := protoOf(s); prefix != "" {
		if prefix == "udp/" {
			proto = UDP
		}
		s = s[len(prefix):]
	}
	if a, err := netip.ParseAddr(strings.Trim(s, "[]")); err == nil {
		return proto, a.String(), port, nil
	}
	if strings.HasPrefix(s, "[") {
		ap, err := netip.ParseAddrPort(s)
		if err != nil {
			return 0, "", 0, &fault{text: "it is not an address and port"}
		}
		return proto, ap.Addr().String(), ap.Port(), nil
	}
	host, text, ok := strings.Cut(s, ":")
	return withPort(proto, host, port, text, ok)
}

// withPort returns a destination at the port that text says, if there is one.
func withPort(proto Proto, host string, port uint16, text string, ok bool) (Proto, string, uint16, *fault) {
	if ok {
		n, valid := parsePort(text)
		if !valid {
			return 0, "", 0, &fault{text: quote(text) + " is not a port"}
		}
		port = n
	}
	if host == "" {
		return 0, "", 0, &fault{text: "it has no host"}
	}
	return proto, host, port, nil
}
