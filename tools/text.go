package tools

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Everything that a box chose (output, file content, names, reasons) reaches
// the model through this file: made visible, capped, and quoted or fenced.

// visible returns b as text that is safe to show: valid UTF-8 without control,
// formatting, private or unassigned characters. Those, and bytes that are no
// UTF-8, appear as \r, \x1b or \u{202e}; newline and tab stay, and CR LF
// becomes a newline. It is meant to be read, not to be reversed: who needs the
// bytes asks for base64.
func visible(b []byte) string {
	w := head(b, len(b)*maxEscape)
	return w.text
}

// maxEscape is the most bytes of text that one byte of input becomes.
const maxEscape = 4

// nextToken returns the first character of b: its size, and how it is shown
// where that is not as itself.
func nextToken(b []byte) (size int, shown string) {
	switch c := b[0]; {
	case c == '\n', c == '\t', c >= 0x20 && c < 0x7f:
		return 1, ""
	case c == '\r' && len(b) > 1 && b[1] == '\n':
		return 2, "\n"
	case c == '\r':
		return 1, `\r`
	case c < 0x80:
		return 1, fmt.Sprintf(`\x%02x`, c)
	}
	r, n := utf8.DecodeRune(b)
	switch {
	case r == utf8.RuneError && n == 1:
		return 1, fmt.Sprintf(`\x%02x`, b[0])
	case shows(r):
		return n, ""
	}
	return n, fmt.Sprintf(`\u{%x}`, r)
}

// shows reports whether a reader sees r as itself. The joiners that scripts and
// emoji need are let through; the variation selectors that can carry hidden
// text are not.
func shows(r rune) bool {
	const nonJoiner, joiner = 0x200c, 0x200d
	if r == nonJoiner || r == joiner {
		return true
	}
	return unicode.IsGraphic(r) && !(r >= 0xe0100 && r <= 0xe01ef)
}

// A window is a piece of a stream made visible.
type window struct {
	text     string
	from, to int // the bytes of the input that it shows
}

// head shows as much of the beginning of b as fits into budget bytes of text.
func head(b []byte, budget int) window {
	var out strings.Builder
	i := 0
	for i < len(b) {
		n, shown := nextToken(b[i:])
		size := n
		if shown != "" {
			size = len(shown)
		}
		if out.Len()+size > budget {
			break
		}
		if shown != "" {
			out.WriteString(shown)
		} else {
			out.Write(b[i : i+n])
		}
		i += n
	}
	return window{out.String(), 0, i}
}

// tail shows as much of the end of b as fits into budget bytes of text.
func tail(b []byte, budget int) window {
	from := max(0, len(b)-budget)
	for skip := 0; skip < utf8.UTFMax-1 && from > 0 && from < len(b) && !utf8.RuneStart(b[from]); skip++ {
		from++ // not into the middle of a character
	}
	type mark struct{ at, width int }
	var marks []mark
	total := 0
	for i := from; i < len(b); {
		n, shown := nextToken(b[i:])
		width := n
		if shown != "" {
			width = len(shown)
		}
		marks = append(marks, mark{i, width})
		total += width
		i += n
	}
	for len(marks) > 0 && total > budget {
		total -= marks[0].width
		marks = marks[1:]
	}
	from = len(b)
	if len(marks) > 0 {
		from = marks[0].at
	}
	return window{visible(b[from:]), from, len(b)}
}

// incomplete returns how many bytes at the end of b are the beginning of a
// character whose rest is missing, at most three.
func incomplete(b []byte) int {
	for n := 1; n < utf8.UTFMax && n <= len(b); n++ {
		last := b[len(b)-n:]
		if !utf8.RuneStart(last[0]) {
			continue
		}
		if last[0] >= utf8.RuneSelf && !utf8.FullRune(last) {
			return n
		}
		return 0
	}
	return 0
}

// fence returns text between two marks that do not occur in it, so that nothing
// in it can pose as what follows it. The mark is derived from the text, which
// keeps results reproducible and cannot be foreseen by who does not know all of
// the text; should it occur all the same, the next one is taken.
func fence(label, text string) string {
	mark := fenceMark(text)
	return fmt.Sprintf("<%s %s>\n%s\n</%s %s>", label, mark, strings.TrimSuffix(text, "\n"), label, mark)
}

func fenceMark(text string) string {
	for n := 0; ; n++ {
		sum := sha256.Sum256(fmt.Appendf(nil, "%d:%s", n, text))
		if mark := hex.EncodeToString(sum[:4]); !strings.Contains(text, mark) {
			return mark
		}
	}
}

// quoteText returns s in double quotes on one line, made visible and cut to
// about limit bytes: how a name that a box or a caller chose is shown.
func quoteText(s string, limit int) string {
	return `"` + strings.ReplaceAll(oneLine(s, limit), `"`, `\"`) + `"`
}

// oneLine returns s made visible, on one line, cut to about limit bytes.
func oneLine(s string, limit int) string {
	w := head([]byte(s), limit)
	text := strings.NewReplacer("\n", `\n`, "\t", " ").Replace(w.text)
	if w.to < len(s) {
		text += "…"
	}
	return text
}
