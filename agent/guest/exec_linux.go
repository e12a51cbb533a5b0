package guest

import (
	"context"
	"errors"
	"maps"
	"sync"
	"time"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/agent/agentpb"
	"golang.org/x/sys/unix"
)

// Exec runs a command for as long as anybody holds its output. If the host
// gives the stream up, all of it is killed.
func (s *server) Exec(stream agentpb.Agent_ExecServer) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	if first.GetStart() == nil {
		return boxlite.Errorf(boxlite.InvalidArgument, "run command", "", "the first message is not a start")
	}
	spec, err := newRequest(first.GetStart())
	if err != nil {
		return err
	}
	p, err := s.startProcess(stream.Context(), spec)
	if err != nil {
		return err
	}
	defer s.forget(spec.id, p)
	defer p.close()
	stop := context.AfterFunc(stream.Context(), p.abandon)
	defer stop()

	out := &sender{stream: stream}
	if err := out.send(&agentpb.ExecEvent{Event: &agentpb.ExecEvent_Started{Started: &agentpb.ExecStarted{Pid: int64(p.boxPID)}}}); err != nil {
		p.abandon()
		return err
	}
	go p.feed(stream, spec.stdin) // ends with the stream, which ends with this function
	return p.relay(out)
}

// startProcess starts a process and makes it known by its id.
func (s *server) startProcess(ctx context.Context, spec *request) (*process, error) {
	if err := s.reserve(spec.id); err != nil {
		return nil, err
	}
	p, err := s.box.start(ctx, spec)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		delete(s.procs, spec.id)
		return nil, err
	}
	s.procs[spec.id] = p
	if s.stopping { // while it was being started
		p.abandon()
	}
	return p, nil
}

// reserve takes an id for a process that is about to start.
func (s *server) reserve(id uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping {
		return boxlite.Errorf(boxlite.InvalidState, "run command", "", "the box is shutting down")
	}
	if _, taken := s.procs[id]; taken {
		return boxlite.Errorf(boxlite.InvalidArgument, "run command", "", "execution %d exists", id)
	}
	s.procs[id] = nil
	return nil
}

// forget lets go of a process whose streams have ended and whose tree is empty.
// Others have left a daemon, which can still be killed; once in a while, it
// looks whether those have gone.
func (s *server) forget(id uint64, p *process) {
	if p.over() {
		s.mu.Lock()
		delete(s.procs, id)
		s.mu.Unlock()
	}
	for id, p := range s.overdue() {
		if p.over() {
			s.mu.Lock()
			delete(s.procs, id)
			s.mu.Unlock()
		}
	}
}

// overdue returns the processes to look at again, none if that was done within
// the last second.
func (s *server) overdue() map[uint64]*process {
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Since(s.swept) < time.Second {
		return nil
	}
	s.swept = time.Now()
	all := maps.Clone(s.procs)
	maps.DeleteFunc(all, func(_ uint64, p *process) bool { return p == nil })
	return all
}

// over reports whether nothing is left of a process, and lets go of its tree
// then.
func (p *process) over() bool {
	select {
	case <-p.exited:
		return p.closed.Load() && p.tree.release()
	default:
		return false
	}
}

// releaseAll lets go of what commands have left, once the box has ended.
func (s *server) releaseAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.procs {
		if p != nil {
			p.tree.release()
		}
	}
}

// find returns the process with the id, nil if there is none (any more).
func (s *server) find(id uint64) *process {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.procs[id]
}

// abandon kills everything of a process that nobody waits for, and lets go of
// its streams, which another command may have got hold of.
func (p *process) abandon() {
	_ = p.tree.end(context.Background(), 0)
	p.close()
}

// A sender lets the two outputs of a command share its stream.
type sender struct {
	mu     sync.Mutex // held while sending: grpc's streams take one sender
	stream agentpb.Agent_ExecServer
}

func (s *sender) send(e *agentpb.ExecEvent) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stream.Send(e)
}

// relay sends the command's output, its end, and what its descendants write
// after that.
func (p *process) relay(out *sender) error {
	var drained, closed sync.WaitGroup
	drained.Add(len(p.outputs))
	errs := make([]error, len(p.outputs))
	for i, o := range p.outputs {
		closed.Go(func() {
			once := sync.OnceFunc(drained.Done)
			defer once()
			errs[i] = o.copy(func(b []byte) error { return out.send(o.event(b)) }, once)
		})
	}
	<-p.exited
	p.closeInput()
	for _, o := range p.outputs {
		o.programExited()
	}
	drained.Wait()
	err := out.send(&agentpb.ExecEvent{Event: &agentpb.ExecEvent_Exited{Exited: p.exit()}})
	closed.Wait()
	return errors.Join(err, errors.Join(errs...))
}

func (o *output) event(b []byte) *agentpb.ExecEvent {
	if o.stderr {
		return &agentpb.ExecEvent{Event: &agentpb.ExecEvent_Stderr{Stderr: b}}
	}
	return &agentpb.ExecEvent{Event: &agentpb.ExecEvent_Stdout{Stdout: b}}
}

// feed gives the program what the host sends it.
func (p *process) feed(stream agentpb.Agent_ExecServer, open bool) {
	if !open {
		p.closeStdin()
	}
	for {
		m, err := stream.Recv()
		if err != nil {
			return
		}
		switch r := m.Request.(type) {
		case *agentpb.ExecRequest_Stdin:
			if open {
				p.writeStdin(r.Stdin)
			}
		case *agentpb.ExecRequest_CloseStdin:
			p.closeStdin()
		}
	}
}

// Signal sends a signal to a command's process group.
func (s *server) Signal(_ context.Context, req *agentpb.SignalRequest) (*agentpb.Empty, error) {
	if req.Signal < 1 || req.Signal > 64 {
		return nil, boxlite.Errorf(boxlite.InvalidArgument, "signal command", "", "there is no signal %d", req.Signal)
	}
	p := s.find(req.Id)
	if p == nil {
		return nil, hasExited("signal command")
	}
	err := p.signal(unix.Signal(req.Signal))
	if errors.Is(err, unix.ESRCH) {
		return nil, hasExited("signal command")
	}
	return &agentpb.Empty{}, err
}

func hasExited(op string) error {
	return boxlite.Errorf(boxlite.InvalidState, op, "", "the program has exited")
}

// Terminate ends a command and all its descendants.
func (s *server) Terminate(ctx context.Context, req *agentpb.TerminateRequest) (*agentpb.Empty, error) {
	p := s.find(req.Id)
	if p == nil {
		return &agentpb.Empty{}, nil // nothing of it is left
	}
	defer s.forget(req.Id, p)
	if err := p.tree.end(ctx, millis(req.GraceMs)); err != nil {
		return nil, err
	}
	return &agentpb.Empty{}, nil
}

// Resize tells a command's terminal its size.
func (s *server) Resize(_ context.Context, req *agentpb.ResizeRequest) (*agentpb.Empty, error) {
	p := s.find(req.Id)
	if p == nil {
		return nil, hasExited("resize terminal")
	}
	if p.master == nil {
		return nil, boxlite.Errorf(boxlite.InvalidState, "resize terminal", "", "the command has none")
	}
	if req.Rows > 1<<16-1 || req.Cols > 1<<16-1 {
		return nil, boxlite.Errorf(boxlite.InvalidArgument, "resize terminal", "", "the terminal is too large")
	}
	if err := resize(p.master, req.Rows, req.Cols); err != nil {
		return nil, hasExited("resize terminal")
	}
	return &agentpb.Empty{}, nil
}
