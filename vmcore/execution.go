package vmcore

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/shim"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/spool"
)

// An Execution is a handle to a command that runs or has run in a box. The
// command needs no handle: it runs on, and its output is kept, if this one is
// dropped. It may be used concurrently.
type Execution struct {
	box     *Box
	id      boxlite.ExecutionID
	started boxlite.ExecInfo

	mu                    sync.Mutex
	stdin, stdout, stderr bool // guarded by mu; taken
}

// Run starts a command, starting the box where that is needed, and returns once
// it runs. Unless cmd.Stdin is set its standard input is empty. report, if not
// nil, is told how the box's start gets on.
//
// Errors: InvalidArgument, Run if the program cannot be run, InvalidState as
// cmd.IfRunning says, those of [Box.Start].
func (b *Box) Run(ctx context.Context, cmd boxlite.Command, report func(boxlite.Progress)) (*Execution, error) {
	info, err := b.run(ctx, cmd, report)
	if err != nil {
		return nil, err
	}
	return &Execution{box: b, id: info.ID, started: info}, nil
}

func (b *Box) run(ctx context.Context, cmd boxlite.Command, report func(boxlite.Progress)) (boxlite.ExecInfo, error) {
	if err := cmd.Check(); err != nil {
		return boxlite.ExecInfo{}, err
	}
	if cmd.IfRunning && b.rt.liveBox(b.id) == nil {
		return boxlite.ExecInfo{}, &boxlite.Error{Op: "run command", Kind: boxlite.InvalidState, Ref: string(b.id),
			Err: errors.New("the box is not running"), Hint: "Start it first."}
	}
	id := cmd.ExecutionID(b.id)
	return use(ctx, b, report, func(c *shim.Client) (boxlite.ExecInfo, error) { return c.Run(ctx, id, cmd) })
}

// Execution returns a handle to an execution, of whatever runtime it was
// started by.
//
// Errors: NotFound if its box is not in the scope; whether the execution is
// there is seen at its first use.
func (rt *Runtime) Execution(scope Scope, id boxlite.ExecutionID) (*Execution, error) {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	rec := rt.records[id.Box()]
	if rec == nil || !scope.sees(rec) {
		return nil, boxlite.NoExecution(id)
	}
	return &Execution{box: &Box{rt, rec.ID}, id: id}, nil
}

// ID returns the execution's identifier.
func (e *Execution) ID() boxlite.ExecutionID { return e.id }

// Started returns the execution as it was when [Box.Run] returned it.
func (e *Execution) Started() boxlite.ExecInfo { return e.started }

// Info returns the execution as of now.
//
// Errors: NotFound.
func (e *Execution) Info(ctx context.Context) (boxlite.ExecInfo, error) {
	out, err := e.Output(ctx, boxlite.OutputRequest{})
	return out.Exec, err
}

// Output returns a piece of the output, waiting as req says, from the box's
// shim, or from disk if the box is not running.
//
// Errors: NotFound, Canceled, Timeout.
func (e *Execution) Output(ctx context.Context, req boxlite.OutputRequest) (boxlite.Output, error) {
	l, err := e.box.rt.reach(ctx, e.box.id)
	if err != nil {
		return boxlite.Output{}, err
	}
	if l != nil {
		out, err := l.client.Output(ctx, e.id, req)
		if boxlite.KindOf(err) != boxlite.RpcTransport {
			return out, err
		}
		if err := e.box.rt.awaitEnd(ctx, e.box.id, l); err != nil { // the shim has just ended
			return out, err
		}
	}
	kept, err := spool.Open(e.box.executionsDir(), e.id, spool.Limits{})
	if err != nil {
		return boxlite.Output{}, err
	}
	defer kept.Close()
	return kept.Output(ctx, req)
}

// withShim runs f with the shim that the command runs in.
func (e *Execution) withShim(ctx context.Context, f func(*shim.Client) error) error {
	l, err := e.box.rt.reach(ctx, e.box.id)
	if err != nil {
		return err
	}
	if l == nil {
		return boxlite.HasExited(e.id)
	}
	return f(l.client)
}

// WriteStdin writes to the command's standard input, closes it after data if
// eof is set, and returns how many bytes were taken.
//
// Errors: InvalidState if the input is not open, NotFound.
func (e *Execution) WriteStdin(ctx context.Context, data []byte, eof bool) (taken int, err error) {
	err = e.withShim(ctx, func(c *shim.Client) error {
		taken, err = c.WriteStdin(ctx, e.id, data, eof)
		return err
	})
	return taken, err
}

// Signal sends a signal to the command's process group.
//
// Errors: InvalidState if it has exited, InvalidArgument, NotFound.
func (e *Execution) Signal(ctx context.Context, signal int) error {
	return e.withShim(ctx, func(c *shim.Client) error { return c.Signal(ctx, e.id, signal) })
}

