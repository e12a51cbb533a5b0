package e2e

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// A front is an MCP client with the front end that it started.
type front struct {
	w       *world
	cmd     *exec.Cmd
	session *mcp.ClientSession
	stderr  *lockedBuffer

	closing  sync.Once
	mu       sync.Mutex
	progress []string // guarded by mu
}

// A lockedBuffer is a buffer that several may write and read.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer // guarded by mu
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// front starts a front end of the principal local.
func (w *world) front() *front { w.t.Helper(); return w.frontOf("local") }

// frontOf starts a front end of a principal.
func (w *world) frontOf(principal string) *front {
	w.t.Helper()
	f, err := w.tryFront(w.command("serve", "--principal", principal))
	if err != nil {
		w.t.Fatal(err)
	}
	return f
}

func (w *world) tryFront(cmd *exec.Cmd) (*front, error) {
	f := &front{w: w, cmd: cmd, stderr: &lockedBuffer{}}
	cmd.Stderr = f.stderr
	client := mcp.NewClient(&mcp.Implementation{Name: "e2e", Version: "1"}, &mcp.ClientOptions{
		ProgressNotificationHandler: func(_ context.Context, r *mcp.ProgressNotificationClientRequest) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.progress = append(f.progress, r.Params.Message)
		},
	})
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	session, err := client.Connect(ctx, &mcp.CommandTransport{Command: f.cmd}, nil)
	if err != nil {
		return nil, fmt.Errorf("connect: %w: %s", err, f.stderr)
	}
	f.session = session
	w.mu.Lock()
	w.fronts = append(w.fronts, f)
	w.mu.Unlock()
	return f, nil
}

// close ends the front end as a client does, and waits for it.
func (f *front) close() {
	f.closing.Do(func() {
		if err := f.session.Close(); err != nil {
			f.w.t.Logf("close front end: %v: %s", err, f.stderr)
		}
	})
}

// kill ends the front end as a crash would.
func (f *front) kill() {
	f.closing.Do(func() {
		_ = f.cmd.Process.Kill() // it may be gone
		_ = f.session.Close()    // waits for it
	})
}

type args map[string]any

// A toolError is an error result: what the model is told.
type toolError struct {
	text, kind, hint string
}

func (e *toolError) Error() string { return e.text }

// call calls a tool and decodes its structured result into v, which may be nil.
//
// Errors: *toolError for an error result, others if there was no answer.
func (f *front) call(ctx context.Context, tool string, a args, v any) error {
	params := &mcp.CallToolParams{Name: tool, Arguments: a}
	params.SetProgressToken(tool + fmt.Sprint(time.Now().UnixNano()))
	res, err := f.session.CallTool(ctx, params)
	if err != nil {
		return err
	}
	data, err := json.Marshal(res.StructuredContent)
	if err != nil {
		return err
	}
	if res.IsError {
		var fault struct {
			Error struct{ Kind, Message, Hint string }
		}
		_ = json.Unmarshal(data, &fault) // the text says it too
		return &toolError{text(res), fault.Error.Kind, fault.Error.Hint}
	}
	if v == nil {
		return nil
	}
	return json.Unmarshal(data, v)
}

func text(res *mcp.CallToolResult) string {
	var b strings.Builder
	for _, c := range res.Content {
		if t, ok := c.(*mcp.TextContent); ok {
			b.WriteString(t.Text)
		}
	}
	return b.String()
}

// must is call where failure ends the test.
func (f *front) must(tool string, a args, v any) {
	f.w.t.Helper()
	if err := f.call(within(f.w.t, time.Minute), tool, a, v); err != nil {
		f.w.t.Fatalf("%s %v: %v\n%s", tool, a, err, f.stderr)
	}
}

// A boxView is a box in a tool's result.
type boxView struct {
	BoxID  string `json:"box_id"`
	Name   string `json:"name"`
	Status string `json:"status"`
	Phase  string `json:"phase"`
	Reason string `json:"reason"`
	Limits string `json:"limits"`
}

// A streamView is a stream in a tool's result.
type streamView struct {
	Text       string `json:"text"`
	Tail       string `json:"tail"`
	Offset     int64  `json:"offset"`
	NextOffset int64  `json:"next_offset"`
	End        int64  `json:"end"`
	EOF        bool   `json:"eof"`
	Dropped    int64  `json:"dropped"`
}

