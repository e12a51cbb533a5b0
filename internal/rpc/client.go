package rpc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/internal/proc"
	"github.com/boxlite-mcp/boxlite-mcp/internal/rpc/rpcpb"
	"github.com/boxlite-mcp/boxlite-mcp/internal/rpcerr"
	"github.com/boxlite-mcp/boxlite-mcp/internal/unixsocket"
)

// Options say where a [Client] finds the daemon and who it is. Socket, and
// either Principal or Operator, are required.
type Options struct {
	Socket    string
	Principal string // whose boxes the client sees
	Operator  bool   // it sees all, and may call Status and Shutdown
	Version   string // of this program

	Secrets    []boxlite.Secret // with values, of this program's configuration; for the principal's boxes
	Registries []string         // image registries that the daemon is to allow: this program's user is its operator

	// Connect is called before every connection that is made, one at a time,
	// to see to it that a daemon listens; [Presence.Ensure] does. nil: nothing
	// is done, and a daemon that is gone is an error.
	Connect func(ctx context.Context) error

	Log *slog.Logger // nil: discard
}

// A Client is the [boxlite.Service] of one principal, or of the operator, at
// the other end of a daemon's socket. It connects when it is first used.
//
// Where the daemon is killed or replaced, the next call connects to its
// successor. A call under way is made again if that is safe: what only reads,
// what has the same effect twice, and Run. Others end with RpcTransport and a
// hint where to look; a call that was never sent is always made again.
//
// It may be used concurrently. Close must be called.
type Client struct {
	opts Options
	log  *slog.Logger

	turn   chan struct{}           // capacity 1: holds the right to connect
	now    atomic.Pointer[session] // nil: not connected
	closed atomic.Bool
}

var _ boxlite.Service = (*Client)(nil)

// New returns a client that is not connected yet.
func New(opts Options) *Client {
	c := &Client{opts: opts, log: opts.Log, turn: make(chan struct{}, 1)}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	return c
}

