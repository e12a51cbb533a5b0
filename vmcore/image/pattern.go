package image

import (
	"strings"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
)

// A Pattern says which images an operator lets others use. It is HOST/NAME or
// HOST/NAME:TAG, in which "*" is any run of characters, '/' included: it never
// reaches from the host into the name. Without a tag it is about every tag and
// digest. The zero Pattern matches nothing.
type Pattern struct{ host, name, tag string }

// ParsePattern reads a pattern. A name without a host is docker.io's, as people
// write it: "python" is "docker.io/library/python".
//
// Errors: InvalidArgument.
func ParsePattern(s string) (Pattern, error) {
	bad := func(hint string) (Pattern, error) {
		return Pattern{}, &boxlite.Error{Op: "parse image pattern", Kind: boxlite.InvalidArgument, Ref: short(s), Hint: hint}
	}
	host, name, slash := strings.Cut(s, "/")
	if !slash || !isHost(host) && host != "*" {
		host, name = dockerHub, s
	}
	if host != "*" {
		var hint string
		if host, hint = parseHost(host); hint != "" {
			return bad(hint)
		}
	}
	name, tag, tagged := strings.Cut(name, ":")
	if host == dockerHub && !strings.Contains(name, "/") && name != "*" {
		name = "library/" + name
	}
	switch {
	case strings.Contains(s, "@"):
		return bad("Leave the digest out: a pattern without a tag is about every digest.")
	case !repoPattern.MatchString(strings.ReplaceAll(name, "*", "x")):
		return bad(`Write HOST/NAME[:TAG] with "*" for any characters, such as "registry.example/team/*" or "docker.io/library/python:3.12".`)
	case tagged && !tagPattern.MatchString(strings.ReplaceAll(tag, "*", "x")):
		return bad("A tag has at most 128 letters, digits, '_', '.' and '-', or \"*\".")
	}
	return Pattern{host, name, tag}, nil
}

// String returns the canonical form, which [ParsePattern] reads back as p.
func (p Pattern) String() string {
	s := p.host + "/" + p.name
	if p.tag != "" {
		s += ":" + p.tag
	}
	return s
}

// Matches reports whether the pattern is about a qualified reference. A local
// one is about nothing that a pattern could say.
func (p Pattern) Matches(r Reference) bool {
	return !r.IsLocal() && r.Registry != "" && (p.host == "*" || p.host == r.Registry) && wild(p.name, r.Repository) &&
		(p.tag == "" || r.Tag != "" && wild(p.tag, r.Tag))
}

// wild reports whether s is what the pattern says. It goes from left to right,
// which is enough where "*" is the only wildcard.
func wild(pattern, s string) bool {
	first, rest, more := strings.Cut(pattern, "*")
	s, ok := strings.CutPrefix(s, first)
	if !ok || !more {
		return ok && s == ""
	}
	for {
		part, after, more := strings.Cut(rest, "*")
		if !more {
			return strings.HasSuffix(s, part)
		}
		i := strings.Index(s, part)
		if i < 0 {
			return false
		}
		s, rest = s[i+len(part):], after
	}
}
