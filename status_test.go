package boxlite_test

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/boxlite-mcp/boxlite-mcp"
	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write golden files instead of comparing with them")

// golden compares got with a file in testdata, or writes it under -update.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got; -update writes it):\n%s", path, diff)
	}
}

func TestStateTableIsAsPublished(t *testing.T) { golden(t, "states.golden", boxlite.StateTable()) }

// The predicates are read off the machine, so they are checked against the
// reference's words instead.
func TestStatusPredicates(t *testing.T) {
	type predicates struct{ active, start, stop, remove, run, transient bool }
	want := map[boxlite.BoxStatus]predicates{
		boxlite.StatusUnknown:    {remove: true},
		boxlite.StatusConfigured: {start: true, remove: true, run: true},
		boxlite.StatusRunning:    {active: true, stop: true, run: true},
		boxlite.StatusPaused:     {active: true, stop: true},
		boxlite.StatusStopping:   {active: true, transient: true},
		boxlite.StatusStopped:    {start: true, remove: true, run: true},
		boxlite.StatusFailed:     {start: true, remove: true, run: true},
		"":                       {},
		"no such state":          {},
	}
	if missing := len(boxlite.Statuses) - (len(want) - 2); missing != 0 {
		t.Errorf("%d states are not in the table", missing)
	}
	for s, w := range want {
		got := predicates{s.IsActive(), s.CanStart(), s.CanStop(), s.CanRemove(), s.CanRun(), s.IsTransient()}
		if got != w {
			t.Errorf("%q: got %+v, want %+v", s, got, w)
		}
		is := []bool{s.IsConfigured(), s.IsRunning(), s.IsPaused(), s.IsStopped()}
		of := []boxlite.BoxStatus{boxlite.StatusConfigured, boxlite.StatusRunning, boxlite.StatusPaused, boxlite.StatusStopped}
		for i := range is {
			if is[i] != (s == of[i]) {
				t.Errorf("%q: the predicate of %q is %v", s, of[i], is[i])
			}
		}
	}
}

func TestNextRefusesWithTheStateInTheMessage(t *testing.T) {
	next, removed, err := boxlite.StatusStopped.Next(boxlite.Pause)
	if next != boxlite.StatusStopped || removed || !errors.Is(err, boxlite.InvalidState) {
		t.Errorf("got %q, %v, %v; want the same state and an error", next, removed, err)
	}
	if want := "pause box: wrong state: the box is stopped"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %q", err, want)
	}
}

// What holds whatever happens to a box, in any order.
func TestEveryStateHasAWayOut(t *testing.T) {
	for _, s := range boxlite.Statuses {
		var exits []boxlite.Transition
		for _, tr := range boxlite.Transitions {
			next, removed, err := s.Next(tr)
			if err != nil {
				continue
			}
			exits = append(exits, tr)
			if removed != (next == "") {
				t.Errorf("%s --%s--> %q, removed %v", s, tr, next, removed)
			}
			if !removed && !slices.Contains(boxlite.Statuses[:], next) {
				t.Errorf("%s --%s--> %q, which is no state", s, tr, next)
			}
		}
		if !slices.Contains(exits, boxlite.Remove) {
			t.Errorf("%s can never be removed", s)
		}
		if s.IsActive() && !slices.Contains(exits, boxlite.Exit) {
			t.Errorf("%s has a machine, but the machine's end leads nowhere", s)
		}
		if s.CanStart() && s.IsActive() {
			t.Errorf("%s has a machine and could get a second one", s)
		}
	}
	if strings.Contains(boxlite.StateTable(), "starting") {
		t.Errorf("starting is a phase, not a state")
	}
}
