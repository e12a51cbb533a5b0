package sessions

import (
	"context"
	"maps"
	"sync"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore"
)

// An account knows what a principal is about to have: what was allowed and is
// not seen yet. What there is is counted when it is asked, so that nothing has to
// be remembered over a restart; each thing has its id from before it is allowed,
// so that it is counted once while it comes to be.
type account struct {
	turn chan struct{} // holds a token while executions are counted

	mu     sync.Mutex
	boxes  map[boxlite.BoxID]boxlite.BoxInfo // guarded by mu; being made
	starts map[boxlite.BoxID]int             // guarded by mu; being started, by so many callers
	execs  map[boxlite.ExecutionID]int       // guarded by mu; being started, by so many callers
}

// account returns the account of a principal.
func (m *Manager) account(principal string) *account {
	m.mu.Lock()
	defer m.mu.Unlock()
	a := m.accounts[principal]
	if a == nil {
		a = &account{turn: make(chan struct{}, 1), boxes: map[boxlite.BoxID]boxlite.BoxInfo{},
			starts: map[boxlite.BoxID]int{}, execs: map[boxlite.ExecutionID]int{}}
		m.accounts[principal] = a
	}
	return a
}

// claim counts one more caller who is about to start something, until release is
// called.
func claim[K comparable](a *account, in map[K]int, id K) (release func()) {
	in[id]++
	return func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		if in[id]--; in[id] == 0 {
			delete(in, id)
		}
	}
}

// list returns the principal's boxes, with those that are being made and those
// that are being started as if they were. The caller holds a.mu.
func (a *account) list(rt *vmcore.Runtime, scope vmcore.Scope) []boxlite.BoxInfo {
	list := rt.List(scope)
	making := maps.Clone(a.boxes)
	for i := range list {
		delete(making, list[i].ID)
		if a.starts[list[i].ID] > 0 && list[i].Phase == "" {
			list[i].Phase = "starting"
		}
	}
	for _, info := range making {
		list = append(list, info)
	}
	return list
}

// admitBox allows one more box of the principal. The request has its defaults.
//
// Errors: Exhausted.
func (s *Session) admitBox(id boxlite.BoxID, o boxlite.BoxOptions) (release func(), err error) {
	most := s.m.policy.Load().Limits
	if s.scope.All || most == (Limits{}) {
		return func() {}, nil
	}
	a := s.m.account(s.scope.Principal)
	a.mu.Lock()
	defer a.mu.Unlock()
	have := used(a.list(s.rt, s.scope))
	const op, hint = "create box", "Remove a box that is not needed (box_list, box_remove), or ask the operator for more."
	for _, err := range []error{
		exceeds(op, "boxes", "boxes", most.Boxes, have.Boxes, 1, hint),
		exceeds(op, "disk_gb", "GiB of disk", most.DiskGB, have.DiskGB, o.DiskSizeGB, hint),
		exceeds(op, "cpus", "CPUs", most.CPUs, 0, o.CPUs, "Ask for fewer."),
		exceeds(op, "memory_mib", "MiB of memory", most.MemoryMiB, 0, o.MemoryMiB, "Ask for less."),
	} {
		if err != nil {
			return nil, err
		}
	}
	a.boxes[id] = boxlite.BoxInfo{ID: id, CPUs: o.CPUs, MemoryMiB: o.MemoryMiB, DiskSizeGB: o.DiskSizeGB}
	return func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		delete(a.boxes, id)
	}, nil
}

// admitStart allows a box to run, if it does not. release is called once it
// does, or has failed to.
//
// Errors: Exhausted; Denied where nothing may be changed.
func (s *Session) admitStart(box *vmcore.Box) (release func(), err error) {
	policy := s.m.policy.Load()
	most := policy.Limits
	if s.scope.All || !policy.ReadOnly && most.CPUs == 0 && most.MemoryMiB == 0 {
		return func() {}, nil
	}
	info := box.Info()
	if !info.Status.IsActive() {
		if err := s.mayChange("start box"); err != nil {
			return nil, err
		}
	}
	a := s.m.account(s.scope.Principal)
	a.mu.Lock()
	defer a.mu.Unlock()
	list := a.list(s.rt, s.scope)
	for _, b := range list {
		if b.ID == info.ID && (b.Status.IsActive() || b.Phase != "") { // it is counted already
			return claim(a, a.starts, info.ID), nil
		}
	}
	have := used(list)
	const op, hint = "start box", "Stop a box that is not needed (box_list, box_stop), or ask the operator for more."
	for _, err := range []error{
		exceeds(op, "cpus", "CPUs", most.CPUs, have.CPUs, info.CPUs, hint),
		exceeds(op, "memory_mib", "MiB of memory", most.MemoryMiB, have.MemoryMiB, info.MemoryMiB, hint),
	} {
		if err != nil {
			return nil, err
		}
	}
	return claim(a, a.starts, info.ID), nil
}

// admitExec allows one more execution of the principal, and gives the command
// the key that it is known by.
//
// Errors: Exhausted, Canceled, Timeout.
func (s *Session) admitExec(ctx context.Context, box *vmcore.Box, cmd *boxlite.Command) (release func(), err error) {
	most := s.m.policy.Load().Limits.Executions
	if s.scope.All || most == 0 || cmd.Check() != nil {
		return func() {}, nil
	}
	if cmd.Key == "" {
		cmd.Key = boxlite.NewExecutionKey()
	}
	id := cmd.ExecutionID(box.ID())
	a := s.m.account(s.scope.Principal)
	select {
	case a.turn <- struct{}{}:
		defer func() { <-a.turn }()
	case <-ctx.Done():
		return nil, &boxlite.Error{Op: "run command", Kind: boxlite.KindOf(ctx.Err()), Ref: string(box.ID()), Err: ctx.Err()}
	}
	a.mu.Lock()
	running := map[boxlite.ExecutionID]bool{}
	for pending := range a.execs { // before the shims are asked: what is not here any more, they know
		running[pending] = true
	}
	a.mu.Unlock()
	s.addRunning(ctx, running)
	if !running[id] {
		err := exceeds("run command", "executions", "commands", most, len(running), 1,
			"Wait for a command (exec_read) or end one (exec_stop) first; box_get shows which run.")
		if err != nil {
			return nil, err
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return claim(a, a.execs, id), nil
}

// addRunning asks the principal's boxes which commands run in them.
func (s *Session) addRunning(ctx context.Context, running map[boxlite.ExecutionID]bool) {
	for _, info := range s.rt.List(s.scope) {
		if !info.Status.IsActive() {
			continue
		}
		box, err := s.rt.Lookup(s.scope, string(info.ID))
		if err != nil {
			continue // it is gone, and its commands are
		}
		list, err := box.Executions(ctx)
		if err != nil {
			continue // it is just ending
		}
		for _, e := range list {
			if e.Running {
				running[e.ID] = true
			}
		}
	}
}
