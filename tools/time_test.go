package tools_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/tools"
)

// In a bubble time is fake: what takes minutes here takes none.

func bubble(t *testing.T, f func(t *testing.T)) { synctest.Test(t, f) }

// within fails the test if fn takes longer than a client waits.
func within(t *testing.T, limit time.Duration, what string, fn func()) {
	t.Helper()
	begun := time.Now()
	fn()
	if d := time.Since(begun); d > limit {
		t.Errorf("%s took %s, more than %s", what, d, limit)
	}
}

func (w *wire) call(id int, name, args string) (a answer) {
	w.t.Helper()
	w.send(toolCall(id, name, args, ""))
	within(w.t, 50*time.Second, name+" "+args, func() { a = w.answer() })
	if a.Error != nil || string(a.ID) != fmt.Sprint(id) {
		w.t.Fatalf("%s %s: %+v", name, args, a)
	}
	return a
}

func bubbleWire(t *testing.T, f *fake) *wire {
	w := newWire(t, newServer(t, f, tools.Options{}))
	w.hello()
	return w
}

func TestLongCommandAnswersInTimeAndGoesOn(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake()
		newBox(t, f, "dev")
		w := bubbleWire(t, f)
		a := w.call(1, "box_exec", `{"box":"dev","command":"echo a; sleep 100; echo b","wait_seconds":50}`)
		if a.Result.Structured["status"] != "running" || !strings.Contains(a.text(), "still running") || !strings.Contains(a.text(), "exec_read") {
			t.Fatalf("after the wait: %s", a.text())
		}
		id := a.Result.Structured["exec_id"].(string)
		a = w.call(2, "exec_read", `{"exec_id":"`+id+`","stdout_offset":2,"wait_seconds":50}`)
		if a.Result.Structured["status"] != "running" {
			t.Errorf("at 95 s: %s", a.text())
		}
		a = w.call(3, "exec_read", `{"exec_id":"`+id+`","stdout_offset":2,"wait_seconds":50}`)
		if a.Result.Structured["status"] != "exited" && !strings.Contains(a.text(), "b\n") {
			t.Errorf("at 101 s: %s", a.text())
		}
	})
}

func TestTimeoutEndsTheCommand(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake()
		newBox(t, f, "dev")
		w := bubbleWire(t, f)
		a := w.call(1, "box_exec", `{"box":"dev","command":"sleep 100","timeout_seconds":5}`)
		if a.Result.IsError || a.Result.Structured["timed_out"] != true {
			t.Errorf("%s", a.text())
		}
		a = w.call(2, "box_exec", `{"box":"dev","command":"sleep 5000","wait_seconds":0}`)
		id := a.Result.Structured["exec_id"].(string)
		time.Sleep(30*time.Minute + time.Second)
		a = w.call(3, "exec_read", `{"exec_id":"`+id+`"}`)
		if a.Result.Structured["timed_out"] != true {
			t.Errorf("after the default of 30 minutes: %s", a.text())
		}
	})
}

func TestLongStartAnswersInTimeAndGoesOn(t *testing.T) {
	for _, stubborn := range []bool{false, true} {
		bubble(t, func(t *testing.T) {
			f := newFake()
			f.startTakes, f.ignoreCtx = 70*time.Second, stubborn
			w := bubbleWire(t, f)
			a := w.call(1, "box_create", `{"name":"dev","image":"big"}`)
			s := a.Result.Structured
			if a.Result.IsError || s["status"] != "starting" || s["box_id"] == "" || !strings.Contains(a.text(), "box_start") || !strings.Contains(a.text(), "pulling image 50 %") {
				t.Fatalf("create: %s %v", a.text(), s)
			}
			id := s["box_id"].(string)
			a = w.call(2, "box_exec", `{"box":"`+id+`","command":"echo hi"}`)
			if a.Result.IsError || a.Result.Structured["status"] != "exited" {
				t.Errorf("exec, which waits for the start under way: %s", a.text())
			}
			if n := f.count("start"); n != 2 { // the one under way, and the look that Run takes in the end
				t.Errorf("%d starts; the command waits for the one there is, and asks for none", n)
			}
		})
	}
}

