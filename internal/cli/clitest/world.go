// Package clitest has a [boxlite.Service] without machines, for tests of what
// the command line makes of a service: tables, exit codes, streams, signals.
//
// It is not an engine and shows nothing about boxes: its programs are Go
// functions, and its images are entries in a list.
//
//	w := clitest.New()
//	app.Connect = func(context.Context, cli.Config) (boxlite.Service, func() error, error) {
//		return w, w.Hangup, nil
//	}
//
// A World may be used concurrently. [Load] and [World.Save] keep one in a file
// of JSON, so that a script of several processes sees one world.
package clitest

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
)

// A World is all boxes, images and executions there are.
type World struct {
	// Programs are what can be run, by name, besides those of [Programs]. Set
	// it before use.
	Programs map[string]Program
	// Progress is what every start and pull reports. Set it before use.
	Progress []boxlite.Progress
	// LoseAfter makes every so-many-th call of Output fail as if the
	// connection was lost. 0: none. Set it before use.
	LoseAfter int
	// LoseInput makes every WriteStdin fail so. Set it before use.
	LoseInput bool

	mu      sync.Mutex
	state   state                            // guarded by mu
	running map[boxlite.ExecutionID]*Process // guarded by mu
	outputs int                              // calls of Output; guarded by mu
	signals map[boxlite.ExecutionID][]int    // guarded by mu
	hangups int                              // guarded by mu
	wg      sync.WaitGroup                   // of running programs
}

// state is what a file holds.
type state struct {
	Boxes  []boxlite.BoxInfo   `json:"boxes"`
	Images []boxlite.ImageInfo `json:"images"`
	Execs  []ended             `json:"execs"`

	Events  []boxlite.NetworkEvent `json:"events,omitempty"`
	Secrets []boxlite.SecretInfo   `json:"secrets,omitempty"`
}

// An ended execution.
type ended struct {
	Info   boxlite.ExecInfo `json:"info"`
	Stdout string           `json:"stdout"`
	Stderr string           `json:"stderr"`
}

var _ boxlite.Service = (*World)(nil)

// New returns an empty world.
func New() *World {
	return &World{running: map[boxlite.ExecutionID]*Process{}, signals: map[boxlite.ExecutionID][]int{}}
}

// Load returns the world in a file; a file that is absent is an empty world.
func Load(path string) (*World, error) {
	w := New()
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return w, nil
	}
	if err != nil {
		return nil, err
	}
	return w, json.Unmarshal(b, &w.state)
}

// Save gives all programs a moment to end, ends them, and writes the world to a
// file.
func (w *World) Save(path string) error {
	timer := time.AfterFunc(time.Second, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, p := range w.running {
			p.kill(9)
		}
	})
	w.wg.Wait()
	timer.Stop()
	w.mu.Lock()
	defer w.mu.Unlock()
	b, err := json.MarshalIndent(w.state, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, b, 0o600)
}

// Wait waits for all programs to end.
func (w *World) Wait() { w.wg.Wait() }

// Hangup counts the connections that were let go of.
func (w *World) Hangup() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.hangups++
	return nil
}

// Hangups returns how often Hangup was called.
func (w *World) Hangups() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.hangups
}

// Add adds boxes as they are.
func (w *World) Add(boxes ...boxlite.BoxInfo) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.state.Boxes = append(w.state.Boxes, boxes...)
}

// AddImages adds images as they are.
func (w *World) AddImages(images ...boxlite.ImageInfo) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.state.Images = append(w.state.Images, images...)
}

// Boxes returns all boxes.
func (w *World) Boxes() []boxlite.BoxInfo {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.state.Boxes)
}

// Signals returns the signals that were sent to any execution, in order;
// StopExec counts as -1.
func (w *World) Signals() []int {
	w.mu.Lock()
	defer w.mu.Unlock()
	var all []int
	for _, s := range w.signals {
		all = append(all, s...)
	}
	return all
}

func fail(kind boxlite.Kind, op, ref, hint string) error {
	return &boxlite.Error{Op: op, Kind: kind, Ref: ref, Hint: hint}
}

// find needs mu.
func (w *World) find(op, ref string) (*boxlite.BoxInfo, error) {
	var found []*boxlite.BoxInfo
	for i := range w.state.Boxes {
		b := &w.state.Boxes[i]
		if string(b.ID) == ref || b.Name == ref {
			return b, nil
		}
		if ref != "" && strings.HasPrefix(string(b.ID), ref) {
			found = append(found, b)
		}
	}
	switch len(found) {
	case 0:
		return nil, fail(boxlite.NotFound, op, ref, "Run boxlite-mcp ps -a to see what boxes there are.")
	case 1:
		return found[0], nil
	}
	return nil, fail(boxlite.InvalidArgument, op, ref, "Give more of the id.")
}

