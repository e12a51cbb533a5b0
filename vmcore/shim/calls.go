package shim

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"time"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/agent"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/engine"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/shim/shimpb"
)

// Hello says who the shim is.
func (s *server) Hello(context.Context, *shimpb.HelloRequest) (*shimpb.HelloReply, error) {
	return &shimpb.HelloReply{
		Protocol: Protocol, Version: s.cfg.Version, Box: string(s.cfg.Box),
		Container: string(s.cfg.Machine.ID), Ready: true, MachinePid: int64(s.machine.PID()),
	}, nil
}

// Watch returns when the box is gone.
func (s *server) Watch(ctx context.Context, _ *shimpb.Empty) (*shimpb.Gone, error) {
	select {
	case <-s.stopped:
		return gone(s.exit), nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Stop ends the box. It goes on if the caller goes away.
func (s *server) Stop(_ context.Context, req *shimpb.StopRequest) (*shimpb.Gone, error) {
	if req.Discard {
		s.machine.Kill()
		return gone(s.stop("removed", 0)), nil
	}
	reason := "on request"
	if idle := time.Duration(req.IfIdleNs); idle > 0 {
		if err := s.stopUsing(idle); err != nil {
			return nil, err
		}
		reason = "it was idle"
	}
	return gone(s.stop(reason, max(0, time.Duration(req.GraceNs)))), nil
}

func gone(e Exit) *shimpb.Gone {
	return &shimpb.Gone{Reason: e.Reason, Clean: e.Clean, Oom: e.OOM}
}

// Status returns the box's figures.
func (s *server) Status(context.Context, *shimpb.Empty) (*shimpb.StatusReply, error) {
	data, err := json.Marshal(s.metrics())
	running := s.execs.running()
	s.mu.Lock()
	defer s.mu.Unlock()
	return &shimpb.StatusReply{Metrics: data, LastUsedNs: s.lastUsed.UnixNano(), Running: int32(running)}, err
}

// Sync makes the writable layer durable.
func (s *server) Sync(ctx context.Context, _ *shimpb.Empty) (*shimpb.Empty, error) {
	return &shimpb.Empty{}, s.machine.Sync(ctx)
}

// Pause stops the machine's clock.
func (s *server) Pause(ctx context.Context, _ *shimpb.Empty) (*shimpb.Empty, error) {
	p, err := s.pauser()
	if err != nil {
		return nil, err
	}
	return &shimpb.Empty{}, p.Pause(ctx)
}

// Resume lets the machine's clock go on.
func (s *server) Resume(ctx context.Context, _ *shimpb.Empty) (*shimpb.Empty, error) {
	p, err := s.pauser()
	if err != nil {
		return nil, err
	}
	return &shimpb.Empty{}, p.Resume(ctx)
}

func (s *server) pauser() (engine.Pauser, error) {
	if p, ok := s.machine.(engine.Pauser); ok {
		return p, nil
	}
	return nil, &boxlite.Error{Op: "pause box", Kind: boxlite.Unsupported, Ref: string(s.cfg.Box),
		Err: fmt.Errorf("engine %s cannot pause", s.cfg.Engine)}
}

// maxFile is how much of a file one call carries, in bytes.
const maxFile = 16 << 20

// ReadFile returns a piece of a file in the box.
func (s *server) ReadFile(ctx context.Context, req *shimpb.ReadFileRequest) (*shimpb.FileReply, error) {
	if err := s.use(); err != nil {
		return nil, err
	}
	path := string(req.Path)
	st, err := s.agent.Stat(ctx, path, "")
	if err != nil {
		return nil, err
	}
	offset := req.Offset
	if offset < 0 {
		offset = max(0, st.Size+offset)
	}
	var buf bytes.Buffer
	if limit := min(max(req.Limit, 0), maxFile); limit > 0 {
		if _, err := s.agent.ReadFile(ctx, path, agent.ReadOptions{Offset: offset, Limit: limit}, &buf); err != nil {
			return nil, err
		}
	}
	info, err := json.Marshal(fileInfo(path, st))
	return &shimpb.FileReply{Info: info, Offset: offset, Data: buf.Bytes()}, err
}

// WriteFile writes a file in the box.
func (s *server) WriteFile(ctx context.Context, req *shimpb.WriteFileRequest) (*shimpb.Words, error) {
	if err := s.use(); err != nil {
		return nil, err
	}
	user, path := string(req.User), string(req.Path)
	if user == "" {
		user = s.cfg.User
	}
	opts := agent.WriteOptions{Mode: fs.FileMode(req.Mode & 0o777), User: user, Append: req.Append, CreateParents: true}
	if _, err := s.agent.WriteFile(ctx, path, bytes.NewReader(req.Data), opts); err != nil {
		return nil, err
	}
	st, err := s.agent.Stat(ctx, path, "")
	if err != nil {
		return nil, err
	}
	return words(fileInfo(path, st))
}

func fileInfo(path string, st agent.FileInfo) boxlite.FileInfo {
	return boxlite.FileInfo{Path: path, Size: st.Size, Mode: uint32(st.Mode), UID: st.UID, GID: st.GID, Modified: st.ModTime}
}

func outputRequest(r *shimpb.OutputRequest) boxlite.OutputRequest {
	return boxlite.OutputRequest{
		StdoutOffset: r.StdoutOffset, StderrOffset: r.StderrOffset, MaxBytes: int(min(max(r.MaxBytes, 0), maxChunk)),
		Wait: time.Duration(r.WaitNs), Until: boxlite.Until(r.Until),
	}
}

func outputReply(out boxlite.Output) (*shimpb.OutputReply, error) {
	info, err := json.Marshal(out.Exec)
	return &shimpb.OutputReply{Exec: info, Stdout: chunk(out.Stdout), Stderr: chunk(out.Stderr)}, err
}

func chunk(c boxlite.OutputChunk) *shimpb.Chunk {
	return &shimpb.Chunk{Offset: c.Offset, Data: c.Data, Dropped: c.Dropped, End: c.End, Eof: c.EOF}
}

// maxChunk is how much of one stream one call carries, in bytes.
const maxChunk = 4 << 20
