package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
)

// A pipe is a front end without a client library: what it says is looked at
// line by line.
type pipe struct {
	t     testing.TB
	cmd   *exec.Cmd
	in    io.WriteCloser
	lines chan string // closed at the end of output
}

func (w *world) pipe() *pipe {
	w.t.Helper()
	p := &pipe{t: w.t, cmd: w.command("serve"), lines: make(chan string, 1000)}
	out, err := p.cmd.StdoutPipe()
	if err == nil {
		p.in, err = p.cmd.StdinPipe()
	}
	if err == nil {
		err = p.cmd.Start()
	}
	if err != nil {
		w.t.Fatal(err)
	}
	go func() {
		defer close(p.lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			p.lines <- s.Text()
		}
	}()
	w.t.Cleanup(func() { p.end() })
	return p
}

// end closes the input, and returns what was said since and how it exited.
func (p *pipe) end() (rest []string, err error) {
	if p.cmd.ProcessState != nil {
		return nil, nil
	}
	p.in.Close()
	for line := range p.lines {
		rest = append(rest, line)
	}
	return rest, p.cmd.Wait()
}

// A message is any JSON-RPC message.
type message struct {
	Version string          `json:"jsonrpc"`
	ID      json.RawMessage `json:"id"`
	Method  string          `json:"method"`
	Result  json.RawMessage `json:"result"`
	Error   json.RawMessage `json:"error"`
}

func (p *pipe) check(line string) message {
	p.t.Helper()
	var m message
	if err := json.Unmarshal([]byte(line), &m); err != nil || m.Version != "2.0" || m.Method == "" && m.ID == nil {
		p.t.Errorf("standard output has a line that is no JSON-RPC: %.200q, %v", line, err)
	}
	return m
}

// ask sends a request and returns the answer.
func (p *pipe) ask(id, request string) message {
	p.t.Helper()
	if _, err := io.WriteString(p.in, request+"\n"); err != nil {
		p.t.Fatal(err)
	}
	timeout := time.After(time.Minute)
	for {
		select {
		case line, ok := <-p.lines:
			if !ok {
				p.t.Fatalf("no answer to %s", request)
			}
			if m := p.check(line); string(m.ID) == id && m.Method == "" {
				return m
			}
		case <-timeout:
			p.t.Fatalf("no answer to %s within a minute", request)
		}
	}
}

const initialize = `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"pipe","version":"1"}}}`

func TestAColdStartAnswersWithinASecond(t *testing.T) {
	t.Parallel()
	best := time.Hour
	for range 5 { // other tests run beside this one
		w := newWorld(t)
		begun := time.Now()
		p := w.pipe()
		p.ask("1", initialize)
		io.WriteString(p.in, `{"jsonrpc":"2.0","method":"notifications/initialized"}`+"\n")
		m := p.ask("2", `{"jsonrpc":"2.0","id":2,"method":"tools/list"}`)
		best = min(best, time.Since(begun))
		if !strings.Contains(string(m.Result), `"box_exec"`) {
			t.Errorf("tools/list: %s %s", m.Result, m.Error)
		}
		if rest, err := p.end(); err != nil || len(rest) != 0 {
			t.Errorf("at the end of input: %q, %v", rest, err)
		}
	}
	t.Logf("answered after %v", best)
	if best > time.Second {
		t.Errorf("answered after %v, want less than a second", best)
	}
}

