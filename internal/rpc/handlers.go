package rpc

import (
	"context"
	"errors"
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/internal/rpc/rpcpb"
)

// handlers turn messages into calls of the connection's Service and back.
type handlers struct {
	rpcpb.UnsafeDaemonServer // a method that is missing does not compile
	*Server
}

var _ rpcpb.DaemonServer = (*handlers)(nil)

// service returns the Service of the connection; the interceptors saw to it
// that there is one.
func service(ctx context.Context) boxlite.Service { return peerOf(ctx).identity().svc }

// Hello says who the connection is. It succeeds whatever the protocols are, so
// that the client can decide what to do about it; without one in common only
// the operator's calls work.
func (h *handlers) Hello(ctx context.Context, req *rpcpb.HelloRequest) (*rpcpb.HelloReply, error) {
	if h.drain.Err() != nil {
		return nil, errLeaving
	}
	id := identity{principal: string(req.Principal), operator: req.Operator}
	if !id.operator && id.principal == "" {
		return nil, boxlite.Errorf(boxlite.InvalidArgument, "say hello", "", "neither a principal nor the operator")
	}
	id.err = checkProtocol(Protocol, MinProtocol, req.Protocol, req.MinProtocol, req.Version)
	if id.err == nil {
		grants, err := secretsOf(req.Secrets)
		if err != nil {
			return nil, err
		}
		svc, err := h.opts.Open(Caller{id.principal, id.operator, texts(req.Registries), grants})
		if err != nil {
			return nil, err
		}
		id.svc = svc
	}
	h.count(1)
	if err := peerOf(ctx).introduce(id); err != nil {
		h.count(-1)
		return nil, err
	}
	h.log.Debug("client connected", "principal", id.principal, "operator", id.operator, "version", req.Version)
	return &rpcpb.HelloReply{Protocol: Protocol, MinProtocol: MinProtocol, Version: h.opts.Version,
		Pid: int64(h.self.PID), Start: h.self.Start, Boot: h.self.Boot}, nil
}

// secretsOf returns the secrets of a client's configuration.
func secretsOf(list []*rpcpb.SetSecretRequest) ([]boxlite.Secret, error) {
	var out []boxlite.Secret
	for _, req := range list {
		var s boxlite.Secret
		if err := decode(req.Json, &s); err != nil {
			return nil, err
		}
		s.Value = boxlite.NewSecretValue(string(req.Value))
		out = append(out, s)
	}
	return out, nil
}

func texts(list [][]byte) []string {
	var out []string
	for _, b := range list {
		out = append(out, string(b))
	}
	return out
}

// Status describes the daemon.
func (h *handlers) Status(ctx context.Context, _ *rpcpb.Empty) (*rpcpb.Words, error) {
	st := Status{PID: h.self.PID, Version: h.opts.Version, Protocol: Protocol, Started: h.started, Home: h.opts.Home, Clients: h.Clients()}
	if h.opts.Details != nil {
		var err error
		if st.Details, err = h.opts.Details(ctx); err != nil {
			return nil, err
		}
	}
	return words(st, nil)
}

// Shutdown asks the daemon to leave.
func (h *handlers) Shutdown(_ context.Context, req *rpcpb.ShutdownRequest) (*rpcpb.Empty, error) {
	if h.opts.Shutdown == nil {
		return nil, boxlite.Errorf(boxlite.Unsupported, "shut down", "", "this daemon cannot be asked to leave")
	}
	h.log.Info("asked to leave", "reason", string(req.Reason))
	h.opts.Shutdown(string(req.Reason))
	return &rpcpb.Empty{}, nil
}

// words returns a reply of v, or err.
func words(v any, err error) (*rpcpb.Words, error) {
	if err != nil {
		return nil, err
	}
	b, err := encode(v)
	return &rpcpb.Words{Json: b}, err
}

// untilLeaving returns a context that also ends when the daemon leaves, and
// what says so of an error that came of it.
func (h *handlers) untilLeaving(ctx context.Context) (_ context.Context, done func(error) error) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(h.drain, func() { cancel(errLeaving) })
	return ctx, func(err error) error {
		stop()
		defer cancel(nil)
		if err != nil && errors.Is(context.Cause(ctx), errLeaving) {
			return errLeaving
		}
		return err
	}
}

