package shim

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/agent"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/spool"
)

// What a box keeps of its executions.
const (
	maxRunning  = 1000    // at once
	maxFinished = 200     // remembered; the oldest go first
	maxOutput   = 4 << 30 // bytes of output on disk, of all of them
)

// An execution is a command that was started in this life of the box, or the
// record of one from an earlier life, whose run is nil.
type execution struct {
	*spool.Execution
	run *agent.Exec

	started chan struct{} // closed once err is set
	err     error         // why it could not be started

	mu       sync.Mutex
	timedOut bool // guarded by mu
}

// A table holds the executions of a box in the order of their start.
type table struct {
	dir    string
	limits spool.Limits

	mu    sync.Mutex
	byID  map[boxlite.ExecutionID]*execution // guarded by mu
	order []*execution                       // guarded by mu
	gone  int64                              // guarded by mu; bytes of output of those that were evicted
	old   int64                              // guarded by mu; bytes of output of those from earlier lives
}

func newTable(dir string) *table {
	return &table{dir: dir, limits: spool.Limits{Pool: &spool.Pool{Limit: maxOutput}}, byID: map[boxlite.ExecutionID]*execution{}}
}

// load reads the executions of earlier lives.
func (t *table) load() error {
	if err := os.MkdirAll(t.dir, 0o700); err != nil {
		return err
	}
	earlier, err := spool.Load(t.dir, t.limits)
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, e := range earlier {
		old := &execution{Execution: e, started: make(chan struct{})}
		close(old.started)
		t.byID[e.Info().ID] = old
		t.order = append(t.order, old)
		t.old += size(old)
	}
	return err
}

// reserve makes room for an execution and enters it; existing is true if its
// id was there already.
//
// Errors: Exhausted, Storage.
func (t *table) reserve(info boxlite.ExecInfo) (e *execution, existing bool, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e, ok := t.byID[info.ID]; ok {
		return e, true, nil
	}
	if t.runningLocked() >= maxRunning {
		return nil, false, &boxlite.Error{Op: "run command", Kind: boxlite.Exhausted, Err: fmt.Errorf("%d commands run in this box", maxRunning),
			Hint: "End some of them, or use another box."}
	}
	t.evict()
	sp, err := spool.New(t.dir, info, t.limits)
	if err != nil {
		return nil, false, err
	}
	e = &execution{Execution: sp, started: make(chan struct{})}
	t.byID[info.ID] = e
	t.order = append(t.order, e)
	return e, false, nil
}

// evict removes the oldest finished executions that are too many or too large.
func (t *table) evict() {
	finished, bytes := 0, int64(0)
	for i, e := range slices.Backward(t.order) {
		if isRunning(e) {
			continue
		}
		finished++
		bytes += e.Size()
		if finished > 1 && (finished > maxFinished || bytes > maxOutput) {
			t.dropLocked(e)
			t.order = append(t.order[:i], t.order[i+1:]...)
		}
	}
}

func (t *table) dropLocked(e *execution) {
	t.gone += size(e)
	delete(t.byID, e.Info().ID)
	_ = e.Remove()
}

// discard forgets an execution that could not be started.
func (t *table) discard(e *execution) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.byID, e.Info().ID)
	for i := range t.order {
		if t.order[i] == e {
			t.order = append(t.order[:i], t.order[i+1:]...)
			break
		}
	}
	_ = e.Remove()
}

// get returns an execution that has been started.
//
// Errors: NotFound.
func (t *table) get(id string) (*execution, error) {
	t.mu.Lock()
	e := t.byID[boxlite.ExecutionID(id)]
	t.mu.Unlock()
	if e != nil {
		<-e.started
		if e.err == nil {
			return e, nil
		}
	}
	return nil, boxlite.NoExecution(boxlite.ExecutionID(id))
}

func (t *table) list() []boxlite.ExecInfo {
	out := []boxlite.ExecInfo{}
	for _, e := range t.all() {
		out = append(out, e.Info())
	}
	return out
}

func (t *table) all() []*execution {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]*execution(nil), t.order...)
}

func (t *table) running() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.runningLocked()
}

func (t *table) runningLocked() int {
	n := 0
	for _, e := range t.order {
		if isRunning(e) {
			n++
		}
	}
	return n
}

// bytes returns how much output this life of the box has had.
func (t *table) bytes() int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.gone - t.old
	for _, e := range t.order {
		n += size(e)
	}
	return n
}

func size(e *execution) int64 {
	info := e.Info()
	return info.StdoutEnd + info.StderrEnd
}

func isRunning(e *execution) bool {
	select {
	case <-e.Done():
		return false
	default:
		return true
	}
}

// finishAll gives every execution that still runs the result it gets when the
// box goes away under it.
func (t *table) finishAll(result boxlite.ExecResult) {
	for _, e := range t.all() {
		e.Stdout.CloseWrite()
		e.Stderr.CloseWrite()
		_ = e.Finish(result)
		_ = e.Save() // what children wrote after the command had ended
	}
}

func (t *table) close() error {
	var errs []error
	for _, e := range t.all() {
		errs = append(errs, e.Close())
	}
	return errors.Join(errs...)
}
