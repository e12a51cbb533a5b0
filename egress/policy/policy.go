// Package policy decides what a box may reach.
//
// It is not the gateway: it opens no socket, resolves no name, keeps no state
// and writes no log. It says yes or no, by which rule and why, to whoever
// carries the traffic, and by the same code to boxlite-mcp explain-net.
//
//	access, err := policy.ParseAccess([]string{"api.example.com:443", "*.debian.org", "udp/10.0.0.53:53"})
//	err = access.Within(ceiling) // the operator's
//	p, err := policy.New(policy.Config{Access: access, Own: ownAddresses, BoxNets: boxNets})
//
//	d := p.NameMayResolve("api.example.com")                               // the guest asks DNS
//	d = p.DecideName(policy.TCP, "api.example.com", 443)                   // the guest dials the name, or says it in SNI
//	d = p.DecideResolved(policy.TCP, "api.example.com", 443, dialedAddr)   // in Dialer.ControlContext, for each address
//	d = p.DecideAddr(policy.TCP, addr, 443)                                // the guest dials an address
//
// # Steps
//
// A connection to a name needs DecideName before anything is resolved and
// DecideResolved for the very address that is about to be dialled, each time:
// no answer of a resolver is remembered as a permission. A connection to an
// address needs DecideAddr. Names are to be resolved as they are, without a
// search list (with a dot at the end), and dialled by IPv4.
//
// # Rules
//
//	[tcp/|udp/] host | *.host | * | address | address/bits [:port | :from-to]
//
// Without a protocol a rule is for TCP. Without a port it is for every port but
// those of DNS (53 and 853), which must be said: names are resolved by the
// gateway. *.host is every name below host and not host itself; * is every host
// and address of the public Internet. A special range (private, loopback,
// shared, documentation and so on) is opened only by an address rule that lies
// inside that range, and never to a name that resolves there. Some addresses
// nothing opens; see [Config] and address.go.
//
// An HTTP rule lets through requests instead of connections, which are read for
// that (see [Policy.Inspects]):
//
//	method[,method...]|* http[s]://host|*.host|*[:port]/path
//
// In its path "*" is any text within one segment, and "**" at the end is
// anything. "inspect host" is short for "* https://host/**": everything, but
// read and recorded. A rule for connections to the host allows every request, so
// an HTTP rule that restricts something beside one is refused.
//
// # Concurrency
//
// All values are immutable; everything may be called concurrently. The
// functions in a [Config] are called in the course of a decision, so they must
// be fast and safe to call concurrently.
package policy

import (
	"fmt"
	"net/netip"
	"slices"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
)

// A Config is what a [Policy] is made of.
type Config struct {
	// Access is what the box may reach. The zero Access is nothing.
	Access Access

	// Own returns the addresses of the host's interfaces with the lengths of
	// their networks, as they are now. They are never reached, nor are the
	// broadcast addresses of their networks. Loopback addresses among them are
	// passed over: these are a special range. If it fails, everything is
	// denied. Required.
	Own func() ([]netip.Prefix, error)

	// Listeners returns where this program listens on the host; a listener on
	// the unspecified address is one on every address of the host. They are
	// never reached. nil: there are none.
	Listeners func() []netip.AddrPort

	// BoxNets are the networks of boxes and of synthetic addresses, which
	// never leave the gateway. At least one.
	BoxNets []netip.Prefix

	// Static says where some names lead, in place of DNS.
	Static []Static

	// Intercepts reports whether the gateway reads what is sent to a host,
	// whose canonical name it is given. QUIC to such a host is denied. nil: it
	// reads nothing.
	Intercepts func(name string) bool
}

// A Policy decides what one box may reach. It never changes. The zero Policy,
// and a nil one, deny everything.
type Policy struct {
	cfg    Config
	rules  []Rule
	static map[string][]Static // by name
}

