package sessions

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore"
)

// A Session is what one principal can do. It is a boxlite.Service and holds
// nothing: it need not be closed.
type Session struct {
	m     *Manager
	rt    *vmcore.Runtime
	scope vmcore.Scope
	owner vmcore.Owner

	secrets []boxlite.Secret // of the client's configuration
}

var _ boxlite.Service = (*Session)(nil)

// CreateBox implements boxlite.Boxes.
func (s *Session) CreateBox(ctx context.Context, req boxlite.CreateRequest, report func(boxlite.Progress)) (boxlite.BoxInfo, error) {
	if req.TTL < 0 || req.IdleTimeout != nil && *req.IdleTimeout < 0 {
		return boxlite.BoxInfo{}, &boxlite.Error{Op: "create box", Kind: boxlite.Config, Hint: "Use 0 for never.",
			Err: fmt.Errorf("a time to live and an idle time are not negative")}
	}
	if o := req.Options; !s.scope.All && len(o.Secrets) > 0 && len(o.Network.AllowNet) == 0 {
		return boxlite.BoxInfo{}, &boxlite.Error{Op: "create box", Kind: boxlite.Config, Err: errors.New("a box with secrets must say what it may reach"),
			Hint: `Name the hosts in allow_net, such as the secret's own; "*" is the public Internet.`}
	}
	box, err := s.create(ctx, req)
	if err != nil {
		return boxlite.BoxInfo{}, err
	}
	if report != nil {
		report(boxlite.Progress{Phase: "created box " + string(box.ID())})
	}
	if req.NoStart {
		return box.Info(), nil
	}
	err = s.start(ctx, box, report)
	return box.Info(), about(box, err)
}

// create makes a box within what the operator lets the principal have.
func (s *Session) create(ctx context.Context, req boxlite.CreateRequest) (*vmcore.Box, error) {
	if err := s.mayChange("create box"); err != nil {
		return nil, err
	}
	var err error
	if !s.scope.All {
		err = s.m.policy.Load().Box.apply(&req)
	}
	if err == nil {
		req.Options.Secrets, err = s.withValues(req.Options.Secrets)
	}
	if err != nil {
		return nil, err
	}
	full, err := req.Options.WithDefaults()
	if err != nil {
		return nil, err
	}
	owner := s.owner
	owner.ID = boxlite.NewBoxID()
	made, err := s.admitBox(owner.ID, full)
	if err != nil {
		return nil, err
	}
	defer made()
	return s.rt.CreateFor(ctx, owner, req)
}

// start starts a box within what the operator lets the principal have.
func (s *Session) start(ctx context.Context, box *vmcore.Box, report func(boxlite.Progress)) error {
	started, err := s.admitStart(box)
	if err != nil {
		return err
	}
	defer started()
	return box.Start(ctx, report)
}

// about makes sure that an error of a start names the box that it left behind.
func about(box *vmcore.Box, err error) error {
	if err == nil {
		return nil
	}
	return &boxlite.Error{Op: "start box", Kind: boxlite.KindOf(err), Ref: string(box.ID()), Hint: boxlite.HintOf(err), Err: err}
}

// GetBox implements boxlite.Boxes.
func (s *Session) GetBox(ctx context.Context, ref string) (boxlite.BoxDetails, error) {
	box, err := s.rt.Lookup(s.scope, ref)
	if err != nil {
		return boxlite.BoxDetails{}, err
	}
	d := boxlite.BoxDetails{BoxInfo: box.Info()}
	if d.Metrics, err = box.Metrics(ctx); err != nil {
		return d, err
	}
	d.Executions, err = box.Executions(ctx)
	return d, err
}

// The sizes of a page of boxes.
const (
	defaultPage = 20
	maxPage     = 1000
)

// ListBoxes implements boxlite.Boxes.
func (s *Session) ListBoxes(_ context.Context, req boxlite.ListRequest) (boxlite.BoxPage, error) {
	after, err := parseCursor(req.Cursor)
	if err != nil {
		return boxlite.BoxPage{}, err
	}
	page := boxlite.BoxPage{Boxes: []boxlite.BoxInfo{}}
	limit := req.Limit
	if limit <= 0 {
		limit = defaultPage
	}
	limit = min(limit, maxPage)
	for _, info := range s.rt.List(s.scope) {
		if !matches(info, req) {
			continue
		}
		page.Total++
		switch {
		case !after.before(info):
		case len(page.Boxes) < limit:
			page.Boxes = append(page.Boxes, info)
		case page.Cursor == "":
			page.Cursor = cursorAt(page.Boxes[limit-1]).String()
		}
	}
	return page, nil
}