// Looking whether the box runs costs a round trip, which a command in a running
// box need not pay.
func TestCommandInARunningBoxIsOneCall(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake()
		w := bubbleWire(t, f)
		id, _ := w.call(1, "box_create", `{"name":"dev","image":"i"}`).Result.Structured["box_id"].(string)
		before := f.count("start")
		if a := w.call(2, "box_exec", `{"box":"`+id+`","command":"echo hi"}`); a.Result.Structured["status"] != "exited" {
			t.Fatalf("%s", a.text())
		}
		if n := f.count("start") - before; n != 0 || f.count("run") != 1 {
			t.Errorf("%d starts and %d runs for a command in a running box", n, f.count("run"))
		}
		w.call(3, "box_stop", `{"box":"`+id+`"}`)
		if a := w.call(4, "box_exec", `{"box":"`+id+`","command":"echo hi"}`); a.Result.Structured["status"] != "exited" {
			t.Errorf("in a stopped box: %s", a.text())
		}
		if n := f.count("start") - before; n == 0 {
			t.Error("a command in a stopped box did not start it")
		}
	})
}

func TestCommandIsNotRunWhenTheStartTakesTooLong(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake()
		f.startTakes = 200 * time.Second
		newBox(t, f, "dev")
		w := bubbleWire(t, f)
		for i := range 3 {
			a := w.call(i, "box_exec", `{"box":"dev","command":"echo hi"}`)
			if a.Result.IsError || a.Result.Structured["status"] != "starting_box" || !strings.Contains(a.text(), "NOT been run") {
				t.Fatalf("%s", a.text())
			}
		}
		if f.count("run") != 0 || f.count("start") != 1 {
			t.Errorf("%d runs and %d starts; want none, and one that all wait for", f.count("run"), f.count("start"))
		}
		for _, call := range []string{"file_read", "file_write"} {
			a := w.call(9, call, map[string]string{"file_read": `{"box":"dev","path":"/x"}`, "file_write": `{"box":"dev","path":"/x","content":""}`}[call])
			if call == "file_read" && (!a.Result.IsError || !strings.Contains(a.text(), "still starting")) {
				t.Errorf("%s: %s", call, a.text())
			}
		}
	})
}

// Whatever the service does, a call answers in time and says what to do.
func TestHangingServiceHangsNoCall(t *testing.T) {
	const exec = "bx0000000001-x7Y8z9A0"
	for _, test := range []struct{ op, tool, args, says string }{
		{"create", "box_create", `{}`, "box_list"},
		{"list", "box_list", `{}`, "again"},
		{"get", "box_get", `{"box":"dev"}`, "again"},
		{"start", "box_start", `{"box":"dev"}`, "box_start"},
		{"stop", "box_stop", `{"box":"dev"}`, "box_get"},
		{"remove", "box_remove", `{"box":"dev"}`, "box_list"},
		{"start", "box_exec", `{"box":"dev","command":"x"}`, "NOT been run"},
		{"run", "box_exec", `{"box":"dev","command":"x"}`, "exec_read with exec_id=bx0000000001-"},
		{"output", "box_exec", `{"box":"dev","command":"x"}`, "again"},
		{"output", "exec_read", `{"exec_id":"` + exec + `"}`, "again"},
		{"write", "exec_write", `{"exec_id":"` + exec + `","data":"x"}`, "again"},
		{"stopexec", "exec_stop", `{"exec_id":"` + exec + `"}`, "exec_read"},
		{"signal", "exec_stop", `{"exec_id":"` + exec + `","signal":"INT"}`, "again"},
		{"readfile", "file_read", `{"box":"dev","path":"/x"}`, "again"},
		{"writefile", "file_write", `{"box":"dev","path":"/x","content":""}`, "before writing it again"},
		{"images", "image_list", `{}`, "again"},
	} {
		t.Run(test.tool+"_"+test.op, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				f := newFake()
				newBox(t, f, "dev")
				release := make(chan struct{})
				f.hook = func(op string) error {
					if op == test.op {
						<-release
						return boxlite.Errorf(boxlite.Internal, op, "", "released")
					}
					return nil
				}
				w := bubbleWire(t, f)
				a := w.call(1, test.tool, test.args)
				if !strings.Contains(a.text(), test.says) {
					t.Errorf("says %q, want %q in it", a.text(), test.says)
				}
				close(release)
				synctest.Wait()
			})
		})
	}
}

