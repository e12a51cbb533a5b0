package tools_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/tools"
)

// TestHostileLines sends what no client should, and after each of it a call
// that must still be answered.
func TestHostileLines(t *testing.T) {
	f := newFake()
	newBox(t, f, "dev")
	w := newWire(t, newServer(t, f, tools.Options{}))
	w.hello()
	deep := func(n int) string { return strings.Repeat("[", n) + strings.Repeat("]", n) }
	for _, test := range []struct {
		name, line string
		id         string // of the answer
		says       string
	}{
		{"not JSON", `{"jsonrpc":`, `null`, "Parse error"},
		{"not JSON either", `hello`, `null`, "Parse error"},
		{"two values", `{} {}`, `null`, "Parse error"},
		{"a number", `17`, `null`, "Invalid request"},
		{"no method", `{"jsonrpc":"2.0","id":1}`, `null`, "no method"},
		{"no version", `{"id":5,"method":"ping"}`, `5`, "version"},
		{"id is an object", `{"jsonrpc":"2.0","id":{},"method":"ping"}`, `null`, "id must be"},
		{"method is a number", `{"jsonrpc":"2.0","id":1,"method":7}`, `null`, "Invalid request"},
		{"unknown method", `{"jsonrpc":"2.0","id":1,"method":"frob"}`, `1`, "not found"},
		{"unknown tool", toolCall(1, "box_frob", "{}", ""), `1`, "no such tool. Tools: box_create, box_list"},
		{"invalid UTF-8", `{"jsonrpc":"2.0","id":3,"method":"` + "\xff" + `"}`, `3`, "not UTF-8"},
		{"deep", `{"jsonrpc":"2.0","method":"ping","params":` + deep(100_000) + `,"id":9}`, `9`, "nested"},
		{"deep arguments", toolCall(4, "box_list", `{"limit":`+deep(40)+`}`, ""), `4`, "whole number"},
		{"many values", `{"jsonrpc":"2.0","params":[` + strings.Repeat("0,", 200_000) + `0],"id":"x","method":"ping"}`, `"x"`, "100,000"},
		{"long", `{"jsonrpc":"2.0","id":8,"method":"` + strings.Repeat("a", 9<<20) + `"}`, `8`, "8 MiB"},
		{"long, id last", `{"method":"` + strings.Repeat("a\\\"", 3<<20) + `","jsonrpc":"2.0","id" : 88 }`, `88`, "8 MiB"},
		{"empty batch", `[]`, `null`, "batch"},
		{"arguments are a list", toolCall(6, "box_list", `[1]`, ""), `6`, "not a JSON object"},
		{"NUL in an argument", toolCall(7, "box_get", `{"box":"a\u0000b"}`, ""), `7`, `a\\x00b`},
		{"NUL in a command", toolCall(7, "box_exec", `{"box":"dev","argv":["a\u0000b"]}`, ""), `7`, `NUL`},
		{"half a surrogate pair", toolCall(7, "file_write", `{"box":"dev","path":"/x","content":"\ud800"}`, ""), `7`, `surrogate`},
		{"id is huge", `{"jsonrpc":"2.0","id":12345678901234567890,"method":"ping"}`, `12345678901234567890`, "result"},
		{"id is a string", `{"jsonrpc":"2.0","id":"a\"b","method":"ping"}`, `"a\"b"`, "result"},
	} {
		w.send(test.line)
		line := w.next()
		if !strings.Contains(line, `"id":`+test.id) || !strings.Contains(line, test.says) {
			t.Errorf("%s: %.300s, want id %s and %q", test.name, line, test.id, test.says)
		}
		w.send("", "  ", `{"jsonrpc":"2.0","id":null,"method":"notifications/x"}`, `{"jsonrpc":"2.0","id":77,"result":{}}`,
			`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":{}}}`)
		if a := w.call(1000, "image_list", "{}"); a.Result.IsError {
			t.Fatalf("after %s: %s", test.name, a.text())
		}
	}
}

