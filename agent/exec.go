package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"syscall"
	"time"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/agent/agentpb"
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
type Exec struct {
	c      *Client
	id     uint64
	name   string // of the program, for errors
	pid    int
	stream agentpb.Agent_ExecClient
	cancel context.CancelFunc

	input   chan input    // to the goroutine that sends; nil without standard input
	inputMu chan struct{} // a lock that can be waited for under a context: guards ended
	ended   bool          // CloseStdin was called

	status ExitStatus    // valid once exited is closed, unless err is set
	err    error         // likewise
	exited chan struct{} // closed when the program has
	closed chan struct{} // closed when no writer is called any more
}

// An input is data for a program; nil is its end.
type input []byte

// Start runs a command. stdout and stderr get its output, also that of
// processes that outlive it, in calls from one goroutine; nil discards. A slow
// writer slows the command and no other. A writer that fails has its stream
// discarded from then on. ctx bounds the start only.
//
// Errors: Run if the program, directory or user is not there or not usable:
// Err says what was tried, Hint what to do, and the box is as before.
// InvalidArgument, Exhausted, Portal, RpcTransport, Timeout, Canceled; after
// the last four the command may have started, and then the agent kills it.
func (c *Client) Start(ctx context.Context, spec ExecSpec, stdout, stderr io.Writer) (*Exec, error) {
	const op = "run command"
	if err := spec.check(); err != nil {
		return nil, err
	}
	name := clipRef(spec.Args[0])
	if c.life.Err() != nil {
		return nil, gone(op, name)
	}
	life, cancel := context.WithCancel(c.life)
	e := &Exec{c: c, id: c.last.Add(1), name: name, cancel: cancel, inputMu: make(chan struct{}, 1),
		exited: make(chan struct{}), closed: make(chan struct{})}
	stop := context.AfterFunc(ctx, cancel)
	err := e.open(life, spec)
	if !stop() { // ctx has ended the stream, whatever came first
		err = errors.Join(context.Cause(ctx), err)
	}
	if err == nil && !c.spawn(func() { e.receive(stdout, stderr) }) {
		err = errGone
	}
	if err != nil {
		cancel()
		return nil, c.fail(ctx, op, name, err)
	}
	if spec.Stdin {
		e.input = make(chan input)
		if !c.spawn(func() { e.send(life) }) {
			e.input = nil
		}
	}
	return e, nil
}

// open starts the command and waits until it has started.
func (e *Exec) open(ctx context.Context, spec ExecSpec) (err error) {
	if e.stream, err = e.c.rpc.Exec(ctx); err != nil {
		return err
	}
	start := &agentpb.ExecStart{Id: e.id, Args: byteStrings(spec.Args), Env: byteStrings(spec.Env), Dir: []byte(spec.Dir), CreateDir: spec.CreateDir,
		User: spec.User, Tty: spec.TTY, Rows: uint32(spec.Rows), Cols: uint32(spec.Cols), Stdin: spec.Stdin}
	err = e.stream.Send(&agentpb.ExecRequest{Request: &agentpb.ExecRequest_Start{Start: start}})
	if err != nil && !errors.Is(err, io.EOF) { // EOF: Recv knows why
		return err
	}
	m, err := e.stream.Recv()
	if err != nil {
		return err
	}
	if m.GetStarted() == nil {
		return errors.New("the agent's first word is not that the command has started")
	}
	if pid := m.GetStarted().Pid; pid > 0 && pid < 1<<22 {
		e.pid = int(pid)
	}
	return nil
}

func byteStrings(list []string) [][]byte {
	out := make([][]byte, len(list))
	for i, s := range list {
		out[i] = []byte(s)
	}
	return out
}

// check reports whether a guest could make sense of the request.
func (s *ExecSpec) check() error {
	bad := func(format string, args ...any) error {
		return boxlite.Errorf(boxlite.InvalidArgument, "run command", "", format, args...)
	}
	if len(s.Args) == 0 || s.Args[0] == "" {
		return bad("the command is empty")
	}
	size := 0
	for _, list := range [][]string{s.Args, s.Env} {
		if len(list) > MaxArgs {
			return bad("%d arguments or variables, more than %d", len(list), MaxArgs)
		}
		for _, v := range list {
			size += len(v) + 1
		}
	}
	if size > MaxArgBytes {
		return bad("arguments and environment are %d bytes, more than %d", size, MaxArgBytes)
	}
	if s.Dir != "" && !path.IsAbs(s.Dir) || len(s.Dir) > MaxPath {
		return bad("the working directory is not an absolute path of at most %d bytes", MaxPath)
	}
	return nil
}

