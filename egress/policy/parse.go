package policy

import (
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// maxEntry bounds the text of a rule, in bytes: a name, a range of ports and a
// protocol fit.
const maxEntry = 300

// ParseRule reads one entry of allow_net; the package comment has the grammar.
// It takes capital letters and a dot at the end of a name, and nothing else that
// is not canonical.
//
// Errors: [boxlite.Config], with the entry that was meant, if that can be told,
// or what to write instead.
func ParseRule(s string) (Rule, error) {
	r, f := parseRule(s)
	if f == nil {
		return r, nil
	}
	if meant, ok := suggest(f.try); ok {
		f.hint = `Write "` + meant.String() + `".`
	}
	return Rule{}, f.err("parse allow_net entry", s)
}

// suggest returns the rule that try means: as it is, or after it was mended as
// its own faults suggest.
func suggest(try string) (Rule, bool) {
	for range 5 {
		if try == "" {
			break
		}
		r, f := parseRule(try)
		if f == nil {
			return r, true
		}
		try = f.try
	}
	return Rule{}, false
}

func parseRule(s string) (Rule, *fault) {
	switch trimmed := strings.Trim(s, " \t\r\n\"'`,;"); {
	case trimmed == "":
		return Rule{}, &fault{text: "it is empty", hint: `Write a host, such as "api.example.com:443".`}
	case len(s) > maxEntry:
		return Rule{}, &fault{text: "it is longer than " + strconv.Itoa(maxEntry) + " bytes", hint: "Write one host for each entry."}
	case trimmed != s:
		return Rule{}, &fault{text: "there are blanks or quotes around it", try: trimmed}
	}
	r := Rule{proto: TCP}
	if rest, is, f := r.cutHTTP(s); is {
		if f != nil {
			return Rule{}, f
		}
		return r.parseHTTPHost(rest)
	}
	switch {
	case strings.ContainsAny(s, " \t\r\n,;"):
		return Rule{}, &fault{text: "it has blanks, commas or semicolons in it", hint: "Write one host for each entry."}
	case strings.Contains(s, "://"):
		return Rule{}, urlFault(s)
	}
	if user, host, ok := strings.Cut(s, "@"); ok {
		return Rule{}, &fault{text: "it has a user's name in it", hint: "Leave out what is before '@'.", try: dropPath(protoOf(user) + host)}
	}
	rest, f := r.cutProto(s)
	if f != nil {
		return Rule{}, f
	}
	if f := r.parseHostPort(rest); f != nil {
		if f.try != "" {
			f.try = protoOf(s) + f.try
		}
		return Rule{}, f
	}
	return r, nil
}

// parseHTTPHost reads the host and port of an HTTP rule.
func (r Rule) parseHTTPHost(s string) (Rule, *fault) {
	f := r.parseHostPort(s)
	if f == nil {
		f = r.finishHTTP()
	} else if f.try != "" {
		f.try = r.http.prefix() + f.try + r.http.path
	}
	if f != nil {
		return Rule{}, f
	}
	return r, nil
}

// schemePorts are the ports of URLs that have none. The zero is for those whose
// port must be there.
var schemePorts = map[string]string{
	"http": "80", "ws": "80", "https": "443", "wss": "443", "ssh": "22", "git": "9418", "ftp": "21",
	"postgres": "5432", "postgresql": "5432", "mysql": "3306", "redis": "6379", "rediss": "6379", "mongodb": "27017", "amqp": "5672",
}

func urlFault(s string) *fault {
	f := &fault{text: "it is a URL", hint: `Write the host and port, such as "api.example.com:443".`}
	scheme, rest, _ := strings.Cut(s, "://")
	scheme = strings.ToLower(scheme)
	rest, _, _ = strings.Cut(rest, "/")
	rest, _, _ = strings.Cut(rest, "?")
	rest, _, _ = strings.Cut(rest, "#")
	u, err := url.Parse("x://" + rest)
	if err != nil || u.Hostname() == "" {
		// Such as https://*:8080x, of which nothing can be made.
		return f
	}
	port := u.Port()
	if port == "" {
		port = schemePorts[scheme]
	}
	f.try = u.Hostname()
	if port != "" {
		f.try = net.JoinHostPort(u.Hostname(), port)
	}
	if scheme == "udp" {
		f.try = "udp/" + f.try
	}
	return f
}

// protoOf returns the prefix for the protocol that s begins with, or "".
func protoOf(s string) string {
	for _, p := range []Proto{TCP, UDP} {
		if prefix := p.String() + "/"; len(s) >= len(prefix) && strings.EqualFold(s[:len(prefix)], prefix) {
			return prefix
		}
	}
	return ""
}

// cutProto takes the protocol from s.
func (r *Rule) cutProto(s string) (rest string, f *fault) {
	if prefix := protoOf(s); prefix != "" {
		if prefix == "udp/" {
			r.proto = UDP
		}
		return s[len(prefix):], nil
	}
	word, after, ok := strings.Cut(s, "/")
	if ok && word != "" && strings.Trim(strings.ToLower(word), letters+"0123456789") == "" && !isNumber(word) && after != "" {
		f := &fault{text: quote(word) + " is not a protocol that can leave a box", hint: `Begin with "tcp/" or "udp/", or with the host.`}
		if strings.EqualFold(word, "http") || strings.EqualFold(word, "https") {
			f.try = after
		}
		return "", f
	}
	return s, nil
}

// parseHostPort reads what is behind the protocol. What its fault would try is
// without the protocol, too.
func (r *Rule) parseHostPort(s string) *fault {
	if strings.HasPrefix(s, "[") || strings.Count(s, ":") > 1 {
		return ipv6Fault(s)
	}
	host, _, slash := strings.Cut(s, "/")
	if slash && (host == "" || strings.Trim(host, "0123456789.") != "") {
		f := &fault{text: "there is a path behind the host", hint: "Write the host alone."}
		if protoOf(s) == "" { // not udp/udp/host
			f.try = host
		}
		return f
	}
	host, ports, hasPorts := strings.Cut(s, ":")
	if hasPorts {
		if f := r.parsePorts(ports); f != nil {
			if f.try != "" {
				f.try = host + ":" + f.try
			} else if ports == "" || ports == "*" {
				f.try = host
			}
			return f
		}
	}
	f := r.parseHost(host)
	if f != nil && f.try != "" && hasPorts {
		f.try += ":" + ports
	}
	return f
}

// parsePorts reads "443" or "8000-8100". What its fault would try are ports.
func (r *Rule) parsePorts(s string) *fault {
	first, last, isRange := strings.Cut(s, "-")
	if !isRange {
		last = first
	}
	from, ok := parsePort(first)
	to, ok2 := parsePort(last)
	switch {
	case s == "" || s == "*":
		return &fault{text: "there is no port behind ':'", hint: "Leave out ':' for every port."}
	case wellKnown[strings.ToLower(s)] != "":
		return &fault{text: "the port is not a number", try: wellKnown[strings.ToLower(s)]}
	case !ok || !ok2:
		return &fault{text: quote(s) + " are not ports", hint: `Write ports from 1 to 65535, such as ":443" or ":8000-8100".`, try: plainPorts(first, last, isRange)}
	case from > to:
		return &fault{text: "the first port is above the last", try: last + "-" + first}
	}
	r.ports = portRange{from, to}
	return nil
}

var wellKnown = map[string]string{"http": "80", "https": "443", "ssh": "22", "dns": "53", "domain": "53", "ntp": "123", "smtp": "25"}

// parsePort reads a port as strconv.Itoa writes it.
func parsePort(s string) (uint16, bool) {
	n, err := strconv.ParseUint(s, 10, 16)
	return uint16(n), err == nil && n > 0 && strconv.FormatUint(n, 10) == s
}

// plainPorts returns ports that differ from what was written by leading zeros
// and signs only, or "".
func plainPorts(first, last string, isRange bool) string {
	first, last = strings.TrimLeft(first, "0+"), strings.TrimLeft(last, "0+")
	_, ok := parsePort(first)
	_, ok2 := parsePort(last)
	switch {
	case !ok || !ok2:
		return ""
	case isRange:
		return first + "-" + last
	}
	return first
}

// parseHost reads what stands for the host. What its fault would try is that.
func (r *Rule) parseHost(s string) *fault {
	switch {
	case s == "":
		return &fault{text: "it has no host", hint: `Write a host, or "*" for every public host.`}
	case s == "*":
		r.kind = anything
		return nil
	case strings.Contains(s, "/"):
		return r.parseNet(s)
	case strings.HasPrefix(s, "*.") && !strings.Contains(s[1:], "*"):
		return r.parseBelow(s[2:])
	case strings.Contains(s, "*"):
		return starFault(s)
	case strings.HasPrefix(s, ".") && len(s) > 1:
		return &fault{text: "it begins with a dot", try: "*" + s}
	}
	if a, err := netip.ParseAddr(s); err == nil {
		return r.setNet(netip.PrefixFrom(a, a.BitLen()))
	}
	host, f := canonicalName(s)
	if f != nil {
		return f
	}
	r.kind, r.host = exactly, host
	return checkHost(host)
}

// checkHost refuses names that no rule opens.
func checkHost(host string) *fault {
	if what, ok := neverName(host); ok {
		return &fault{text: "it is " + what + ", which is never reached", hint: "Leave it out."}
	}
	if host == "localhost" || isBelow(host, "localhost") {
		return &fault{text: "it means the box itself", hint: "Have the operator give a service of the host a static entry, such as api.test=127.0.0.1:8080."}
	}
	return nil
}

// parseBelow reads what is behind "*.".
func (r *Rule) parseBelow(s string) *fault {
	host, f := canonicalName(s)
	if f != nil {
		if f.try != "" {
			f.try = "*." + f.try // which is refused again where it is an address
		}
		return f
	}
	if isRegistry(host) {
		return &fault{text: "it is every name in " + host + ", which belong to many owners", hint: `Name the domain, such as "*.example.` + host + `", or write "*" for every public host.`}
	}
	r.kind, r.host = below, host
	return checkHost(host)
}

// isRegistry reports whether names directly below host belong to different
// owners for sure: a name of one label, or what countries put below their own.
// Which others do is a long list that changes (see docs/decisions/0091).
func isRegistry(host string) bool {
	second, top, ok := strings.Cut(host, ".")
	if !ok {
		return true
	}
	return len(top) == 2 && strings.Contains(" ac co com edu go gov gob mil ne net or org ", " "+second+" ")
}

func starFault(s string) *fault {
	f := &fault{text: `"*" stands for more than whole leading labels`, hint: `Write "*.example.com" for all names below example.com, or "*" for every public host.`}
	star := strings.LastIndex(s, "*")
	rest := s[star+1:]
	if star > 0 && strings.Trim(s, "*") == rest {
		star = 0 // **.example.com
	}
	if star > 0 { // a*b.example.com: what is left of the label goes
		_, after, ok := strings.Cut(rest, ".")
		if !ok {
			return f
		}
		rest = after
	}
	if rest = strings.TrimLeft(rest, "."); rest != "" {
		f.try = "*." + rest
	}
	return f
}

// parseNet reads "address/bits".
func (r *Rule) parseNet(s string) *fault {
	addr, bits, _ := strings.Cut(s, "/")
	a, err := netip.ParseAddr(addr)
	if err != nil {
		if loose, ok := looseAddr(addr); ok {
			return &fault{text: "the address is not four decimal numbers", try: loose.String() + "/" + bits}
		}
		return &fault{text: "it is not a range of addresses", hint: `Write one such as "192.0.2.0/24".`}
	}
	if n, err := netip.ParsePrefix(s); err == nil {
		if n != n.Masked() {
			return &fault{text: "bits are set behind the /" + bits, try: n.Masked().String()}
		}
		return r.setNet(n)
	}
	f := &fault{text: quote("/"+bits) + " is not a length of a network", hint: "Write a length from /0 to /32."}
	if m, err := netip.ParseAddr(bits); err == nil && m.Is4() {
		if ones, size := net.IPMask(m.AsSlice()).Size(); size == 32 {
			f.try = netip.PrefixFrom(a, ones).String()
		}
	} else if n := strings.TrimLeft(bits, "0"); n != "" && n != bits {
		f.try = addr + "/" + n
	}
	return f
}

func (r *Rule) setNet(n netip.Prefix) *fault {
	if never, ok := inside(neverRanges, n); ok {
		return &fault{text: "it is " + never.what + ", which is never reached", hint: "Leave it out."}
	}
	r.kind, r.net = addresses, n
	return nil
}

// ipv6Fault says what is wrong with a text that has brackets or many colons.
func ipv6Fault(s string) *fault {
	text, tail := s, ""
	if inner, after, ok := strings.Cut(strings.TrimPrefix(s, "["), "]"); ok && s[0] == '[' {
		text, tail = inner, after
	}
	addr, bits, _ := strings.Cut(text, "/")
	a, err := netip.ParseAddr(addr)
	switch {
	case err != nil && text == s:
		return &fault{text: "it has too many colons", hint: `Write "host:port" or "host:from-to".`}
	case err != nil:
		return &fault{text: "what is in the brackets is no address", hint: "Brackets are for IPv6, which boxes do not have.", try: text + tail}
	case a.Is4In6() && bits == "":
		return &fault{text: "it is IPv6, which boxes do not have", try: a.Unmap().String() + tail}
	case a.Is4():
		return &fault{text: "brackets are for IPv6, which boxes do not have", try: text + tail}
	}
	return &fault{text: "it is IPv6, which boxes do not have", hint: "Write the name of the host, or its IPv4 address."}
}

// dropPath returns s without what is behind its host and port.
func dropPath(s string) string {
	proto := protoOf(s)
	s, _, _ = strings.Cut(s[len(proto):], "/")
	if host, port, ok := strings.Cut(s, ":"); ok && strings.Trim(port, "0123456789-") != "" {
		s = host // git@example.com:owner/repository
	}
	return proto + s
}
