package spool

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
)

// An Execution is what is known of one execution: its two streams and how it
// ended. It may be used concurrently.
type Execution struct {
	Stdout, Stderr *Stream

	dir string

	saving sync.Mutex // held while the record is written

	mu   sync.Mutex
	info boxlite.ExecInfo // guarded by mu, without the stream ends
	done chan struct{}    // closed by Finish
}

// New returns a running execution that keeps its files in a directory of its
// own below dir, which exists.
//
// Errors: Storage; Exhausted if the disk is full. Nothing is left then.
func New(dir string, info boxlite.ExecInfo, limits Limits) (*Execution, error) {
	sub := filepath.Join(dir, string(info.ID))
	if err := os.Mkdir(sub, 0o700); err != nil {
		return nil, unkept(string(info.ID), err)
	}
	info.Running = true
	e := &Execution{
		Stdout: NewStream(sub, "stdout", limits), Stderr: NewStream(sub, "stderr", limits),
		dir: sub, info: info, done: make(chan struct{}),
	}
	if err := e.Save(); err != nil { // so that Load finds it, should this process be killed
		return nil, errors.Join(err, e.Remove())
	}
	return e, nil
}

// unkept returns the error for an execution that cannot be written to disk.
func unkept(ref string, err error) error {
	e := &boxlite.Error{Op: "keep output", Kind: boxlite.Storage, Ref: ref, Err: err}
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		e.Kind = boxlite.Exhausted
		e.Hint = "Free space on the disk of the home directory: remove boxes or images that are not needed."
	}
	return e
}

// Info returns the execution as of now.
func (e *Execution) Info() boxlite.ExecInfo {
	e.mu.Lock()
	info := e.info
	e.mu.Unlock()
	info.StdoutEnd, _ = e.Stdout.End()
	info.StderrEnd, _ = e.Stderr.End()
	return info
}

// Done is closed when the command has exited.
func (e *Execution) Done() <-chan struct{} { return e.done }

// Finish records how the command ended and writes it to disk. The streams may
// still grow, while children of the command hold them. Only the first call
// counts.
//
// Errors: Storage; the execution is finished all the same.
func (e *Execution) Finish(result boxlite.ExecResult) error {
	e.mu.Lock()
	if !e.info.Running {
		e.mu.Unlock()
		return nil
	}
	result.Truncated = e.Stdout.Lost()+e.Stderr.Lost() > 0
	e.info.Running, e.info.Result = false, &result
	close(e.done)
	e.mu.Unlock()
	return e.Save()
}

// Save moves to disk what is only in memory. If it fails, or this process is
// killed meanwhile, what was there before can still be read.
//
// Errors: Storage, Exhausted.
func (e *Execution) Save() error {
	e.saving.Lock() // the later record wins
	defer e.saving.Unlock()
	err := errors.Join(e.Stdout.save(), e.Stderr.save(), e.saveRecord())
	if err != nil {
		return unkept(filepath.Base(e.dir), err)
	}
	return nil
}

