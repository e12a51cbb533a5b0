package config

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/internal/spelling"
)

// A Problem is one mistake in the file.
type Problem struct {
	File    string `json:"file"`
	Line    int    `json:"line,omitempty"` // from 1; 0: not of one line
	Key     string `json:"key,omitempty"`  // the setting, such as "limits.boxes"
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"` // what to do about it
}

// String returns "FILE:LINE: KEY: MESSAGE", as compilers write it.
func (p Problem) String() string {
	var b strings.Builder
	b.WriteString(p.File)
	if p.Line > 0 {
		fmt.Fprintf(&b, ":%d", p.Line)
	}
	if p.Key != "" {
		b.WriteString(": " + p.Key)
	}
	return b.String() + ": " + p.Message
}

// Problems are all mistakes that were found, in the order of the file.
type Problems []Problem

// Error returns each on a line.
func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

// asError returns nil if there are none.
func (ps Problems) asError(path string) error {
	if len(ps) == 0 {
		return nil
	}
	slices.SortStableFunc(ps, func(a, b Problem) int { return cmp.Compare(a.Line, b.Line) })
	hint := ps[0].Hint
	if hint == "" {
		hint = "Correct the file; boxlite-mcp config check says what is wrong, and config init --stdout shows what may be in it."
	}
	return &boxlite.Error{Op: "read configuration", Kind: boxlite.Config, Ref: path, Hint: hint, Err: ps}
}

// nearest returns the name that is most like one that does not exist, or "".
func nearest(name string, names []string) string {
	best, least := "", 1+max(2, len(name)/3)
	for _, n := range names {
		d := spelling.Distance(name, n)
		if len(name) >= 3 && (strings.HasPrefix(n, name) || strings.HasPrefix(name, n)) {
			d = min(d, 2)
		}
		if d < least && d < len(name) {
			best, least = n, d
		}
	}
	return best
}

// ProblemsOf returns the mistakes that an error of this package is about.
func ProblemsOf(err error) Problems {
	ps, _ := errors.AsType[Problems](err)
	return ps
}
