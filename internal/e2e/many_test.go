package e2e

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
)

// TestTenFrontEndsAndACommandLineShareAHome begins with nothing: eleven
// processes find no daemon at the same moment.
func TestTenFrontEndsAndACommandLineShareAHome(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var wg sync.WaitGroup
	fronts := make([]*front, 10)
	for i := range fronts {
		wg.Go(func() {
			f, err := w.tryFront(w.command("serve"))
			if err != nil {
				t.Error(err)
				return
			}
			fronts[i] = f
			name := fmt.Sprintf("box-%d", i)
			if _, err := f.tryCreate(within(t, 2*time.Minute), name, nil); err != nil {
				t.Errorf("%s: %v", name, err)
				return
			}
			e, err := f.trySh(within(t, 2*time.Minute), name, fmt.Sprintf("echo mine is %d", i))
			if want := fmt.Sprintf("mine is %d\n", i); err != nil || e.Stdout.Text != want {
				t.Errorf("%s: %+v, %v", name, e, err)
			}
		})
	}
	wg.Go(func() {
		out, err := w.cli("run", "--memory", "128m", w.image, "echo", "from the command line")
		if err != nil || out != "from the command line\n" {
			t.Errorf("run: %q, %v", out, err)
		}
	})
	wg.Wait()
	if t.Failed() {
		return
	}
	w.daemon() // exactly one
	if boxes, err := w.boxes(); err != nil || len(boxes) != len(fronts) {
		t.Errorf("%d boxes, %v; want %d: that of the command line is gone", len(boxes), err, len(fronts))
	}
	for i, f := range fronts {
		wg.Go(func() {
			if err := f.call(within(t, time.Minute), "box_remove", args{"box": fmt.Sprintf("box-%d", i), "force": true}, nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	w.audit(nil)
}

func TestForeignHandlesLookAbsent(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice, mallory := w.frontOf("alice"), w.frontOf("mallory")
	box := alice.create("hers", nil)
	exec := alice.background("hers", "cat")
	nobody := string(boxlite.NewBoxID())
	for _, c := range []struct {
		tool          string
		hers, nobodys args
	}{
		{"box_get", args{"box": "hers"}, args{"box": "none"}},
		{"box_get", args{"box": box.BoxID}, args{"box": nobody}},
		{"box_get", args{"box": box.BoxID[:8]}, args{"box": nobody[:8]}},
		{"box_start", args{"box": box.BoxID}, args{"box": nobody}},
		{"box_stop", args{"box": box.BoxID}, args{"box": nobody}},
		{"box_remove", args{"box": box.BoxID, "force": true}, args{"box": nobody, "force": true}},
		{"box_exec", args{"box": box.BoxID, "command": "id"}, args{"box": nobody, "command": "id"}},
		{"file_read", args{"box": box.BoxID, "path": "/etc/passwd"}, args{"box": nobody, "path": "/etc/passwd"}},
		{"file_write", args{"box": box.BoxID, "path": "/file", "content": "some content"}, args{"box": nobody, "path": "/file", "content": "some content"}},
		{"exec_read", args{"exec_id": exec}, args{"exec_id": string(boxlite.NewExecutionID(boxlite.BoxID(nobody)))}},
		{"exec_write", args{"exec_id": exec, "data": "some data"}, args{"exec_id": string(boxlite.NewExecutionID(boxlite.BoxID(nobody))), "data": "some data"}},
		{"exec_stop", args{"exec_id": exec}, args{"exec_id": string(boxlite.NewExecutionID(boxlite.BoxID(nobody)))}},
	} {
		foreign, none := mallory.call(t.Context(), c.tool, c.hers, nil), mallory.call(t.Context(), c.tool, c.nobodys, nil)
		if foreign == nil || none == nil {
			t.Errorf("%s of a foreign handle: %v; of none: %v", c.tool, foreign, none)
			continue
		}
		// The same words but for the handle.
		says := func(err error, a args) string {
			s := err.Error()
			for _, v := range a {
				s = strings.ReplaceAll(s, fmt.Sprint(v), "…")
			}
			return s
		}
		if a, b := says(foreign, c.hers), says(none, c.nobodys); a != b {
			t.Errorf("%s tells a foreign handle from none:\n%s\n%s", c.tool, a, b)
		}
	}
	var list struct{ Boxes []boxView }
	mallory.must("box_list", nil, &list)
	if len(list.Boxes) != 0 {
		t.Errorf("mallory sees %+v", list.Boxes)
	}
	mallory.create("hers", args{"start": false}) // names are each principal's own
	if boxes, err := w.boxes(); err != nil || len(boxes) != 2 {
		t.Errorf("the operator sees %d boxes, %v", len(boxes), err)
	}
	if _, err := w.cli("inspect", "hers"); err == nil {
		t.Error("a name of two boxes means one of them")
	}
	var e execView
	alice.must("exec_stop", args{"exec_id": exec}, &e)
	if e.Status != "exited" {
		t.Errorf("her command is %+v", e)
	}
}

func TestOneOfTwoTakesTheName(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a, b := w.front(), w.front()
	for round := range 5 {
		name := fmt.Sprintf("wanted-%d", round)
		errs := make([]error, 2)
		var wg sync.WaitGroup
		for i, f := range []*front{a, b} {
			wg.Go(func() { _, errs[i] = f.tryCreate(within(t, time.Minute), name, args{"start": false}) })
		}
		wg.Wait()
		won := 0
		for _, err := range errs {
			if err == nil {
				won++
				continue
			}
			actionable(t, err)
			if e, ok := err.(*toolError); !ok || e.kind != "already_exists" { //nolint:errorlint // it is never wrapped
				t.Errorf("the loser is told: %v", err)
			}
		}
		if won != 1 {
			t.Errorf("%d of two have created %s: %v", won, name, errs)
		}
	}
}

// TestFiftyBoxesAtOnce creates fifty boxes, uses them while all of them run,
// and removes them, a few at a time.
func TestFiftyBoxesAtOnce(t *testing.T) {
	t.Parallel()
	boxes := 50
	if free := freeMemory(t); free < boxes*60 {
		t.Logf("%d MiB are free: fewer boxes", free)
		boxes = max(10, free/60)
	}
	w := newWorld(t)
	f := w.front()
	each := func(what string, fn func(i int) error) {
		var wg sync.WaitGroup
		turn := make(chan struct{}, 6)
		begun := time.Now()
		for i := range boxes {
			wg.Go(func() {
				turn <- struct{}{}
				defer func() { <-turn }()
				if err := fn(i); err != nil {
					t.Errorf("%s box %d: %v", what, i, err)
				}
			})
		}
		wg.Wait()
		t.Logf("%s: %.1f s", what, time.Since(begun).Seconds())
	}
	each("create", func(i int) error {
		_, err := f.tryCreate(within(t, 3*time.Minute), fmt.Sprintf("box-%d", i), args{"memory_mib": 64})
		return err
	})
	each("use", func(i int) error {
		name := fmt.Sprintf("box-%d", i)
		e, err := f.trySh(within(t, time.Minute), name, "hostname; echo "+name+" > /root/it; cat /root/it; exit "+strconv.Itoa(i))
		if err == nil && (e.Stdout.Text != name+"\n"+name+"\n" || e.code() != i) {
			err = fmt.Errorf("%+v", e)
		}
		return err
	})
	list, err := w.boxes()
	running := 0
	for _, b := range list {
		if b.Status == boxlite.StatusRunning {
			running++
		}
	}
	if err != nil || running != boxes {
		t.Errorf("%d boxes run at once, %v; want %d", running, err, boxes)
	}
	each("remove", func(i int) error {
		return f.call(within(t, time.Minute), "box_remove", args{"box": fmt.Sprintf("box-%d", i), "force": true}, nil)
	})
	w.audit(nil)
}

// freeMemory returns the memory that is to be had, in MiB.
func freeMemory(t *testing.T) int {
	t.Helper()
	data, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		t.Fatal(err)
	}
	return field(string(data), "MemAvailable:") >> 10
}

// field returns the number after a name in a file such as /proc/meminfo.
func field(data, name string) int {
	for line := range strings.Lines(data) {
		if rest, ok := strings.CutPrefix(line, name); ok {
			n, _ := strconv.Atoi(strings.Fields(rest)[0])
			return n
		}
	}
	return -1
}
