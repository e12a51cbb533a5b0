package policy

import (
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// An httpRule is what an HTTP rule says about requests. It is comparable, and
// the zero value is no HTTP rule.
type httpRule struct {
	scheme  string // "https", "http"; "": the rule is about connections
	methods string // "GET,HEAD" in order and without doubles, or "*"
	path    string // a pattern, canonical
}

// String returns "GET,HEAD https://" for the host and port to follow.
func (h httpRule) prefix() string { return h.methods + " " + h.scheme + "://" }

// everyPath is the pattern of all paths, canonical or not.
const everyPath = "/**"

func (h httpRule) restricts() bool { return h.methods != "*" || h.path != everyPath }

func (h httpRule) hasMethod(m string) bool {
	return h.methods == "*" || slices.Contains(strings.Split(h.methods, ","), m)
}

// covers reports whether every request that o allows, h allows too.
func (h httpRule) covers(o httpRule) bool {
	if h.scheme == "" {
		return true // connections carry any request
	}
	if h.scheme != o.scheme || h.methods != "*" && o.methods == "*" {
		return false
	}
	for m := range strings.SplitSeq(o.methods, ",") {
		if !h.hasMethod(m) {
			return false
		}
	}
	if h.path == o.path {
		return true
	}
	if before, ok := strings.CutSuffix(h.path, "**"); ok {
		return strings.HasPrefix(o.path, before) // what o matches begins as o does
	}
	return !strings.Contains(o.path, "*") && matchPath(h.path, o.path)
}

// matchPath reports whether the canonical path matches the pattern: "*" is any
// bytes of one segment, and "**" at the end is anything.
func matchPath(pattern, path string) bool {
	if before, ok := strings.CutSuffix(pattern, "**"); ok {
		want, have := strings.Split(before, "/"), strings.Split(path, "/")
		if len(have) < len(want) {
			return false
		}
		return matchSegments(want[:len(want)-1], have)
	}
	want, have := strings.Split(pattern, "/"), strings.Split(path, "/")
	return len(want) == len(have) && matchSegments(want, have)
}

func matchSegments(want, have []string) bool {
	for i, w := range want {
		if !matchSegment(w, have[i]) {
			return false
		}
	}
	return true
}

// matchSegment matches greedily from the left, which is enough where "*" is the
// only wildcard. It takes linear time in each piece between stars.
func matchSegment(pattern, s string) bool {
	first, rest, star := strings.Cut(pattern, "*")
	s, ok := strings.CutPrefix(s, first)
	for ok && star {
		var piece string
		piece, rest, star = strings.Cut(rest, "*")
		if !star {
			return strings.HasSuffix(s, piece)
		}
		_, s, ok = strings.Cut(s, piece)
	}
	return ok && s == ""
}

// cutHTTP takes the methods and the scheme from an entry, if it is an HTTP rule:
// "GET,HEAD https://host/path" or "inspect host". The rest is as in other rules.
func (r *Rule) cutHTTP(s string) (rest string, is bool, f *fault) {
	word, target, ok := strings.Cut(s, " ")
	if !ok {
		return s, false, nil
	}
	if strings.EqualFold(word, "inspect") {
		return r.cutInspect(target)
	}
	scheme, rest, ok := strings.Cut(target, "://")
	scheme = strings.ToLower(scheme)
	if !ok || scheme != "http" && scheme != "https" {
		return s, false, nil
	}
	methods, f := parseMethods(word)
	if f != nil {
		return "", true, f
	}
	host, path, slash := strings.Cut(rest, "/")
	if !slash {
		return "", true, &fault{text: "there is no path behind the host", hint: `Write a path, or "/**" for every path.`, try: methods + " " + scheme + "://" + host + everyPath}
	}
	path = "/" + path
	if f := checkPattern(path); f != nil {
		return "", true, f
	}
	r.http = httpRule{scheme, methods, path}
	return host, true, nil
}

func (r *Rule) cutInspect(target string) (string, bool, *fault) {
	if strings.ContainsAny(target, " /") {
		return "", true, &fault{text: "there is more than a host behind inspect", hint: `Name one host behind it, such as "inspect api.example.com".`}
	}
	r.http = httpRule{"https", "*", everyPath}
	if strings.HasSuffix(target, ":80") {
		r.http.scheme = "http"
	}
	return target, true, nil
}

// finishHTTP checks an HTTP rule whose host and ports were read, and fills in
// the port of its scheme.
func (r *Rule) finishHTTP() *fault {
	switch {
	case r.kind == addresses:
		return &fault{text: "requests are judged by the name of their host, and this is an address", hint: "Have the operator give it a name by a static entry."}
	case r.ports.from != r.ports.to:
		return &fault{text: "an HTTP rule is for one port", hint: "Write one rule for each port."}
	case r.ports == portRange{}:
		n, _ := parsePort(schemePorts[r.http.scheme])
		r.ports = portRange{n, n}
	}
	return nil
}

// httpString returns the canonical text of an HTTP rule.
func (r Rule) httpString() string {
	host, port := r.host, r.ports.String()
	switch r.kind {
	case anything:
		host = "*"
	case below:
		host = "*." + host
	default:
	}
	if port == ":"+schemePorts[r.http.scheme] {
		port = ""
	}
	return r.http.prefix() + host + port + r.http.path
}

func parseMethods(s string) (string, *fault) {
	if s == "*" {
		return s, nil
	}
	list := strings.Split(strings.ToUpper(s), ",")
	for _, m := range list {
		if m == "" || len(m) > 20 || strings.Trim(m, "ABCDEFGHIJKLMNOPQRSTUVWXYZ-_") != "" {
			return "", &fault{text: quote(s) + " are not HTTP methods", hint: `Write methods such as "GET,HEAD", or "*" for all.`}
		}
	}
	slices.Sort(list)
	return strings.Join(slices.Compact(list), ","), nil
}

// checkPattern checks the path of a rule, which must be canonical but for its
// stars.
func checkPattern(p string) *fault {
	before := strings.TrimSuffix(p, "**")
	if strings.Contains(before, "**") || before != p && !strings.HasSuffix(before, "/") {
		return &fault{text: `"**" stands for more than what is behind the last "/"`, hint: `Write "/v1/**" for all below /v1/, and "*" within one segment.`}
	}
	plain, err := CanonicalPath(strings.ReplaceAll(before, "*", "x"))
	switch {
	case p == everyPath:
		return nil
	case err != nil:
		return &fault{text: "its path " + err.Error(), hint: `Write a plain path, such as "/v1/**".`}
	case plain != strings.ReplaceAll(before, "*", "x"):
		return &fault{text: "its path is not in its plain form", hint: "Write characters as they are where they need no escape, and escapes in capitals."}
	}
	return nil
}

// A pathError says what is wrong with a path, such as "has a dot segment".
type pathError string

func (e pathError) Error() string { return string(e) }

// maxPath bounds a path that is judged, in bytes.
const maxPath = 16 << 10

// CanonicalPath returns the escaped path of a request in the form that paths are
// judged and forwarded in: escapes only where they must be, in capitals. What
// servers read in different ways is refused and not guessed: dot segments, empty
// segments, parameters (;), backslashes, escaped slashes, semicolons, percent
// signs and control characters, and what is not UTF-8.
func CanonicalPath(escaped string) (string, error) {
	if !strings.HasPrefix(escaped, "/") {
		return "", pathError(`does not begin with "/"`)
	}
	if len(escaped) > maxPath {
		return "", pathError("is longer than " + strconv.Itoa(maxPath) + " bytes")
	}
	var out, plain strings.Builder
	for i := 0; i < len(escaped); i++ {
		c, isEscape := escaped[i], false
		if c == '%' {
			n, err := strconv.ParseUint(escaped[i+1:min(i+3, len(escaped))], 16, 8)
			if err != nil || len(escaped) < i+3 || escaped[i+1] == '+' || escaped[i+1] == '_' {
				return "", pathError("has a broken escape")
			}
			c, isEscape = byte(n), true
			i += 2
		}
		switch {
		case c < ' ' || c == 0x7f:
			return "", pathError("has a control character")
		case c == '\\' || c == ';' || c == '%', isEscape && c == '/':
			return "", pathError("has " + strconv.Quote(string(rune(c))) + ", which servers read in different ways")
		case !isEscape && (c >= 0x80 || strings.IndexByte(" \"#<>?[]^`{|}", c) >= 0):
			return "", pathError("has a character that must be escaped")
		}
		plain.WriteByte(c)
		if isEscape && !isUnreserved(c) {
			const digits = "0123456789ABCDEF"
			out.WriteByte('%')
			out.WriteByte(digits[c>>4])
			out.WriteByte(digits[c&15])
		} else {
			out.WriteByte(c)
		}
	}
	if !utf8.ValidString(plain.String()) {
		return "", pathError("is not UTF-8")
	}
	segments := strings.Split(out.String(), "/")
	for i, s := range segments[1:] {
		if s == "." || s == ".." || s == "" && i+2 < len(segments) {
			return "", pathError("has an empty segment or a dot segment")
		}
	}
	return out.String(), nil
}

func isUnreserved(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("-._~", c) >= 0
}
