package shim

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"google.golang.org/grpc"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/agent"
	"github.com/boxlite-mcp/boxlite-mcp/egress/gateway"
	"github.com/boxlite-mcp/boxlite-mcp/egress/intercept"
	"github.com/boxlite-mcp/boxlite-mcp/internal/rpcerr"
	"github.com/boxlite-mcp/boxlite-mcp/internal/unixsocket"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/engine"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/shim/shimpb"
)

// maxMessage bounds a gRPC message on shim.sock, in bytes.
const maxMessage = 20 << 20

// A server is the shim of one box.
type server struct {
	shimpb.UnimplementedShimServer

	cfg     Config
	log     *slog.Logger
	machine engine.Machine
	agent   *agent.Client
	execs   *table
	gateway *gateway.Gateway // nil: the box has no network
	netLog  *networkLog      // nil likewise

	interceptor *intercept.Interceptor // nil likewise
	trust       trust

	stopOnce sync.Once
	stopped  chan struct{} // closed once exit is set
	exit     Exit          // valid once stopped is closed

	mu       sync.Mutex
	stopping bool               // guarded by mu
	lastUsed time.Time          // guarded by mu
	count    boxlite.BoxMetrics // guarded by mu
	lastCPU  time.Duration      // guarded by mu; at lastAsked
	asked    time.Time          // guarded by mu
	dirty    bool               // guarded by mu; something ran since the last save
}

func newServer(cfg Config, log *slog.Logger) *server {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	now := time.Now()
	return &server{
		cfg: cfg, log: log.With("box", cfg.Box), execs: newTable(ExecutionsDir(cfg.Dir)),
		stopped: make(chan struct{}), lastUsed: now, asked: now, count: cfg.Totals,
	}
}

// serve answers calls until the box is gone.
func (s *server) serve(ctx context.Context, listener net.Listener) error {
	if err := s.execs.load(); err != nil {
		s.log.Warn("earlier executions cannot be read", "err", err)
	}
	g := grpc.NewServer(grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(maxMessage),
		grpc.UnaryInterceptor(rpcerr.UnaryServer), grpc.StreamInterceptor(rpcerr.StreamServer))
	shimpb.RegisterShimServer(g, s)

	var wg sync.WaitGroup
	wg.Go(func() { s.saveRegularly() })
	wg.Go(func() { s.watchMachine() })
	wg.Go(func() { s.watchNetwork() })
	wg.Go(func() { s.renewAuthority() })
	wg.Go(func() {
		select {
		case <-ctx.Done():
			s.stop("the shim was told to end", 2*time.Second)
		case <-s.stopped:
		}
	})
	wg.Go(func() {
		<-s.stopped
		// Long polls return by themselves: every execution has ended.
		kill := time.AfterFunc(2*time.Second, g.Stop)
		g.GracefulStop()
		kill.Stop()
	})
	err := g.Serve(unixsocket.SameUser(listener))
	if err != nil {
		s.stop("the shim's socket failed", 0)
	}
	wg.Wait()
	_ = s.execs.close()
	return err
}

// stopAtEOF ends the box when the starter lets go of the pipe.
func (s *server) stopAtEOF(stdin io.Reader) {
	_, _ = io.Copy(io.Discard, stdin)
	s.stop("the process that started it ended", 2*time.Second)
}

// watchMachine ends the shim when the machine ends by itself, and the machine
// when its agent does: without one it is of no use.
func (s *server) watchMachine() {
	const follow = 2 * time.Second // what an agent's end takes to end its machine
	select {
	case <-s.machine.Done():
	case <-s.agent.Done():
		select {
		case <-s.machine.Done():
		case <-s.stopped:
			return
		case <-time.After(follow):
			s.stop("the agent ended", 0)
			return
		}
	case <-s.stopped:
		return
	}
	s.stop("", 0)
}

// stop ends the box, once: processes get grace to end, the writable layer is
// saved, executions are finished and the end is written down. It returns when
// all of that is done, whoever did it.
func (s *server) stop(reason string, grace time.Duration) Exit {
	s.stopOnce.Do(func() {
		s.mu.Lock()
		s.stopping = true
		s.mu.Unlock()
		s.shutDown(grace)
		s.agent.Close()
		end := s.machine.Exit()
		s.execs.finishAll(lostBecause(end, reason))
		s.exit = Exit{Container: s.cfg.Machine.ID, Reason: reason, Clean: end.Clean, OOM: end.OOM, At: time.Now().UTC(), Totals: s.counters()}
		if s.exit.Reason == "" || !end.Clean {
			s.exit.Reason = end.Reason
		}
		if err := s.writeExit(); err != nil {
			s.log.Error("the end of the box cannot be written down", "err", err)
		}
		s.log.Info("box ended", "reason", s.exit.Reason, "clean", end.Clean)
		close(s.stopped)
	})
	<-s.stopped
	return s.exit
}

