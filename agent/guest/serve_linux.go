package guest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime/debug"
	"sync"
	"time"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/agent/agentpb"
	"github.com/boxlite-mcp/boxlite-mcp/internal/rpcerr"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
)

const protocol = 1

// A server is the agent's end of the connection.
type server struct {
	agentpb.UnimplementedAgentServer
	box     *box
	log     *slog.Logger
	started time.Time

	mu       sync.Mutex
	greeted  bool                // guarded by mu
	stopping bool                // guarded by mu
	procs    map[uint64]*process // that are running or have descendants, nil while being started; guarded by mu
	swept    time.Time           // when those with descendants were last looked at; guarded by mu
}

// Serve makes the box and serves the host over conn until conn ends, ctx does,
// or the box's init is gone. Then everything in the box is killed. It owns the
// process it runs in: see the package comment.
//
// Errors: why the box could not be made or has ended; nil for conn's end.
func Serve(ctx context.Context, conn net.Conn, opts Options) error {
	log := opts.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	b, err := newBox(opts)
	if err != nil {
		conn.Close()
		return err
	}
	reaped := make(chan struct{})
	go func() { defer close(reaped); b.reap() }()
	defer func() { b.kill(); <-reaped; b.close() }()

	s := &server{box: b, log: log, started: time.Now(), procs: map[uint64]*process{}}
	g := grpc.NewServer(
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.MaxSendMsgSize(maxMessage),
		grpc.MaxConcurrentStreams(1<<14),
		grpc.InitialWindowSize(window),
		grpc.InitialConnWindowSize(16*window),
		grpc.WriteBufferSize(64<<10),
		grpc.ReadBufferSize(32<<10),
		grpc.WaitForHandlers(true),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Second, PermitWithoutStream: true}),
		grpc.ChainUnaryInterceptor(rpcerr.UnaryServer, s.checkUnary),
		grpc.ChainStreamInterceptor(rpcerr.StreamServer, s.checkStream),
	)
	agentpb.RegisterAgentServer(g, s)
	l := newListener(conn)
	served := make(chan struct{})
	go func() { defer close(served); _ = g.Serve(l) }()
	select {
	case <-ctx.Done():
		err = ctx.Err()
	case <-b.ended:
		err = errors.New("the box's init has ended")
	case <-l.gone:
	}
	b.kill() // ends what handlers wait for
	g.Stop()
	<-served
	s.releaseAll()
	return err
}

// window is how many bytes the host may send to a stream that nobody reads.
const window = 128 << 10

// Tune makes the process's memory small. It is for a program that does nothing
// but serve.
func Tune() {
	debug.SetGCPercent(40)
	debug.SetMemoryLimit(64 << 20)
}

func (s *server) checkUnary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	if err := s.checkGreeted(info.FullMethod); err != nil {
		return nil, err
	}
	return handler(ctx, req)
}

func (s *server) checkStream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	if err := s.checkGreeted(info.FullMethod); err != nil {
		return err
	}
	return handler(srv, ss)
}

func (s *server) checkGreeted(method string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.greeted && method != agentpb.Agent_Hello_FullMethodName {
		return boxlite.Errorf(boxlite.InvalidState, "call agent", "", "the first call must be Hello")
	}
	return nil
}

// Hello introduces the host, and tells the box what only the host knows.
func (s *server) Hello(ctx context.Context, req *agentpb.HelloRequest) (*agentpb.HelloResponse, error) {
	if req.Protocol != protocol {
		return nil, boxlite.Errorf(boxlite.Unsupported, "greet agent", "", "the host speaks protocol %d, this agent %d", req.Protocol, protocol)
	}
	if err := s.setHostname(ctx, req.Hostname); err != nil {
		return nil, err
	}
	if req.TimeUnixNano > 0 {
		t := unix.NsecToTimeval(req.TimeUnixNano)
		if err := unix.Settimeofday(&t); err != nil {
			return nil, fmt.Errorf("set the clock: %w", err)
		}
	}
	s.mu.Lock()
	s.greeted = true
	s.mu.Unlock()
	return &agentpb.HelloResponse{Protocol: protocol, Version: version(), Kernel: kernelRelease(),
		Cgroups: s.box.trees.root >= 0, Isolated: true}, nil
}

// setHostname names the agent's UTS namespace and the fork thread's, which
// differ where trees are marked.
func (s *server) setHostname(ctx context.Context, name string) error {
	if name == "" {
		return nil
	}
	if len(name) > 63 {
		return boxlite.Errorf(boxlite.InvalidArgument, "greet agent", "", "the host name has %d bytes", len(name))
	}
	err := unix.Sethostname([]byte(name))
	doErr := s.box.fork.do(ctx, func() { err = errors.Join(err, unix.Sethostname([]byte(name))) })
	if err = errors.Join(err, doErr); err != nil {
		return fmt.Errorf("set the host name: %w", err)
	}
	return nil
}

// Stats reports the box's load.
func (s *server) Stats(context.Context, *agentpb.Empty) (*agentpb.StatsResponse, error) {
	pids, err := s.box.processes("ns/pid", s.box.pidns)
	if err != nil {
		return nil, err
	}
	total, free := memory(s.box.proc)
	return &agentpb.StatsResponse{Processes: int64(len(pids)), MemoryTotal: total, MemoryFree: free,
		UptimeMs: time.Since(s.started).Milliseconds()}, nil
}

// Shutdown ends every process of the box and writes files back.
func (s *server) Shutdown(ctx context.Context, req *agentpb.ShutdownRequest) (*agentpb.Empty, error) {
	s.mu.Lock()
	s.stopping = true
	s.mu.Unlock()
	all := &tree{trees: s.box.trees, dir: -1, uts: -1, everything: true}
	if err := all.end(ctx, millis(req.GraceMs)); err != nil {
		return nil, err
	}
	unix.Sync()
	return &agentpb.Empty{}, nil
}

// millis returns a duration from the wire.
func millis(ms int64) time.Duration {
	const longest = int64(24 * time.Hour / time.Millisecond)
	return time.Duration(min(max(ms, 0), longest)) * time.Millisecond
}

func kernelRelease() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Release[:])
}

func version() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		return info.Main.Version
	}
	return ""
}

// A listener accepts one connection, and lives as long as that.
type listener struct {
	conn chan net.Conn
	addr net.Addr
	gone chan struct{} // closed with the connection
	once *sync.Once
}

func newListener(c net.Conn) *listener {
	l := &listener{conn: make(chan net.Conn, 1), addr: c.LocalAddr(), gone: make(chan struct{}), once: new(sync.Once)}
	l.conn <- &listened{Conn: c, l: l}
	return l
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conn:
		return c, nil
	case <-l.gone:
		return nil, net.ErrClosed
	}
}

func (l *listener) Addr() net.Addr { return l.addr }
func (l *listener) Close() error   { l.once.Do(func() { close(l.gone) }); return nil }

type listened struct {
	net.Conn
	l *listener
}

func (c *listened) Close() error {
	err := c.Conn.Close()
	_ = c.l.Close()
	return err
}