// A client's cancel ends the wait and nothing else, at every phase.
func TestCancelEndsTheWaitOnly(t *testing.T) {
	for _, test := range []struct {
		phase string
		after time.Duration
		runs  int
	}{
		{"start", 5 * time.Second, 0},
		{"command", 15 * time.Second, 1},
	} {
		t.Run(test.phase, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				f := newFake()
				f.startTakes = 10 * time.Second
				newBox(t, f, "dev")
				w := bubbleWire(t, f)
				w.send(toolCall(7, "box_exec", `{"box":"dev","command":"sleep 60; echo end"}`, `{"progressToken":"p"}`))
				time.Sleep(test.after)
				w.send(`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":7}}`)
				synctest.Wait()
				var told string
				for len(w.lines) > 0 {
					a := w.answer()
					if a.Method != "notifications/progress" {
						t.Fatalf("an answer to a cancelled request: %+v", a)
					}
					if a.Params.Message != "" && strings.Contains(a.Params.Message, "exec_id ") {
						_, told, _ = strings.Cut(a.Params.Message, "exec_id ")
					}
				}
				time.Sleep(100 * time.Second)
				if len(w.lines) > 0 {
					t.Errorf("after the cancel: %s", w.next())
				}
				if n := f.count("run"); n != test.runs {
					t.Errorf("%d runs, want %d", n, test.runs)
				}
				d, err := f.GetBox(t.Context(), "dev")
				if err != nil || !d.Status.IsRunning() {
					t.Errorf("the start did not go on: %+v, %v", d.BoxInfo, err)
				}
				if test.runs == 0 {
					return
				}
				if told != string(d.Executions[0].ID) {
					t.Errorf("told %q of execution %s", told, d.Executions[0].ID)
				}
				if a := w.call(8, "exec_read", `{"exec_id":"`+told+`"}`); !strings.Contains(a.text(), "end") {
					t.Errorf("the command did not go on: %s", a.text())
				}
			})
		})
	}
}

func TestProgressComesSoonAndRegularly(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake()
		newBox(t, f, "dev")
		w := bubbleWire(t, f)
		begun := time.Now()
		w.send(toolCall(1, "box_exec", `{"box":"dev","command":"sleep 20"}`, `{"progressToken":42}`))
		var last float64
		previous := begun
		for n := 0; ; n++ {
			a := w.answer()
			now := time.Now()
			if a.Method == "" {
				if n < 5 {
					t.Errorf("%d notifications in 20 s", n)
				}
				break
			}
			if a.Params.Token != 42.0 || a.Params.Progress <= last || a.Params.Message == "" {
				t.Errorf("progress %d: %+v", n, a.Params)
			}
			if n == 0 && now.Sub(begun) > time.Second || now.Sub(previous) > 5*time.Second {
				t.Errorf("progress %d came %s after the one before", n, now.Sub(previous))
			}
			last, previous = a.Params.Progress, now
		}
		time.Sleep(time.Minute)
		if len(w.lines) > 0 {
			t.Errorf("after the answer: %s", w.next())
		}
	})
}

func TestNoProgressWithoutToken(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake()
		newBox(t, f, "dev")
		w := bubbleWire(t, f)
		if a := w.call(1, "box_exec", `{"box":"dev","command":"sleep 20"}`); a.Method != "" {
			t.Errorf("%+v", a)
		}
	})
}

// What was asked for before the client closed its end is answered.
func TestEndOfInputAnswersWhatWasAsked(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake()
		newBox(t, f, "dev")
		w := bubbleWire(t, f)
		w.send(toolCall(1, "box_exec", `{"box":"dev","command":"sleep 20; echo end"}`, ""))
		w.in.Close()
		if a := w.answer(); !strings.Contains(a.text(), "end") {
			t.Errorf("%s", a.text())
		}
		if err := <-w.served; err != nil {
			t.Error(err)
		}
		w.served <- nil
	})
}

func TestCancelledContextIsACleanAndQuickExit(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake()
		newBox(t, f, "dev")
		w := bubbleWire(t, f)
		w.send(toolCall(1, "box_exec", `{"box":"dev","command":"sleep 1000"}`, ""))
		synctest.Wait()
		w.cancel()
		begun := time.Now()
		if err := <-w.served; err != nil || time.Since(begun) > 5*time.Second {
			t.Errorf("ServeStdio: %v after %s", err, time.Since(begun))
		}
		w.served <- nil
	})
}

func TestCloseEndsAStartUnderWay(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake()
		f.startTakes = time.Hour
		srv, err := tools.NewServer(tools.Always(f), tools.Options{})
		if err != nil {
			t.Fatal(err)
		}
		w := newWire(t, srv)
		w.hello()
		w.call(1, "box_create", `{"name":"dev"}`)
		w.in.Close()
		<-w.served
		w.served <- nil
		within(t, time.Second, "Close", func() {
			if err := srv.Close(); err != nil {
				t.Error(err)
			}
		})
		d, err := f.GetBox(context.Background(), "dev")
		if err != nil || d.Status != boxlite.StatusConfigured {
			t.Errorf("the box is %s, %v; it must be kept", d.Status, err)
		}
	})
}
