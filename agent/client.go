package agent

import (
	"context"
	"log/slog"
	"net"
	"time"
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
type Client struct{}

// Guest is what an agent says of itself. It comes from the box: show it, do not
// rely on it.
type Guest struct {
	Version  string // of the agent's build
	Protocol int
	Kernel   string // release of the kernel it runs on
	Cgroups  bool   // process trees are kept and killed by cgroup; else by walking them
	Isolated bool   // commands run in namespaces of their own
}

// NewClient takes over conn and introduces itself to the agent at its other
// end, which may still be starting. Close the client to close conn; on failure
// conn is closed.
//
// Errors: Portal if the agent does not answer, answers nonsense or speaks
// another protocol, Timeout, Canceled.
func NewClient(ctx context.Context, conn net.Conn, opts Options) (*Client, error) {
	panic("agent: being written")
}

// Guest returns what the agent said of itself.
func (c *Client) Guest() Guest { panic("agent: being written") }

// Done is closed when the connection is gone, by Close or by its other end.
func (c *Client) Done() <-chan struct{} { panic("agent: being written") }

// Close closes the connection and waits until every writer given to
// [Client.Start] is no longer used. It is idempotent.
func (c *Client) Close() error { panic("agent: being written") }

// Ping asks the agent for a sign of life.
//
// Errors: RpcTransport, Timeout, Canceled.
func (c *Client) Ping(ctx context.Context) error { panic("agent: being written") }

// Shutdown asks every process of the box to end (SIGTERM), ends those that are
// left after grace (SIGKILL), and makes their files durable in the box's file
// system. The agent itself stays: ending the machine is the engine's work.
//
// Errors: Portal, RpcTransport, Timeout, Canceled.
func (c *Client) Shutdown(ctx context.Context, grace time.Duration) error {
	panic("agent: being written")
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
func (c *Client) Stats(ctx context.Context) (Stats, error) { panic("agent: being written") }