// An execView is an execution in a tool's result.
type execView struct {
	ExecID    string     `json:"exec_id"`
	Status    string     `json:"status"`
	ExitCode  *int       `json:"exit_code"`
	Signal    int        `json:"signal"`
	TimedOut  bool       `json:"timed_out"`
	Lost      string     `json:"lost"`
	Truncated bool       `json:"truncated"`
	Seconds   float64    `json:"duration_seconds"`
	Stdout    streamView `json:"stdout"`
	Stderr    streamView `json:"stderr"`
	Denied    []struct {
		Target string `json:"target"`
		Code   string `json:"code"`
	} `json:"egress_denied"`
}

func (e execView) code() int {
	if e.ExitCode == nil {
		return -1000
	}
	return *e.ExitCode
}

// create makes a box and starts it.
func (f *front) create(name string, more args) boxView {
	f.w.t.Helper()
	b, err := f.tryCreate(within(f.w.t, 2*time.Minute), name, more)
	if err != nil {
		f.w.t.Fatalf("create %s: %v", name, err)
	}
	return b
}

func (f *front) tryCreate(ctx context.Context, name string, more args) (b boxView, err error) {
	a := args{"image": f.w.image, "name": name, "memory_mib": 128, "cpus": 1}
	maps.Copy(a, more)
	if err := f.call(ctx, "box_create", a, &b); err != nil {
		return b, err
	}
	for b.Status != "running" && a["start"] != false {
		if err := f.call(ctx, "box_start", args{"box": b.BoxID}, &b); err != nil {
			return b, err
		}
	}
	return b, nil
}

// sh runs a line of shell to its end.
func (f *front) sh(box, line string) execView {
	f.w.t.Helper()
	e, err := f.trySh(within(f.w.t, 2*time.Minute), box, line)
	if err != nil {
		f.w.t.Fatalf("run %q in %s: %v", line, box, err)
	}
	return e
}

func (f *front) trySh(ctx context.Context, box, line string) (e execView, err error) {
	for e.Status = "starting_box"; e.Status == "starting_box"; {
		if err := f.call(ctx, "box_exec", args{"box": box, "command": line}, &e); err != nil {
			return e, err
		}
	}
	for e.Status == "running" {
		if err := f.call(ctx, "exec_read", args{"exec_id": e.ExecID, "until": "exit"}, &e); err != nil {
			return e, err
		}
	}
	return e, nil
}

// background starts a line of shell and leaves it running.
func (f *front) background(box, line string) (id string) {
	f.w.t.Helper()
	var e execView
	f.must("box_exec", args{"box": box, "command": line, "wait_seconds": 0}, &e)
	if e.ExecID == "" {
		f.w.t.Fatalf("run %q in %s: %+v", line, box, e)
	}
	return e.ExecID
}

// read returns the bytes of standard output from an offset to where it stands,
// and the execution.
func (f *front) read(id string, from int64) ([]byte, execView) {
	f.w.t.Helper()
	var all []byte
	for {
		var e execView
		f.must("exec_read", args{"exec_id": id, "stdout_offset": from, "wait_seconds": 0, "encoding": "base64", "max_output_bytes": 38000}, &e)
		data, err := base64.StdEncoding.DecodeString(e.Stdout.Text)
		if err != nil {
			f.w.t.Fatal(err)
		}
		all = append(all, data...)
		if from = e.Stdout.NextOffset; from >= e.Stdout.End {
			return all, e
		}
	}
}

// boxInfo returns a box; ok is false if there is none.
func (f *front) boxInfo(ref string) (b boxView, ok bool) {
	f.w.t.Helper()
	var d struct{ Box boxView }
	err := f.call(within(f.w.t, time.Minute), "box_get", args{"box": ref}, &d)
	if e := (&toolError{}); errors.As(err, &e) && e.kind == "not_found" {
		return b, false
	}
	if err != nil {
		f.w.t.Fatalf("box_get %s: %v", ref, err)
	}
	return d.Box, true
}

// actionable reports an error result that does not say what to do next.
func actionable(t testing.TB, err error) {
	t.Helper()
	var e *toolError
	if !errors.As(err, &e) {
		return // the client's own: the front end is gone
	}
	if e.hint == "" || e.kind == "" || e.kind == "internal" || strings.Contains(e.text, "rpc error") {
		t.Errorf("an error that tells the agent too little: kind %q, hint %q: %s", e.kind, e.hint, e.text)
	}
}