func matches(info boxlite.BoxInfo, req boxlite.ListRequest) bool {
	if req.Status != "" && info.Status != req.Status {
		return false
	}
	for k, v := range req.Labels {
		if got, ok := info.Labels[k]; !ok || got != v {
			return false
		}
	}
	return true
}

// A cursor is a place in the list, which is in the order of creation and id. It
// stays valid when the box that it names is removed.
type cursor struct {
	created int64 // Unix time in nanoseconds
	id      boxlite.BoxID
}

func cursorAt(info boxlite.BoxInfo) cursor { return cursor{info.CreatedAt.UnixNano(), info.ID} }

// String returns the cursor as parseCursor reads it.
func (c cursor) String() string { return strconv.FormatInt(c.created, 36) + "." + string(c.id) }

// before reports whether a box comes after the cursor.
func (c cursor) before(info boxlite.BoxInfo) bool {
	at := info.CreatedAt.UnixNano()
	return at > c.created || at == c.created && info.ID > c.id
}

func parseCursor(s string) (cursor, error) {
	if s == "" {
		return cursor{created: -1 << 63}, nil
	}
	at, id, ok := strings.Cut(s, ".")
	created, err := strconv.ParseInt(at, 36, 64)
	if !ok || err != nil {
		return cursor{}, &boxlite.Error{Op: "list boxes", Kind: boxlite.InvalidArgument, Ref: fmt.Sprintf("cursor %.80q", s),
			Hint: "Pass the cursor of the last page as it was, or leave it out."}
	}
	return cursor{created, boxlite.BoxID(id)}, nil
}

// StartBox implements boxlite.Boxes.
func (s *Session) StartBox(ctx context.Context, ref string, report func(boxlite.Progress)) (boxlite.BoxInfo, error) {
	box, err := s.rt.Lookup(s.scope, ref)
	if err != nil {
		return boxlite.BoxInfo{}, err
	}
	err = s.start(ctx, box, report)
	return box.Info(), about(box, err)
}

// StopBox implements boxlite.Boxes.
func (s *Session) StopBox(ctx context.Context, ref string) (boxlite.BoxInfo, error) {
	box, err := s.rt.Lookup(s.scope, ref)
	if err != nil {
		return boxlite.BoxInfo{}, err
	}
	if err := s.mayChange("stop box"); err != nil {
		return boxlite.BoxInfo{}, err
	}
	before := box.Info()
	if err := box.Stop(ctx); err != nil {
		return box.Info(), err
	}
	return afterwards(before, box), nil
}

// afterwards returns a box as it is, or as it was if it removed itself.
func afterwards(before boxlite.BoxInfo, box *vmcore.Box) boxlite.BoxInfo {
	if now := box.Info(); now.Status != boxlite.StatusUnknown {
		return now
	}
	before.Status, before.PID = boxlite.StatusStopped, 0
	before.Reason = "stopped and removed, as it was made with auto_remove"
	return before
}

// UpdateBox implements boxlite.Boxes. Only the operator widens a network.
func (s *Session) UpdateBox(ctx context.Context, ref string, req boxlite.UpdateRequest) (boxlite.BoxInfo, error) {
	box, err := s.rt.Lookup(s.scope, ref)
	if err != nil {
		return boxlite.BoxInfo{}, err
	}
	if err := s.mayChange("update box"); err != nil {
		return boxlite.BoxInfo{}, err
	}
	if req.Network != nil {
		if err := box.SetNetwork(ctx, *req.Network, s.scope.All); err != nil {
			return box.Info(), err
		}
	}
	if len(req.Labels) > 0 {
		err = box.SetLabels(ctx, req.Labels)
	}
	return box.Info(), err
}

// RemoveBox implements boxlite.Boxes.
func (s *Session) RemoveBox(ctx context.Context, ref string, force bool) (boxlite.BoxInfo, error) {
	box, err := s.rt.Lookup(s.scope, ref)
	if err != nil {
		return boxlite.BoxInfo{}, err
	}
	if err := s.mayChange("remove box"); err != nil {
		return boxlite.BoxInfo{}, err
	}
	before := box.Info()
	return before, box.Remove(ctx, force)
}