// New returns the policy that cfg describes.
//
// Errors: [boxlite.Config] if something required is missing or two static
// entries contradict each other.
func New(cfg Config) (*Policy, error) {
	bad := func(format string, args ...any) (*Policy, error) {
		return nil, boxlite.Errorf(boxlite.Config, "make network policy", "", format, args...)
	}
	switch {
	case cfg.Own == nil:
		return bad("it is not known which addresses are the host's")
	case len(cfg.BoxNets) == 0:
		return bad("it is not known which networks are those of boxes")
	case slices.ContainsFunc(cfg.BoxNets, func(n netip.Prefix) bool { return !n.IsValid() }):
		return bad("a network of boxes is not valid")
	case cfg.Access.Mode > List:
		return bad("network mode %v is not known", cfg.Access.Mode)
	case len(cfg.Access.Rules) > maxRules:
		return bad("%d rules are more than %d", len(cfg.Access.Rules), maxRules)
	}
	static, err := indexStatic(cfg.Static)
	if err != nil {
		return nil, err
	}
	cfg.BoxNets, cfg.Static = slices.Clone(cfg.BoxNets), slices.Clone(cfg.Static)
	return (&Policy{cfg: cfg, static: static}).With(cfg.Access), nil
}

// With returns a policy of the same configuration for another access, which
// replaces p while the box runs. It does not ask whether a is narrower; that
// is [Access.Within].
func (p *Policy) With(a Access) *Policy {
	a.Rules = slices.Clone(a.Rules)
	next := *p
	next.cfg.Access, next.rules = a, a.effective()
	return &next
}

// Access returns what the policy was made for.
func (p *Policy) Access() Access {
	if p == nil {
		return Access{}
	}
	a := p.cfg.Access
	a.Rules = slices.Clone(a.Rules)
	return a
}

// NameMayResolve decides whether a name that the guest asks DNS for gets an
// answer: only if some rule lets the box connect to it on some port. Rules for
// addresses are no reason to resolve anything.
func (p *Policy) NameMayResolve(name string) Decision {
	host, d := p.checkName(name)
	if d.Code != Undecided {
		return d
	}
	for _, r := range p.rules {
		if r.matchesName(host) {
			return p.allow(r, host)
		}
	}
	return deny(NoRule, "", "no allow_net rule names %s", host)
}

// DecideName decides about a connection to a name, as the guest said it: in the
// DNS question behind a synthetic address, in SNI, in a Host header. Case and
// one dot at the end make no difference. An IPv4 address in place of the name is
// judged as by [Policy.DecideAddr]. It is a no for good, but a yes only until
// [Policy.DecideResolved].
func (p *Policy) DecideName(proto Proto, name string, port uint16) Decision {
	if a, err := netip.ParseAddr(name); err == nil {
		return p.DecideAddr(proto, a, port)
	}
	host, d := p.checkName(name)
	if d.Code != Undecided {
		return d
	}
	if proto == UDP && port == 443 && (p.cfg.Intercepts != nil && p.cfg.Intercepts(host) || p.Inspects(host, 443)) {
		return deny(QUIC, "", "what is sent to %s is inspected, so HTTP/3 is refused; HTTP/1.1 and HTTP/2 work", host)
	}
	if _, ok := p.Static(host, port); !ok && p.static[host] != nil {
		return deny(StaticEntry, "", "the static entry for %s has another port than %d", host, port)
	}
	return p.match(proto, host, port, func(r Rule) bool { return r.matchesName(host) })
}

