package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/internal/proc"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/image/imagetest"
)

// victims are who is killed, outermost first.
//
// The agent has no process of its own on the host: it runs on gVisor's kernel,
// which keeps a host process for each address space of the guest. The one that
// holds the agent is killed; the kernel then ends the agent as by SIGKILL.
var victims = []string{"front-end", "daemon", "shim", "sandbox", "agent"}

// A phase is what is going on when the victim dies.
type phase struct {
	name   string
	before func(*scene)                             // makes what the phase needs
	act    func(context.Context, *scene) error      // the phase
	absent []string                                 // victims that do not exist yet: there is nothing to kill
	states func(victim string) []boxlite.BoxStatus  // that are right afterwards; "" is no box at all
	after  func(sc *scene, f *front, victim string) // more that must hold afterwards; may be nil
	kills  int                                      // how many moments of the phase
}

var phases = []phase{
	{
		name: "pull", kills: 1, absent: []string{"shim", "sandbox", "agent"}, // they are started when the image is there
		before: func(sc *scene) { sc.image = sc.newImage() },
		act: func(ctx context.Context, sc *scene) error {
			_, err := sc.f.tryCreate(ctx, sc.name, args{"image": sc.image})
			return err
		},
		states: func(string) []boxlite.BoxStatus { return []boxlite.BoxStatus{"configured", "running"} },
	}, {
		name: "create", kills: 3, absent: []string{"shim", "sandbox", "agent"}, // of a box that is not started
		before: func(*scene) {},
		act: func(ctx context.Context, sc *scene) error {
			_, err := sc.f.tryCreate(ctx, sc.name, args{"start": false})
			return err
		},
		states: func(string) []boxlite.BoxStatus { return []boxlite.BoxStatus{"", "configured"} },
	}, {
		name: "start", kills: 3,
		before: func(sc *scene) {
			sc.create()
			sc.keepFile()
			sc.f.must("box_stop", args{"box": sc.name}, nil)
		},
		act: func(ctx context.Context, sc *scene) error {
			return sc.f.call(ctx, "box_start", args{"box": sc.name}, nil)
		},
		states: func(string) []boxlite.BoxStatus { return []boxlite.BoxStatus{"stopped", "running"} },
		after:  func(sc *scene, f *front, _ string) { sc.expectFile(f) }, // it was saved by the stop before
	}, {
		name: "exec", kills: 1,
		before: func(sc *scene) {
			sc.create()
			sc.keepFile()
			sc.pid = sc.w.box(sc.name).PID
		},
		act: func(ctx context.Context, sc *scene) error {
			e, err := sc.f.trySh(ctx, sc.name, "for i in 0 1 2 3 4 5 6 7 8 9; do echo $i; sleep 0.06; done")
			if err == nil && e.Lost == "" && (e.code() != 0 || e.Stdout.Text != ten) {
				err = fmt.Errorf("the command ended as %+v", e)
			}
			return err
		},
		states: func(victim string) []boxlite.BoxStatus {
			if outside(victim) {
				return []boxlite.BoxStatus{"running"}
			}
			return []boxlite.BoxStatus{"stopped", "running"} // running: not killed, or started again by a call
		},
		after: afterExec,
	}, {
		name: "stop", kills: 3,
		before: func(sc *scene) {
			sc.create()
			sc.keepFile()
			sc.f.background(sc.name, "sleep 1000")
		},
		act: func(ctx context.Context, sc *scene) error {
			return sc.f.call(ctx, "box_stop", args{"box": sc.name}, nil)
		},
		states: func(string) []boxlite.BoxStatus { return []boxlite.BoxStatus{"stopped", "running"} },
		after: func(sc *scene, f *front, victim string) {
			if outside(victim) {
				sc.expectFile(f)
			}
		},
	}, {
		name: "remove", kills: 3,
		before: func(sc *scene) {
			sc.create()
			sc.f.background(sc.name, "sleep 1000")
		},
		act: func(ctx context.Context, sc *scene) error {
			return sc.f.call(ctx, "box_remove", args{"box": sc.name, "force": true}, nil)
		},
		states: func(string) []boxlite.BoxStatus { return []boxlite.BoxStatus{"", "running", "stopped"} },
	},
}

const ten = "0\n1\n2\n3\n4\n5\n6\n7\n8\n9\n"

// outside reports whether boxes run on without the victim.
func outside(victim string) bool { return victim == "front-end" || victim == "daemon" }

