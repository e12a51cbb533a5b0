package rpc

import (
	"context"
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/internal/rpc/rpcpb"
)

// idempotent is for calls that only read or have the same effect twice.
var idempotent = repeat{again: true}

type (
	stepStream = grpc.ServerStreamingClient[rpcpb.Step]
	daemon     = rpcpb.DaemonClient
)

// CreateBox implements [boxlite.Boxes].
func (c *Client) CreateBox(ctx context.Context, req boxlite.CreateRequest, report func(boxlite.Progress)) (info boxlite.BoxInfo, err error) {
	b, err := encode(req)
	if err != nil {
		return info, err
	}
	r := repeat{hint: "List the boxes to see whether it was created before creating it again."}
	err = c.stepped(ctx, "create box", r, report, &info, func(ctx context.Context, d daemon) (stepStream, error) {
		return d.CreateBox(ctx, &rpcpb.Words{Json: b})
	})
	return info, err
}

// GetBox implements [boxlite.Boxes].
func (c *Client) GetBox(ctx context.Context, ref string) (details boxlite.BoxDetails, err error) {
	err = c.unary(ctx, "get box", idempotent, &details, func(ctx context.Context, d daemon) (*rpcpb.Words, error) {
		return d.GetBox(ctx, &rpcpb.Ref{Ref: []byte(ref)})
	})
	return details, err
}

// ListBoxes implements [boxlite.Boxes].
func (c *Client) ListBoxes(ctx context.Context, req boxlite.ListRequest) (page boxlite.BoxPage, err error) {
	b, err := encode(req)
	if err != nil {
		return page, err
	}
	err = c.unary(ctx, "list boxes", idempotent, &page, func(ctx context.Context, d daemon) (*rpcpb.Words, error) {
		return d.ListBoxes(ctx, &rpcpb.Words{Json: b})
	})
	return page, err
}

// StartBox implements [boxlite.Boxes].
func (c *Client) StartBox(ctx context.Context, ref string, report func(boxlite.Progress)) (info boxlite.BoxInfo, err error) {
	err = c.stepped(ctx, "start box", idempotent, report, &info, func(ctx context.Context, d daemon) (stepStream, error) {
		return d.StartBox(ctx, &rpcpb.Ref{Ref: []byte(ref)})
	})
	return info, err
}

// StopBox implements [boxlite.Boxes]. It is not made again after a lost
// connection: a box with AutoRemove would then be NotFound.
func (c *Client) StopBox(ctx context.Context, ref string) (info boxlite.BoxInfo, err error) {
	r := repeat{hint: "Look at the box to see whether it has stopped, and stop it again if not."}
	err = c.unary(ctx, "stop box", r, &info, func(ctx context.Context, d daemon) (*rpcpb.Words, error) {
		return d.StopBox(ctx, &rpcpb.Ref{Ref: []byte(ref)})
	})
	return info, err
}

// UpdateBox implements [boxlite.Boxes].
func (c *Client) UpdateBox(ctx context.Context, ref string, req boxlite.UpdateRequest) (info boxlite.BoxInfo, err error) {
	b, err := encode(req)
	if err != nil {
		return info, err
	}
	err = c.unary(ctx, "update box", idempotent, &info, func(ctx context.Context, d daemon) (*rpcpb.Words, error) {
		return d.UpdateBox(ctx, &rpcpb.UpdateBoxRequest{Ref: []byte(ref), Json: b})
	})
	return info, err
}

// RemoveBox implements [boxlite.Boxes]. It is not made again after a lost
// connection: the name may be another box's by then.
func (c *Client) RemoveBox(ctx context.Context, ref string, force bool) (info boxlite.BoxInfo, err error) {
	r := repeat{hint: "List the boxes to see whether it is gone, and remove it again if not."}
	err = c.unary(ctx, "remove box", r, &info, func(ctx context.Context, d daemon) (*rpcpb.Words, error) {
		return d.RemoveBox(ctx, &rpcpb.RemoveBoxRequest{Ref: []byte(ref), Force: force})
	})
	return info, err
}

// Run implements [boxlite.Executions]. It gives the command a key if it has
// none, so that a call made again finds the execution that the first one
// started.
func (c *Client) Run(ctx context.Context, box string, cmd boxlite.Command, report func(boxlite.Progress)) (info boxlite.ExecInfo, err error) {
	if cmd.Key == "" {
		cmd.Key = boxlite.NewExecutionKey()
	}
	b, err := encode(cmd)
	if err != nil {
		return info, err
	}
	err = c.stepped(ctx, "run command", idempotent, report, &info, func(ctx context.Context, d daemon) (stepStream, error) {
		return d.Run(ctx, &rpcpb.RunRequest{Box: []byte(box), Command: b})
	})
	return info, err
}

