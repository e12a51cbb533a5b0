package policy

import (
	"net/netip"
	"strconv"
	"strings"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
)

// A Static is an entry of the operator that says where a name leads, in place
// of DNS. It opens To for connections to that name, in whatever range To lies
// (but never what nothing opens), and does not open the name: that is for the
// rules. A name with static entries is not resolved for other ports either.
type Static struct {
	Host string         // canonical name
	Port uint16         // the port that is asked for; 0: any
	To   netip.AddrPort // IPv4
}

// ParseStatic reads "name=address:port" or "name:port=address:port".
//
// Errors: [boxlite.Config].
func ParseStatic(s string) (Static, error) {
	bad := func(text string) (Static, error) {
		f := &fault{text: text, hint: "Write name=address:port, such as api.test=127.0.0.1:8080."}
		return Static{}, f.err("parse static host entry", s)
	}
	name, to, ok := strings.Cut(s, "=")
	if !ok {
		return bad("it has no '='")
	}
	var e Static
	name, port, hasPort := strings.Cut(name, ":")
	if hasPort {
		if e.Port, ok = parsePort(port); !ok {
			return bad(quote(port) + " is not a port")
		}
	}
	host, f := canonicalName(name)
	if f != nil {
		return bad("the name is none: " + f.text)
	}
	addr, err := netip.ParseAddrPort(to)
	if err != nil {
		return bad(quote(to) + " is not an address and port")
	}
	e.Host, e.To = host, addr
	if f := e.check(); f != nil {
		return bad(f.text)
	}
	return e, nil
}

// String returns the entry as [ParseStatic] reads it.
func (s Static) String() string {
	host := s.Host
	if s.Port != 0 {
		host += ":" + strconv.Itoa(int(s.Port))
	}
	return host + "=" + s.To.String()
}

// check refuses entries that could never serve.
func (s Static) check() *fault {
	if host, f := canonicalName(s.Host); f != nil || host != s.Host {
		return &fault{text: "the name is not canonical"}
	}
	if f := checkHost(s.Host); f != nil {
		return &fault{text: "of the name: " + f.text}
	}
	if never, ok := inRanges(neverRanges, s.To.Addr()); ok {
		return &fault{text: "the address is " + never.what + ", which is never reached"}
	}
	if !s.To.Addr().Is4() || s.To.Port() == 0 {
		return &fault{text: "it does not lead to an IPv4 address and port"}
	}
	return nil
}

// indexStatic returns the entries by name, those for one port first.
func indexStatic(list []Static) (map[string][]Static, error) {
	index := map[string][]Static{}
	for _, s := range list {
		if f := s.check(); f != nil {
			return nil, f.err("make network policy", s.String())
		}
		for _, other := range index[s.Host] {
			if other.Port == s.Port {
				return nil, boxlite.Errorf(boxlite.Config, "make network policy", quote(s.String()), "there is also %s", other)
			}
		}
		if s.Port == 0 {
			index[s.Host] = append(index[s.Host], s)
		} else {
			index[s.Host] = append([]Static{s}, index[s.Host]...)
		}
	}
	return index, nil
}