// TestKillOrSoak kills each victim in each phase, with SIGKILL, at several
// moments spread over how long the phase takes: at many with BOXLITE_SOAK set.
// Beside the box that it happens to runs another one, which must not notice.
func TestKillOrSoak(t *testing.T) {
	times := 1
	if os.Getenv("BOXLITE_SOAK") != "" {
		times = 30
	}
	tested := 0
	for _, victim := range victims {
		if victim == "agent" && strings.HasPrefix(os.Getenv("BOXLITE_ENGINE"), "qemu") {
			continue // in a machine of its own, where nobody of this host can reach it
		}
		for _, ph := range phases {
			if !slices.Contains(ph.absent, victim) {
				tested++
			}
		}
		t.Run(victim, func(t *testing.T) {
			t.Parallel()
			killInEveryPhase(t, victim, times)
		})
	}
	if all := len(victims) * len(phases); tested != all-6 && os.Getenv("BOXLITE_ENGINE") == "" {
		t.Errorf("%d of %d combinations are tested, want all but 6, where there is no victim", tested, all)
	}
}

func killInEveryPhase(t *testing.T, victim string, times int) {
	w := newWorld(t)
	slow := newSlowRegistry(t, 0)
	w.registries = append(w.registries, slow.host)
	by := newBystander(w)
	for _, ph := range phases {
		if slices.Contains(ph.absent, victim) {
			continue
		}
		t.Run(ph.name, func(t *testing.T) {
			w.t = t
			sc := &scene{w: w, t: t, slow: slow, image: w.image, by: by}
			took := min(sc.rehearse(ph), sc.rehearse(ph)) // the machine is busy with other tests
			for i := range ph.kills * times {
				moment := time.Duration(float64(took) * (float64(i) + 0.5) / float64(ph.kills*times))
				sc.play(ph, victim, moment)
				if t.Failed() {
					w.showLogs()
					return
				}
			}
		})
		w.t = t
		if t.Failed() {
			return
		}
	}
	by.end()
}

// A scene is one box and what happens to it.
type scene struct {
	w     *world
	t     *testing.T
	slow  *registry
	by    *bystander
	n     int
	f     *front // that acts
	name  string
	id    string // "": not known yet
	image string
	pid   int // of the machine, where the phase begins with one
}

func (sc *scene) open() {
	sc.n++
	sc.name, sc.id, sc.pid, sc.image = fmt.Sprintf("box-%d", sc.n), "", 0, sc.w.image
	sc.f = sc.w.front()
	sc.f.must("box_list", nil, nil) // it is connected
}

func (sc *scene) create() { sc.t.Helper(); sc.id = sc.f.create(sc.name, nil).BoxID }

// keepFile writes a file, expectFile expects it to be there.
func (sc *scene) keepFile() {
	sc.t.Helper()
	sc.f.must("file_write", args{"box": sc.name, "path": "/root/kept", "content": sc.name}, nil)
}

func (sc *scene) expectFile(f *front) {
	sc.t.Helper()
	if e, err := sc.run(f, "cat /root/kept"); err != nil || e.Stdout.Text != sc.name {
		sc.t.Errorf("the file has %q, not %q: %s, %v", e.Stdout.Text, sc.name, e.Stderr.Text, err)
	}
}

// run runs a line of shell, again where it could not be: a dead agent is
// perhaps found dead only now, and the error says what to do.
func (sc *scene) run(f *front, line string) (e execView, err error) {
	sc.t.Helper()
	for range 3 {
		e, err = f.trySh(within(sc.t, time.Minute), sc.name, line)
		if err == nil && e.Lost == "" {
			break
		}
		actionable(sc.t, err)
		time.Sleep(100 * time.Millisecond)
	}
	return e, err
}

// newImage returns an image that nobody has pulled, which takes a second.
func (sc *scene) newImage() string {
	noise := make([]byte, 1<<20)
	rng := rand.NewChaCha8([32]byte{byte(sc.n), byte(time.Now().UnixNano())})
	rng.Read(noise)
	layers, err := imagetest.Busybox().Layers()
	if err != nil {
		sc.t.Fatal(err)
	}
	img := imagetest.Image(v1.Config{Env: []string{"PATH=/bin"}}, append(layers, imagetest.Layer(types.OCILayer, imagetest.File("noise", 0o644, string(noise))))...)
	ref := imagetest.Push(sc.t, img, fmt.Sprintf("%s/pull/%s:%d", sc.slow.host, strings.ToLower(sc.name), time.Now().UnixNano()))
	sc.slow.perBlock.Store(int64(20 * time.Millisecond))
	return ref
}