func (w *World) tell(report func(boxlite.Progress)) {
	for _, p := range w.Progress {
		if report != nil {
			report(p)
		}
	}
}

func (w *World) CreateBox(ctx context.Context, req boxlite.CreateRequest, report func(boxlite.Progress)) (boxlite.BoxInfo, error) {
	opts, err := req.Options.WithDefaults()
	if err != nil {
		return boxlite.BoxInfo{}, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, b := range w.state.Boxes {
		if req.Name != "" && b.Name == req.Name {
			return boxlite.BoxInfo{}, fail(boxlite.AlreadyExists, "create box", req.Name, "Choose another name.")
		}
	}
	now := time.Now().UTC()
	b := boxlite.BoxInfo{ID: boxlite.NewBoxID(), Name: req.Name, Principal: "local", Labels: opts.Labels, CreatedAt: now, LastUsed: now,
		BoxState: boxlite.BoxState{Status: boxlite.StatusConfigured, LastUpdated: now}, Image: opts.Image,
		CPUs: opts.CPUs, MemoryMiB: opts.MemoryMiB, DiskSizeGB: opts.DiskSizeGB, AutoRemove: *opts.AutoRemove, Detach: opts.Detach}
	w.state.Boxes = append(w.state.Boxes, b)
	if !req.NoStart {
		w.start(&w.state.Boxes[len(w.state.Boxes)-1], report)
	}
	return w.state.Boxes[len(w.state.Boxes)-1], nil
}

// start needs mu.
func (w *World) start(b *boxlite.BoxInfo, report func(boxlite.Progress)) {
	if b.Status.IsRunning() {
		return
	}
	w.tell(report)
	b.Status, b.Engine, b.Isolation, b.Reason = boxlite.StatusRunning, "fake", "user-kernel", ""
}

func (w *World) GetBox(_ context.Context, ref string) (boxlite.BoxDetails, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	b, err := w.find("get box", ref)
	if err != nil {
		return boxlite.BoxDetails{}, err
	}
	d := boxlite.BoxDetails{BoxInfo: *b}
	for _, e := range w.state.Execs {
		if e.Info.ID.Box() == b.ID {
			d.Executions = append(d.Executions, e.Info)
		}
	}
	for _, p := range w.running {
		if p.info.ID.Box() == b.ID {
			d.Executions = append(d.Executions, p.infoNow())
		}
	}
	d.Metrics.CommandsRun = int64(len(d.Executions))
	slices.SortFunc(d.Executions, func(a, b boxlite.ExecInfo) int { return cmp.Compare(a.Started.UnixNano(), b.Started.UnixNano()) })
	return d, nil
}

// ListBoxes has pages of two boxes at most, so that whoever reads only the
// first is found out.
func (w *World) ListBoxes(_ context.Context, req boxlite.ListRequest) (boxlite.BoxPage, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	const most = 2
	all := slices.DeleteFunc(slices.Clone(w.state.Boxes), func(b boxlite.BoxInfo) bool {
		for k, v := range req.Labels {
			if b.Labels[k] != v {
				return true
			}
		}
		return req.Status != "" && b.Status != req.Status
	})
	page := boxlite.BoxPage{Boxes: all, Total: len(all)}
	if i := slices.IndexFunc(all, func(b boxlite.BoxInfo) bool { return string(b.ID) == req.Cursor }); i >= 0 {
		page.Boxes = all[i+1:]
	}
	if len(page.Boxes) > most {
		page.Boxes = page.Boxes[:most]
		page.Cursor = string(page.Boxes[most-1].ID)
	}
	return page, nil
}

func (w *World) StartBox(_ context.Context, ref string, report func(boxlite.Progress)) (boxlite.BoxInfo, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	b, err := w.find("start box", ref)
	if err != nil {
		return boxlite.BoxInfo{}, err
	}
	w.start(b, report)
	return *b, nil
}

func (w *World) StopBox(_ context.Context, ref string) (boxlite.BoxInfo, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	b, err := w.find("stop box", ref)
	if err != nil {
		return boxlite.BoxInfo{}, err
	}
	w.killAll(b.ID)
	if b.Status.IsActive() {
		b.Status, b.Reason = boxlite.StatusStopped, "stopped"
	}
	return *b, nil
}

// UpdateBox replaces a box's network and labels.
func (w *World) UpdateBox(_ context.Context, ref string, req boxlite.UpdateRequest) (boxlite.BoxInfo, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	b, err := w.find("update box", ref)
	if err != nil {
		return boxlite.BoxInfo{}, err
	}
	if req.Network != nil {
		b.Network = *req.Network
	}
	if req.Labels != nil {
		b.Labels = req.Labels
	}
	return *b, nil
}

// NetworkLog returns the world's records, whatever the box.
func (w *World) NetworkLog(_ context.Context, req boxlite.NetworkLogRequest) (log boxlite.NetworkLog, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, err := w.find("read network log", req.Box); err != nil {
		return log, err
	}
	for _, e := range w.state.Events {
		if !e.Time.Before(req.Since) && !(req.Denied && e.Allowed) {
			log.Events = append(log.Events, e)
		}
	}
	return log, nil
}

// AddEvents adds records as they are.
func (w *World) AddEvents(events ...boxlite.NetworkEvent) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.state.Events = append(w.state.Events, events...)
}

