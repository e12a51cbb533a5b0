package secrets

import (
	"bytes"
	"io"
	"slices"
)

// minPattern is the length of the shortest text that a scanner finds, in bytes.
const minPattern = 8

// A scanner replaces any of many texts in a stream, in one pass: what it has put
// in is not looked at again. It may be used concurrently.
//
// A stream is looked at in pairs of bytes; only where two pairs in a row begin
// some text is the text looked up. So the number of texts hardly matters.
type scanner struct {
	first, second [1 << 16]bool        // pairs of bytes that texts begin with, and go on with
	byte1, byte3  [1 << 8]bool         // the first bytes of these pairs
	byHead        map[uint64][]pattern // by the first 8 bytes, longest first
	longest       int
}

type pattern struct {
	text []byte
	with []byte
	name string // of the secret
}

func head(b []byte) uint64 {
	_ = b[7]
	return uint64(b[0]) | uint64(b[1])<<8 | uint64(b[2])<<16 | uint64(b[3])<<24 |
		uint64(b[4])<<32 | uint64(b[5])<<40 | uint64(b[6])<<48 | uint64(b[7])<<56
}

// newScanner returns a scanner for the patterns, of which those shorter than
// minPattern are left out. Of the same text twice, the first counts.
func newScanner(patterns []pattern) *scanner {
	s := &scanner{byHead: map[uint64][]pattern{}}
next:
	for _, p := range patterns {
		if len(p.text) < minPattern {
			continue
		}
		h := head(p.text)
		list := s.byHead[h]
		at := len(list)
		for i, other := range list {
			if bytes.Equal(other.text, p.text) {
				continue next
			}
			if len(p.text) > len(other.text) && at == len(list) {
				at = i
			}
		}
		list = append(list[:at:at], append([]pattern{p}, list[at:]...)...)
		s.byHead[h] = list
		s.first[pair(p.text)], s.second[pair(p.text[2:])] = true, true
		s.byte1[p.text[0]], s.byte3[p.text[2]] = true, true
		s.longest = max(s.longest, len(p.text))
	}
	return s
}

func pair(b []byte) uint16 { return uint16(b[0]) | uint16(b[1])<<8 }

// empty reports whether there is nothing to find.
func (s *scanner) empty() bool { return s.longest == 0 }

// find returns where the first text in b begins, and which it is; -1 if there is
// none. Of several that begin there it is the longest that b has all of.
func (s *scanner) find(b []byte) (int, *pattern) {
	for i := 0; i+minPattern <= len(b); i++ {
		if !s.first[pair(b[i:])] || !s.second[pair(b[i+2:])] {
			continue
		}
		list := s.byHead[head(b[i:])]
		for k := range list {
			if bytes.HasPrefix(b[i:], list[k].text) {
				return i, &list[k]
			}
		}
	}
	return -1, nil
}

// replace returns b with every text replaced, and the names of the secrets that
// they belong to. b itself stays as it is.
func (s *scanner) replace(b []byte, used *names) []byte {
	i, p := s.find(b)
	if p == nil {
		return b
	}
	var out []byte
	for p != nil {
		out = append(append(out, b[:i]...), p.with...)
		used.add(p.name)
		b = b[i+len(p.text):]
		i, p = s.find(b)
	}
	return append(out, b...)
}

// A replacer is a reader with every text replaced, wherever the pieces of the
// stream end.
type replacer struct {
	s    *scanner
	r    io.Reader
	used *names

	buf  []byte // what is read and not looked at; its beginning may be the beginning of a text
	out  []byte // what is ready
	err  error  // of r
	size int    // how much to read at once
}

func (s *scanner) reader(r io.Reader, used *names) io.Reader {
	if s.empty() {
		return r
	}
	return &replacer{s: s, r: r, used: used, size: max(32<<10, 2*s.longest)}
}

// Read returns what can be said for certain. What may be the beginning of a text
// waits for more, at most as many bytes as the longest text has.
func (r *replacer) Read(p []byte) (int, error) {
	for len(r.out) == 0 {
		if r.err != nil && len(r.buf) == 0 {
			return 0, r.err
		}
		if r.err == nil {
			old := len(r.buf)
			r.buf = append(r.buf, make([]byte, r.size)...)
			var n int
			n, r.err = r.r.Read(r.buf[old:])
			r.buf = r.buf[:old+n]
		}
		r.step()
	}
	n := copy(p, r.out)
	r.out = r.out[n:]
	return n, nil
}

// step moves from buf to out what is certain.
func (r *replacer) step() {
	at, open := 0, -1 // what is done of buf; where a text may begin that it does not have all of
	for {
		i, p := r.s.find(r.buf[at:])
		i += at
		if r.err != nil {
			open = len(r.buf)
		} else if open < at {
			open = r.s.openAt(r.buf, at)
		}
		if p == nil || open <= i { // at the same place a longer text may be meant
			r.out = append(r.out, r.buf[at:open]...)
			r.buf = append([]byte(nil), r.buf[open:]...)
			return
		}
		r.out = append(append(r.out, r.buf[at:i]...), p.with...)
		r.used.add(p.name)
		at = i + len(p.text)
	}
}

// openAt returns where in b, from a place on, the first text may begin that b
// does not have all of; len(b) for nowhere.
func (s *scanner) openAt(b []byte, from int) int {
	for i := max(from, len(b)-s.longest+1); i < len(b); i++ {
		if s.mayContinue(b[i:]) {
			return i
		}
	}
	return len(b)
}

// mayContinue reports whether some text longer than tail begins with it.
func (s *scanner) mayContinue(tail []byte) bool {
	switch {
	case !s.byte1[tail[0]],
		len(tail) >= 2 && !s.first[pair(tail)],
		len(tail) >= 3 && !s.byte3[tail[2]],
		len(tail) >= 4 && !s.second[pair(tail[2:])]:
		return false
	}
	if len(tail) >= minPattern {
		for _, p := range s.byHead[head(tail)] {
			if len(p.text) > len(tail) && bytes.HasPrefix(p.text, tail) {
				return true
			}
		}
		return false
	}
	return true // few bytes: they wait, whatever they are the beginning of
}

// names are those of secrets, each once, in the order of their use.
type names struct{ list []string }

func (n *names) add(name string) {
	if !slices.Contains(n.list, name) {
		n.list = append(n.list, name)
	}
}
