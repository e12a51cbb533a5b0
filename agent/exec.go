package agent

import (
	"context"
	"io"
	"syscall"
	"time"
)

// An ExecSpec says what to run and how. It is complete: the caller has merged
// the image's, the box's and the command's wishes.
type ExecSpec struct {
	// Args are the program and its arguments. A program without a slash is
	// looked up in Env's PATH, inside the box.
	Args []string

	// Env is the whole environment, "NAME=value"; the last of a name wins. The
	// agent adds what is missing of PATH, HOME, USER and, on a terminal, TERM.
	Env []string

	Dir       string // absolute; "": /
	CreateDir bool   // make Dir, owned by the user, if it is missing

	User string // name|uid[:group|gid], looked up in the box; "": root

	TTY  bool   // run on a pseudo-terminal, whose output is all stdout
	Rows uint16 // of the terminal; 0: 24
	Cols uint16 // of the terminal; 0: 80

	Stdin bool // keep standard input open for Write; else it is empty
}

// An ExitStatus says how a program ended.
type ExitStatus struct {
	Code   int  // its exit code; −n for death by signal n
	Signal int  // the signal it died of; 0: none
	OOM    bool // it, or a process of its tree, was ended for want of memory
}

// An Exec is a running or ended command. Its methods may be called
// concurrently. It is released when its streams have ended and it has exited,
// or by the client's Close: nothing needs closing.
type Exec struct{}

// Start runs a command. stdout and stderr get its output, also that of
// processes that outlive it, in calls from one goroutine; nil discards. A slow
// writer slows the command and no other. A writer that fails has its stream
// discarded from then on. ctx bounds the start only.
//
// Errors: Run if the program, directory or user is not there or not usable:
// Err says what was tried, Hint what to do, and the box is as before.
// InvalidArgument, Portal, RpcTransport, Timeout, Canceled; after the last
// three the command may be running, and the agent kills it once it notices
// that nobody waits for it.
func (c *Client) Start(ctx context.Context, spec ExecSpec, stdout, stderr io.Writer) (*Exec, error) {
	panic("agent: being written")
}

// PID returns the program's process in the box's own numbering. It comes from
// the box.
func (e *Exec) PID() int { panic("agent: being written") }

// Write sends p to the program's standard input. It returns once p is on its
// way, which may be before the program reads it; a program that does not read
// blocks later writes, until ctx ends.
//
// Errors: InvalidState if standard input is not open (any more), RpcTransport,
// Timeout, Canceled.
func (e *Exec) Write(ctx context.Context, p []byte) (int, error) { panic("agent: being written") }

// CloseStdin ends the program's standard input: end of file once it has read
// all that was written. On a terminal it types an end of file (^D). It is
// idempotent.
func (e *Exec) CloseStdin(ctx context.Context) error { panic("agent: being written") }

// Signal sends a signal to the program's process group, and on a terminal to
// the foreground group also.
//
// Errors: InvalidState if the program has exited, InvalidArgument, Portal,
// RpcTransport, Timeout, Canceled.
func (e *Exec) Signal(ctx context.Context, sig syscall.Signal) error { panic("agent: being written") }

// KillTree ends the program and every process that descends from it, daemons
// included, with SIGKILL, and returns when they are gone. It works after the
// program has exited, too.
//
// Errors: Portal, RpcTransport, Timeout, Canceled.
func (e *Exec) KillTree(ctx context.Context) error { panic("agent: being written") }

// Terminate sends SIGTERM to the program and every process that descends from
// it, and does as KillTree to those that are left after grace. It returns as
// soon as all are gone.
//
// Errors: as KillTree.
func (e *Exec) Terminate(ctx context.Context, grace time.Duration) error {
	panic("agent: being written")
}

// Resize tells the program's terminal its size.
//
// Errors: InvalidState if there is no terminal or the program has exited,
// Portal, RpcTransport, Timeout, Canceled.
func (e *Exec) Resize(ctx context.Context, rows, cols uint16) error { panic("agent: being written") }

// Wait returns how the program ended. Everything that it wrote has been given
// to the writers by then; processes it has left behind may write on.
//
// Errors: Portal if the agent breaks the protocol, RpcTransport if the
// connection is gone, Timeout, Canceled.
func (e *Exec) Wait(ctx context.Context) (ExitStatus, error) { panic("agent: being written") }

// Exited is closed when Wait would return at once.
func (e *Exec) Exited() <-chan struct{} { panic("agent: being written") }

// Closed is closed when the writers will not be called any more: both streams
// have ended, or the connection has.
func (e *Exec) Closed() <-chan struct{} { panic("agent: being written") }
