package secrets

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"html"
	"net/url"
	"slices"
	"strings"
)

// encodings returns the texts under which a value may come back: as it is, in
// base64 and base64url wherever in an encoded text it stands, in hexadecimal,
// escaped for URLs, JSON and HTML, and backwards. Any other encoding, and two of
// these one upon the other, are not recognised.
func encodings(value string) []string {
	b := []byte(value)
	list := []string{
		value,
		hex.EncodeToString(b), strings.ToUpper(hex.EncodeToString(b)),
		url.QueryEscape(value), url.PathEscape(value), percentAll(b),
		html.EscapeString(value), jsonString(value, true), jsonString(value, false),
		reversed(value),
	}
	for _, e := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		for before := range 3 {
			list = append(list, inside(e, b, before))
		}
	}
	slices.Sort(list[1:])
	return slices.Compact(list)
}

// inside returns what of an encoded text depends on value alone, if as many
// bytes as before, modulo 3, stand before it.
func inside(e *base64.Encoding, value []byte, before int) string {
	text := e.EncodeToString(append(make([]byte, before), value...))
	from := (before*8 + 5) / 6          // characters that have bits of what stands before
	to := (before + len(value)) * 8 / 6 // the next one has bits of what follows
	return text[min(from, to):min(to, len(text))]
}

// percentAll escapes every byte.
func percentAll(b []byte) string {
	var s strings.Builder
	for _, c := range b {
		s.WriteString("%" + strings.ToUpper(hex.EncodeToString([]byte{c})))
	}
	return s.String()
}

func jsonString(s string, escapeHTML bool) string {
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(escapeHTML)
	if enc.Encode(s) != nil {
		return s
	}
	return strings.Trim(b.String(), "\"\n")
}

func reversed(s string) string {
	b := []byte(s)
	slices.Reverse(b)
	return string(b)
}