// receive delivers events until the stream ends.
func (e *Exec) receive(stdout, stderr io.Writer) {
	defer close(e.closed)
	defer e.cancel()
	exited := false
	for {
		m, err := e.stream.Recv()
		if err == nil {
			err = e.deliver(m, &stdout, &stderr, &exited)
		} else if errors.Is(err, io.EOF) {
			err = errors.New("the agent ended the execution's stream without saying how it ended")
		}
		if err == nil {
			continue
		}
		if !exited {
			e.err = e.c.fail(context.Background(), "run command", e.name, err)
			close(e.exited)
		} else {
			e.c.log.Debug("an execution's stream has ended", "err", err)
		}
		return
	}
}

// deliver acts on one event. Its errors are the guest's doing.
func (e *Exec) deliver(m *agentpb.ExecEvent, stdout, stderr *io.Writer, exited *bool) error {
	switch ev := m.Event.(type) {
	case *agentpb.ExecEvent_Stdout:
		give(stdout, ev.Stdout)
	case *agentpb.ExecEvent_Stderr:
		give(stderr, ev.Stderr)
	case *agentpb.ExecEvent_Exited:
		if *exited {
			return errors.New("the agent said twice that the program has ended")
		}
		status, err := exitStatus(ev.Exited)
		if err != nil {
			return err
		}
		e.status, *exited = status, true
		close(e.exited)
	default:
		return fmt.Errorf("the agent sent a %T in the middle of an execution", ev)
	}
	return nil
}

// give writes to *w until that fails.
func give(w *io.Writer, data []byte) {
	if *w == nil || len(data) == 0 {
		return
	}
	if _, err := (*w).Write(data); err != nil {
		*w = nil
	}
}

func exitStatus(e *agentpb.ExecExited) (ExitStatus, error) {
	s := ExitStatus{Code: int(e.GetCode()), Signal: int(e.GetSignal()), OOM: e.GetOom()}
	if s.Signal == 0 && (s.Code < 0 || s.Code > 255) || s.Signal != 0 && (s.Signal < 1 || s.Signal > 64 || s.Code != -s.Signal) {
		return ExitStatus{}, fmt.Errorf("the agent said that the program has ended with code %d and signal %d", s.Code, s.Signal)
	}
	return s, nil
}

// send gives the program its input until that or the program ends.
func (e *Exec) send(ctx context.Context) {
	for {
		select {
		case in := <-e.input:
			m := &agentpb.ExecRequest{Request: &agentpb.ExecRequest_Stdin{Stdin: in}}
			if in == nil {
				m.Request = &agentpb.ExecRequest_CloseStdin{CloseStdin: &agentpb.Empty{}}
			}
			if e.stream.Send(m) != nil {
				return // receive knows why
			}
		case <-e.exited:
			return
		case <-ctx.Done():
			return
		}
	}
}

// PID returns the program's process in the box's own numbering, 0 if that is
// not known. It comes from the box.
func (e *Exec) PID() int { return e.pid }

// Write sends p to the program's standard input. It returns once p is on its
// way, which may be before the program reads it; a program that does not read
// blocks later writes, until ctx ends. n bytes were sent.
//
// Errors: InvalidState if standard input is not open (any more) or the program
// has exited, RpcTransport, Timeout, Canceled.
func (e *Exec) Write(ctx context.Context, p []byte) (n int, err error) {
	const op = "write to command"
	if err := e.lockInput(ctx, op); err != nil {
		return 0, err
	}
	defer func() { <-e.inputMu }()
	if e.input == nil || e.ended {
		return 0, boxlite.Errorf(boxlite.InvalidState, op, e.name, "its standard input is not open")
	}
	for n < len(p) {
		piece := p[n:min(n+chunk, len(p))]
		if err := e.put(ctx, op, append(input{}, piece...)); err != nil {
			return n, err
		}
		n += len(piece)
	}
	return n, nil
}