// TestStandardOutputIsTheProtocol goes through everything that makes noise: a
// box that prints, progress, errors, nonsense for input.
func TestStandardOutputIsTheProtocol(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.env = append(w.env, "BOXLITE_LOG_LEVEL=debug")
	p := w.pipe()
	p.ask("1", initialize)
	io.WriteString(p.in, `{"jsonrpc":"2.0","method":"notifications/initialized"}`+"\n")
	p.ask("3", `{"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"name":"box_create","arguments":{"name":"n","image":"`+w.image+`","memory_mib":128},"_meta":{"progressToken":"x"}}}`)
	m := p.ask("4", `{"jsonrpc":"2.0","id":4,"method":"tools/call","params":{"name":"box_exec","arguments":{"box":"n","command":"printf '\\033[2J{\"jsonrpc\":1}\\n\\r\\0'; echo >&2 err"}}}`)
	if !strings.Contains(string(m.Result), `"exit_code":0`) {
		t.Errorf("box_exec: %s %s", m.Result, m.Error)
	}
	p.ask("5", `{"jsonrpc":"2.0","id":5,"method":"tools/call","params":{"name":"box_get","arguments":{"box":"none"}}}`)
	p.ask("6", `{"jsonrpc":"2.0","id":6,"method":"tools/call","params":{"name":"no_tool","arguments":{}}}`)
	p.ask("7", `{"jsonrpc":"2.0","id":7,"method":"no/method"}`)
	io.WriteString(p.in, "this is no JSON\n")
	p.ask("8", `{"jsonrpc":"2.0","id":8,"method":"ping"}`)
	rest, err := p.end()
	if err != nil {
		t.Errorf("at the end of input: %v", err)
	}
	for _, line := range rest {
		p.check(line)
	}
}

func TestACancelledExecGoesOn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	f := w.front()
	f.create("c", nil)
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(400*time.Millisecond, cancel)
	err := f.call(ctx, "box_exec", args{"box": "c", "command": "for i in 0 1 2 3 4 5 6 7 8 9; do echo $i; sleep 0.15; done"}, nil)
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("a cancelled call returned %v", err)
	}
	var d struct{ Executions []execView }
	f.must("box_get", args{"box": "c"}, &d)
	if len(d.Executions) != 1 || d.Executions[0].Status != "running" {
		t.Fatalf("executions after the cancel: %+v", d.Executions)
	}
	var e execView
	f.must("exec_read", args{"exec_id": d.Executions[0].ExecID, "until": "exit"}, &e)
	if e.code() != 0 || e.Stdout.Text != ten {
		t.Errorf("the command ended as %+v", e)
	}
}

// TestACommandOutlivesFrontEndAndDaemon kills both while a command runs that
// reads its input, and goes on talking to it.
func TestACommandOutlivesFrontEndAndDaemon(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	f := w.front()
	f.create("o", nil)
	pid := w.box("o").PID
	var e execView
	f.must("box_exec", args{"box": "o", "command": "i=0; while read line; do echo \"got $line\"; done; seq 100000; exit 7", "keep_stdin_open": true, "wait_seconds": 0}, &e)
	f.must("exec_write", args{"exec_id": e.ExecID, "data": "one\n"}, nil)
	f.kill()
	w.kill(w.daemon())
	f = w.front()
	f.must("exec_write", args{"exec_id": e.ExecID, "data": "two\n"}, nil)
	w.kill(w.daemon()) // this front end stays
	f.must("exec_write", args{"exec_id": e.ExecID, "data": "three\n", "eof": true}, nil)
	var end execView
	f.must("exec_read", args{"exec_id": e.ExecID, "until": "exit"}, &end)
	out, _ := f.read(e.ExecID, 0)
	if end.code() != 7 || !strings.HasPrefix(string(out), "got one\ngot two\ngot three\n1\n2\n") || !strings.HasSuffix(string(out), "\n100000\n") {
		t.Errorf("it ended as %+v after %d bytes: %.60q", end, len(out), out)
	}
	if now := w.box("o").PID; now != pid {
		t.Errorf("the machine is %d, was %d", now, pid)
	}
}

func TestCreatingABoxReportsProgress(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	slow := newSlowRegistry(t, 40*time.Millisecond)
	w.registries = []string{slow.host}
	f := w.front()
	f.create("p", args{"image": slow.image})
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.progress) < 2 || !slices.ContainsFunc(f.progress, func(s string) bool { return strings.Contains(s, "pulling") }) {
		t.Errorf("progress: %q", f.progress)
	}
}