// Dial returns a client that is connected.
//
// Errors: those of Options.Connect; RpcTransport if nobody answers; Denied if
// the daemon is another user's; Unsupported if it speaks no common protocol;
// those of the daemon's Open.
func Dial(ctx context.Context, opts Options) (*Client, error) {
	c := New(opts)
	if _, err := c.session(ctx); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// Close lets go of the connection and ends calls under way.
func (c *Client) Close() error {
	c.closed.Store(true)
	c.turn <- struct{}{} // whoever connects is done, or sees that it is closed
	defer func() { <-c.turn }()
	if s := c.now.Swap(nil); s != nil {
		return s.conn.Close()
	}
	return nil
}

// Hello returns who answers at the other end, connecting where that is needed.
func (c *Client) Hello(ctx context.Context) (version string, process proc.ID, err error) {
	s, err := c.session(ctx)
	if err != nil {
		return "", proc.ID{}, err
	}
	return s.version, s.process, nil
}

// A session is one connection that said hello. It never connects again.
type session struct {
	raw  net.Conn // under conn, which owns it
	conn *grpc.ClientConn
	rpc  rpcpb.DaemonClient

	// Of the daemon:
	version               string
	protocol, minProtocol int32
	process               proc.ID
}

// live reports whether nothing is known against the connection. It asks the
// kernel too, as a daemon may have ended before gRPC has seen that: a call that
// is not sent can be sent to the next one, whatever it is.
func (s *session) live() bool {
	return s.conn.GetState() == connectivity.Ready && !unixsocket.HungUp(s.raw)
}

// session returns the connection, making one where there is none.
func (c *Client) session(ctx context.Context) (*session, error) {
	if s := c.now.Load(); s != nil && s.live() {
		return s, nil
	}
	select {
	case c.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, &boxlite.Error{Op: "connect to daemon", Kind: boxlite.KindOf(ctx.Err()), Err: ctx.Err()}
	}
	defer func() { <-c.turn }()
	s := c.now.Load()
	if s != nil && s.live() {
		return s, nil
	}
	if s != nil {
		c.now.Store(nil)
		s.conn.Close()
	}
	if c.closed.Load() {
		return nil, boxlite.Errorf(boxlite.InvalidState, "connect to daemon", "", "the client is closed")
	}
	s, err := c.connect(ctx)
	if err != nil {
		return nil, err
	}
	c.now.Store(s)
	return s, nil
}

// connect makes a connection, after Options.Connect. A daemon that leaves
// between the two is asked for once more.
func (c *Client) connect(ctx context.Context) (s *session, err error) {
	for range 3 {
		if c.opts.Connect != nil {
			if err := c.opts.Connect(ctx); err != nil {
				return nil, err
			}
		}
		if s, err = dialSession(ctx, c.opts, maxHello); err == nil {
			c.log.Debug("connected to daemon", "pid", s.process.PID, "version", s.version)
			return s, nil
		}
		if c.opts.Connect == nil || !errors.Is(err, boxlite.RpcTransport) {
			break
		}
	}
	return nil, err
}

const tryAgain = "Try again: the daemon is started on demand."

// dialSession connects, says hello, waits for the answer as long as patience
// lasts, and checks it. An answer in a
// foreign protocol is an error for everyone but the operator, who may replace
// the daemon.
func dialSession(ctx context.Context, opts Options, patience time.Duration) (*session, error) {
	raw, err := unixsocket.Dial(ctx, opts.Socket)
	if err != nil {
		if errors.Is(err, boxlite.RpcTransport) {
			err = &boxlite.Error{Op: "connect to daemon", Kind: boxlite.RpcTransport, Hint: tryAgain, Err: err}
		}
		return nil, err
	}
	if err := unixsocket.CheckPeer(raw); err != nil {
		raw.Close()
		return nil, err
	}
	conn, err := clientConn(raw)
	if err != nil {
		raw.Close()
		return nil, &boxlite.Error{Op: "connect to daemon", Kind: boxlite.Internal, Err: err}
	}
	s := &session{raw: raw, conn: conn, rpc: rpcpb.NewDaemonClient(conn)}
	if err := s.hello(ctx, opts, patience); err != nil {
		conn.Close()
		raw.Close() // where conn never came to take it
		return nil, err
	}
	return s, nil
}

// notSent is in the text of errors of calls that did not leave this process.
const notSent = "the connection ended earlier"

// clientConn returns a gRPC connection over raw, which does not outlive it:
// every connection has to begin with a hello.
func clientConn(raw net.Conn) (*grpc.ClientConn, error) {
	var used atomic.Bool
	return grpc.NewClient("passthrough:///daemon",
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
			if used.Swap(true) {
				return nil, errors.New(notSent)
			}
			return raw, nil
		}),
		grpc.WithTransportCredentials(insecure.NewCredentials()), // a unix socket of this user
		grpc.WithNoProxy(), grpc.WithDisableServiceConfig(), grpc.WithIdleTimeout(0),
		grpc.WithInitialWindowSize(windowSize), grpc.WithInitialConnWindowSize(connWindowSize),
		grpc.WithReadBufferSize(bufferSize), grpc.WithWriteBufferSize(bufferSize),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: keepaliveEvery, Timeout: keepaliveWait, PermitWithoutStream: true}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)),
	)
}

func (s *session) hello(ctx context.Context, opts Options, patience time.Duration) error {
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	req := &rpcpb.HelloRequest{Protocol: Protocol, MinProtocol: MinProtocol,
		Version: opts.Version, Operator: opts.Operator, Principal: []byte(opts.Principal)}
	for _, name := range opts.Registries {
		req.Registries = append(req.Registries, []byte(name))
	}
	for _, secret := range opts.Secrets {
		b, err := encode(secret)
		if err != nil {
			return err
		}
		req.Secrets = append(req.Secrets, &rpcpb.SetSecretRequest{Json: b, Value: []byte(secret.Value.Reveal())})
	}
	reply, err := s.rpc.Hello(limited, req)
	if err != nil && limited.Err() != nil && ctx.Err() == nil {
		return &boxlite.Error{Op: "connect to daemon", Kind: boxlite.RpcTransport, Ref: opts.Socket,
			Hint: "Look at the daemon's log, and end the daemon if it hangs: boxes go on.",
			Err:  fmt.Errorf("it does not answer within %s", patience)}
	}
	if err != nil {
		return failure("connect to daemon", tryAgain, err)
	}
	s.version, s.protocol, s.minProtocol = reply.Version, reply.Protocol, reply.MinProtocol
	s.process = proc.ID{PID: int(reply.Pid), Start: reply.Start, Boot: reply.Boot}
	if opts.Operator {
		return nil
	}
	return checkProtocol(Protocol, MinProtocol, reply.Protocol, reply.MinProtocol, reply.Version)
}

// A repeat says what becomes of a call whose connection was lost on the way.
type repeat struct {
	again bool   // it is made again
	hint  string // where not, where to look
}

// mostAttempts is how often a call is made in all.
const mostAttempts = 4