// DecideAddr decides about a connection to an address that the guest chose. For
// one that stands for a name (a synthetic address, or where SNI says a name) use
// DecideName. An IPv6 address is denied in all its forms, so an address of
// 16 bytes that stands for an IPv4 one must have been unmapped by who knows that.
func (p *Policy) DecideAddr(proto Proto, addr netip.Addr, port uint16) Decision {
	if d := p.checkAddr(netip.AddrPortFrom(addr, port)); d.Code != Undecided {
		return d
	}
	d := p.match(proto, addr.String(), port, func(r Rule) bool { return r.matchesAddr(addr) })
	if special, ok := inRanges(specialRanges, addr); ok && d.Code == NoRule {
		return deny(SpecialAddress, "", "%s is %s and needs an address rule inside %s", addr, special.what, special.net)
	}
	// An address hides the name, which an HTTP/3 client would have told.
	if d.Allow && proto == UDP && port == 443 && (p.cfg.Intercepts != nil || p.cfg.Access.ReadsHTTP()) && !p.byAddress(addr, d.Rule) {
		return deny(QUIC, "", "HTTP/3 to %s is refused because some hosts are inspected", addr)
	}
	return d
}

// DecideResolved decides about a connection to name:port that is about to be
// made to the given address: in Dialer.ControlContext, whatever was decided
// before. It is for the name as DecideName; and the address must be the one of
// the static entry, or a public one with the same port.
func (p *Policy) DecideResolved(proto Proto, name string, port uint16, to netip.AddrPort) Decision {
	d := p.DecideName(proto, name, port)
	if !d.Allow {
		return d
	}
	if no := p.checkAddr(to); no.Code != Undecided {
		return no
	}
	host, err := CanonicalName(name)
	if err != nil { // allowed all the same: it is an address
		if to != netip.AddrPortFrom(netip.MustParseAddr(name), port) {
			return deny(OtherAddress, "", "%s is not %s:%d", to, name, port)
		}
		return d
	}
	if want, ok := p.Static(host, port); ok {
		if to != want {
			return deny(StaticEntry, "", "the static entry for %s is %s and not %s", host, want, to)
		}
		return d
	}
	if to.Port() != port {
		return deny(OtherAddress, "", "%s is not port %d, which was asked for", to, port)
	}
	if special, ok := inRanges(specialRanges, to.Addr()); ok {
		return deny(SpecialAddress, "", "%s resolves to %s, which is %s and is not reached by name", host, to.Addr(), special.what)
	}
	return d
}

// Static returns where the operator's static entry leads that is about
// connections to name:port, if there is one. Such a name is not resolved.
func (p *Policy) Static(name string, port uint16) (to netip.AddrPort, ok bool) {
	host, err := CanonicalName(name)
	if p == nil || err != nil {
		return netip.AddrPort{}, false
	}
	for _, s := range p.static[host] {
		if s.Port == port || s.Port == 0 {
			return s.To, true
		}
	}
	return netip.AddrPort{}, false
}

// HasStatic reports whether the operator's static entries say where connections
// to the name lead, at some port. Such a name is not resolved.
func (p *Policy) HasStatic(name string) bool {
	host, err := CanonicalName(name)
	return p != nil && err == nil && p.static[host] != nil
}

// match decides by the rules about a destination for which hostMatches says
// which rules are about its host.
func (p *Policy) match(proto Proto, subject string, port uint16, hostMatches func(Rule) bool) Decision {
	miss := deny(NoRule, "", "no allow_net rule names %s", subject)
	inspected := Decision{}
	for _, r := range p.rules {
		switch {
		case !hostMatches(r):
		case r.proto == proto && r.ports.contains(port) && r.http.scheme != "":
			if !inspected.Allow {
				inspected = p.allow(r, subject)
				inspected.Inspect = true
				inspected.Reason = "requests to " + subject + " are allowed as far as HTTP rules such as " + r.String() + " do"
			}
		case r.proto == proto && r.ports.contains(port):
			return p.allow(r, subject)
		case r.proto == proto:
			miss = deny(WrongPort, r.String(), "rule %s is not for port %d%s", r, port, r.ports.mustSay(port))
		case miss.Code == NoRule:
			miss = deny(WrongProtocol, r.String(), "rule %s is not for %v", r, proto)
		}
	}
	if inspected.Allow {
		return inspected
	}
	return miss
}