// rehearse plays the phase without a kill and returns how long it takes.
func (sc *scene) rehearse(ph phase) time.Duration {
	sc.t.Helper()
	sc.open()
	ph.before(sc)
	begun := time.Now()
	if err := ph.act(within(sc.t, time.Minute), sc); err != nil {
		sc.t.Fatalf("without a kill: %v", err)
	}
	took := time.Since(begun)
	if ph.name != "remove" {
		sc.f.must("box_remove", args{"box": sc.name, "force": true}, nil)
	}
	sc.f.close()
	sc.w.audit(sc.by.ids())
	return took
}

// play plays the phase, kills the victim at a moment of it, and looks at what
// is left.
func (sc *scene) play(ph phase, victim string, moment time.Duration) {
	sc.t.Helper()
	sc.open()
	ph.before(sc)
	done := make(chan error, 1)
	go func() { done <- ph.act(within(sc.t, time.Minute), sc) }()
	time.Sleep(moment)
	killed, err := sc.strike(victim, done)
	if err == nil {
		select {
		case err = <-done:
		case <-time.After(time.Minute):
			sc.t.Fatalf("the call does not end after the %s was killed", victim)
		}
	} else if errors.Is(err, errEnded) {
		err = nil
	}
	what := fmt.Sprintf("%s killed (%v) %v into %s: %v", victim, killed, moment.Round(time.Millisecond), ph.name, err)
	sc.t.Log(what)
	actionable(sc.t, err)

	fresh := sc.w.front()
	defer fresh.close()
	sc.expectState(ph, fresh, victim)
	if ph.after != nil {
		ph.after(sc, fresh, victim)
	}
	sc.expectUsable(fresh)
	if victim != "front-end" {
		if _, ok := sc.f.boxInfo(sc.name); !ok { // its own front end goes on too
			sc.t.Errorf("the front end that was there does not see the box")
		}
		sc.f.close()
	}
	fresh.must("box_remove", args{"box": sc.name, "force": true}, nil)
	sc.by.expect(fresh)
	sc.w.audit(sc.by.ids())
	if sc.t.Failed() {
		sc.t.Log("this was: " + what)
	}
}

// errEnded says that the phase ended before there was anybody to kill.
var errEnded = errors.New("the phase ended")

// strike kills the victim as soon as it is there. It returns errEnded if the
// phase ended before.
func (sc *scene) strike(victim string, done chan error) (killed bool, err error) {
	for {
		if p, ok := sc.victim(victim); ok {
			if victim == "front-end" {
				sc.f.kill()
				return true, nil
			}
			_ = syscall.Kill(p.PID, syscall.SIGKILL) // it may have just ended by itself
			return true, nil
		}
		select {
		case err := <-done:
			if err == nil {
				err = errEnded
			}
			return false, err
		case <-time.After(time.Millisecond):
		}
	}
}

func (sc *scene) victim(name string) (proc.ID, bool) {
	switch name {
	case "front-end":
		return proc.ID{PID: sc.f.cmd.Process.Pid}, true
	case "agent":
		for _, p := range sc.w.find("sandbox", sc.id) {
			if id, ok := agentOf(p.id.PID); ok {
				return id, true
			}
		}
	default:
		for _, p := range sc.w.find(name, map[bool]string{true: sc.id}[name != "daemon"]) {
			return p.id, true
		}
	}
	return proc.ID{}, false
}

// agentOf returns the host process that holds the agent of a sandbox: the
// second that the sandbox has started. The first is the template of the others.
func agentOf(sandbox int) (proc.ID, bool) {
	var all []proc.ID
	for _, pid := range childrenOf(sandbox) {
		if id, err := proc.Of(pid); err == nil {
			all = append(all, id)
		}
	}
	slices.SortFunc(all, func(a, b proc.ID) int { return a.PID - b.PID })
	if len(all) < 2 {
		return proc.ID{}, false
	}
	return all[1], true
}