// do makes a call, again where that is safe.
func (c *Client) do(ctx context.Context, op string, r repeat, call func(context.Context, rpcpb.DaemonClient) error) error {
	for attempt := 1; ; attempt++ {
		s, err := c.session(ctx)
		if err != nil {
			return err
		}
		err = call(ctx, s.rpc)
		if !lost(err) {
			return failure(op, "", err)
		}
		c.drop(s)
		if attempt == mostAttempts || ctx.Err() != nil || !r.again && !unsent(err) {
			return failure(op, r.hint, err)
		}
		c.log.Debug("call made again", "op", op, "attempt", attempt, "err", err)
		select {
		case <-ctx.Done():
		case <-time.After(time.Duration(attempt) * 5 * time.Millisecond):
		}
	}
}

// drop makes the next call connect, if none has yet.
func (c *Client) drop(s *session) {
	if c.now.CompareAndSwap(s, nil) {
		s.conn.Close()
	}
}

// lost reports whether a call ended with its connection. The server's own
// errors never have this code.
func lost(err error) bool { return err != nil && status.Code(err) == codes.Unavailable }

// unsent reports whether a lost call never reached the daemon.
func unsent(err error) bool { return strings.Contains(err.Error(), notSent) }

// failure returns what a call of op failed with as a [boxlite.Error], with the
// hint if its connection was lost.
func failure(op, hint string, err error) error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*boxlite.Error](err); ok {
		return e
	}
	err = rpcerr.Decode(err)
	e, ok := errors.AsType[*boxlite.Error](err)
	if !ok {
		return &boxlite.Error{Op: op, Kind: boxlite.Rpc, Err: err}
	}
	if e.Op == "call" || e.Op == "" { // gRPC's own
		e.Op = op
	}
	if e.Kind == boxlite.RpcTransport && e.Hint == "" {
		e.Hint = hint
	}
	return e
}

// Status returns what the daemon says of itself.
//
// Errors: Denied if the client is not the operator.
func (c *Client) Status(ctx context.Context) (st Status, err error) {
	err = c.unary(ctx, "ask for status", repeat{again: true}, &st, func(ctx context.Context, d rpcpb.DaemonClient) (*rpcpb.Words, error) {
		return d.Status(ctx, &rpcpb.Empty{})
	})
	return st, err
}

// Shutdown asks the daemon to leave, which it has begun when Shutdown returns.
// Boxes go on. The reason is for its log.
//
// Errors: Denied if the client is not the operator; Unsupported.
func (c *Client) Shutdown(ctx context.Context, reason string) error {
	s, err := c.session(ctx)
	if err != nil {
		return err
	}
	return shutdown(ctx, s, reason)
}

// shutdown asks one daemon, and none that comes after it.
func shutdown(ctx context.Context, s *session, reason string) error {
	_, err := s.rpc.Shutdown(ctx, &rpcpb.ShutdownRequest{Reason: []byte(reason)})
	return failure("shut down daemon", "", err)
}

// unary makes a call whose reply is one value, into v.
func (c *Client) unary(ctx context.Context, op string, r repeat, v any, call func(context.Context, rpcpb.DaemonClient) (*rpcpb.Words, error)) error {
	return c.do(ctx, op, r, func(ctx context.Context, d rpcpb.DaemonClient) error {
		reply, err := call(ctx, d)
		if err != nil {
			return err
		}
		return decode(reply.Json, v)
	})
}

// stepped makes a call that reports progress; its result goes into v.
func (c *Client) stepped(ctx context.Context, op string, r repeat, report func(boxlite.Progress), v any, call func(context.Context, rpcpb.DaemonClient) (grpc.ServerStreamingClient[rpcpb.Step], error)) error {
	return c.do(ctx, op, r, func(ctx context.Context, d rpcpb.DaemonClient) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		stream, err := call(ctx, d)
		for err == nil {
			var m *rpcpb.Step
			if m, err = stream.Recv(); err != nil {
				break
			}
			switch of := m.Of.(type) {
			case *rpcpb.Step_Json:
				return decode(of.Json, v)
			case *rpcpb.Step_Progress:
				if report != nil {
					report(boxlite.Progress{Phase: string(of.Progress.Phase), Current: of.Progress.Current, Total: of.Progress.Total})
				}
			}
		}
		return err
	})
}

// since returns what is left of d after start, at least 0.
func since(start time.Time, d time.Duration) time.Duration { return max(0, d-time.Since(start)) }

// refused returns an InvalidArgument error of this end.
func refused(op, hint, format string, args ...any) error {
	return &boxlite.Error{Op: op, Kind: boxlite.InvalidArgument, Hint: hint, Err: fmt.Errorf(format, args...)}
}