func (p *Policy) allow(r Rule, subject string) Decision {
	d := Decision{Allow: true, Code: Allowed, Rule: r.String()}
	if p.cfg.Access.Mode == PublicInternet {
		d.Reason = subject + " is allowed: the box may reach the public Internet"
	} else {
		d.Reason = fmt.Sprintf("%s is allowed by rule %s", subject, r)
	}
	return d
}

// checkName returns the canonical form of a name, or why it is denied
// whatever the rules say.
func (p *Policy) checkName(name string) (host string, d Decision) {
	if d := p.checkNIC(); d.Code != Undecided {
		return "", d
	}
	host, f := canonicalName(name)
	if f != nil {
		return "", deny(BadName, "", "%s is no host name: %s", quote(name), f.text)
	}
	if what, ok := neverName(host); ok {
		return "", deny(Metadata, "", "%s is %s, which is never reached", host, what)
	}
	if what, ok := localName(host); ok && p.static[host] == nil {
		return "", deny(SpecialName, "", "%s is %s, which does not leave the box", host, what)
	}
	return host, Decision{}
}

// checkAddr returns why an address is denied whatever the rules say, or the
// zero Decision.
func (p *Policy) checkAddr(to netip.AddrPort) Decision {
	if d := p.checkNIC(); d.Code != Undecided {
		return d
	}
	addr := to.Addr()
	if never, ok := inRanges(neverRanges, addr); ok {
		return deny(never.code, "", "%s is %s, which is never reached", addr, never.what)
	}
	if !addr.Is4() {
		return deny(IPv6, "", "%s is not an IPv4 address, and boxes have no IPv6", addr)
	}
	for _, n := range p.cfg.BoxNets {
		if n.Contains(addr) {
			return deny(BoxSubnet, "", "%s is in the boxes' own network %s", addr, n)
		}
	}
	own, err := p.cfg.Own()
	if err != nil {
		return deny(HostAddress, "", "%s may be the host's own: its addresses could not be read", addr)
	}
	isOwn, broadcast := ownAddress(own, addr)
	switch {
	case broadcast:
		return deny(Reserved, "", "%s is a broadcast address of the host's network", addr)
	case isOwn:
		return deny(HostAddress, "", "%s is an address of the host, which is never reached", addr)
	case p.cfg.Listeners != nil && isListener(p.cfg.Listeners(), to):
		return deny(Listener, "", "%s is a listener of boxlite-mcp, which is never reached", to)
	}
	return Decision{}
}

func (p *Policy) checkNIC() Decision {
	if p == nil || p.cfg.Access.Mode == Disabled || p.cfg.Own == nil {
		return deny(NoNetwork, "", "the box has no network")
	}
	return Decision{}
}

// byAddress reports whether the rule with the given text is about addresses.
func (p *Policy) byAddress(addr netip.Addr, rule string) bool {
	return slices.ContainsFunc(p.rules, func(r Rule) bool {
		return r.kind == addresses && r.matchesAddr(addr) && r.String() == rule
	})
}

// ownAddress reports whether addr is one of own, or a broadcast address of a
// network that own lies in.
func ownAddress(own []netip.Prefix, addr netip.Addr) (isOwn, broadcast bool) {
	if addr.IsLoopback() {
		return false, false
	}
	for _, n := range own {
		switch {
		case n.Addr().Unmap() == addr:
			isOwn = true
		case n.Addr().Is4() && n.Bits() <= 30 && n.Contains(addr):
			broadcast = broadcast || addr == n.Masked().Addr() || addr == lastOf(n)
		}
	}
	return isOwn, broadcast
}

// isListener reports whether something of ours answers at to.
func isListener(listeners []netip.AddrPort, to netip.AddrPort) bool {
	return slices.ContainsFunc(listeners, func(l netip.AddrPort) bool {
		a := l.Addr().Unmap()
		return l.Port() == to.Port() && (a == to.Addr() || a.IsUnspecified() && to.Addr().IsLoopback())
	})
}