// shutDown returns when the machine is gone.
func (s *server) shutDown(grace time.Duration) {
	const save = 2 * time.Minute // for the layer of a box that wrote gigabytes
	select {
	case <-s.machine.Done():
		return
	default:
	}
	ctx, cancel := context.WithTimeout(context.Background(), grace+5*time.Second)
	defer cancel()
	if err := s.agent.Shutdown(ctx, grace); err != nil {
		s.log.Warn("processes were not ended in order", "err", err)
	}
	ctx, cancel = context.WithTimeout(context.Background(), save)
	defer cancel()
	if err := s.machine.Stop(ctx); err != nil {
		s.log.Error("the machine was not stopped in order", "err", err)
		s.machine.Kill()
	}
	<-s.machine.Done()
}

func lostBecause(end engine.Exit, reason string) boxlite.ExecResult {
	if reason == "" || !end.Clean {
		reason = end.Reason
	}
	return boxlite.ExecResult{ExitCode: -9, Signal: 9, OOM: end.OOM, Lost: "the box ended: " + reason}
}

func (s *server) writeExit() error {
	data, err := json.Marshal(s.exit)
	if err != nil {
		return err
	}
	path := filepath.Join(s.cfg.Dir, "exit.json")
	if err := os.WriteFile(path+".new", data, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// saveRegularly makes the writable layer durable while commands change it, so
// that a crash costs little. It spends at most a twentieth of the time on it.
func (s *server) saveRegularly() {
	if s.cfg.SyncEvery <= 0 {
		return
	}
	wait := s.cfg.SyncEvery
	for {
		select {
		case <-s.stopped:
			return
		case <-time.After(wait):
		}
		if !s.takeDirty() {
			wait = s.cfg.SyncEvery
			continue
		}
		began := time.Now()
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		if err := s.machine.Sync(ctx); err != nil {
			s.log.Warn("the writable layer was not saved", "err", err)
		}
		cancel()
		wait = max(s.cfg.SyncEvery, 20*time.Since(began))
	}
}

// takeDirty reports whether anything may have been written since it was last
// asked.
func (s *server) takeDirty() bool {
	running := s.execs.running() > 0
	s.mu.Lock()
	defer s.mu.Unlock()
	was := s.dirty
	s.dirty = false
	return (was || running) && !s.stopping
}

// use notes that the box is in use.
//
// Errors: InvalidState if it is shutting down.
func (s *server) use() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping {
		return &boxlite.Error{Op: "use box", Kind: boxlite.InvalidState, Ref: string(s.cfg.Box),
			Hint: "Call again: the box is shutting down and can be started afterwards."}
	}
	s.lastUsed, s.dirty = time.Now(), true
	return nil
}

// stopUsing lets nobody use the box any more, if nothing runs in it and nothing
// was used for so long. Who comes in between finds it in use, or on its way down.
//
// Errors: InvalidState if it is in use.
func (s *server) stopUsing(idle time.Duration) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := s.execs.running(); n > 0 || time.Since(s.lastUsed) < idle {
		return boxlite.Errorf(boxlite.InvalidState, "stop idle box", string(s.cfg.Box), "it is in use")
	}
	s.stopping = true
	return nil
}

func (s *server) add(f func(*boxlite.BoxMetrics)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(&s.count)
}

// counters returns the totals, without what only a running machine has.
func (s *server) counters() boxlite.BoxMetrics {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.count
	m.BytesReceived += s.execs.bytes()
	return m
}

// metrics returns the totals and the machine's figures as of now.
func (s *server) metrics() boxlite.BoxMetrics {
	m := s.counters()
	usage, err := s.machine.Usage()
	if err != nil {
		return m
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if span := now.Sub(s.asked); span > 0 {
		percent := 100 * (usage.CPU - s.lastCPU).Seconds() / span.Seconds() / float64(max(1, s.cfg.Machine.CPUs))
		m.CPUPercent = new(min(max(percent, 0), 100))
	}
	s.asked, s.lastCPU = now, usage.CPU
	m.Memory, m.Disk = new(usage.Memory), new(usage.Disk)
	return m
}