// Output implements [boxlite.Executions]. A reply has at most 4 MiB of each
// stream, whatever MaxBytes is.
func (c *Client) Output(ctx context.Context, id boxlite.ExecutionID, req boxlite.OutputRequest) (out boxlite.Output, err error) {
	start := time.Now()
	err = c.do(ctx, "read output", idempotent, func(ctx context.Context, d daemon) error {
		reply, err := d.Output(ctx, &rpcpb.OutputRequest{Id: []byte(id),
			StdoutOffset: req.StdoutOffset, StderrOffset: req.StderrOffset, MaxBytes: int64(req.MaxBytes),
			WaitNs: int64(since(start, req.Wait)), Until: uint32(req.Until)})
		if err != nil {
			return err
		}
		out.Stdout, out.Stderr = unchunk(reply.Stdout), unchunk(reply.Stderr)
		return decode(reply.Exec, &out.Exec)
	})
	return out, err
}

func unchunk(c *rpcpb.Chunk) boxlite.OutputChunk {
	return boxlite.OutputChunk{Offset: c.GetOffset(), Data: c.GetData(), Dropped: c.GetDropped(), End: c.GetEnd(), EOF: c.GetEof()}
}

// WriteStdin implements [boxlite.Executions]. It returns how much was taken
// also when it fails, as far as that is known.
func (c *Client) WriteStdin(ctx context.Context, id boxlite.ExecutionID, data []byte, eof bool) (taken int, err error) {
	for {
		piece := data[taken:min(len(data), taken+maxInput)]
		last := taken+len(piece) == len(data)
		n, err := c.writePiece(ctx, &rpcpb.WriteStdinRequest{Id: []byte(id), Data: piece, Eof: eof && last})
		taken += min(n, len(piece))
		if err != nil || last || n < len(piece) {
			return taken, err
		}
	}
}

func (c *Client) writePiece(ctx context.Context, req *rpcpb.WriteStdinRequest) (taken int, err error) {
	r := repeat{hint: "Read the command's output to see what it was given before writing it again."}
	err = c.do(ctx, "write to command", r, func(ctx context.Context, d daemon) error {
		var trailer metadata.MD
		reply, err := d.WriteStdin(ctx, req, grpc.Trailer(&trailer))
		taken = int(reply.GetTaken())
		if v := trailer.Get(takenTrailer); err != nil && len(v) == 1 {
			if n, convErr := strconv.Atoi(v[0]); convErr == nil {
				taken = max(0, n)
			}
		}
		return err
	})
	return taken, err
}

// Signal implements [boxlite.Executions].
func (c *Client) Signal(ctx context.Context, id boxlite.ExecutionID, signal int) error {
	r := repeat{hint: "Read the command's output to see whether it got the signal."}
	return c.do(ctx, "signal command", r, func(ctx context.Context, d daemon) error {
		_, err := d.Signal(ctx, &rpcpb.SignalRequest{Id: []byte(id), Signal: int64(signal)})
		return err
	})
}

// StopExec implements [boxlite.Executions].
func (c *Client) StopExec(ctx context.Context, id boxlite.ExecutionID, grace time.Duration) (info boxlite.ExecInfo, err error) {
	err = c.unary(ctx, "stop command", idempotent, &info, func(ctx context.Context, d daemon) (*rpcpb.Words, error) {
		return d.StopExec(ctx, &rpcpb.StopExecRequest{Id: []byte(id), GraceNs: int64(grace)})
	})
	return info, err
}

// ResizeTTY implements [boxlite.Executions].
func (c *Client) ResizeTTY(ctx context.Context, id boxlite.ExecutionID, rows, cols uint16) error {
	return c.do(ctx, "resize terminal", idempotent, func(ctx context.Context, d daemon) error {
		_, err := d.ResizeTTY(ctx, &rpcpb.ResizeTTYRequest{Id: []byte(id), Rows: uint32(rows), Cols: uint32(cols)})
		return err
	})
}