// CreateBox creates a box.
func (h *handlers) CreateBox(req *rpcpb.Words, stream grpc.ServerStreamingServer[rpcpb.Step]) error {
	return steps(stream, func(ctx context.Context, report func(boxlite.Progress)) (any, error) {
		var r boxlite.CreateRequest
		if err := decode(req.Json, &r); err != nil {
			return nil, err
		}
		return service(ctx).CreateBox(ctx, r, report)
	})
}

// GetBox describes a box.
func (h *handlers) GetBox(ctx context.Context, req *rpcpb.Ref) (*rpcpb.Words, error) {
	return words(service(ctx).GetBox(ctx, string(req.Ref)))
}

// ListBoxes lists boxes.
func (h *handlers) ListBoxes(ctx context.Context, req *rpcpb.Words) (*rpcpb.Words, error) {
	var r boxlite.ListRequest
	if err := decode(req.Json, &r); err != nil {
		return nil, err
	}
	return words(service(ctx).ListBoxes(ctx, r))
}

// StartBox starts a box.
func (h *handlers) StartBox(req *rpcpb.Ref, stream grpc.ServerStreamingServer[rpcpb.Step]) error {
	return steps(stream, func(ctx context.Context, report func(boxlite.Progress)) (any, error) {
		return service(ctx).StartBox(ctx, string(req.Ref), report)
	})
}

// StopBox stops a box.
func (h *handlers) StopBox(ctx context.Context, req *rpcpb.Ref) (*rpcpb.Words, error) {
	return words(service(ctx).StopBox(ctx, string(req.Ref)))
}

// UpdateBox changes a box.
func (h *handlers) UpdateBox(ctx context.Context, req *rpcpb.UpdateBoxRequest) (*rpcpb.Words, error) {
	var r boxlite.UpdateRequest
	if err := decode(req.Json, &r); err != nil {
		return nil, err
	}
	return words(service(ctx).UpdateBox(ctx, string(req.Ref), r))
}

// RemoveBox removes a box.
func (h *handlers) RemoveBox(ctx context.Context, req *rpcpb.RemoveBoxRequest) (*rpcpb.Words, error) {
	return words(service(ctx).RemoveBox(ctx, string(req.Ref), req.Force))
}

// Run starts a command.
func (h *handlers) Run(req *rpcpb.RunRequest, stream grpc.ServerStreamingServer[rpcpb.Step]) error {
	return steps(stream, func(ctx context.Context, report func(boxlite.Progress)) (any, error) {
		var cmd boxlite.Command
		if err := decode(req.Command, &cmd); err != nil {
			return nil, err
		}
		return service(ctx).Run(ctx, string(req.Box), cmd, report)
	})
}

// Output reads and awaits output.
func (h *handlers) Output(ctx context.Context, req *rpcpb.OutputRequest) (*rpcpb.OutputReply, error) {
	ctx, done := h.untilLeaving(ctx)
	out, err := service(ctx).Output(ctx, boxlite.ExecutionID(req.Id), boxlite.OutputRequest{
		StdoutOffset: req.StdoutOffset, StderrOffset: req.StderrOffset, MaxBytes: int(min(req.MaxBytes, maxData)),
		Wait: time.Duration(req.WaitNs), Until: boxlite.Until(min(req.Until, 255)),
	})
	if err = done(err); err != nil {
		return nil, err
	}
	exec, err := encode(out.Exec)
	return &rpcpb.OutputReply{Exec: exec, Stdout: chunk(out.Stdout), Stderr: chunk(out.Stderr)}, err
}

func chunk(c boxlite.OutputChunk) *rpcpb.Chunk {
	return &rpcpb.Chunk{Offset: c.Offset, Data: c.Data, Dropped: c.Dropped, End: c.End, Eof: c.EOF}
}

// takenTrailer says how much of a write that failed was taken.
const takenTrailer = "taken"

// WriteStdin writes to a command.
func (h *handlers) WriteStdin(ctx context.Context, req *rpcpb.WriteStdinRequest) (*rpcpb.WriteStdinReply, error) {
	n, err := service(ctx).WriteStdin(ctx, boxlite.ExecutionID(req.Id), req.Data, req.Eof)
	if err != nil && n > 0 {
		err = errors.Join(err, grpc.SetTrailer(ctx, metadata.Pairs(takenTrailer, strconv.Itoa(n))))
	}
	return &rpcpb.WriteStdinReply{Taken: int64(n)}, err
}

