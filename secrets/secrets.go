// Package secrets lets a box use keys that it never sees. A [Set] holds the
// secrets of one box: [Set.For] says which of them are bound to a host, and the
// [Bound] puts their values in the place of placeholders on the way out and
// takes them out of what comes back. A [Vault] keeps values, encrypted.
//
// It opens no connection: whether bytes go to the host that a secret is bound
// to, over TLS that was verified, is for the caller to know (package
// egress/intercept). Values are [boxlite.SecretValue], which cannot be printed.
//
//	set, err := secrets.NewSet(list)
//	if b := set.For("api.example.com", 443); b != nil {
//		used := b.PutHeaders(request.Header)
//		response.Body = b.Redact(response.Body)
//	}
//
// # Where values go
//
// Into header values and the decoded text of Basic credentials; into the query
// and the body only where the secret says so. Never into names of headers, Host,
// Cookie, paths, trailers or what follows an upgrade. A placeholder that is
// itself encoded is not recognised, so it stays as it is.
//
// # What is taken out
//
// See encodings.go. A value in an encoding that is not there, compressed, or
// split by other bytes passes; a box may also learn a value's length, or ask a
// host that compares.
package secrets

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/egress/policy"
)

// The bounds of a value, in bytes. A shorter one could not be told from other
// text in what comes back.
const (
	minValue = minPattern
	maxValue = 8 << 10
)

// CheckValue says whether a value can be used in a header.
//
// Errors: [boxlite.Config], which does not contain the value.
func CheckValue(v boxlite.SecretValue) error {
	s := v.Reveal()
	bad := func(hint, format string, args ...any) error {
		return &boxlite.Error{Op: "check value of secret", Kind: boxlite.Config, Hint: hint, Err: fmt.Errorf(format, args...)}
	}
	switch {
	case len(s) < minValue:
		return bad("Use a key of at least 8 bytes.", "it has %d bytes, too few to be recognised in what comes back", len(s))
	case len(s) > maxValue:
		return bad("Use a shorter key.", "it has %d bytes, more than %d", len(s), maxValue)
	}
	for i := range len(s) {
		if c := s[i]; c < ' ' || c == 0x7f {
			return bad("Give it on one line, without a newline inside.", "byte %d is a control character", i)
		}
	}
	if strings.TrimSpace(s) != s {
		return bad("Leave out the space.", "it begins or ends with a space")
	}
	return nil
}

// ParseHosts reads the hosts of a secret: "api.example.com" or "*.example.com",
// each perhaps with a port.
//
// Errors: [boxlite.Config].
func ParseHosts(hosts []string) ([]policy.Rule, error) {
	rules, err := policy.ParseRules(hosts)
	if err != nil {
		return nil, err
	}
	for i, r := range rules {
		if !r.IsHosts() {
			return nil, &boxlite.Error{Op: "parse hosts of secret", Kind: boxlite.Config, Ref: fmt.Sprintf("%.80q", hosts[i]),
				Hint: "Write a host such as api.example.com or *.example.com, perhaps with a port.",
				Err:  errors.New("a secret is bound to hosts by name")}
		}
	}
	return rules, nil
}

// Narrow returns the secret as its owner has it, bound to the hosts that the
// caller asks for; none are asked for: to all of the owner's.
//
// Errors: [boxlite.Config]; [boxlite.Denied] for a host that is not among the
// owner's.
func Narrow(owner boxlite.Secret, hosts []string) (boxlite.Secret, error) {
	if len(hosts) == 0 {
		return owner, nil
	}
	limits, err := ParseHosts(owner.Hosts)
	if err != nil {
		return owner, err
	}
	asked, err := ParseHosts(hosts)
	if err != nil {
		return owner, err
	}
next:
	for i, r := range asked {
		for _, l := range limits {
			if l.Covers(r) {
				continue next
			}
		}
		return owner, &boxlite.Error{Op: "bind secret", Kind: boxlite.Denied, Ref: fmt.Sprintf("%s to %.80q", owner.Name, hosts[i]),
			Hint: "Ask only for hosts that it is bound to: " + listOr(owner.Hosts, "none") + ".",
			Err:  errors.New("the operator has not bound it to that host")}
	}
	owner.Hosts = hosts
	return owner, nil
}

func listOr(list []string, none string) string {
	if len(list) == 0 {
		return none
	}
	return strings.Join(list, ", ")
}

// A Set holds the secrets of one box. It never changes. A nil Set is empty.
type Set struct{ list []bound }

type bound struct {
	boxlite.Secret
	rules []policy.Rule
}

// NewSet returns the set of secrets that have values.
//
// Errors: [boxlite.Config].
func NewSet(list []boxlite.Secret) (*Set, error) {
	set := &Set{}
	for _, s := range list {
		if s.Placeholder == "" {
			s.Placeholder = boxlite.DefaultPlaceholder(s.Name)
		}
		if err := checkPlaceholder(s.Placeholder); err != nil {
			return nil, err
		}
		if err := CheckValue(s.Value); err != nil {
			return nil, fmt.Errorf("secret %s: %w", s.Name, err)
		}
		rules, err := ParseHosts(s.Hosts)
		if err != nil {
			return nil, err
		}
		set.list = append(set.list, bound{s, rules})
	}
	return set, nil
}

