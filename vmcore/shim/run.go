package shim

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"syscall"
	"time"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/agent"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/shim/shimpb"
)

// termGrace is how long a command that has timed out gets between SIGTERM and
// SIGKILL.
const termGrace = 2 * time.Second

// startTimeout bounds the start of a command, in a box that may be busy or
// hostile.
const startTimeout = 30 * time.Second

// Run starts a command, or returns the one that has the id already.
func (s *server) Run(ctx context.Context, req *shimpb.RunRequest) (*shimpb.Words, error) {
	var cmd boxlite.Command
	if err := json.Unmarshal(req.Command, &cmd); err != nil {
		return nil, &boxlite.Error{Op: "run command", Kind: boxlite.InvalidArgument, Err: err}
	}
	id, err := boxlite.ParseExecutionID(string(req.Id))
	if err == nil {
		err = cmd.Check()
	}
	if err == nil {
		err = s.use()
	}
	if err != nil {
		return nil, err
	}
	info := boxlite.ExecInfo{ID: id, Args: cmd.Args, User: cmd.User, TTY: cmd.TTY, Started: time.Now().UTC()}
	e, existing, err := s.execs.reserve(info)
	if err != nil {
		return nil, err
	}
	if !existing {
		// Not under ctx: a caller that goes away asks again with the same id,
		// and must not find a command that its going away has ended. The wait
		// is the agent's, whose connection bounds it.
		go s.start(e, cmd)
	}
	select {
	case <-e.started:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if e.err != nil {
		return nil, e.err
	}
	return words(e.Info())
}

// start runs the command of a reserved execution and follows it to its end.
func (s *server) start(e *execution, cmd boxlite.Command) {
	defer close(e.started)
	began := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	run, err := s.agent.Start(ctx, s.spec(cmd), e.Stdout, e.Stderr)
	if err != nil {
		s.add(func(m *boxlite.BoxMetrics) { m.RunErrors++ })
		e.err = err
		s.execs.discard(e)
		return
	}
	s.add(func(m *boxlite.BoxMetrics) { m.CommandsRun++ })
	e.run = run
	go s.follow(e, cmd.Timeout, began) // ends with the agent's connection, which stop closes
}

// spec merges what the image and the box say with what the command says.
func (s *server) spec(cmd boxlite.Command) agent.ExecSpec {
	spec := agent.ExecSpec{
		Args: cmd.Args, Dir: cmd.WorkingDir, User: cmd.User,
		TTY: cmd.TTY, Rows: cmd.Rows, Cols: cmd.Cols, Stdin: cmd.Stdin || cmd.TTY,
	}
	for _, e := range slices.Concat(s.trust.env(), s.cfg.Env, cmd.Env) {
		spec.Env = append(spec.Env, e.String())
	}
	if spec.Dir == "" {
		spec.Dir, spec.CreateDir = s.cfg.WorkingDir, true
	}
	if spec.User == "" {
		spec.User = s.cfg.User
	}
	return spec
}

// follow waits for a command's end and writes it down.
func (s *server) follow(e *execution, timeout time.Duration, began time.Time) {
	ctx := context.Background() // the agent's connection bounds every wait below
	var expired <-chan time.Time
	if timeout > 0 {
		timer := time.NewTimer(timeout)
		defer timer.Stop()
		expired = timer.C
	}
	select {
	case <-e.run.Exited():
	case <-expired:
		e.mu.Lock()
		e.timedOut = true
		e.mu.Unlock()
		if err := e.run.Terminate(ctx, termGrace); err != nil {
			s.log.Warn("a command that timed out was not ended in order", "err", err)
		}
	}
	status, err := e.run.Wait(ctx)
	if err != nil {
		return // the box is going: stop finishes what is left, and knows why
	}
	e.mu.Lock()
	timedOut := e.timedOut
	e.mu.Unlock()
	s.finish(e, boxlite.ExecResult{
		ExitCode: status.Code, Signal: status.Signal, OOM: status.OOM,
		TimedOut: timedOut, Duration: time.Since(began),
	})
}

func (s *server) finish(e *execution, result boxlite.ExecResult) {
	if err := e.Finish(result); err != nil {
		s.log.Warn("an execution is only in memory", "err", err)
	}
	_ = s.use() // the idle time counts from the end
	<-e.run.Closed()
	e.Stdout.CloseWrite()
	e.Stderr.CloseWrite()
	if err := e.Save(); err != nil {
		s.log.Warn("an execution is only in memory", "err", err)
	}
}

// Output returns a piece of an execution's output.
func (s *server) Output(ctx context.Context, req *shimpb.OutputRequest) (*shimpb.OutputReply, error) {
	e, err := s.execs.get(string(req.Id))
	if err != nil {
		return nil, err
	}
	out, err := e.Output(ctx, outputRequest(req))
	if err != nil {
		return nil, err
	}
	return outputReply(out)
}

// WriteStdin writes to a command's standard input.
func (s *server) WriteStdin(ctx context.Context, req *shimpb.WriteStdinRequest) (*shimpb.WriteStdinReply, error) {
	e, err := s.live(string(req.Id))
	if err != nil {
		return nil, err
	}
	taken, err := e.run.Write(ctx, req.Data)
	s.add(func(m *boxlite.BoxMetrics) { m.BytesSent += int64(taken) })
	if err == nil && req.Eof {
		err = e.run.CloseStdin(ctx)
	}
	if err != nil && taken == 0 {
		return nil, err
	}
	return &shimpb.WriteStdinReply{Taken: int64(taken)}, nil
}

// live returns an execution of this life of the box, running or not.
//
// Errors: NotFound, InvalidState.
func (s *server) live(id string) (*execution, error) {
	e, err := s.execs.get(id)
	if err == nil && e.run == nil {
		err = boxlite.HasExited(boxlite.ExecutionID(id))
	}
	return e, err
}

// Signal sends a signal to a command's process group.
func (s *server) Signal(ctx context.Context, req *shimpb.SignalRequest) (*shimpb.Empty, error) {
	e, err := s.live(string(req.Id))
	if err != nil {
		return nil, err
	}
	if req.Signal < 1 || req.Signal > 64 {
		return nil, &boxlite.Error{Op: "signal", Kind: boxlite.InvalidArgument, Err: fmt.Errorf("signal %d", req.Signal), Hint: "Signals are 1 to 64."}
	}
	return &shimpb.Empty{}, e.run.Signal(ctx, syscall.Signal(req.Signal))
}

// StopExec ends a command and everything it started, also what is left of one
// that has exited.
func (s *server) StopExec(ctx context.Context, req *shimpb.StopExecRequest) (*shimpb.Words, error) {
	e, err := s.execs.get(string(req.Id))
	if err != nil {
		return nil, err
	}
	if e.run != nil {
		if err := e.run.Terminate(ctx, max(0, time.Duration(req.GraceNs))); err != nil {
			return nil, err
		}
		select {
		case <-e.Done():
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return words(e.Info())
}

// ResizeTTY sets the size of a command's terminal.
func (s *server) ResizeTTY(ctx context.Context, req *shimpb.ResizeRequest) (*shimpb.Empty, error) {
	e, err := s.live(string(req.Id))
	if err != nil {
		return nil, err
	}
	return &shimpb.Empty{}, e.run.Resize(ctx, uint16(min(req.Rows, 1<<16-1)), uint16(min(req.Cols, 1<<16-1)))
}

// Executions lists the box's executions, oldest first.
func (s *server) Executions(context.Context, *shimpb.Empty) (*shimpb.ExecutionList, error) {
	data, err := json.Marshal(s.execs.list())
	return &shimpb.ExecutionList{Json: data}, err
}

// words returns v as JSON.
func words(v any) (*shimpb.Words, error) {
	data, err := json.Marshal(v)
	return &shimpb.Words{Json: data}, err
}
