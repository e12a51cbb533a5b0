package e2e

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// configure writes the operator's configuration, as an editor does.
func (w *world) configure(text string) {
	w.t.Helper()
	path := filepath.Join(w.home, "config.toml")
	err := os.MkdirAll(w.home, 0o700)
	if err == nil {
		err = os.WriteFile(path+"~", []byte(text), 0o600)
	}
	if err == nil {
		err = os.Rename(path+"~", path)
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// refusedBy reports whether an agent was told which setting of the operator's
// refuses what it asked for.
func refusedBy(t *testing.T, err error, setting string) bool {
	t.Helper()
	if err == nil {
		return false
	}
	actionable(t, err)
	var e *toolError
	if !errors.As(err, &e) || !strings.Contains(e.text, setting+" in config.toml") {
		t.Errorf("%v, want a refusal by %s", err, setting)
		return false
	}
	return true
}

// As much runs as may, however many ask at once, and a daemon that was killed
// changes nothing about that.
func TestLimitsOfAPrincipalHoldUnderConcurrency(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.configure("[limits]\nmemory_mib = 256\nexecutions = 3\n")
	f, other := w.front(), w.front()
	const boxes, memory = 6, "limits.memory_mib = 256"
	ids := make([]string, boxes)
	for i := range boxes {
		ids[i] = f.create(fmt.Sprintf("box-%d", i), args{"start": false}).BoxID
	}
	var running []string
	var mu sync.Mutex
	var wg sync.WaitGroup
	for i, id := range ids {
		f := []*front{f, other}[i%2]
		wg.Go(func() {
			var b boxView
			err := f.call(within(t, 2*time.Minute), "box_start", args{"box": id}, &b)
			for err == nil && b.Status != "running" {
				err = f.call(within(t, 2*time.Minute), "box_start", args{"box": id}, &b)
			}
			if !refusedBy(t, err, memory) && err == nil {
				mu.Lock()
				defer mu.Unlock()
				running = append(running, id)
			}
		})
	}
	wg.Wait()
	if len(running) != 2 {
		t.Fatalf("%d boxes of 128 MiB run, of 256 MiB there may be: %v", len(running), running)
	}

	var started []string
	for i := range 12 {
		f := []*front{f, other}[i%2]
		wg.Go(func() {
			var e execView
			err := f.call(within(t, time.Minute), "box_exec", args{"box": running[i%2], "command": "sleep 1000", "wait_seconds": 0}, &e)
			if !refusedBy(t, err, "limits.executions = 3") && err == nil {
				mu.Lock()
				defer mu.Unlock()
				started = append(started, e.ExecID)
			}
		})
	}
	wg.Wait()
	if len(started) != 3 {
		t.Fatalf("%d commands run, 3 may", len(started))
	}
	w.kill(w.daemon())
	if err := f.call(t.Context(), "box_exec", args{"box": running[0], "command": "true"}, nil); !refusedBy(t, err, "limits.executions = 3") {
		t.Errorf("another daemon has another limit: %v", err)
	}
	f.must("exec_stop", args{"exec_id": started[0]}, nil)
	if e := f.sh(running[0], "echo there is room"); e.Stdout.Text != "there is room\n" {
		t.Errorf("%+v", e)
	}

	idle := ids[slices.IndexFunc(ids, func(id string) bool { return !slices.Contains(running, id) })]
	for _, call := range []struct {
		tool string
		a    args
	}{
		{"box_exec", args{"box": idle, "command": "true"}},
		{"file_read", args{"box": idle, "path": "/etc/passwd"}},
		{"file_write", args{"box": idle, "path": "/x", "content": "x"}},
	} { // each would start it
		if err := f.call(within(t, time.Minute), call.tool, call.a, nil); !refusedBy(t, err, memory) {
			t.Errorf("%s: %v", call.tool, err)
		}
	}
	for _, id := range running {
		f.must("box_stop", args{"box": id}, nil)
	}
	if e := f.sh(idle, "echo started"); e.Stdout.Text != "started\n" {
		t.Errorf("%+v", e)
	}
}

// A lower ceiling reaches boxes that run, and a higher one gives back what was
// taken; a mistake changes nothing; and a box receives what it may.
func TestTheCeilingOfARunningBoxFollowsTheConfiguration(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const much = 3 << 20
	little, large := serveBytes(t, 1), serveBytes(t, much)
	ceiling := func(allow string) {
		w.configure(fmt.Sprintf("[network]\nallow_net = [%s, \"large.test:80\"]\nmax_received_mib = 2\nstatic = [\"a.test:80=%s\", \"b.test:80=%s\", \"large.test:80=%s\"]\n",
			allow, little, little, large))
	}
	ceiling(`"a.test:80", "b.test:80"`)
	image := w.debian()
	f := w.front()
	box := f.create("net", args{"image": image, "memory_mib": 256, "allow_net": []string{"a.test:80", "b.test:80", "large.test:80"}}).BoxID
	reaches := func(host string) bool {
		t.Helper()
		return f.sh(box, `python3 -c 'import socket; socket.create_connection(("`+host+`", 80), 5).recv(1)'`).code() == 0
	}
	if !reaches("a.test") || !reaches("b.test") {
		t.Fatal("the box does not reach what it may")
	}
	ceiling(`"b.test:80"`)
	if !eventually(10*time.Second, func() bool { return !reaches("a.test") }) {
		t.Error("the box still reaches what the ceiling does not have any more")
	}
	if !reaches("b.test") {
		t.Error("the box lost what the ceiling still has")
	}
	if _, err := f.tryCreate(within(t, time.Minute), "wide", args{"allow_net": []string{"a.test:80"}}); !refusedBy(t, err, "network.allow_net") {
		t.Errorf("a new box: %v", err)
	}
	if err := f.call(t.Context(), "box_update", args{"box": box, "allow_net": []string{"a.test:80", "large.test:80"}}, nil); err != nil || reaches("a.test") || reaches("b.test") {
		t.Errorf("narrowed to what the ceiling does not have, it reaches it, or: %v", err)
	}
	ceiling(`"a.test:80", "nonsense://"`)
	if out, err := w.cli("config", "check"); err == nil || !strings.Contains(out+err.Error(), "config.toml:2: network.allow_net") {
		t.Errorf("config check: %s, %v", out, err)
	}
	ceiling(`"a.test:80"`)
	if !eventually(10*time.Second, func() bool { return reaches("a.test") }) {
		t.Error("the box does not reach what the ceiling has again")
	}
	e := f.sh(box, `python3 -c '
import socket
s, n = socket.create_connection(("large.test", 80), 5), 0
try:
    while data := s.recv(65536): n += len(data)
except OSError: pass
print(n)'`)
	var n int
	if _, err := fmt.Sscan(e.Stdout.Text, &n); err != nil || n < 1<<20 || n > 2<<20 {
		t.Errorf("of %d bytes the box received %s (%s), and may receive 2 MiB", much, e.Stdout.Text, e.Stderr.Text)
	}
}

// serveBytes returns the address of a host that sends so many bytes to whoever
// connects.
func serveBytes(t *testing.T, n int) string {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() { l.Close(); wg.Wait() })
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				_, _ = c.Write(make([]byte, n)) // the box may be cut off
			})
		}
	})
	return l.Addr().String()
}