// Run implements boxlite.Executions.
func (s *Session) Run(ctx context.Context, ref string, cmd boxlite.Command, report func(boxlite.Progress)) (boxlite.ExecInfo, error) {
	box, err := s.rt.Lookup(s.scope, ref)
	if err != nil {
		return boxlite.ExecInfo{}, err
	}
	if err := s.mayChange("run command"); err != nil {
		return boxlite.ExecInfo{}, err
	}
	started, err := s.admitStart(box)
	if err != nil {
		return boxlite.ExecInfo{}, err
	}
	defer started()
	runs, err := s.admitExec(ctx, box, &cmd)
	if err != nil {
		return boxlite.ExecInfo{}, err
	}
	defer runs()
	run, err := box.Run(ctx, cmd, report)
	if err != nil {
		return boxlite.ExecInfo{}, err
	}
	return run.Started(), nil
}

// Output implements boxlite.Executions.
func (s *Session) Output(ctx context.Context, id boxlite.ExecutionID, req boxlite.OutputRequest) (boxlite.Output, error) {
	e, err := s.rt.Execution(s.scope, id)
	if err != nil {
		return boxlite.Output{}, err
	}
	return e.Output(ctx, req)
}

// WriteStdin implements boxlite.Executions.
func (s *Session) WriteStdin(ctx context.Context, id boxlite.ExecutionID, data []byte, eof bool) (int, error) {
	e, err := s.rt.Execution(s.scope, id)
	if err != nil {
		return 0, err
	}
	if err := s.mayChange("write to command"); err != nil {
		return 0, err
	}
	return e.WriteStdin(ctx, data, eof)
}

// Signal implements boxlite.Executions.
func (s *Session) Signal(ctx context.Context, id boxlite.ExecutionID, signal int) error {
	e, err := s.rt.Execution(s.scope, id)
	if err != nil {
		return err
	}
	if err := s.mayChange("signal command"); err != nil {
		return err
	}
	return e.Signal(ctx, signal)
}

// StopExec implements boxlite.Executions.
func (s *Session) StopExec(ctx context.Context, id boxlite.ExecutionID, grace time.Duration) (boxlite.ExecInfo, error) {
	e, err := s.rt.Execution(s.scope, id)
	if err != nil {
		return boxlite.ExecInfo{}, err
	}
	if err := s.mayChange("stop command"); err != nil {
		return boxlite.ExecInfo{}, err
	}
	return e.StopTree(ctx, grace)
}

// ResizeTTY implements boxlite.Executions.
func (s *Session) ResizeTTY(ctx context.Context, id boxlite.ExecutionID, rows, cols uint16) error {
	e, err := s.rt.Execution(s.scope, id)
	if err != nil {
		return err
	}
	if err := s.mayChange("resize terminal"); err != nil {
		return err
	}
	return e.ResizeTTY(ctx, rows, cols)
}

// ReadFile implements boxlite.Files.
func (s *Session) ReadFile(ctx context.Context, ref, path string, offset int64, limit int) (boxlite.FileData, error) {
	box, err := s.rt.Lookup(s.scope, ref)
	if err != nil {
		return boxlite.FileData{}, err
	}
	started, err := s.admitStart(box)
	if err != nil {
		return boxlite.FileData{}, err
	}
	defer started()
	return box.ReadFile(ctx, path, offset, limit)
}

// WriteFile implements boxlite.Files.
func (s *Session) WriteFile(ctx context.Context, ref string, req boxlite.WriteFileRequest) (boxlite.FileInfo, error) {
	box, err := s.rt.Lookup(s.scope, ref)
	if err != nil {
		return boxlite.FileInfo{}, err
	}
	if err := s.mayChange("write file"); err != nil {
		return boxlite.FileInfo{}, err
	}
	started, err := s.admitStart(box)
	if err != nil {
		return boxlite.FileInfo{}, err
	}
	defer started()
	return box.WriteFile(ctx, req)
}

// ListImages implements boxlite.Images.
func (s *Session) ListImages(context.Context) ([]boxlite.ImageInfo, error) {
	return slices.Clone(s.rt.Images()), nil
}

// PullImage implements boxlite.Images.
func (s *Session) PullImage(ctx context.Context, ref string, report func(boxlite.Progress)) (boxlite.ImageInfo, error) {
	if err := s.mayChange("pull image"); err != nil {
		return boxlite.ImageInfo{}, err
	}
	return s.rt.Pull(ctx, s.owner, ref, report)
}

// RemoveImage implements boxlite.Images. Only the operator may: the cache is
// everybody's.
func (s *Session) RemoveImage(_ context.Context, ref string) (boxlite.ImageInfo, error) {
	if !s.scope.All {
		return boxlite.ImageInfo{}, &boxlite.Error{Op: "remove image", Kind: boxlite.Denied, Ref: ref,
			Hint: "Ask the operator to run boxlite-mcp rmi."}
	}
	return s.rt.RemoveImage(ref)
}