// Signal signals a command.
func (h *handlers) Signal(ctx context.Context, req *rpcpb.SignalRequest) (*rpcpb.Empty, error) {
	return &rpcpb.Empty{}, service(ctx).Signal(ctx, boxlite.ExecutionID(req.Id), int(req.Signal))
}

// StopExec ends a command.
func (h *handlers) StopExec(ctx context.Context, req *rpcpb.StopExecRequest) (*rpcpb.Words, error) {
	return words(service(ctx).StopExec(ctx, boxlite.ExecutionID(req.Id), time.Duration(req.GraceNs)))
}

// ResizeTTY resizes a terminal.
func (h *handlers) ResizeTTY(ctx context.Context, req *rpcpb.ResizeTTYRequest) (*rpcpb.Empty, error) {
	if req.Rows > 0xffff || req.Cols > 0xffff {
		return nil, boxlite.Errorf(boxlite.InvalidArgument, "resize terminal", "", "%d×%d is too large", req.Rows, req.Cols)
	}
	return &rpcpb.Empty{}, service(ctx).ResizeTTY(ctx, boxlite.ExecutionID(req.Id), uint16(req.Rows), uint16(req.Cols))
}

// ReadFile reads a piece of a file.
func (h *handlers) ReadFile(ctx context.Context, req *rpcpb.ReadFileRequest) (*rpcpb.ReadFileReply, error) {
	f, err := service(ctx).ReadFile(ctx, string(req.Box), string(req.Path), req.Offset, int(min(req.Limit, maxData)))
	if err != nil {
		return nil, err
	}
	info, err := encode(f.FileInfo)
	return &rpcpb.ReadFileReply{Info: info, Offset: f.Offset, Data: f.Data}, err
}

// WriteFile writes a file.
func (h *handlers) WriteFile(ctx context.Context, req *rpcpb.WriteFileRequest) (*rpcpb.Words, error) {
	return words(service(ctx).WriteFile(ctx, string(req.Box), boxlite.WriteFileRequest{
		Path: string(req.Path), Data: req.Data, Append: req.Append, Mode: req.Mode, User: string(req.User)}))
}

// ListImages lists images.
func (h *handlers) ListImages(ctx context.Context, _ *rpcpb.Empty) (*rpcpb.Words, error) {
	return words(service(ctx).ListImages(ctx))
}

// PullImage pulls an image.
func (h *handlers) PullImage(req *rpcpb.Ref, stream grpc.ServerStreamingServer[rpcpb.Step]) error {
	return steps(stream, func(ctx context.Context, report func(boxlite.Progress)) (any, error) {
		return service(ctx).PullImage(ctx, string(req.Ref), report)
	})
}

// RemoveImage removes an image.
func (h *handlers) RemoveImage(ctx context.Context, req *rpcpb.Ref) (*rpcpb.Words, error) {
	return words(service(ctx).RemoveImage(ctx, string(req.Ref)))
}

// NetworkLog returns records of what a box tried to reach.
func (h *handlers) NetworkLog(ctx context.Context, req *rpcpb.Words) (*rpcpb.Words, error) {
	var r boxlite.NetworkLogRequest
	if err := decode(req.Json, &r); err != nil {
		return nil, err
	}
	return words(service(ctx).NetworkLog(ctx, r))
}

// ListSecrets lists secrets.
func (h *handlers) ListSecrets(ctx context.Context, _ *rpcpb.Empty) (*rpcpb.Words, error) {
	return words(service(ctx).ListSecrets(ctx))
}

// SetSecret keeps a secret.
func (h *handlers) SetSecret(ctx context.Context, req *rpcpb.SetSecretRequest) (*rpcpb.Words, error) {
	var s boxlite.Secret
	if err := decode(req.Json, &s); err != nil {
		return nil, err
	}
	s.Value = boxlite.NewSecretValue(string(req.Value))
	return words(service(ctx).SetSecret(ctx, s))
}

// RemoveSecret forgets a secret.
func (h *handlers) RemoveSecret(ctx context.Context, req *rpcpb.Ref) (*rpcpb.Words, error) {
	return words(service(ctx).RemoveSecret(ctx, string(req.Ref)))
}
