package tools

import "encoding/json"

// Limits of one message. They keep what a message expands to in memory within
// a few times its size, and the parser's stack flat.
const (
	mostLine   = 8 << 20
	mostDepth  = 64
	mostValues = 100_000
)

// A scanner looks at a JSON text as it streams by, without keeping it: how deep
// and how many it is, and the id of a JSON-RPC message, so that a message which
// is refused for its size can be answered. It does not validate.
type scanner struct {
	depth, deepest int
	values         int // commas and opening brackets: at least the number of values, less one

	inString, escaped bool
	token             []byte // the string or scalar at depth 1 under way, cut
	key               string // the last key at depth 1
	afterColon        bool
	id                []byte // raw
}

const mostID = 256

// write looks at the next bytes.
func (s *scanner) write(p []byte) {
	for _, c := range p {
		s.step(c)
	}
}

func (s *scanner) step(c byte) {
	if s.inString {
		s.keep(c)
		switch {
		case s.escaped:
			s.escaped = false
		case c == '\\':
			s.escaped = true
		case c == '"':
			s.inString = false
		}
		return
	}
	switch c {
	case '"':
		s.inString = true
		s.keep(c)
	case '{', '[':
		s.depth++
		s.values++
		s.deepest = max(s.deepest, s.depth)
	case '}', ']':
		s.end()
		s.depth--
	case ',':
		s.end()
		s.values++
	case ':':
		if s.depth == 1 {
			s.key, s.token, s.afterColon = string(s.token), nil, true
		}
	case ' ', '\t', '\r', '\n':
	default:
		s.keep(c)
	}
}

// keep notes a byte of a key or of a scalar at the top level.
func (s *scanner) keep(c byte) {
	if s.depth == 1 && len(s.token) < mostID {
		s.token = append(s.token, c)
	}
}

// end notes the end of a member of the top level.
func (s *scanner) end() {
	if s.depth != 1 {
		return
	}
	if s.afterColon && s.key == `"id"` && len(s.token) < mostID {
		s.id = s.token
	}
	s.key, s.token, s.afterColon = "", nil, false
}

// messageID returns the id, or nil if there is none that can be answered.
func (s *scanner) messageID() json.RawMessage {
	if len(s.id) == 0 || !json.Valid(s.id) || string(s.id) == "null" {
		return nil
	}
	return json.RawMessage(s.id)
}

// problem returns why the text is refused, or "".
func (s *scanner) problem() string {
	switch {
	case s.deepest > mostDepth:
		return "Message is nested deeper than 64 levels"
	case s.values > mostValues:
		return "Message has more than 100,000 values"
	}
	return ""
}
