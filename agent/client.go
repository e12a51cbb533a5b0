package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/agent/agentpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

// Options are how a [Client] introduces itself.
type Options struct {
	// Hostname is set in the box where the engine has not done it; "": left
	// alone.
	Hostname string

	// SetTime sets the box's clock from this host's, for machines that have a
	// clock of their own.
	SetTime bool

	// HelloTimeout bounds the wait for the agent's first answer, beside the
	// context's own deadline. 0: 30 s.
	HelloTimeout time.Duration

	Log *slog.Logger // nil discards
}

// A Client speaks to the agent of one box over one connection. Once [Client.Done]
// is closed every call fails with RpcTransport and every [Exec] has ended.
// Its methods may be called concurrently.
type Client struct {
	log   *slog.Logger
	cc    *grpc.ClientConn
	rpc   agentpb.AgentClient
	conn  *conn
	guest Guest
	last  atomic.Uint64 // id of an execution

	life context.Context //nolint:containedctx // not a call's: it ends with the connection, and streams with it
	end  context.CancelFunc

	mu     sync.Mutex
	closed bool           // guarded by mu; no goroutine is added to work once it is set
	work   sync.WaitGroup // goroutines that use writers
}

// Guest is what an agent says of itself. It comes from the box: show it, do not
// rely on it.
type Guest struct {
	Version  string // of the agent's build
	Protocol int
	Kernel   string // release of the kernel it runs on
	Cgroups  bool   // process trees are kept and killed by cgroup; else by walking them
	Isolated bool   // commands run in namespaces of their own
}

// window is how many bytes the guest may send to a stream that nobody reads.
// Streams do not wait for each other.
const window = 128 << 10

// NewClient takes over conn and introduces itself to the agent at its other
// end, which may still be starting. Close the client to close conn; on failure
// conn is closed.
//
// Errors: Portal if the agent does not answer, answers nonsense or speaks
// another protocol, Timeout, Canceled.
func NewClient(ctx context.Context, nc net.Conn, opts Options) (*Client, error) {
	if opts.HelloTimeout <= 0 {
		opts.HelloTimeout = 30 * time.Second
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	c := &Client{log: opts.Log, conn: newConn(nc)}
	c.life, c.end = context.WithCancel(context.Background())
	if err := c.connect(opts.HelloTimeout); err != nil {
		nc.Close()
		return nil, &boxlite.Error{Op: "greet agent", Kind: boxlite.Internal, Err: err}
	}
	c.work.Go(c.watch)
	hello, cancel := context.WithTimeoutCause(ctx, opts.HelloTimeout, errNoHello)
	defer cancel()
	if err := c.hello(hello, opts); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

var errNoHello = errors.New("the agent did not answer in time")

// connect makes a gRPC channel of the one connection.
func (c *Client) connect(timeout time.Duration) error {
	cc, err := grpc.NewClient("passthrough:///agent",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(c.conn.dial),
		grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: timeout}),
		grpc.WithIdleTimeout(0),
		grpc.WithDisableRetry(),
		grpc.WithDisableServiceConfig(),
		grpc.WithInitialWindowSize(window),
		grpc.WithInitialConnWindowSize(16*window),
		grpc.WithReadBufferSize(64<<10),
		grpc.WithMaxHeaderListSize(64<<10),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(MaxMessage), grpc.MaxCallSendMsgSize(MaxMessage+64<<10)),
	)
	if err != nil {
		return err
	}
	c.cc, c.rpc = cc, agentpb.NewAgentClient(cc)
	cc.Connect()
	return nil
}

// watch ends everything once the connection is gone, so that nothing dials or
// waits any more.
func (c *Client) watch() {
	<-c.conn.gone
	c.end()
	_ = c.cc.Close()
}

// hello makes the first call. It waits for a connection that is being made,
// and not for one that is gone.
func (c *Client) hello(ctx context.Context, opts Options) error {
	ctx, cancel := c.bind(ctx)
	defer cancel()
	req := &agentpb.HelloRequest{Protocol: Protocol, Version: version(), Hostname: opts.Hostname}
	if opts.SetTime {
		req.TimeUnixNano = time.Now().UnixNano()
	}
	r, err := c.rpc.Hello(ctx, req, grpc.WaitForReady(true))
	if err != nil {
		return c.helloError(ctx, err)
	}
	if r.Protocol != Protocol {
		return boxlite.Errorf(boxlite.Portal, "greet agent", "", "it speaks protocol %d, we %d", r.Protocol, Protocol)
	}
	c.guest = Guest{Version: tame(r.Version, 128), Protocol: int(r.Protocol), Kernel: tame(r.Kernel, 128),
		Cgroups: r.Cgroups, Isolated: r.Isolated}
	return nil
}