// What the operator takes away is gone for clients that are connected, whatever
// their own flags say; these only narrow.
func TestToolsFollowTheConfigurationAndTheFlags(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.configure("[tools]\ndisabled = [\"files\"]\n")
	f, err := w.tryFront(w.command("serve", "--toolsets", "boxes,files"))
	if err != nil {
		t.Fatal(err)
	}
	list := func(f *front) string {
		t.Helper()
		l, err := f.session.ListTools(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, tool := range l.Tools {
			names = append(names, tool.Name)
		}
		return strings.Join(names, " ")
	}
	const boxes = "box_create box_list box_get box_start box_stop box_remove box_update"
	if got := list(f); got != boxes {
		t.Errorf("tools: %s", got)
	}
	box := f.create("dev", args{"start": false}).BoxID
	if err := f.call(t.Context(), "file_read", args{"box": box, "path": "/x"}, nil); !refusedBy(t, err, "tools.toolsets or tools.disabled") {
		t.Errorf("file_read: %v", err)
	}
	looking, err := w.tryFront(w.command("serve", "--toolsets", "boxes", "--read-only"))
	if err != nil {
		t.Fatal(err)
	}
	if got := list(looking); got != "box_list box_get" {
		t.Errorf("tools with --read-only: %s", got)
	}
	if err := looking.call(t.Context(), "box_remove", args{"box": box}, nil); err == nil {
		t.Error("box_remove with --read-only")
	}

	w.configure("[tools]\nread_only = true\n")
	if !eventually(10*time.Second, func() bool { return list(f) == "box_list box_get file_read" }) {
		t.Errorf("tools: %s", list(f))
	}
	if err := f.call(t.Context(), "box_remove", args{"box": box}, nil); !refusedBy(t, err, "tools.read_only = true") {
		t.Errorf("box_remove: %v", err)
	}
	if _, ok := f.boxInfo("dev"); !ok {
		t.Error("the box cannot be seen")
	}
	if out, err := w.cli("config", "show"); err != nil || !strings.Contains(out, "tools.read_only") {
		t.Errorf("config show: %s, %v", out, err)
	}

	if !eventually(10*time.Second, func() bool { // the daemon looks for itself
		text, err := os.ReadFile(filepath.Join(w.home, "config.in-force.toml"))
		return err == nil && string(text) == "[tools]\nread_only = true\n"
	}) {
		t.Error("the daemon did not read the file again")
	}
	w.configure("[tools]\nread_onl = false\n") // a mistake
	if _, err := w.cli("config", "show"); err == nil || !strings.Contains(err.Error(), "config.toml:2: tools.read_onl") {
		t.Errorf("config show: %v", err)
	}
	if out, err := w.cli("doctor"); err == nil || !strings.Contains(out+err.Error(), "config.toml:2: tools.read_onl") {
		t.Errorf("doctor: %s, %v", out, err)
	}
	late, err := w.tryFront(w.command("serve")) // one that starts now has what counts
	if err != nil {
		t.Fatal(err)
	}
	if err := late.call(t.Context(), "box_remove", args{"box": box}, nil); !refusedBy(t, err, "tools.read_only = true") {
		t.Errorf("box_remove after a mistake: %v", err)
	}
	if !eventually(10*time.Second, func() bool {
		r, err := f.session.CallTool(t.Context(), &mcp.CallToolParams{Name: "box_list", Arguments: args{}})
		return err == nil && strings.Contains(text(r), "there is a mistake in the operator's configuration")
	}) {
		t.Error("the agent is not told that the operator's word is an old one")
	}
	w.configure("")
	if !eventually(10*time.Second, func() bool { return f.call(t.Context(), "box_remove", args{"box": box}, nil) == nil }) {
		t.Error("the operator's word stays, although it was taken back")
	}
}