func (e *Execution) saveRecord() error {
	record, err := json.Marshal(e.Info())
	if err != nil {
		return err
	}
	path := filepath.Join(e.dir, "record.json")
	if err := os.WriteFile(path+".new", record, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// Size returns how many bytes the execution has on disk.
func (e *Execution) Size() int64 { return e.Stdout.OnDisk() + e.Stderr.OnDisk() }

// Output returns a piece of both streams, waiting first as req says. When ctx
// ends it returns what there is, and ctx's error.
func (e *Execution) Output(ctx context.Context, req boxlite.OutputRequest) (boxlite.Output, error) {
	err := e.wait(ctx, req)
	// The end is looked at before the streams: what was written before the
	// exit is in the chunks of an output that says "exited".
	out := boxlite.Output{Exec: e.Info()}
	out.Stdout = e.Stdout.Chunk(req.StdoutOffset, req.MaxBytes)
	out.Stderr = e.Stderr.Chunk(req.StderrOffset, req.MaxBytes)
	return out, err
}

// wait returns when what req waits for has come, or its time is up.
func (e *Execution) wait(ctx context.Context, req boxlite.OutputRequest) error {
	if req.Wait <= 0 {
		return nil
	}
	timer := time.NewTimer(req.Wait)
	defer timer.Stop()
	for {
		stdout, stderr := e.Stdout.Changed(), e.Stderr.Changed()
		if e.ready(req) {
			return nil
		}
		if req.Until == boxlite.UntilExit {
			stdout, stderr = nil, nil
		}
		select {
		case <-stdout:
		case <-stderr:
		case <-e.done:
		case <-timer.C:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// ready reports whether there is what req waits for. A finished execution
// always is, also while children of the command still hold its streams.
func (e *Execution) ready(req boxlite.OutputRequest) bool {
	if e.finished() {
		return true
	}
	return req.Until == boxlite.UntilOutput && (beyond(e.Stdout, req.StdoutOffset) || beyond(e.Stderr, req.StderrOffset))
}

func beyond(s *Stream, offset int64) bool {
	end, _ := s.End()
	return offset < 0 && end > 0 || offset >= 0 && end > offset
}

func (e *Execution) finished() bool {
	select {
	case <-e.done:
		return true
	default:
		return false
	}
}

// Close lets go of the files and keeps them on disk.
func (e *Execution) Close() error { return errors.Join(e.Stdout.Close(), e.Stderr.Close()) }

// Remove deletes the execution's files.
func (e *Execution) Remove() error {
	err := errors.Join(e.Close(), os.RemoveAll(e.dir))
	e.Stdout.forget()
	e.Stderr.forget()
	return err
}

// Load reads the executions below dir, oldest first. One that never finished,
// because its shim was killed, is given the result lost; what is no execution
// is deleted. It is for the one process that writes to dir, before it does.
//
// Errors: Storage if dir cannot be read; a missing dir is an empty one.
func Load(dir string, limits Limits) ([]*Execution, error) {
	return loadAll(dir, limits, func(sub string, err error) {
		var errno syscall.Errno
		if errors.As(err, &errno) && !errors.Is(err, fs.ErrNotExist) {
			return // it may be one: only now it cannot be opened
		}
		_ = os.RemoveAll(sub) // else it is tried again the next time
	})
}

// Read reads the executions below dir as Load does, and changes nothing:
// another process may be writing there.
//
// Errors: as Load.
func Read(dir string, limits Limits) ([]*Execution, error) {
	return loadAll(dir, limits, func(string, error) {})
}

// loadAll calls bad for each entry of dir that cannot be read.
func loadAll(dir string, limits Limits, bad func(path string, err error)) ([]*Execution, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, &boxlite.Error{Op: "read executions", Kind: boxlite.Storage, Err: err}
	}
	var out []*Execution
	for _, entry := range entries {
		path := filepath.Join(dir, entry.Name())
		if e, err := load(path, limits); err == nil {
			out = append(out, e)
		} else {
			bad(path, err)
		}
	}
	slices.SortFunc(out, func(a, b *Execution) int { return a.info.Started.Compare(b.info.Started) })
	return out, nil
}

// Open reads one execution below dir.
//
// Errors: NotFound.
func Open(dir string, id boxlite.ExecutionID, limits Limits) (*Execution, error) {
	if _, err := boxlite.ParseExecutionID(string(id)); err != nil {
		return nil, boxlite.NoExecution(id)
	}
	e, err := load(filepath.Join(dir, string(id)), limits)
	if err != nil {
		return nil, boxlite.NoExecution(id)
	}
	return e, nil
}

func load(dir string, limits Limits) (*Execution, error) {
	id, err := boxlite.ParseExecutionID(filepath.Base(dir))
	if err != nil {
		return nil, err
	}
	e := &Execution{dir: dir, done: make(chan struct{})}
	close(e.done)
	if e.info, err = readRecord(filepath.Join(dir, "record.json")); err != nil {
		return nil, err
	}
	if e.info.ID != id {
		return nil, fmt.Errorf("record of %s in directory %s", e.info.ID, id)
	}
	if e.info.Running {
		e.info.Running = false
		e.info.Result = &boxlite.ExecResult{ExitCode: -9, Signal: 9, Lost: "the box's shim ended before the command did"}
	}
	if e.Stdout, err = loadStream(dir, "stdout", limits, e.info.StdoutEnd); err != nil {
		return nil, err
	}
	if e.Stderr, err = loadStream(dir, "stderr", limits, e.info.StderrEnd); err != nil {
		e.Stdout.Close()
		return nil, err
	}
	return e, nil
}

func readRecord(path string) (boxlite.ExecInfo, error) {
	var info boxlite.ExecInfo
	data, err := os.ReadFile(path)
	if err != nil {
		return info, err
	}
	return info, json.Unmarshal(data, &info)
}

// loadStream opens the files of a stream that had at least end bytes.
func loadStream(dir, name string, limits Limits, end int64) (*Stream, error) {
	s := NewStream(dir, name, limits)
	s.eof = true
	s.end = end
	paths, err := filepath.Glob(filepath.Join(dir, name+".[0-9]*"))
	if err != nil {
		return nil, err
	}
	slices.Sort(paths)
	for _, p := range paths {
		start, err := strconv.ParseInt(strings.TrimPrefix(filepath.Base(p), name+"."), 10, 64)
		if err != nil || start < 0 {
			continue
		}
		f, err := os.Open(p)
		if err != nil {
			return nil, errors.Join(err, s.Close())
		}
		st, err := f.Stat()
		if err != nil {
			return nil, errors.Join(err, f.Close(), s.Close())
		}
		s.segments = append(s.segments, &segment{start: start, size: st.Size(), file: f, path: p})
		s.onDisk += st.Size()
		limits.Pool.add(st.Size())
		s.end = max(s.end, start+st.Size())
	}
	return s, nil
}
