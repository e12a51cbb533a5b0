package cli

import (
	"os"

	"golang.org/x/term"
)

// isTerminal reports whether a stream is a terminal.
func isTerminal(stream any) bool {
	f := asFile(stream)
	return f != nil && term.IsTerminal(int(f.Fd()))
}

// terminalSize returns the size of the first stream that is a terminal, and
// zeros if none is.
func terminalSize(streams ...any) (rows, cols uint16) {
	for _, s := range streams {
		f := asFile(s)
		if f == nil {
			continue
		}
		if w, h, err := term.GetSize(int(f.Fd())); err == nil && w > 0 && h > 0 {
			return uint16(h), uint16(w)
		}
	}
	return 0, 0
}

// makeRaw passes every key of the terminal on, also those that would send a
// signal, until restore is called. restore is idempotent.
func makeRaw(f *os.File) (restore func() error, err error) {
	fd := int(f.Fd())
	state, err := term.MakeRaw(fd)
	if err != nil {
		return nil, os.NewSyscallError("make terminal raw", err)
	}
	return func() error { return term.Restore(fd, state) }, nil
}