func TestBatchIsAnsweredByABatch(t *testing.T) {
	w := newWire(t, newServer(t, newFake(), tools.Options{}))
	w.hello()
	w.send(`[` + toolCall(1, "box_list", "{}", "") + `,{"jsonrpc":"2.0","method":"notifications/x"},17,` + toolCall("b", "image_list", "{}", "") + `]`)
	var answers []answer
	if line := w.next(); json.Unmarshal([]byte(line), &answers) != nil || len(answers) != 3 {
		t.Fatalf("%s", line)
	}
	ids := map[string]bool{}
	for _, a := range answers {
		ids[string(a.ID)] = true
	}
	if !ids["1"] || !ids[`"b"`] || !ids["null"] {
		t.Errorf("ids %v", ids)
	}
	w.send(`[{"jsonrpc":"2.0","method":"notifications/x"}]`)
	if a := w.call(2, "box_list", "{}"); a.Result.IsError {
		t.Error(a.text())
	}
}

// A line of 100 MB costs no more memory than one of 8 MiB.
func TestHugeLineTakesBoundedMemory(t *testing.T) {
	srv := newServer(t, newFake(), tools.Options{})
	w := newWire(t, srv)
	w.hello()
	var peak atomic.Uint64
	stop := make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() {
		for {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			peak.Store(max(peak.Load(), m.HeapAlloc))
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
	})
	runtime.GC()
	var before runtime.MemStats
	runtime.ReadMemStats(&before)
	io.WriteString(w.in, `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"file_write","arguments":{"content":"`)
	piece := bytes.Repeat([]byte("x"), 1<<20)
	for range 100 {
		w.in.Write(piece)
	}
	w.send(`"}}}`)
	line := w.next()
	close(stop)
	watch.Wait()
	if !strings.Contains(line, `"id":1`) || !strings.Contains(line, "8 MiB") {
		t.Errorf("%.300s", line)
	}
	if grown := int64(peak.Load()) - int64(before.HeapAlloc); grown > 64<<20 {
		t.Errorf("the heap grew by %d MiB", grown>>20)
	}
}

// 200 calls at once, each with progress: every call is answered by its own
// answer, no progress is lost, and none comes after the answer.
func TestProgressOf200CallsIsCompleteAndInOrder(t *testing.T) {
	f := newFake()
	newBox(t, f, "dev")
	w := newWire(t, newServer(t, f, tools.Options{}))
	w.hello()
	const n = 200
	go func() {
		for i := range n {
			io.WriteString(w.in, toolCall(i+1, "box_exec", fmt.Sprintf(`{"box":"dev","command":"echo %d"}`, i+1), fmt.Sprintf(`{"progressToken":"t%d"}`, i+1))+"\n")
		}
	}()
	told, answered := map[string]int{}, map[string]bool{}
	for len(answered) < n {
		a := w.answer()
		if a.Method == "notifications/progress" {
			token := a.Params.Token.(string)
			told[token]++
			if answered[token] {
				t.Errorf("progress of %s after its answer", token)
			}
			continue
		}
		token := "t" + string(a.ID)
		if answered[token] || !strings.Contains(a.text(), "\n"+string(a.ID)+"\n") {
			t.Errorf("answer %s: %s", a.ID, a.text())
		}
		answered[token] = true
	}
	for i := range n {
		if told[fmt.Sprintf("t%d", i+1)] == 0 {
			t.Errorf("call %d was never told its exec_id", i+1)
		}
	}
	if more := len(w.lines); more > 0 {
		t.Errorf("%d lines after the last answer", more)
	}
}

