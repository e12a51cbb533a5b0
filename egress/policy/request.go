package policy

import "strings"

// A Request is an HTTP request, as it was read from an inspected connection.
type Request struct {
	Secure bool   // over TLS
	Host   string // the name that the connection is for
	Port   uint16
	Method string
	Path   string // escaped, as it was sent, without a query
}

// Inspects reports whether TCP connections to name:port must be read, because
// some HTTP rule is about them. What is allowed on such a connection,
// [Policy.DecideRequest] says; a gateway that cannot read it must refuse it where
// [Decision.Inspect] is set.
func (p *Policy) Inspects(name string, port uint16) bool {
	host, f := canonicalName(name)
	if p == nil || f != nil {
		return false
	}
	for _, r := range p.rules {
		if r.http.scheme != "" && r.matchesName(host) && r.ports.contains(port) {
			return true
		}
	}
	return false
}

// DecideRequest decides about a request on a connection that DecideName allows,
// and repeats that decision. forward is the path to send on, in the form that
// was judged. A rule about connections to the host allows every request.
func (p *Policy) DecideRequest(q Request) (d Decision, forward string) {
	conn := p.DecideName(TCP, q.Host, q.Port)
	if !conn.Allow || !conn.Inspect {
		return conn, q.Path
	}
	host, _ := canonicalName(q.Host) // DecideName has read it
	subject := quote(q.Method+" "+q.Path) + " at " + host
	path, pathErr := CanonicalPath(q.Path)
	no := deny(NoRule, "", "no HTTP rule is about %s", host)
	for _, r := range p.rules {
		if r.http.scheme == "" || !r.matchesName(host) || !r.ports.contains(q.Port) {
			continue
		}
		switch {
		case (r.http.scheme == "https") != q.Secure:
			no = worse(no, deny(WrongScheme, r.String(), "rule %s is for %s only", r, r.http.scheme))
		case !r.http.hasMethod(q.Method):
			no = worse(no, deny(WrongMethod, r.String(), "rule %s is not for the method of %s", r, subject))
		case r.http.path == everyPath:
			return Decision{Allow: true, Code: Allowed, Inspect: true, Rule: r.String(), Reason: subject + " is allowed by rule " + r.String()}, q.Path
		case pathErr != nil:
			no = worse(no, deny(BadPath, r.String(), "the path of %s %v", subject, pathErr))
		case !matchPath(r.http.path, path):
			no = worse(no, deny(WrongPath, r.String(), "rule %s is not for the path of %s", r, subject))
		default:
			return Decision{Allow: true, Code: Allowed, Inspect: true, Rule: r.String(), Reason: subject + " is allowed by rule " + r.String()}, path
		}
	}
	return no, ""
}

// worse returns the denial that came nearer to a yes: codes of requests stand in
// that order.
func worse(a, b Decision) Decision {
	if b.Code > a.Code {
		return b
	}
	return a
}

// checkNoMask refuses HTTP rules that restrict nothing, because another rule of
// the list allows whole connections: whoever wrote them meant something else.
func checkNoMask(rules []Rule) *fault {
	for _, r := range rules {
		if r.http.scheme == "" || !r.http.restricts() {
			continue
		}
		for _, o := range rules {
			if o.http.scheme == "" && o.Covers(r) {
				return &fault{text: "rule " + r.String() + " restricts nothing, because rule " + o.String() + " allows all of it", hint: "Leave out one of them."}
			}
		}
	}
	return nil
}

// explainRequest adds what would become of a request to such a host.
func (p *Policy) explainRequest(dest, host string, port uint16) (Step, bool) {
	method, target := "GET", dest
	if m, rest, ok := strings.Cut(dest, " "); ok {
		method, target = strings.ToUpper(m), rest
	}
	scheme, rest, ok := strings.Cut(target, "://")
	if !ok || !p.Inspects(host, port) {
		return Step{}, false
	}
	_, path, _ := strings.Cut(rest, "/")
	path, _, _ = strings.Cut("/"+path, "?")
	d, _ := p.DecideRequest(Request{Secure: strings.EqualFold(scheme, "https"), Host: host, Port: port, Method: method, Path: path})
	return Step{"request", quote(method + " " + path), d}, true
}
