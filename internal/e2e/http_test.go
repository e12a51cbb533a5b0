package e2e

import (
	"bufio"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/boxlite-mcp/boxlite-mcp/internal/testbin"
)

// A listener is a front end that serves HTTP.
type listener struct {
	w    *world
	cmd  *exec.Cmd
	addr string
}

// listen starts one, with a token to begin with.
func (w *world) listen() *listener {
	w.t.Helper()
	w.token("first")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	h := &listener{w: w, addr: l.Addr().String()}
	l.Close()
	h.cmd = w.command("serve", "--listen", h.addr)
	log := &lockedBuffer{}
	h.cmd.Stderr = log
	if err := h.cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- h.cmd.Wait() }()
	w.t.Cleanup(func() {
		h.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case err := <-ended:
			if err != nil {
				w.t.Errorf("the listener ended with %v: %s", err, log)
			}
		case <-time.After(20 * time.Second):
			w.t.Error("the listener does not leave")
			h.cmd.Process.Kill()
		}
	})
	if !eventually(10*time.Second, func() bool {
		resp, err := http.Get("http://" + h.addr + "/healthz")
		if err == nil {
			resp.Body.Close()
		}
		return err == nil
	}) {
		w.t.Fatalf("it does not listen: %s", log)
	}
	return h
}

// token makes a token for a principal of the same name.
func (w *world) token(name string) string {
	w.t.Helper()
	out, err := w.cli("token", "add", name)
	if err != nil {
		w.t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// withToken sends a token with each request.
type withToken struct {
	token string
	http.RoundTripper
}

func (t withToken) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+t.token)
	return t.RoundTripper.RoundTrip(r)
}

// connect returns a client of the official SDK, by one of the two transports.
func (h *listener) connect(transport, token string) (*front, error) {
	base := &http.Transport{}
	client := &http.Client{Transport: withToken{token, base}}
	h.w.t.Cleanup(base.CloseIdleConnections)
	f := &front{w: h.w, stderr: &lockedBuffer{}}
	var t mcp.Transport = &mcp.StreamableClientTransport{Endpoint: "http://" + h.addr + "/mcp", HTTPClient: client}
	if transport == "sse" {
		t = &mcp.SSEClientTransport{Endpoint: "http://" + h.addr + "/sse", HTTPClient: client}
	}
	c := mcp.NewClient(&mcp.Implementation{Name: "e2e", Version: "1"}, &mcp.ClientOptions{
		ProgressNotificationHandler: func(_ context.Context, r *mcp.ProgressNotificationClientRequest) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.progress = append(f.progress, r.Params.Message)
		},
	})
	session, err := c.Connect(context.Background(), t, nil)
	if err != nil {
		return nil, err
	}
	f.session = session
	h.w.t.Cleanup(func() { session.Close() })
	return f, nil
}

// An agent works the same over each transport, hears of progress before the
// answer, and sees its own boxes only.
func TestOverHTTP(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := w.listen()
	alice, bob := w.token("alice"), w.token("bob") // made while it listens
	for _, transport := range []string{"streamable", "sse"} {
		f, err := h.connect(transport, alice)
		if err != nil {
			t.Fatalf("%s: %v", transport, err)
		}
		box := f.create("over-"+transport, nil).BoxID
		if e := f.sh(box, "echo hello; sleep 2"); e.Stdout.Text != "hello\n" || e.code() != 0 {
			t.Errorf("%s: %+v", transport, e)
		}
		f.mu.Lock()
		told := strings.Join(f.progress, "; ")
		f.mu.Unlock()
		if !strings.Contains(told, "created box "+box) || !strings.Contains(told, "running") {
			t.Errorf("%s: progress: %s", transport, told)
		}
		other, err := h.connect(transport, bob)
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := other.boxInfo(box); ok {
			t.Errorf("%s: another principal sees the box", transport)
		}
		var list struct{ Total int }
		if other.must("box_list", args{}, &list); list.Total != 0 {
			t.Errorf("%s: another principal has %d boxes", transport, list.Total)
		}
	}
	if _, err := h.connect("sse", "boxlite_nonsense"); err == nil {
		t.Error("connected without a token")
	}
	if _, err := w.cli("token", "rm", "alice"); err != nil {
		t.Fatal(err)
	}
	if _, err := h.connect("streamable", alice); err == nil {
		t.Error("connected with a revoked token")
	}
}