// expectState expects a state that is right, and soon one that does not change
// by itself, with a machine exactly where the state says so.
func (sc *scene) expectState(ph phase, f *front, victim string) {
	sc.t.Helper()
	right := ph.states(victim)
	var seen boxView
	var there bool
	ok := eventually(20*time.Second, func() bool {
		seen, there = f.boxInfo(sc.name)
		return slices.Contains(right, boxlite.BoxStatus(seen.Status)) && seen.Phase == ""
	})
	if !ok {
		sc.t.Fatalf("the box is %+v (there: %v), want one of %q", seen, there, right)
	}
	if seen.Status == "stopped" && seen.Reason == "" {
		sc.t.Errorf("a stopped box has no reason")
	}
	if !there || victim == "agent" { // what lies still in the box does not notice that its agent is dead
		return
	}
	d := sc.w.box(sc.name)
	if machines := sc.w.find("sandbox", string(d.ID)); d.Status.IsActive() != (len(machines) == 1) || d.Status.IsActive() != (d.PID != 0) {
		if !eventually(5*time.Second, func() bool {
			return sc.w.box(sc.name).Status.IsActive() == (len(sc.w.find("sandbox", string(d.ID))) == 1)
		}) {
			sc.t.Errorf("the box is %s with machine %d, and %d machines run", d.Status, d.PID, len(machines))
		}
	}
}

// expectUsable expects that the box runs commands, or that there is none and
// one of that name can be made.
func (sc *scene) expectUsable(f *front) {
	sc.t.Helper()
	if _, ok := f.boxInfo(sc.name); !ok {
		f.create(sc.name, nil)
	}
	e, err := sc.run(f, "echo used-$((6*7))")
	if err != nil || e.Stdout.Text != "used-42\n" || e.code() != 0 {
		sc.t.Fatalf("afterwards a command is %+v, %v", e, err)
	}
}

// afterExec expects that the command went on where its box did, with all of its
// output, and that it is known to be lost where it did not.
func afterExec(sc *scene, f *front, victim string) {
	sc.t.Helper()
	var d struct{ Executions []execView }
	f.must("box_get", args{"box": sc.name}, &d)
	if len(d.Executions) == 0 {
		if outside(victim) {
			sc.t.Errorf("the command is not known any more")
		}
		return
	}
	var e execView
	f.must("exec_read", args{"exec_id": d.Executions[0].ExecID, "until": "exit"}, &e)
	switch {
	case outside(victim):
		if e.code() != 0 || e.Stdout.Text != ten || e.Lost != "" {
			sc.t.Errorf("the command that went on is %+v", e)
		}
		if pid := sc.w.box(sc.name).PID; pid != sc.pid {
			sc.t.Errorf("the machine is %d, was %d", pid, sc.pid)
		}
		sc.expectFile(f)
	case e.Status != "exited":
		sc.t.Errorf("the command whose box is gone is %+v", e)
	case e.Lost == "" && e.Stdout.Text != ten:
		sc.t.Errorf("the command is neither whole nor lost: %+v", e)
	}
}

// A bystander is a box in which a command counts, whatever happens to others.
type bystander struct {
	w    *world
	id   string
	pid  int
	exec string
}

func newBystander(w *world) *bystander {
	f := w.front()
	defer f.close()
	b := &bystander{w: w, id: f.create("bystander", nil).BoxID}
	b.exec = f.background("bystander", "i=0; while :; do echo $i; i=$((i+1)); sleep 0.1; done")
	b.pid = w.box(b.id).PID
	return b
}

func (b *bystander) ids() []string { return []string{b.id} }

// expect expects that the box has noticed nothing.
func (b *bystander) expect(f *front) {
	b.w.t.Helper()
	if d := b.w.box(b.id); d.PID != b.pid || d.Status != boxlite.StatusRunning {
		b.w.t.Errorf("the other box is %s with machine %d, was running with %d", d.Status, d.PID, b.pid)
	}
	if e := f.sh(b.id, "echo here"); e.Stdout.Text != "here\n" {
		b.w.t.Errorf("the other box answers %+v", e)
	}
}

// end reads all that the bystander has counted, and removes it.
func (b *bystander) end() {
	b.w.t.Helper()
	f := b.w.front()
	defer f.close()
	data, e := f.read(b.exec, 0)
	lines := strings.Split(strings.TrimSuffix(string(data), "\n"), "\n")
	for i, line := range lines {
		if line != strconv.Itoa(i) {
			b.w.t.Errorf("line %d of the other box's count is %q", i, line)
			break
		}
	}
	if e.Status != "running" || len(lines) < 10 {
		b.w.t.Errorf("the other box's command is %s after %d lines", e.Status, len(lines))
	}
	f.must("box_remove", args{"box": b.id, "force": true}, nil)
}