func checkPlaceholder(p string) error {
	bad := len(p) < minPattern || len(p) > 200 || strings.TrimSpace(p) != p
	for i := range len(p) {
		bad = bad || p[i] < ' ' || p[i] >= 0x7f
	}
	if bad {
		return &boxlite.Error{Op: "check placeholder", Kind: boxlite.Config, Ref: fmt.Sprintf("%.80q", p),
			Hint: "Use 8 to 200 visible ASCII characters, or leave it out.", Err: errors.New("it cannot stand in a header")}
	}
	return nil
}

// For returns the secrets that are bound to name:port; nil if none is.
func (s *Set) For(name string, port uint16) *Bound {
	if s == nil {
		return nil
	}
	var list []bound
	for _, b := range s.list {
		for _, r := range b.rules {
			if r.Matches(name, port) {
				list = append(list, b)
				break
			}
		}
	}
	if len(list) == 0 {
		return nil
	}
	return newBound(list)
}

// A Bound is the secrets that are bound to one host. It may be used
// concurrently.
type Bound struct {
	header, query, body *scanner // placeholders to values
	back                *scanner // values to placeholders
}

func newBound(list []bound) *Bound {
	var header, query, body, back []pattern
	for _, s := range list {
		p := pattern{text: []byte(s.Placeholder), with: []byte(s.Value.Reveal()), name: s.Name}
		header = append(header, p)
		if s.InQuery {
			query = append(query, p)
		}
		if s.InBody {
			body = append(body, p)
		}
		for _, text := range encodings(s.Value.Reveal()) {
			back = append(back, pattern{text: []byte(text), with: p.text, name: s.Name})
		}
	}
	return &Bound{newScanner(header), newScanner(query), newScanner(body), newScanner(back)}
}

// PutHeaders puts values into the header values of a request, in place, and
// returns the names of the secrets that it used.
func (b *Bound) PutHeaders(h http.Header) []string {
	var used names
	for name, values := range h {
		switch http.CanonicalHeaderKey(name) {
		case "Cookie", "Host", "Connection", "Trailer", "Transfer-Encoding", "Content-Length", "Upgrade", "Te":
			continue
		}
		for i, v := range values {
			values[i] = b.putHeader(v, &used)
		}
	}
	return used.list
}

func (b *Bound) putHeader(v string, used *names) string {
	scheme, rest, ok := strings.Cut(v, " ")
	if ok && strings.EqualFold(scheme, "Basic") {
		if plain, err := base64.StdEncoding.DecodeString(strings.TrimSpace(rest)); err == nil {
			if full := b.header.replace(plain, used); string(full) != string(plain) {
				return scheme + " " + base64.StdEncoding.EncodeToString(full)
			}
		}
	}
	return string(b.header.replace([]byte(v), used))
}

// PutQuery puts values, escaped, into the values of a raw query, where secrets
// are for queries.
func (b *Bound) PutQuery(raw string) (string, []string) {
	var used names
	if b.query.empty() || raw == "" {
		return raw, nil
	}
	parts := strings.Split(raw, "&")
	for i, part := range parts {
		key, v, ok := strings.Cut(part, "=")
		if !ok {
			continue
		}
		plain, err := url.QueryUnescape(v)
		if err != nil {
			continue
		}
		if full := b.query.replace([]byte(plain), &used); string(full) != plain {
			parts[i] = key + "=" + url.QueryEscape(string(full))
		}
	}
	return strings.Join(parts, "&"), used.list
}

// PutsBody reports whether a body has to go through [Bound.PutBody].
func (b *Bound) PutsBody() bool { return !b.body.empty() }

// PutBody returns a body with values put in; its length is not that of r. used
// returns the names of the secrets that were, once it has been read.
func (b *Bound) PutBody(r io.Reader) (body io.Reader, used func() []string) {
	n := &names{}
	return b.body.reader(r, n), func() []string { return n.list }
}

// Redact returns what comes back without the values; its length is not that of
// r.
func (b *Bound) Redact(r io.Reader) io.Reader { return b.back.reader(r, &names{}) }

// RedactString is Redact for a short text, such as an error.
func (b *Bound) RedactString(s string) string { return string(b.back.replace([]byte(s), &names{})) }

// RedactHeaders takes the values out of headers or trailers, in place.
func (b *Bound) RedactHeaders(h http.Header) {
	for name, values := range h {
		if clean := b.RedactString(name); clean != name { // a host that answers with a header named so
			delete(h, name)
			continue
		}
		for i, v := range values {
			values[i] = b.RedactString(v)
		}
	}
}