// The example for agent frameworks does what it says.
func TestAgentOverSSEExample(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := w.listen()
	root, err := testbin.ModuleRoot()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(within(t, 2*time.Minute), "go", "run", "./examples/agent-over-sse", "-endpoint", "http://"+h.addr+"/sse", "-image", w.image, "echo $((6*7))")
	cmd.Dir, cmd.Env = root, append(cmd.Environ(), "BOXLITE_TOKEN="+w.token("framework"))
	out, err := cmd.CombinedOutput()
	if err != nil || string(out) != "42\n\nexit code 0\n" {
		t.Errorf("%v: %q", err, out)
	}
	if boxes, err := w.boxes(); err != nil || len(boxes) != 0 {
		t.Errorf("%d boxes are left, %v", len(boxes), err)
	}
}

// A session of another principal looks as if it did not exist.
func TestForeignSessions(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := w.listen()
	alice, bob := w.token("alice"), w.token("bob")
	ask := func(method, path, token, session, body string) *http.Response {
		t.Helper()
		r, _ := http.NewRequest(method, "http://"+h.addr+path, strings.NewReader(body))
		r.Header.Set("Authorization", "Bearer "+token)
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Accept", "application/json, text/event-stream")
		if session != "" {
			r.Header.Set("Mcp-Session-Id", session)
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	const hello = `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"x","version":"1"}}}`
	const list = `{"jsonrpc":"2.0","id":2,"method":"tools/list"}`
	resp := ask("POST", "/mcp", alice, "", hello)
	resp.Body.Close()
	session := resp.Header.Get("Mcp-Session-Id")
	for _, c := range []struct {
		token, session string
		status         int
	}{{alice, session, 200}, {bob, session, 404}, {alice, rand.Text(), 404}} {
		resp := ask("POST", "/mcp", c.token, c.session, list)
		resp.Body.Close()
		if resp.StatusCode != c.status {
			t.Errorf("%+v: %d", c, resp.StatusCode)
		}
	}
	stream := ask("GET", "/sse", alice, "", "")
	defer stream.Body.Close()
	events := bufio.NewReader(stream.Body)
	var endpoint string
	for endpoint == "" {
		line, err := events.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		if data, ok := strings.CutPrefix(line, "data: "); ok {
			endpoint = strings.TrimSpace(data)
		}
	}
	if !strings.HasPrefix(endpoint, "/message?sessionId=") {
		t.Fatalf("endpoint %q", endpoint)
	}
	for token, status := range map[string]int{alice: 202, bob: 404} {
		resp := ask("POST", endpoint, token, "", hello)
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if resp.StatusCode != status {
			t.Errorf("%s: %d", endpoint, resp.StatusCode)
		}
	}
}

// Many agents over SSE at once, each with a box of its own: none sees an error,
// and nothing is left.
func TestManyAgentsOverSSE(t *testing.T) {
	t.Parallel()
	agents := 16
	if freeMemory(t) < 8<<10 {
		agents = 6
	}
	w := newWorld(t)
	h := w.listen()
	token := w.token("agents")
	var wg sync.WaitGroup
	for i := range agents {
		wg.Go(func() {
			f, err := h.connect("sse", token)
			if err != nil {
				t.Error(err)
				return
			}
			ctx := within(t, 4*time.Minute)
			b, err := f.tryCreate(ctx, fmt.Sprintf("agent-%d", i), nil)
			if err != nil {
				t.Error(err)
				return
			}
			for n := range 10 {
				e, err := f.trySh(ctx, b.BoxID, fmt.Sprintf("echo %d", n))
				if err != nil || e.Stdout.Text != fmt.Sprintf("%d\n", n) {
					t.Errorf("agent %d, command %d: %q, %v", i, n, e.Stdout.Text, err)
				}
			}
			if err := f.call(ctx, "box_remove", args{"box": b.BoxID, "force": true}, nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if boxes, err := w.boxes(); err != nil || len(boxes) != 0 {
		t.Errorf("%d boxes are left, %v", len(boxes), err)
	}
}
