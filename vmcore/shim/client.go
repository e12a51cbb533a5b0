package shim

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/internal/rpcerr"
	"github.com/boxlite-mcp/boxlite-mcp/internal/unixsocket"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/shim/shimpb"
)

// A Client speaks to the shim of one box. It may be used concurrently.
//
// Errors of all methods: those of the shim; RpcTransport if it is gone.
type Client struct {
	conn  *grpc.ClientConn
	rpc   shimpb.ShimClient
	hello *shimpb.HelloReply
}

// Dial connects to the shim of the given start of the box in dir.
//
// Errors: RpcTransport if nobody listens, InvalidState if it is the shim of
// another box or start or speaks another protocol.
func Dial(ctx context.Context, dir string, box boxlite.BoxID, container boxlite.ContainerID) (*Client, error) {
	c, err := newClient(dir, box)
	if err != nil {
		return nil, err
	}
	if err := c.greet(ctx, box, container); err != nil {
		c.conn.Close()
		return nil, err
	}
	return c, nil
}

// End ends whatever shim serves the box in dir, and its machine, in order. It
// is for directories that no record is about.
//
// Errors: those of Stop; nil where nobody listens.
func End(ctx context.Context, dir string) error {
	c, err := newClient(dir, "")
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.Stop(ctx, time.Second); boxlite.KindOf(err) != boxlite.RpcTransport {
		return err
	}
	return nil
}

// newClient returns a client that is not connected yet.
func newClient(dir string, box boxlite.BoxID) (*Client, error) {
	path := SocketPath(dir)
	conn, err := grpc.NewClient("passthrough:///shim",
		grpc.WithTransportCredentials(insecure.NewCredentials()), // a unix socket of this user
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return unixsocket.Dial(ctx, path) }),
		grpc.WithUnaryInterceptor(rpcerr.UnaryClient),
		grpc.WithNoProxy(), grpc.WithDisableServiceConfig(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)))
	if err != nil {
		return nil, &boxlite.Error{Op: "dial shim", Kind: boxlite.RpcTransport, Ref: string(box), Err: err}
	}
	return &Client{conn: conn, rpc: shimpb.NewShimClient(conn)}, nil
}

func (c *Client) greet(ctx context.Context, box boxlite.BoxID, container boxlite.ContainerID) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	h, err := c.rpc.Hello(ctx, &shimpb.HelloRequest{Protocol: Protocol})
	if err != nil {
		return err
	}
	if h.Box != string(box) || h.Container != string(container) || h.Protocol < Protocol-1 || h.Protocol > Protocol {
		return &boxlite.Error{Op: "dial shim", Kind: boxlite.InvalidState, Ref: string(box),
			Err: fmt.Errorf("the shim is that of box %q, start %.12q, protocol %d", h.Box, h.Container, h.Protocol)}
	}
	c.hello = h
	return nil
}

// MachinePID returns the host process that is the machine.
func (c *Client) MachinePID() int { return int(c.hello.MachinePid) }

// Close lets go of the connection; the shim goes on.
func (c *Client) Close() error { return c.conn.Close() }

// Watch returns when the box is gone, or the connection.
func (c *Client) Watch(ctx context.Context) error {
	_, err := c.rpc.Watch(ctx, &shimpb.Empty{})
	return err
}

// Stop ends the box and its shim, and returns when the machine is gone.
func (c *Client) Stop(ctx context.Context, grace time.Duration) error {
	_, err := c.rpc.Stop(ctx, &shimpb.StopRequest{GraceNs: int64(grace)})
	return err
}

// StopIdle ends the box and its shim if nothing runs in it and nothing was used
// for so long.
//
// Errors: InvalidState if it is in use.
func (c *Client) StopIdle(ctx context.Context, idle, grace time.Duration) error {
	_, err := c.rpc.Stop(ctx, &shimpb.StopRequest{GraceNs: int64(grace), IfIdleNs: int64(idle)})
	return err
}

// Discard ends the box and its shim at once; what it wrote is lost.
func (c *Client) Discard(ctx context.Context) error {
	_, err := c.rpc.Stop(ctx, &shimpb.StopRequest{Discard: true})
	return err
}

// Run starts a command under an id of the caller's choice; calling again with
// the same id does nothing more.
func (c *Client) Run(ctx context.Context, id boxlite.ExecutionID, cmd boxlite.Command) (boxlite.ExecInfo, error) {
	var info boxlite.ExecInfo
	data, err := json.Marshal(cmd)
	if err != nil {
		return info, err
	}
	reply, err := c.rpc.Run(ctx, &shimpb.RunRequest{Id: []byte(id), Command: data})
	return info, decode(reply.GetJson(), &info, err)
}

// Output returns a piece of an execution's output.
func (c *Client) Output(ctx context.Context, id boxlite.ExecutionID, req boxlite.OutputRequest) (boxlite.Output, error) {
	reply, err := c.rpc.Output(ctx, &shimpb.OutputRequest{
		Id: []byte(id), StdoutOffset: req.StdoutOffset, StderrOffset: req.StderrOffset,
		MaxBytes: int64(req.MaxBytes), WaitNs: int64(req.Wait), Until: int32(req.Until),
	})
	var out boxlite.Output
	if err := decode(reply.GetExec(), &out.Exec, err); err != nil {
		return out, err
	}
	out.Stdout, out.Stderr = fromChunk(reply.Stdout), fromChunk(reply.Stderr)
	return out, nil
}

