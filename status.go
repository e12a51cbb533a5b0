package boxlite

import (
	"fmt"
	"strings"
	"time"
)

// BoxStatus is where a box is in its life. The zero value is Unknown.
type BoxStatus string

// The states. Starting is not one of them: while a start is under way the box
// is still Configured, Stopped or Failed, and [BoxInfo].Phase says how far the
// start has got.
const (
	StatusUnknown    BoxStatus = "unknown"    // its state cannot be told (error recovery)
	StatusConfigured BoxStatus = "configured" // persisted, never started
	StatusRunning    BoxStatus = "running"    // accepts commands
	StatusPaused     BoxStatus = "paused"     // its clock stands still
	StatusStopping   BoxStatus = "stopping"   // shutting down; becomes Stopped by itself
	StatusStopped    BoxStatus = "stopped"    // not running; its disk is kept
	StatusFailed     BoxStatus = "failed"     // never came up; [BoxInfo].Reason says why
)

// A Transition is something that happens to a box and may move it to another
// state.
type Transition string

// The transitions.
const (
	Start  Transition = "start"  // the machine came up
	Fail   Transition = "fail"   // the machine did not come up
	Pause  Transition = "pause"  // its clock was stopped
	Resume Transition = "resume" // its clock goes on
	Stop   Transition = "stop"   // a graceful end was asked for
	Exit   Transition = "exit"   // the machine is gone, however it ended
	Remove Transition = "remove" // the record and the disk are deleted; needs force while active
	Lose   Transition = "lose"   // its state can no longer be told
)

// Statuses are all states, in the order of a box's life.
var Statuses = [...]BoxStatus{StatusUnknown, StatusConfigured, StatusRunning, StatusPaused, StatusStopping, StatusStopped, StatusFailed}

// Transitions are all transitions.
var Transitions = [...]Transition{Start, Fail, Pause, Resume, Stop, Exit, Remove, Lose}

// gone is the "state" after Remove: no record.
const gone BoxStatus = ""

// machine is the whole state machine: a pair that is absent is refused.
var machine = map[BoxStatus]map[Transition]BoxStatus{
	StatusUnknown:    {Exit: StatusStopped, Remove: gone, Lose: StatusUnknown},
	StatusConfigured: {Start: StatusRunning, Fail: StatusFailed, Remove: gone},
	StatusRunning:    {Pause: StatusPaused, Stop: StatusStopping, Exit: StatusStopped, Remove: gone, Lose: StatusUnknown},
	StatusPaused:     {Resume: StatusRunning, Stop: StatusStopping, Exit: StatusStopped, Remove: gone, Lose: StatusUnknown},
	StatusStopping:   {Exit: StatusStopped, Remove: gone, Lose: StatusUnknown},
	StatusStopped:    {Start: StatusRunning, Fail: StatusStopped, Remove: gone},
	StatusFailed:     {Start: StatusRunning, Fail: StatusFailed, Remove: gone},
}

// Next returns the state that t leads to; removed is true where that is no
// record at all.
//
// Errors: [InvalidState] if t cannot happen in s.
func (s BoxStatus) Next(t Transition) (next BoxStatus, removed bool, err error) {
	next, ok := machine[s][t]
	if !ok {
		return s, false, &Error{Op: string(t) + " box", Kind: InvalidState, Err: fmt.Errorf("the box is %s", s)}
	}
	return next, next == gone, nil
}

// IsActive reports whether a machine is running for the box.
func (s BoxStatus) IsActive() bool {
	return s == StatusRunning || s == StatusPaused || s == StatusStopping
}

// IsRunning reports whether the box accepts commands.
func (s BoxStatus) IsRunning() bool { return s == StatusRunning }

// IsConfigured reports whether the box was never started.
func (s BoxStatus) IsConfigured() bool { return s == StatusConfigured }

// IsPaused reports whether the box's clock stands still.
func (s BoxStatus) IsPaused() bool { return s == StatusPaused }

// IsStopped reports whether the box was started and is not running.
func (s BoxStatus) IsStopped() bool { return s == StatusStopped }

// IsTransient reports whether the state changes by itself.
func (s BoxStatus) IsTransient() bool { return s == StatusStopping }

// CanStart reports whether the box may be started.
func (s BoxStatus) CanStart() bool { _, ok := machine[s][Start]; return ok }

// CanStop reports whether the box may be asked to stop.
func (s BoxStatus) CanStop() bool { _, ok := machine[s][Stop]; return ok }

// CanRemove reports whether the box may be removed without force.
func (s BoxStatus) CanRemove() bool { _, ok := machine[s][Remove]; return ok && !s.IsActive() }

// CanRun reports whether a command may be run, starting the box where that is
// needed.
func (s BoxStatus) CanRun() bool { return s.IsRunning() || s.CanStart() }

// StateTable returns the state machine as text: a row a state, a column a
// transition, the next state in each cell, "-" where it is refused.
func StateTable() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-11s", "")
	for _, t := range Transitions {
		fmt.Fprintf(&b, " %-10s", t)
	}
	for _, s := range Statuses {
		fmt.Fprintf(&b, "\n%-11s", s)
		for _, t := range Transitions {
			next, removed, err := s.Next(t)
			switch {
			case err != nil:
				next = "-"
			case removed:
				next = "(gone)"
			}
			fmt.Fprintf(&b, " %-10s", next)
		}
	}
	lines := strings.Split(b.String(), "\n")
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], " ")
	}
	return strings.Join(lines, "\n") + "\n"
}

// BoxState is the part of a box that changes during its life.
type BoxState struct {
	Status      BoxStatus   `json:"status"`
	PID         int         `json:"pid,omitempty"`          // host process of the machine; 0 if not running
	ContainerID ContainerID `json:"container_id,omitempty"` // of the current or last start
	LastUpdated time.Time   `json:"last_updated"`           // UTC
	Reason      string      `json:"reason,omitempty"`       // how it came to be Stopped or Failed; one line
	Phase       string      `json:"phase,omitempty"`        // "pulling image 40 %" while a start is under way
}
