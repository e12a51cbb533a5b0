package boxlite

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// An Error is what every operation of the system fails with once the failure
// has a meaning for the caller. The agent sees Kind, Ref and Hint; the
// operator's log sees the whole chain.
type Error struct {
	Op   string // what was attempted: "start box", "pull image"
	Kind Kind   // what went wrong; the zero Kind is Internal
	Ref  string // the subject: a box's name, an image reference; may be empty
	Hint string // one imperative sentence that names the next step; may be empty
	Err  error  // the cause, for the operator; may be nil
}

// Error returns "op ref: kind: cause", without the parts that are empty.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Op)
	if e.Ref != "" {
		if e.Op != "" {
			b.WriteByte(' ')
		}
		b.WriteString(e.Ref)
	}
	if b.Len() > 0 {
		b.WriteString(": ")
	}
	b.WriteString(e.Kind.phrase())
	if e.Err != nil {
		b.WriteString(": ")
		b.WriteString(e.Err.Error())
	}
	return b.String()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Is reports whether target is the same [Kind], so that
// errors.Is(err, boxlite.NotFound) asks what an error means.
func (e *Error) Is(target error) bool {
	k, ok := target.(Kind)
	return ok && k == e.Kind
}

// A Kind says what an [Error] means to the caller. Its zero value is Internal:
// an error that nobody classified tells an agent nothing. A Kind is itself an
// error, for errors.Is.
type Kind uint8

// The kinds of the API reference, then those that callers act on and the
// reference lacks.
const (
	Internal Kind = iota
	UnsupportedEngine
	Engine
	Config
	Storage
	Image
	Portal
	Network
	Rpc
	RpcTransport
	Run
	Unsupported
	NotFound
	AlreadyExists
	InvalidState
	Database
	MetadataError
	InvalidArgument

	Denied    // the operator's policy says no
	Exhausted // a quota, a disk or a memory limit is reached
	Timeout   // a deadline passed
	Canceled  // the caller gave up
	numKinds
)

var kindNames = [numKinds]struct{ name, phrase string }{
	Internal:          {"internal", "internal error"},
	UnsupportedEngine: {"unsupported_engine", "no usable engine"},
	Engine:            {"engine", "engine error"},
	Config:            {"config", "configuration error"},
	Storage:           {"storage", "storage error"},
	Image:             {"image", "image error"},
	Portal:            {"portal", "box does not answer"},
	Network:           {"network", "network error"},
	Rpc:               {"rpc", "remote call failed"},
	RpcTransport:      {"rpc_transport", "connection lost"},
	Run:               {"run", "command could not be run"},
	Unsupported:       {"unsupported", "not supported"},
	NotFound:          {"not_found", "not found"},
	AlreadyExists:     {"already_exists", "already exists"},
	InvalidState:      {"invalid_state", "wrong state"},
	Database:          {"database", "database error"},
	MetadataError:     {"metadata_error", "damaged metadata"},
	InvalidArgument:   {"invalid_argument", "invalid argument"},
	Denied:            {"denied", "denied by policy"},
	Exhausted:         {"exhausted", "limit reached"},
	Timeout:           {"timeout", "timed out"},
	Canceled:          {"canceled", "canceled"},
}

// String returns the kind's name on the wire, such as "not_found".
func (k Kind) String() string {
	if k < numKinds {
		return kindNames[k].name
	}
	return "Kind(" + strconv.Itoa(int(k)) + ")"
}

func (k Kind) phrase() string {
	if k < numKinds {
		return kindNames[k].phrase
	}
	return k.String()
}

// Error returns the kind in words.
func (k Kind) Error() string { return k.phrase() }

// ParseKind returns the kind with the given wire name, and Internal for any
// other.
func ParseKind(s string) Kind {
	for k := range numKinds {
		if kindNames[k].name == s {
			return k
		}
	}
	return Internal
}

// KindOf returns what err means: the Kind of the outermost [Error] in its
// chain, Canceled or Timeout for a context's error, else Internal. A stray
// fs.ErrNotExist further down may be about the host and decides nothing.
func KindOf(err error) Kind {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Kind
	}
	if k, ok := errors.AsType[Kind](err); ok {
		return k
	}
	switch {
	case errors.Is(err, context.Canceled):
		return Canceled
	case errors.Is(err, context.DeadlineExceeded):
		return Timeout
	}
	return Internal
}

// HintOf returns the hint of the outermost [Error] in err's chain that has one,
// or "".
func HintOf(err error) string {
	for err != nil {
		e, ok := errors.AsType[*Error](err)
		if !ok {
			return ""
		}
		if e.Hint != "" {
			return e.Hint
		}
		err = e.Err
	}
	return ""
}

// Errorf returns an [Error] of the given kind about ref, whose cause is made of
// format and args as by [fmt.Errorf].
func Errorf(kind Kind, op, ref, format string, args ...any) *Error {
	return &Error{Op: op, Kind: kind, Ref: ref, Err: fmt.Errorf(format, args...)}
}

// NoExecution returns the error for an execution that is not there, or no
// longer, or another principal's.
func NoExecution(id ExecutionID) *Error {
	return &Error{Op: "find execution", Kind: NotFound, Ref: quote(string(id)),
		Hint: "Look at the box to see its executions."}
}

// HasExited returns the error for talking to a command that is not running.
func HasExited(id ExecutionID) *Error {
	return &Error{Op: "talk to command", Kind: InvalidState, Ref: string(id),
		Err: errors.New("it has exited"), Hint: "Read its output to see how it ended."}
}

// A Problem is an [Error] as JSON, for pipes and files between processes.
type Problem struct {
	Op    string `json:"op,omitempty"`
	Kind  string `json:"kind"`
	Ref   string `json:"ref,omitempty"`
	Hint  string `json:"hint,omitempty"`
	Cause string `json:"cause,omitempty"`
}

// ProblemOf returns err as a Problem, nil as nil.
func ProblemOf(err error) *Problem {
	if err == nil {
		return nil
	}
	p := &Problem{Kind: KindOf(err).String(), Hint: HintOf(err), Cause: err.Error()}
	if e, ok := errors.AsType[*Error](err); ok {
		p.Op, p.Ref, p.Cause = e.Op, e.Ref, ""
		if e.Err != nil {
			p.Cause = e.Err.Error()
		}
	}
	return p
}

// Err returns the problem as an error, nil as nil.
func (p *Problem) Err() error {
	if p == nil {
		return nil
	}
	e := &Error{Op: p.Op, Kind: ParseKind(p.Kind), Ref: p.Ref, Hint: p.Hint}
	if p.Cause != "" {
		e.Err = errors.New(p.Cause)
	}
	return e
}

// quote returns s quoted and cut to a length that fits a message.
func quote(s string) string {
	const limit = 80
	if len(s) > limit {
		return strconv.Quote(s[:limit]) + "…"
	}
	return strconv.Quote(s)
}