func fromChunk(c *shimpb.Chunk) boxlite.OutputChunk {
	return boxlite.OutputChunk{Offset: c.GetOffset(), Data: c.GetData(), Dropped: c.GetDropped(), End: c.GetEnd(), EOF: c.GetEof()}
}

// WriteStdin writes to a command's standard input and returns the bytes taken.
func (c *Client) WriteStdin(ctx context.Context, id boxlite.ExecutionID, data []byte, eof bool) (int, error) {
	reply, err := c.rpc.WriteStdin(ctx, &shimpb.WriteStdinRequest{Id: []byte(id), Data: data, Eof: eof})
	return int(reply.GetTaken()), err
}

// Signal sends a signal to a command's process group.
func (c *Client) Signal(ctx context.Context, id boxlite.ExecutionID, signal int) error {
	_, err := c.rpc.Signal(ctx, &shimpb.SignalRequest{Id: []byte(id), Signal: int32(signal)})
	return err
}

// StopExec ends a command and everything it started.
func (c *Client) StopExec(ctx context.Context, id boxlite.ExecutionID, grace time.Duration) (boxlite.ExecInfo, error) {
	var info boxlite.ExecInfo
	reply, err := c.rpc.StopExec(ctx, &shimpb.StopExecRequest{Id: []byte(id), GraceNs: int64(grace)})
	return info, decode(reply.GetJson(), &info, err)
}

// ResizeTTY sets the size of a command's terminal.
func (c *Client) ResizeTTY(ctx context.Context, id boxlite.ExecutionID, rows, cols uint16) error {
	_, err := c.rpc.ResizeTTY(ctx, &shimpb.ResizeRequest{Id: []byte(id), Rows: uint32(rows), Cols: uint32(cols)})
	return err
}

// Executions lists the box's executions, oldest first.
func (c *Client) Executions(ctx context.Context) ([]boxlite.ExecInfo, error) {
	var list []boxlite.ExecInfo
	reply, err := c.rpc.Executions(ctx, &shimpb.Empty{})
	return list, decode(reply.GetJson(), &list, err)
}

// ReadFile returns a piece of a file in the box.
func (c *Client) ReadFile(ctx context.Context, path string, offset int64, limit int) (boxlite.FileData, error) {
	reply, err := c.rpc.ReadFile(ctx, &shimpb.ReadFileRequest{Path: []byte(path), Offset: offset, Limit: int64(limit)})
	f := boxlite.FileData{Offset: reply.GetOffset(), Data: reply.GetData()}
	return f, decode(reply.GetInfo(), &f.FileInfo, err)
}

// WriteFile writes a file in the box.
func (c *Client) WriteFile(ctx context.Context, req boxlite.WriteFileRequest) (boxlite.FileInfo, error) {
	var info boxlite.FileInfo
	reply, err := c.rpc.WriteFile(ctx, &shimpb.WriteFileRequest{Path: []byte(req.Path), Data: req.Data, Append: req.Append, Mode: req.Mode, User: []byte(req.User)})
	return info, decode(reply.GetJson(), &info, err)
}

// A Status is how a box is doing.
type Status struct {
	Metrics  boxlite.BoxMetrics
	LastUsed time.Time
	Running  int // executions now
}

// SetNetwork replaces what the box may reach, and its secrets. Connections that
// are not allowed any more have ended when it returns.
//
// Errors: InvalidState if the box was started without a network.
func (c *Client) SetNetwork(ctx context.Context, n Network) error {
	data, err := json.Marshal(n)
	if err != nil {
		return err
	}
	_, err = c.rpc.SetNetwork(ctx, &shimpb.Words{Json: data})
	return err
}

// Status returns the box's figures.
func (c *Client) Status(ctx context.Context) (Status, error) {
	reply, err := c.rpc.Status(ctx, &shimpb.Empty{})
	st := Status{LastUsed: time.Unix(0, reply.GetLastUsedNs()), Running: int(reply.GetRunning())}
	return st, decode(reply.GetMetrics(), &st.Metrics, err)
}

// Sync makes the box's writable layer durable.
func (c *Client) Sync(ctx context.Context) error {
	_, err := c.rpc.Sync(ctx, &shimpb.Empty{})
	return err
}

// Pause stops the machine's clock.
func (c *Client) Pause(ctx context.Context) error {
	_, err := c.rpc.Pause(ctx, &shimpb.Empty{})
	return err
}

// Resume lets the machine's clock go on.
func (c *Client) Resume(ctx context.Context) error {
	_, err := c.rpc.Resume(ctx, &shimpb.Empty{})
	return err
}

// decode reads one word's JSON, unless the call failed.
func decode(data []byte, v any, err error) error {
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, v); err != nil {
		return &boxlite.Error{Op: "read reply", Kind: boxlite.Rpc, Err: err}
	}
	return nil
}
