package cli

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"
	"unicode"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
)

// The exit codes that are not a command's own. docs/decisions/0060 says why.
const (
	exitTimeout   = 124 // the command, or a call, ran out of time
	exitOurs      = 125 // run or exec could not do its part
	exitCannotRun = 126 // the command is there and cannot be run
	exitNotFound  = 127 // the command is not there
	exitSignal    = 128 // + the signal that ended it
)

// An exitError ends the program with a code. Without a cause it is silent.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit code %d", e.code)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// Exit tells the person at w about err, with a hint where there is one, and
// returns the code to exit with: 0 for nil.
func Exit(w io.Writer, err error) int {
	if err == nil || errors.Is(err, errDetached) {
		return 0
	}
	if code, ok := brokenPipe(err); ok {
		return code
	}
	e, coded := errors.AsType[*exitError](err)
	if !coded || e.err != nil {
		printError(w, err)
	}
	if coded {
		return e.code
	}
	return exitCode(err)
}

// printError prints err and its hint; of several errors joined, each.
func printError(w io.Writer, err error) {
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		for _, err := range many.Unwrap() {
			printError(w, err)
		}
		return
	}
	fmt.Fprintf(w, "%s: %s\n", Name, clean(err.Error()))
	if hint := hintOf(err); hint != "" {
		fmt.Fprintf(w, "hint: %s\n", clean(hint))
	}
}

func hintOf(err error) string {
	if e, ok := errors.AsType[*boxlite.Error](err); ok {
		return boxlite.HintOf(e)
	}
	return ""
}

// exitCode returns the code for an error of a command other than run and exec.
func exitCode(err error) int {
	switch boxlite.KindOf(err) {
	case boxlite.InvalidArgument, boxlite.Config:
		return 2
	case boxlite.NotFound:
		return 3
	case boxlite.AlreadyExists, boxlite.InvalidState:
		return 4
	case boxlite.Denied, boxlite.Exhausted:
		return 5
	case boxlite.Rpc, boxlite.RpcTransport:
		return 6
	case boxlite.Unsupported, boxlite.UnsupportedEngine:
		return 7
	case boxlite.Timeout:
		return exitTimeout
	case boxlite.Canceled:
		return exitSignal + int(syscall.SIGINT)
	}
	return 1
}

// ours gives an error of run or exec its code: the others are the command's.
func ours(err error) error {
	if _, ok := errors.AsType[*exitError](err); ok || err == nil {
		return err
	}
	if _, ok := brokenPipe(err); ok {
		return err
	}
	code := exitOurs
	switch boxlite.KindOf(err) {
	case boxlite.Run:
		code = exitCannotRun
		if notFound(err) {
			code = exitNotFound
		}
	case boxlite.Canceled:
		code = exitCode(err)
	}
	return &exitError{code, err}
}

// notFound reports whether a program could not be run because it is not there.
// A cause that came over a socket is only text.
func notFound(err error) bool {
	if errors.Is(err, fs.ErrNotExist) {
		return true
	}
	text := err.Error()
	return slices.ContainsFunc([]string{"not in PATH", "does not exist", "not found", "no such file"}, func(s string) bool {
		return strings.Contains(text, s)
	})
}

// usage returns an error about what was typed.
func usage(ref, hint string, cause error) error {
	return &boxlite.Error{Op: "parse", Kind: boxlite.InvalidArgument, Ref: ref, Hint: hint, Err: cause}
}

// brokenPipe reports whether err is about a reader of our output that went
// away, and the code that a program has which died of that.
func brokenPipe(err error) (int, bool) {
	_, ok := errors.AsType[*outputError](err)
	return exitSignal + int(syscall.SIGPIPE), ok && errors.Is(err, syscall.EPIPE)
}

// An outputError is an error of writing to our own standard output or error.
type outputError struct{ err error }

func (e *outputError) Error() string { return "write output: " + e.err.Error() }
func (e *outputError) Unwrap() error { return e.err }

// An output marks its writer's errors as ours.
type output struct{ io.Writer }

func (o output) Write(p []byte) (int, error) {
	n, err := o.Writer.Write(p)
	if err != nil {
		err = &outputError{err}
	}
	return n, err
}

// clean returns text from elsewhere without what a terminal would obey: control
// characters other than newline and tab, and bytes that are not UTF-8.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return r
		case r == unicode.ReplacementChar, !unicode.IsPrint(r):
			return '�'
		}
		return r
	}, s)
}

// oneLine returns clean text on one line.
func oneLine(s string) string {
	return strings.NewReplacer("\n", " ", "\t", " ").Replace(clean(s))
}

// asFile returns the file behind a stream, or nil.
func asFile(stream any) *os.File {
	if o, ok := stream.(output); ok {
		stream = o.Writer
	}
	f, _ := stream.(*os.File)
	return f
}
