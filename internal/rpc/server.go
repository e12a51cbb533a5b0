package rpc

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"runtime/debug"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/internal/proc"
	"github.com/boxlite-mcp/boxlite-mcp/internal/rpc/rpcpb"
	"github.com/boxlite-mcp/boxlite-mcp/internal/rpcerr"
)

// A Caller is who a connection is, and what is in its configuration.
type Caller struct {
	Principal  string           // may be empty for the operator
	Operator   bool             // sees all
	Registries []string         // image registries that are allowed from now on
	Secrets    []boxlite.Secret // with values, for this principal's boxes
}

// ServerOptions say what a [Server] serves. Open is required.
type ServerOptions struct {
	// Open returns the Service for one connection.
	Open func(Caller) (boxlite.Service, error)

	Version string // of this program
	Home    string // for Status

	// Details returns what [Status] says beyond the server's own knowledge.
	// nil: nothing.
	Details func(ctx context.Context) (json.RawMessage, error)

	// Shutdown is called when the operator asks the daemon to leave. It must
	// return at once; what it starts calls [Server.Stop]. nil: the daemon
	// cannot be asked.
	Shutdown func(reason string)

	Log *slog.Logger // nil: discard
}

// A Server serves a home's Services to the clients of its daemon.
type Server struct {
	opts    ServerOptions
	log     *slog.Logger
	grpc    *grpc.Server
	self    proc.ID
	started time.Time
	changed chan struct{}      // capacity 1: something changed since it was read
	drain   context.Context    //nolint:containedctx // its end is that of the server, not of a call
	leave   context.CancelFunc // ends drain

	mu      sync.Mutex
	clients int // guarded by mu
}

// NewServer returns a server. [Server.Stop] must be called.
func NewServer(opts ServerOptions) *Server {
	s := &Server{opts: opts, log: opts.Log, started: time.Now().UTC(), changed: make(chan struct{}, 1)}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.drain, s.leave = context.WithCancel(context.Background())
	if id, err := proc.Of(os.Getpid()); err == nil {
		s.self = id
	} else {
		s.self = proc.ID{PID: os.Getpid()}
	}
	s.grpc = grpc.NewServer(
		grpc.Creds(handshake{s}),
		grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(maxMessage),
		grpc.MaxConcurrentStreams(maxStreams), grpc.ConnectionTimeout(maxHello),
		grpc.InitialWindowSize(windowSize), grpc.InitialConnWindowSize(connWindowSize),
		grpc.ReadBufferSize(bufferSize), grpc.WriteBufferSize(bufferSize),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: keepaliveEvery, Timeout: keepaliveWait}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: keepaliveEvery / 2, PermitWithoutStream: true}),
		grpc.UnaryInterceptor(s.unary), grpc.StreamInterceptor(s.stream),
	)
	rpcpb.RegisterDaemonServer(s.grpc, &handlers{Server: s})
	return s
}

// Serve answers clients that connect to l until [Server.Stop], and closes l.
//
// Errors: RpcTransport if l fails.
func (s *Server) Serve(l net.Listener) error {
	if err := s.grpc.Serve(l); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return &boxlite.Error{Op: "serve clients", Kind: boxlite.RpcTransport, Ref: l.Addr().String(), Err: err}
	}
	return nil
}

// Stop takes no new calls, ends those that only wait for output, lets the rest
// finish until ctx ends, and then ends them too. Clients that lose a call that
// may be repeated make it again to the next daemon.
func (s *Server) Stop(ctx context.Context) {
	s.leave()
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { s.grpc.GracefulStop(); close(done) })
	select {
	case <-done:
	case <-ctx.Done():
		s.grpc.Stop()
	}
	wg.Wait()
}

// Clients returns how many connections there are that said hello.
func (s *Server) Clients() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.clients
}

// Changed returns the channel that receives when the number of clients may have
// changed since it last did. It is for one reader and never closed.
func (s *Server) Changed() <-chan struct{} { return s.changed }

func (s *Server) count(by int) {
	s.mu.Lock()
	s.clients += by
	s.mu.Unlock()
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

func (s *Server) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (reply any, err error) {
	p := peerOf(ctx)
	defer func() { err = s.failure(info.FullMethod, p, err, recover()) }()
	if err := s.admit(p, info.FullMethod); err != nil {
		return nil, err
	}
	return handler(ctx, req)
}

func (s *Server) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
	p := peerOf(ss.Context())
	defer func() { err = s.failure(info.FullMethod, p, err, recover()) }()
	if err := s.admit(p, info.FullMethod); err != nil {
		return err
	}
	return handler(srv, ss)
}

// admit reports whether the peer may call the method at all.
func (s *Server) admit(p *peer, method string) error {
	switch method {
	case rpcpb.Daemon_Hello_FullMethodName:
		return nil
	case rpcpb.Daemon_Status_FullMethodName, rpcpb.Daemon_Shutdown_FullMethodName:
		if id := p.identity(); !id.hello || !id.operator {
			return &boxlite.Error{Op: "call daemon", Kind: boxlite.Denied, Hint: "Say hello as the operator first."}
		}
		return nil
	}
	id := p.identity()
	if id.svc == nil && id.err == nil {
		return &boxlite.Error{Op: "call daemon", Kind: boxlite.InvalidState, Hint: "Say hello first."}
	}
	return id.err
}

// failure returns what the client is told of err, or of a panic.
func (s *Server) failure(method string, p *peer, err error, panicked any) error {
	if panicked != nil {
		err = panicError(panicked)
	}
	if err == nil {
		return nil
	}
	if errors.Is(err, errLeaving) { // not what the Service says, but what became of the call
		return status.Error(codes.Unavailable, errLeaving.Error())
	}
	// A kind that is none arrives as Internal, and is treated as that here.
	if boxlite.ParseKind(boxlite.KindOf(err).String()) != boxlite.Internal {
		return rpcerr.Encode(err)
	}
	incident := rand.Text()[:8]
	id := p.identity()
	s.log.Error("call failed", "method", method, "principal", id.principal, "incident", incident, "err", err)
	if id.operator {
		return rpcerr.Encode(err)
	}
	return rpcerr.Encode(opaque(err, incident))
}

func panicError(p any) error { return fmt.Errorf("panic: %v\n%s", p, debug.Stack()) }

// opaque returns what someone who is not the operator may know of an error that
// nobody classified: where the operator finds it.
func opaque(err error, incident string) *boxlite.Error {
	e := &boxlite.Error{Op: "call daemon", Hint: boxlite.HintOf(err), Err: fmt.Errorf("incident %s in the daemon's log", incident)}
	if known, ok := errors.AsType[*boxlite.Error](err); ok {
		e.Op, e.Ref = known.Op, known.Ref
	}
	return e
}

// errLeaving ends calls of a daemon that leaves.
var errLeaving = errors.New("the daemon is leaving")