// ReadFile implements [boxlite.Files]. It returns at most 4 MiB, whatever limit
// is.
func (c *Client) ReadFile(ctx context.Context, box, path string, offset int64, limit int) (data boxlite.FileData, err error) {
	err = c.do(ctx, "read file", idempotent, func(ctx context.Context, d daemon) error {
		reply, err := d.ReadFile(ctx, &rpcpb.ReadFileRequest{Box: []byte(box), Path: []byte(path), Offset: offset, Limit: int64(limit)})
		if err != nil {
			return err
		}
		data.Offset, data.Data = reply.Offset, reply.Data
		return decode(reply.Info, &data.FileInfo)
	})
	return data, err
}

// WriteFile implements [boxlite.Files]. More than 15 MiB are refused.
func (c *Client) WriteFile(ctx context.Context, box string, req boxlite.WriteFileRequest) (info boxlite.FileInfo, err error) {
	if len(req.Data) > maxWrite {
		return info, refused("write file", "Write it in pieces, with append from the second one on.",
			"%d bytes are more than %d", len(req.Data), maxWrite)
	}
	r := repeat{again: !req.Append, hint: "Read the end of the file to see whether it was written before writing it again."}
	err = c.unary(ctx, "write file", r, &info, func(ctx context.Context, d daemon) (*rpcpb.Words, error) {
		return d.WriteFile(ctx, &rpcpb.WriteFileRequest{Box: []byte(box), Path: []byte(req.Path), Data: req.Data,
			Append: req.Append, Mode: req.Mode, User: []byte(req.User)})
	})
	return info, err
}

// ListImages implements [boxlite.Images].
func (c *Client) ListImages(ctx context.Context) (images []boxlite.ImageInfo, err error) {
	err = c.unary(ctx, "list images", idempotent, &images, func(ctx context.Context, d daemon) (*rpcpb.Words, error) {
		return d.ListImages(ctx, &rpcpb.Empty{})
	})
	return images, err
}

// PullImage implements [boxlite.Images].
func (c *Client) PullImage(ctx context.Context, ref string, report func(boxlite.Progress)) (info boxlite.ImageInfo, err error) {
	err = c.stepped(ctx, "pull image", idempotent, report, &info, func(ctx context.Context, d daemon) (stepStream, error) {
		return d.PullImage(ctx, &rpcpb.Ref{Ref: []byte(ref)})
	})
	return info, err
}

// RemoveImage implements [boxlite.Images].
func (c *Client) RemoveImage(ctx context.Context, ref string) (info boxlite.ImageInfo, err error) {
	r := repeat{hint: "See with image_list whether the image is gone, and remove it again if not."}
	err = c.unary(ctx, "remove image", r, &info, func(ctx context.Context, d daemon) (*rpcpb.Words, error) {
		return d.RemoveImage(ctx, &rpcpb.Ref{Ref: []byte(ref)})
	})
	return info, err
}

// NetworkLog implements [boxlite.Networks].
func (c *Client) NetworkLog(ctx context.Context, req boxlite.NetworkLogRequest) (log boxlite.NetworkLog, err error) {
	b, err := encode(req)
	if err != nil {
		return log, err
	}
	err = c.unary(ctx, "read network log", idempotent, &log, func(ctx context.Context, d daemon) (*rpcpb.Words, error) {
		return d.NetworkLog(ctx, &rpcpb.Words{Json: b})
	})
	return log, err
}

// ListSecrets implements [boxlite.Secrets].
func (c *Client) ListSecrets(ctx context.Context) (list []boxlite.SecretInfo, err error) {
	err = c.unary(ctx, "list secrets", idempotent, &list, func(ctx context.Context, d daemon) (*rpcpb.Words, error) {
		return d.ListSecrets(ctx, &rpcpb.Empty{})
	})
	return list, err
}

// SetSecret implements [boxlite.Secrets].
func (c *Client) SetSecret(ctx context.Context, s boxlite.Secret) (info boxlite.SecretInfo, err error) {
	b, err := encode(s)
	if err != nil {
		return info, err
	}
	err = c.unary(ctx, "set secret", idempotent, &info, func(ctx context.Context, d daemon) (*rpcpb.Words, error) {
		return d.SetSecret(ctx, &rpcpb.SetSecretRequest{Json: b, Value: []byte(s.Value.Reveal())})
	})
	return info, err
}

// RemoveSecret implements [boxlite.Secrets].
func (c *Client) RemoveSecret(ctx context.Context, name string) (info boxlite.SecretInfo, err error) {
	r := repeat{hint: "See with boxlite-mcp secret list whether it is gone."}
	err = c.unary(ctx, "remove secret", r, &info, func(ctx context.Context, d daemon) (*rpcpb.Words, error) {
		return d.RemoveSecret(ctx, &rpcpb.Ref{Ref: []byte(name)})
	})
	return info, err
}