func (e *Exec) lockInput(ctx context.Context, op string) error {
	select {
	case e.inputMu <- struct{}{}:
		return nil
	case <-ctx.Done():
		return e.c.fail(ctx, op, e.name, ctx.Err())
	}
}

// put hands something to the sending goroutine.
func (e *Exec) put(ctx context.Context, op string, in input) error {
	select {
	case e.input <- in:
		return nil
	case <-ctx.Done():
		return e.c.fail(ctx, op, e.name, ctx.Err())
	case <-e.exited:
		if e.c.life.Err() != nil {
			return gone(op, e.name)
		}
		return boxlite.Errorf(boxlite.InvalidState, op, e.name, "it has exited")
	}
}

// CloseStdin ends the program's standard input: end of file once it has read
// all that was written. On a terminal it types an end of file (^D). It is
// idempotent, and nothing where standard input is not open or the program has
// exited.
//
// Errors: RpcTransport, Timeout, Canceled.
func (e *Exec) CloseStdin(ctx context.Context) error {
	const op = "close input of command"
	if err := e.lockInput(ctx, op); err != nil {
		return err
	}
	defer func() { <-e.inputMu }()
	if e.input == nil || e.ended {
		return nil
	}
	err := e.put(ctx, op, nil)
	if boxlite.KindOf(err) == boxlite.InvalidState && err != nil {
		err = nil
	}
	e.ended = err == nil
	return err
}

// Signal sends a signal to the program's process group, and on a terminal to
// the foreground group also.
//
// Errors: InvalidState if the program has exited, InvalidArgument, Portal,
// RpcTransport, Timeout, Canceled.
func (e *Exec) Signal(ctx context.Context, sig syscall.Signal) error {
	ctx, cancel := e.c.bind(ctx)
	defer cancel()
	_, err := e.c.rpc.Signal(ctx, &agentpb.SignalRequest{Id: e.id, Signal: int32(sig)})
	return e.c.fail(ctx, "signal command", e.name, err)
}

// KillTree ends the program and every process that descends from it, daemons
// included, with SIGKILL, and returns when they are gone. It works after the
// program has exited, too.
//
// Errors: Portal, RpcTransport, Timeout, Canceled.
func (e *Exec) KillTree(ctx context.Context) error { return e.Terminate(ctx, 0) }

// Terminate sends SIGTERM to the program and every process that descends from
// it, and does as KillTree to those that are left after grace. It returns as
// soon as all are gone.
//
// Errors: as KillTree.
func (e *Exec) Terminate(ctx context.Context, grace time.Duration) error {
	ctx, cancel := e.c.bind(ctx)
	defer cancel()
	_, err := e.c.rpc.Terminate(ctx, &agentpb.TerminateRequest{Id: e.id, GraceMs: grace.Milliseconds()})
	return e.c.fail(ctx, "end command", e.name, err)
}

// Resize tells the program's terminal its size.
//
// Errors: InvalidState if there is no terminal or the program has exited,
// Portal, RpcTransport, Timeout, Canceled.
func (e *Exec) Resize(ctx context.Context, rows, cols uint16) error {
	ctx, cancel := e.c.bind(ctx)
	defer cancel()
	_, err := e.c.rpc.Resize(ctx, &agentpb.ResizeRequest{Id: e.id, Rows: uint32(rows), Cols: uint32(cols)})
	return e.c.fail(ctx, "resize terminal", e.name, err)
}

// Wait returns how the program ended. Everything that it wrote has been given
// to the writers by then; processes it has left behind may write on.
//
// Errors: Portal if the agent breaks the protocol, RpcTransport if the
// connection is gone, Timeout, Canceled.
func (e *Exec) Wait(ctx context.Context) (ExitStatus, error) {
	select {
	case <-e.exited:
		return e.status, e.err
	case <-ctx.Done():
		return ExitStatus{}, e.c.fail(ctx, "wait for command", e.name, ctx.Err())
	}
}

// Exited is closed when Wait would return at once.
func (e *Exec) Exited() <-chan struct{} { return e.exited }

// Closed is closed when the writers will not be called any more: both streams
// have ended, or the connection has.
func (e *Exec) Closed() <-chan struct{} { return e.closed }