// Kill ends the command and everything it started with SIGKILL.
//
// Errors: NotFound.
func (e *Execution) Kill(ctx context.Context) error {
	_, err := e.StopTree(ctx, 0)
	return err
}

// StopTree ends the command and everything it started: SIGTERM, and SIGKILL
// for what is left after grace. It also ends what an exited command has left
// behind.
//
// Errors: NotFound.
func (e *Execution) StopTree(ctx context.Context, grace time.Duration) (info boxlite.ExecInfo, err error) {
	if l, err := e.box.rt.reach(ctx, e.box.id); err != nil || l == nil {
		return e.Info(ctx)
	}
	err = e.withShim(ctx, func(c *shim.Client) error {
		info, err = c.StopExec(ctx, e.id, grace)
		return err
	})
	return info, err
}

// ResizeTTY sets the size of the command's terminal.
//
// Errors: InvalidState if it has none or has exited, NotFound.
func (e *Execution) ResizeTTY(ctx context.Context, rows, cols uint16) error {
	return e.withShim(ctx, func(c *shim.Client) error { return c.ResizeTTY(ctx, e.id, rows, cols) })
}

// Wait returns how the command ended. If the box went away under it, Lost says
// why.
//
// Errors: NotFound, Canceled, Timeout.
func (e *Execution) Wait(ctx context.Context) (boxlite.ExecResult, error) {
	for {
		out, err := e.Output(ctx, boxlite.OutputRequest{Wait: pollTime, Until: boxlite.UntilExit})
		if err != nil {
			return boxlite.ExecResult{}, err
		}
		if !out.Exec.Running {
			return *out.Exec.Result, nil
		}
	}
}

// pollTime is how long one call to the shim waits at most.
const pollTime = time.Minute

// Stdin returns the command's standard input; closing it tells the command that
// there is no more. The second call returns nil.
func (e *Execution) Stdin() io.WriteCloser {
	if !e.take(&e.stdin) {
		return nil
	}
	return stdin{e}
}

// Stdout returns what the command writes to standard output, from its first
// byte on, until it has exited. The second call returns nil. A reader that is
// slow, or never reads, does not hold the command up.
func (e *Execution) Stdout() io.Reader {
	if !e.take(&e.stdout) {
		return nil
	}
	return &stream{e: e, of: func(o *boxlite.Output) *boxlite.OutputChunk { return &o.Stdout }}
}

// Stderr returns what the command writes to standard error, as Stdout does.
func (e *Execution) Stderr() io.Reader {
	if !e.take(&e.stderr) {
		return nil
	}
	return &stream{e: e, stderr: true, of: func(o *boxlite.Output) *boxlite.OutputChunk { return &o.Stderr }}
}

func (e *Execution) take(taken *bool) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	was := *taken
	*taken = true
	return !was
}

type stdin struct{ e *Execution }

func (s stdin) Write(p []byte) (n int, err error) {
	const most = 1 << 20 // of one message
	for n < len(p) && err == nil {
		var taken int
		taken, err = s.e.WriteStdin(context.Background(), p[n:min(len(p), n+most)], false)
		n += taken
	}
	return n, err
}

func (s stdin) Close() error {
	_, err := s.e.WriteStdin(context.Background(), nil, true)
	return err
}

// A stream reads one output stream from its start to the command's exit.
type stream struct {
	e      *Execution
	of     func(*boxlite.Output) *boxlite.OutputChunk
	stderr bool
	offset int64
	buf    []byte // read and not yet returned
	end    bool
}

// Read implements io.Reader. Bytes that were dropped past the spill limit are
// left out; the result's Truncated tells.
func (s *stream) Read(p []byte) (int, error) {
	for len(s.buf) == 0 && len(p) > 0 {
		if s.end {
			return 0, io.EOF
		}
		if err := s.fill(); err != nil {
			return 0, err
		}
	}
	n := copy(p, s.buf)
	s.buf = s.buf[n:]
	return n, nil
}

func (s *stream) fill() error {
	const most = 1 << 20
	req := boxlite.OutputRequest{StdoutOffset: atEnd, StderrOffset: atEnd, MaxBytes: most, Wait: pollTime}
	if s.stderr {
		req.StderrOffset = s.offset
	} else {
		req.StdoutOffset = s.offset
	}
	out, err := s.e.Output(context.Background(), req)
	if err != nil {
		return err
	}
	c := s.of(&out)
	s.buf, s.offset = c.Data, c.Next()
	s.end = c.EOF || !out.Exec.Running && s.offset >= c.End
	if s.offset > most && len(s.buf) < most/4 && !s.end {
		sleep(s.e.box.rt.ctx, gather)
	}
	return nil
}

// gather is how long a reader that has caught up with a command that writes
// much waits for more of it: else there is a call for every few kilobytes.
const gather = 5 * time.Millisecond

// atEnd is an offset past any end: nothing of that stream is wanted.
const atEnd = 1 << 62
