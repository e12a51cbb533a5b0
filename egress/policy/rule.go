package policy

import (
	"errors"
	"net/netip"
	"strconv"
)

// A Proto is a transport protocol.
type Proto uint8

// The protocols that can leave a box.
const (
	TCP Proto = iota + 1
	UDP
)

// String returns "tcp" or "udp".
func (p Proto) String() string {
	switch p {
	case TCP:
		return "tcp"
	case UDP:
		return "udp"
	}
	return "protocol " + strconv.Itoa(int(p))
}

// A Rule lets a box reach a host or a range of addresses, at some ports, by one
// protocol. Rules are equal (==) if they are the same. The zero Rule is about
// nothing and has no text.
type Rule struct {
	kind  kind
	proto Proto
	host  string       // of exactly and below: the name, canonical
	net   netip.Prefix // of addresses: IPv4, no bits set behind the mask
	ports portRange
	http  httpRule // which requests; the zero value: connections, whatever they carry
}

// A kind says what a rule is about.
type kind uint8

const (
	nothing   kind = iota
	anything       // all of the public Internet
	exactly        // the host
	below          // the names below host
	addresses      // net
)

// A portRange is the ports from one to another, inclusive; zero means all but
// those of DNS.
type portRange struct{ from, to uint16 }

// The ports of DNS, which rules must say: the gateway resolves names.
const dnsPort, dnsTLSPort = 53, 853

func (p portRange) contains(port uint16) bool {
	if p == (portRange{}) {
		return port != 0 && port != dnsPort && port != dnsTLSPort
	}
	return p.from <= port && port <= p.to
}

// covers reports whether p has all of o's ports.
func (p portRange) covers(o portRange) bool {
	switch every := (portRange{}); {
	case p == every && o == every:
		return true
	case p == every:
		return !o.contains(dnsPort) && !o.contains(dnsTLSPort)
	case o == every:
		return p == portRange{1, 65535}
	}
	return p.from <= o.from && o.to <= p.to
}

// mustSay returns what to add to the reason why p is not for port.
func (p portRange) mustSay(port uint16) string {
	if p == (portRange{}) && port != 0 {
		return ", which a rule must say: names are resolved by the gateway"
	}
	return ""
}

// String returns "", ":443" or ":8000-8100".
func (p portRange) String() string {
	switch {
	case p == portRange{}:
		return ""
	case p.from == p.to:
		return ":" + strconv.Itoa(int(p.from))
	}
	return ":" + strconv.Itoa(int(p.from)) + "-" + strconv.Itoa(int(p.to))
}

// String returns the rule as [ParseRule] reads it, in the one canonical form.
func (r Rule) String() string {
	if r.http.scheme != "" {
		return r.httpString()
	}
	s := ""
	if r.proto == UDP {
		s = "udp/"
	}
	switch r.kind {
	case anything:
		s += "*"
	case exactly:
		s += r.host
	case below:
		s += "*." + r.host
	case addresses:
		if r.net.IsSingleIP() {
			s += r.net.Addr().String()
		} else {
			s += r.net.String()
		}
	default:
		return ""
	}
	return s + r.ports.String()
}

// MarshalText returns the rule's canonical form. The zero Rule has none.
func (r Rule) MarshalText() ([]byte, error) {
	if r.kind == nothing {
		return nil, errors.New("the zero rule has no text")
	}
	return []byte(r.String()), nil
}

// UnmarshalText reads a rule as [ParseRule] does.
func (r *Rule) UnmarshalText(text []byte) (err error) {
	*r, err = ParseRule(string(text))
	return err
}

// MatchesName reports whether the rule is about the host name, at whatever port
// and by whatever protocol.
func (r Rule) MatchesName(name string) bool {
	host, f := canonicalName(name)
	return f == nil && r.matchesName(host)
}

// IsHosts reports whether the rule is about TCP connections to a host, or to the
// hosts below one: not about addresses, requests or everything.
func (r Rule) IsHosts() bool {
	return (r.kind == exactly || r.kind == below) && r.proto == TCP && r.http.scheme == ""
}

// Matches reports whether the rule is about connections to name:port.
func (r Rule) Matches(name string, port uint16) bool {
	return r.ports.contains(port) && r.MatchesName(name)
}

// matchesName is MatchesName for a canonical name.
func (r Rule) matchesName(host string) bool {
	switch r.kind {
	case anything:
		return true
	case exactly:
		return host == r.host
	case below:
		return isBelow(host, r.host)
	default:
		return false
	}
}

// matchesAddr reports whether the rule opens the address: a public one if the
// rule is about it, one of a special range only if the rule is about addresses
// inside that range.
func (r Rule) matchesAddr(a netip.Addr) bool {
	special, isSpecial := inRanges(specialRanges, a)
	switch r.kind {
	case anything:
		return !isSpecial && r.http.scheme == "" // requests are judged by name
	case addresses:
		return r.net.Contains(a) && (!isSpecial || includes(special.net, r.net))
	default:
		return false
	}
}

// Covers reports whether everything that o allows, r allows too. Where it is
// not certain, the answer is no.
func (r Rule) Covers(o Rule) bool {
	if r.proto != o.proto || !r.ports.covers(o.ports) || !r.http.covers(o.http) {
		return false
	}
	switch {
	case r.kind == nothing || o.kind == nothing:
		return false
	case r.kind == anything:
		_, special := inside(specialRanges, o.net)
		return o.kind != addresses || !special
	case r.kind == addresses:
		// A range inside a special one opens it; a wider one does not.
		special, isSpecial := inside(specialRanges, o.net)
		return o.kind == addresses && includes(r.net, o.net) && (!isSpecial || includes(special.net, r.net))
	case o.kind == exactly:
		return r.matchesName(o.host)
	}
	return r.kind == below && o.kind == below && (o.host == r.host || isBelow(o.host, r.host))
}
