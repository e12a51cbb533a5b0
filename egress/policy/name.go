package policy

import (
	"net/netip"
	"strconv"
	"strings"

	"golang.org/x/net/idna"
)

// CanonicalName returns a host name in the one form that names are compared in:
// lower case, without the dot at the end. A name is 1 to 253 bytes of labels of
// 1 to 63 letters, digits and inner hyphens, all ASCII; a label that begins with
// xn-- must be what IDNA 2008 makes of some text. The last label is no number:
// such a text is an address to somebody.
//
// Errors: [boxlite.Config].
func CanonicalName(s string) (string, error) {
	host, f := canonicalName(s)
	if f != nil {
		return "", f.err("parse host name", s)
	}
	return host, nil
}

const letters = "abcdefghijklmnopqrstuvwxyz"

func canonicalName(s string) (string, *fault) {
	if len(s) > 4*254 { // in UTF-8; do not let a guest have much mapped
		return "", &fault{text: "it is longer than 253 bytes"}
	}
	if strings.ContainsFunc(s, func(r rune) bool { return r >= 0x80 }) {
		meant, err := idna.Lookup.ToASCII(s)
		if err != nil {
			meant = ""
		}
		return "", &fault{text: "it is not in ASCII", hint: "Write it in its ASCII form, with xn--.", try: meant}
	}
	host := strings.ToLower(strings.TrimSuffix(s, "."))
	if len(host) > 253 {
		return "", &fault{text: "it is longer than 253 bytes"}
	}
	last := ""
	for label := range strings.SplitSeq(host, ".") {
		if f := checkLabel(label); f != nil {
			return "", f
		}
		last = label
	}
	if isNumber(last) {
		f := &fault{text: "it ends in a number, which is an address to some programs", hint: "Write an address as four decimal numbers."}
		if a, ok := looseAddr(host); ok {
			f.try = a.String()
		}
		return "", f
	}
	return host, nil
}

// checkLabel checks one label in lower case.
func checkLabel(label string) *fault {
	switch {
	case label == "":
		return &fault{text: "a part of it between dots is empty"}
	case len(label) > 63:
		return &fault{text: "a part of it between dots is longer than 63 bytes"}
	case strings.Trim(label, letters+"0123456789-") != "" || strings.ContainsFunc(label, notLDH):
		return &fault{text: "it has other characters than letters, digits, '-' and '.'"}
	case label[0] == '-' || label[len(label)-1] == '-':
		return &fault{text: "a part of it begins or ends with '-'"}
	case strings.HasPrefix(label, "xn--") && !isALabel(label):
		return &fault{text: "a part of it begins with xn-- and is not IDNA"}
	}
	return nil
}

func notLDH(r rune) bool { return !strings.ContainsRune(letters+"0123456789-", r) }

var idna2008 = idna.New(idna.ValidateLabels(true), idna.StrictDomainName(true), idna.BidiRule(), idna.Transitional(false))

// isALabel reports whether the label, which begins with xn--, is what IDNA makes
// of its text.
func isALabel(label string) bool {
	text, err := idna2008.ToUnicode(label)
	if err != nil || text == label {
		return false
	}
	again, err := idna2008.ToASCII(text)
	return err == nil && again == label
}

// isNumber reports whether inet_aton would take the label as the end of an
// address.
func isNumber(label string) bool {
	digits, hex := strings.CutPrefix(label, "0x")
	if hex {
		return strings.Trim(digits, "0123456789abcdef") == ""
	}
	return strings.Trim(label, "0123456789") == ""
}

// looseAddr returns the address that inet_aton(3) reads in s: one to four
// numbers, in octal after 0 and hexadecimal after 0x, the last of which fills
// what is left. It only serves to suggest the plain form.
func looseAddr(s string) (netip.Addr, bool) {
	parts := strings.Split(s, ".")
	if len(parts) > 4 {
		return netip.Addr{}, false
	}
	var v uint64
	for i, part := range parts {
		bits := 8
		if i == len(parts)-1 {
			bits = 8 * (4 - i)
		}
		n, err := strconv.ParseUint(part, 0, bits)
		if err != nil || strings.Contains(part, "_") {
			return netip.Addr{}, false
		}
		v = v<<bits | n
	}
	return netip.AddrFrom4([4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)}), true
}

// metadataNames are names of clouds' metadata services; names below them count.
var metadataNames = []string{
	"metadata.google.internal", "metadata.goog", "metadata", // Google; the short form by a search list
	"instance-data", "instance-data.ec2.internal", // AWS
	"metadata.azure.internal", "metadata.azure.com",
	"metadata.tencentyun.com", "metadata.platformequinix.com", "metadata.packet.net",
}

// neverName says what a name is that no rule opens.
func neverName(host string) (what string, ok bool) {
	for _, n := range metadataNames {
		if host == n || isBelow(host, n) {
			return "a cloud's metadata service", true
		}
	}
	return "", false
}

// localName says what a name is that is not the business of DNS: it means the
// box itself (RFC 6761), is asked of the link by multicast (RFC 6762), or stands
// for an address (RFC 3172). A static entry may give it another meaning.
func localName(host string) (what string, ok bool) {
	switch {
	case host == "localhost" || isBelow(host, "localhost") || host == "localhost.localdomain":
		return "the box itself", true
	case isBelow(host, "local"):
		return "a name for multicast DNS", true
	case isBelow(host, "arpa"):
		return "a name for reverse lookups", true
	}
	return "", false
}

// isBelow reports whether host is a name below apex, at any depth.
func isBelow(host, apex string) bool {
	rest, ok := strings.CutSuffix(host, apex)
	return ok && len(rest) > 1 && rest[len(rest)-1] == '.'
}