func (c *Client) helloError(ctx context.Context, err error) error {
	if at, ok := ctx.Deadline(); ok && status.Code(err) == codes.DeadlineExceeded && time.Until(at) < time.Second {
		<-ctx.Done() // the guest's clock was first; whose deadline it is, ours tells
	}
	if errors.Is(context.Cause(ctx), errNoHello) {
		return &boxlite.Error{Op: "greet agent", Kind: boxlite.Portal, Hint: "Look at the box's console log.", Err: errNoHello}
	}
	e := c.fail(ctx, "greet agent", "", err)
	if k := boxlite.KindOf(e); k != boxlite.Timeout && k != boxlite.Canceled {
		return &boxlite.Error{Op: "greet agent", Kind: boxlite.Portal, Hint: "Look at the box's console log.", Err: e}
	}
	return e
}

// bind returns ctx, ended with the connection too.
func (c *Client) bind(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(c.life, func() { cancel(errGone) })
	return ctx, func() { stop(); cancel(nil) }
}

var errGone = errors.New("the connection to the box's agent is gone")

func version() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		return info.Main.Version
	}
	return ""
}

// Guest returns what the agent said of itself.
func (c *Client) Guest() Guest { return c.guest }

// Done is closed when the connection is gone, by Close or by its other end.
func (c *Client) Done() <-chan struct{} { return c.life.Done() }

// Close closes the connection and waits until every writer given to
// [Client.Start] is no longer used. It is idempotent.
func (c *Client) Close() error {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.end()
	_ = c.conn.Close()
	_ = c.cc.Close()
	c.work.Wait()
	return nil
}

// spawn runs f in a goroutine that Close waits for.
func (c *Client) spawn(f func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	c.work.Go(f)
	return true
}

// Ping asks the agent for a sign of life.
//
// Errors: RpcTransport, Timeout, Canceled.
func (c *Client) Ping(ctx context.Context) error {
	ctx, cancel := c.bind(ctx)
	defer cancel()
	_, err := c.rpc.Hello(ctx, &agentpb.HelloRequest{Protocol: Protocol}) // once more changes nothing
	return c.fail(ctx, "reach box", "", err)
}

// Shutdown asks every process of the box to end (SIGTERM), ends those that are
// left after grace (SIGKILL), and makes their files durable in the box's file
// system. The agent itself stays: ending the machine is the engine's work.
//
// Errors: Portal, RpcTransport, Timeout, Canceled.
func (c *Client) Shutdown(ctx context.Context, grace time.Duration) error {
	ctx, cancel := c.bind(ctx)
	defer cancel()
	_, err := c.rpc.Shutdown(ctx, &agentpb.ShutdownRequest{GraceMs: grace.Milliseconds()})
	return c.fail(ctx, "shut down box", "", err)
}

// Stats are what the box's kernel says of its load. They come from the box.
type Stats struct {
	Processes   int           // in the box, the agent's own excepted
	MemoryTotal int64         // bytes
	MemoryFree  int64         // bytes that could be had
	Uptime      time.Duration // of the agent
}

// Stats returns the box's load.
//
// Errors: Portal, RpcTransport, Timeout, Canceled.
func (c *Client) Stats(ctx context.Context) (Stats, error) {
	ctx, cancel := c.bind(ctx)
	defer cancel()
	r, err := c.rpc.Stats(ctx, &agentpb.Empty{})
	if err != nil {
		return Stats{}, c.fail(ctx, "measure box", "", err)
	}
	return Stats{Processes: int(max(r.Processes, 0)), MemoryTotal: max(r.MemoryTotal, 0), MemoryFree: max(r.MemoryFree, 0),
		Uptime: time.Duration(max(r.UptimeMs, 0)) * time.Millisecond}, nil
}

// A conn is the client's one connection, and tells of its end.
type conn struct {
	net.Conn
	dialed atomic.Bool
	once   sync.Once
	gone   chan struct{} // closed with the connection
}

func newConn(c net.Conn) *conn { return &conn{Conn: c, gone: make(chan struct{})} }

// dial hands the connection to gRPC, once.
func (c *conn) dial(context.Context, string) (net.Conn, error) {
	if c.dialed.Swap(true) {
		return nil, fmt.Errorf("dial agent: %w", errGone)
	}
	return c, nil
}

// Close closes the connection; gRPC calls it as soon as an error does.
func (c *conn) Close() (err error) {
	c.once.Do(func() {
		err = c.Conn.Close()
		close(c.gone)
	})
	return err
}