func TestOfficialClientGetsProgressAndCancels(t *testing.T) {
	f := newFake()
	newBox(t, f, "dev")
	var told sync.Map
	s := connect(t, newServer(t, f, tools.Options{}), &mcp.ClientOptions{
		ProgressNotificationHandler: func(_ context.Context, r *mcp.ProgressNotificationClientRequest) {
			told.Store(r.Params.ProgressToken, r.Params.Message)
		},
	})
	var all sync.WaitGroup
	for i := range 200 {
		all.Go(func() {
			p := &mcp.CallToolParams{Name: "box_exec", Arguments: map[string]any{"box": "dev", "command": fmt.Sprintf("echo n%d", i)}}
			p.SetProgressToken(fmt.Sprint(i))
			r, err := s.CallTool(t.Context(), p)
			if err != nil || r.IsError || !strings.Contains(textOf(r), fmt.Sprintf("\nn%d\n", i)) {
				t.Errorf("call %d: %v", i, err)
			}
		})
	}
	all.Wait()
	for i := range 200 {
		if _, ok := told.Load(fmt.Sprint(i)); !ok {
			t.Errorf("no progress of call %d", i)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := s.CallTool(ctx, &mcp.CallToolParams{Name: "box_exec", Arguments: map[string]any{"box": "dev", "command": "sleep 60"}})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("cancelled call: %v", err)
	}
	if r := callTool(t, s, "box_get", `{"box":"dev"}`); !strings.Contains(textOf(r), `"sleep 60" is still running`) {
		t.Errorf("%s", textOf(r))
	}
}

// A client that stops reading blocks nobody for ever.
func TestClientThatDoesNotReadEndsWithContext(t *testing.T) {
	l := serveLink(t, newServer(t, newFake(), tools.Options{}))
	for i := range 20 {
		fmt.Fprintf(l.in, `{"jsonrpc":"2.0","id":%d,"method":"tools/list"}`+"\n", i)
	}
	l.cancel()
	begun := time.Now()
	if err := <-l.served; err != nil || time.Since(begun) > 10*time.Second {
		t.Errorf("ServeStdio: %v after %s", err, time.Since(begun))
	}
	l.served <- nil
}

// More calls than are served at once are refused, not lost, and the others are
// served.
func TestTooManyCallsAreRefused(t *testing.T) {
	f := newFake()
	release := make(chan struct{})
	f.hook = func(op string) error {
		if op == "images" {
			<-release
		}
		return nil
	}
	w := newWire(t, newServer(t, f, tools.Options{}))
	w.hello()
	for i := range 600 {
		w.send(toolCall(i, "image_list", "{}", ""))
	}
	w.send(`{"jsonrpc":"2.0","id":5,"method":"ping"}`)
	refused := 0
	for range 600 - 512 + 1 {
		if a := w.answer(); a.Error != nil {
			refused++
		}
	}
	close(release)
	for range 512 {
		if a := w.answer(); a.Error != nil || a.Result.IsError {
			t.Fatalf("%+v", a)
		}
	}
	if refused != 600-512+1 {
		t.Errorf("%d refused", refused)
	}
}

func TestPanicAndUnknownErrorTellNothing(t *testing.T) {
	var log bytes.Buffer
	var mu sync.Mutex
	f := newFake()
	f.hook = func(op string) error {
		switch op {
		case "list":
			panic("secret pointer 0xdeadbeef")
		case "images":
			return fmt.Errorf("open /home/user/.boxlite/db: disk on fire")
		case "start":
			panic("secret in a detached goroutine")
		case "stop":
			return &boxlite.Error{Op: "stop box", Ref: "dev", Kind: boxlite.Storage, Err: errors.New("/home/user/.boxlite/x is gone")}
		}
		return nil
	}
	s := connect(t, newServer(t, f, tools.Options{Log: slog.New(slog.NewTextHandler(lockedWriter{&mu, &log}, nil))}), nil)
	for _, call := range [][2]string{{"box_list", "{}"}, {"image_list", "{}"}, {"box_start", `{"box":"dev"}`}, {"box_stop", `{"box":"dev"}`}} {
		r := callTool(t, s, call[0], call[1])
		text := textOf(r) + fmt.Sprint(r.StructuredContent)
		for _, secret := range []string{"deadbeef", "secret", "/home", "fire", "goroutine", ".go:"} {
			if strings.Contains(text, secret) {
				t.Errorf("%s tells %q: %s", call[0], secret, text)
			}
		}
		_, reference, _ := strings.Cut(textOf(r), "under ")
		reference = strings.TrimSuffix(reference, ".")
		mu.Lock()
		if !r.IsError || len(reference) != 8 || !strings.Contains(log.String(), "reference="+reference) {
			t.Errorf("%s: %s; not found in the log:\n%s", call[0], textOf(r), log.String())
		}
		mu.Unlock()
	}
}

type lockedWriter struct {
	mu *sync.Mutex
	w  io.Writer
}

func (l lockedWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

func TestLostConnectionTellsTheExecID(t *testing.T) {
	f := newFake()
	newBox(t, f, "dev")
	f.hook = func(op string) error {
		if op == "run" {
			return &boxlite.Error{Op: op, Kind: boxlite.RpcTransport, Err: io.EOF}
		}
		return nil
	}
	s := connect(t, newServer(t, f, tools.Options{}), nil)
	r := callTool(t, s, "box_exec", `{"box":"dev","command":"x"}`)
	_, id, _ := strings.Cut(textOf(r), "exec_read with exec_id=")
	id, _, _ = strings.Cut(id, " ")
	if _, err := boxlite.ParseExecutionID(id); !r.IsError || err != nil {
		t.Errorf("%s", textOf(r))
	}
}

func TestServiceIsDialledOnceItWorks(t *testing.T) {
	dials := 0
	f := newFake()
	srv, err := tools.NewServer(tools.Once(func(context.Context) (boxlite.Service, error) {
		if dials++; dials == 1 {
			return nil, &boxlite.Error{Op: "start daemon", Kind: boxlite.RpcTransport, Hint: "Run boxlite-mcp doctor."}
		}
		return f, nil
	}), tools.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { srv.Close() })
	s := connect(t, srv, nil)
	if r := callTool(t, s, "box_create", "{}"); !r.IsError || !strings.Contains(textOf(r), "doctor") {
		t.Errorf("%s", textOf(r))
	}
	for range 3 {
		if r := callTool(t, s, "box_list", "{}"); r.IsError {
			t.Errorf("%s", textOf(r))
		}
	}
	if dials != 2 {
		t.Errorf("%d dials", dials)
	}
}

func TestBoxesAreNeverLostByDefault(t *testing.T) {
	f := newFake()
	s := connect(t, newServer(t, f, tools.Options{}), nil)
	callTool(t, s, "box_create", `{"env":{"B":"2","A":"1"},"isolation":"vm","labels":"{\"k\":\"v\"}"}`)
	o := f.last.Options
	if o.AutoRemove == nil || *o.AutoRemove || !o.Detach || f.last.TTL != 0 {
		t.Errorf("%+v", f.last)
	}
	if f.last.IdleTimeout != nil || o.CPUs != 0 || o.MemoryMiB != 0 || o.DiskSizeGB != 0 {
		t.Errorf("what the caller left out is the operator's to say: %+v", f.last)
	}
	if len(o.Env) != 2 || o.Env[0].Name != "A" || o.Isolation != "vm" || o.Labels["k"] != "v" {
		t.Errorf("%+v", o)
	}
	callTool(t, s, "box_create", `{"ttl_seconds":60,"idle_timeout_seconds":0}`)
	if f.last.TTL != 60 || *f.last.IdleTimeout != 0 || f.last.Options.Isolation != "" {
		t.Errorf("%+v", f.last)
	}
}

// A box that did not start is kept, and named, unless it never can.
func TestFailedStartOfANewBox(t *testing.T) {
	for kind, kept := range map[boxlite.Kind]bool{boxlite.Image: true, boxlite.Engine: true, boxlite.Denied: false, boxlite.Config: false} {
		f := newFake()
		f.hook = func(op string) error {
			if op == "start" {
				return &boxlite.Error{Op: "start box", Kind: kind, Hint: "Ask the operator."}
			}
			return nil
		}
		s := connect(t, newServer(t, f, tools.Options{}), nil)
		r := callTool(t, s, "box_create", `{"name":"dev"}`)
		_, err := f.GetBox(t.Context(), "dev")
		if !r.IsError || kept != (err == nil) || kept != strings.Contains(textOf(r), "bx0000000001") || !strings.Contains(textOf(r), "Ask the operator.") {
			t.Errorf("%s: %v, %s", kind, err, textOf(r))
		}
	}
}

func TestListsArePaged(t *testing.T) {
	f := newFake()
	for i := range 45 {
		newBox(t, f, fmt.Sprintf("box-%d", i))
		f.images = append(f.images, boxlite.ImageInfo{Reference: fmt.Sprintf("img:%02d", (i*7)%45), Digest: "sha256:0", Size: boxlite.MiB})
	}
	s := connect(t, newServer(t, f, tools.Options{}), nil)
	for _, tool := range []string{"box_list", "image_list"} {
		seen, cursor, pages := map[string]bool{}, "", 0
		for {
			args, _ := json.Marshal(map[string]any{"cursor": cursor})
			r := callTool(t, s, tool, string(args))
			page := into[struct {
				Boxes  []struct{ Name string }
				Images []struct{ Reference string }
				Total  int
				Next   string `json:"next_cursor"`
			}](t, r)
			for _, b := range page.Boxes {
				seen[b.Name] = true
			}
			for _, i := range page.Images {
				seen[i.Reference] = true
			}
			if page.Total != 45 {
				t.Errorf("%s: total %d", tool, page.Total)
			}
			pages++
			if cursor = page.Next; cursor == "" {
				break
			}
			if !strings.Contains(textOf(r), "cursor=") {
				t.Errorf("%s does not say how to go on: %s", tool, textOf(r))
			}
		}
		if pages != 3 || len(seen) != 45 {
			t.Errorf("%s: %d pages, %d items", tool, pages, len(seen))
		}
	}
}

// Whatever a command prints, a result stays below what clients cut, and every
// byte can be read.
func TestEveryByteCanBeRead(t *testing.T) {
	f := newFake()
	id := newBox(t, f, "dev")
	s := connect(t, newServer(t, f, tools.Options{}), nil)
	want := make([]byte, 150_000)
	for i := range want {
		want[i] = byte(i * i >> 3)
	}
	r := callTool(t, s, "box_exec", fmt.Sprintf(`{"box":%q,"command":"hex %x","max_output_bytes":38000}`, id, want))
	if n := len(textOf(r)); n > 40_000 || r.IsError {
		t.Errorf("%d characters: %.200s", n, textOf(r))
	}
	exec := into[struct {
		ID string `json:"exec_id"`
	}](t, r).ID
	type page struct {
		Stdout struct {
			Text string
			Next int64 `json:"next_offset"`
			EOF  bool
		}
	}
	var got []byte
	for next, n := int64(0), 0; n < 100; n++ {
		p := into[page](t, callTool(t, s, "exec_read", fmt.Sprintf(`{"exec_id":%q,"stdout_offset":%d,"encoding":"base64","max_output_bytes":38000}`, exec, next)))
		b, err := decode64(p.Stdout.Text)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, b...)
		if next = p.Stdout.Next; p.Stdout.EOF {
			break
		}
	}
	if !bytes.Equal(got, want) {
		t.Errorf("read %d bytes, which differ from the %d printed", len(got), len(want))
	}
	// As text: every offset is passed, none twice.
	for next, n := int64(0), 0; ; n++ {
		r := callTool(t, s, "exec_read", fmt.Sprintf(`{"exec_id":%q,"stdout_offset":%d}`, exec, next))
		p := into[page](t, r)
		if p.Stdout.Next <= next || n > 1000 || len(textOf(r)) > 40_000 {
			t.Fatalf("from %d to %d, %d characters", next, p.Stdout.Next, len(textOf(r)))
		}
		if next = p.Stdout.Next; p.Stdout.EOF {
			break
		}
	}
}