// ListSecrets returns the secrets that were set.
func (w *World) ListSecrets(context.Context) ([]boxlite.SecretInfo, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.state.Secrets, nil
}

// SetSecret keeps a secret, and of its value only its length, as Source.
func (w *World) SetSecret(_ context.Context, s boxlite.Secret) (boxlite.SecretInfo, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	info := boxlite.SecretInfo{Secret: s, Source: fmt.Sprintf("%d bytes", len(s.Value.Reveal()))}
	info.Value = boxlite.SecretValue{}
	w.state.Secrets = append(slices.DeleteFunc(w.state.Secrets, func(o boxlite.SecretInfo) bool { return o.Name == s.Name }), info)
	return info, nil
}

// RemoveSecret forgets a secret.
func (w *World) RemoveSecret(_ context.Context, name string) (boxlite.SecretInfo, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, s := range w.state.Secrets {
		if s.Name == name {
			w.state.Secrets = slices.Delete(w.state.Secrets, i, i+1)
			return s, nil
		}
	}
	return boxlite.SecretInfo{}, fail(boxlite.NotFound, "find secret", name, "See with secret list what there is.")
}

func (w *World) RemoveBox(_ context.Context, ref string, force bool) (boxlite.BoxInfo, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	b, err := w.find("remove box", ref)
	if err != nil {
		return boxlite.BoxInfo{}, err
	}
	info := *b
	if b.Status.IsActive() && !force {
		return info, fail(boxlite.InvalidState, "remove box", ref, "Stop it first, or give -f.")
	}
	w.killAll(info.ID)
	w.state.Boxes = slices.DeleteFunc(w.state.Boxes, func(b boxlite.BoxInfo) bool { return b.ID == info.ID })
	return info, nil
}

// killAll needs mu.
func (w *World) killAll(box boxlite.BoxID) {
	for id, p := range w.running {
		if id.Box() == box {
			p.kill(9)
		}
	}
}

func (w *World) ReadFile(context.Context, string, string, int64, int) (boxlite.FileData, error) {
	return boxlite.FileData{}, fail(boxlite.Unsupported, "read file", "", "")
}

func (w *World) WriteFile(context.Context, string, boxlite.WriteFileRequest) (boxlite.FileInfo, error) {
	return boxlite.FileInfo{}, fail(boxlite.Unsupported, "write file", "", "")
}

func (w *World) ListImages(context.Context) ([]boxlite.ImageInfo, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.state.Images), nil
}

func (w *World) PullImage(_ context.Context, ref string, report func(boxlite.Progress)) (boxlite.ImageInfo, error) {
	if strings.HasPrefix(ref, "missing") {
		return boxlite.ImageInfo{}, fail(boxlite.NotFound, "pull image", ref, "Check the name, or name another registry with --registry.")
	}
	w.tell(report)
	w.mu.Lock()
	defer w.mu.Unlock()
	info := boxlite.ImageInfo{Reference: ref, Digest: "sha256:" + strings.Repeat("ab", 32), Size: 5 * boxlite.MiB,
		Pulled: time.Now().UTC(), Layers: 1, Platform: "linux/amd64"}
	w.state.Images = append(w.state.Images, info)
	return info, nil
}

func (w *World) RemoveImage(_ context.Context, ref string) (boxlite.ImageInfo, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	i := slices.IndexFunc(w.state.Images, func(i boxlite.ImageInfo) bool { return i.Reference == ref })
	if i < 0 {
		return boxlite.ImageInfo{}, fail(boxlite.NotFound, "remove image", ref, "Run boxlite-mcp images to see what there is.")
	}
	info := w.state.Images[i]
	if info.InUse > 0 {
		return info, fail(boxlite.InvalidState, "remove image", ref, "Remove the boxes that need it first.")
	}
	w.state.Images = slices.Delete(w.state.Images, i, i+1)
	return info, nil
}
