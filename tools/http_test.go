package tools_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/boxlite-mcp/boxlite-mcp/tools"
)

// serveHTTP serves srv over HTTP, to one principal, until the test ends.
func serveHTTP(t *testing.T, srv *tools.Server) (url string) {
	t.Helper()
	h := srv.HTTP()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.ServeHTTP(w, r.WithContext(tools.WithPrincipal(r.Context(), "test")))
	}))
	t.Cleanup(func() {
		h.Close(context.Background())
		s.Close()
		http.DefaultClient.CloseIdleConnections()
	})
	return s.URL
}

const modernMeta = `"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}`

// modern posts a message of the era without sessions. id is "" or with its key.
func modern(t *testing.T, url, id, method, params string, header ...string) (status int, body string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+"/mcp", strings.NewReader(
		`{"jsonrpc":"2.0",`+id+`"method":"`+method+`","params":{`+modernMeta+params+`}}`))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Accept", "application/json, text/event-stream")
	r.Header.Set("Mcp-Protocol-Version", "2026-07-28")
	r.Header.Set("Mcp-Method", method)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// In the era without sessions every client's first request is number 1, and
// nobody ends another's: not with a session's id, not with a null for an id.
func TestNobodyCancelsAnothersRequest(t *testing.T) {
	f := newFake()
	url := serveHTTP(t, newServer(t, f, tools.Options{}))
	_, body := modern(t, url, `"id":1,`, "tools/call", `,"name":"box_create","arguments":{"image":"python:3.12","name":"slow"}`, "Mcp-Name", "box_create")
	if !strings.Contains(body, "box_id") {
		t.Fatal(body)
	}
	slow := make(chan string, 1)
	go func() {
		_, body := modern(t, url, `"id":1,`, "tools/call", `,"name":"box_exec","arguments":{"box":"slow","command":"sleep 1"}`, "Mcp-Name", "box_exec")
		slow <- body
	}()
	for f.count("output") == 0 { // until it waits
		time.Sleep(time.Millisecond)
	}
	for _, c := range []struct {
		id     string
		header []string
	}{
		{"", nil},
		{`"id":null,`, nil},
		{"", []string{"Mcp-Session-Id", "x"}},
		{`"id":null,`, []string{"Mcp-Session-Id", "x"}},
		{"", []string{"Mcp-Session-Id", "x", "Mcp-Protocol-Version", "2025-11-25"}},
	} {
		if status, body := modern(t, url, c.id, "notifications/cancelled", `,"requestId":1`, c.header...); status != http.StatusAccepted {
			t.Errorf("%+v: %d %s", c, status, body)
		}
	}
	if body := <-slow; !strings.Contains(body, `"exit_code":0`) {
		t.Errorf("a request that nobody cancelled: %s", body)
	}
}

// A client that listens to what this server never changes is told so: the
// acknowledgement comes, and before the answer.
func TestListeningToNothingIsAcknowledged(t *testing.T) {
	url := serveHTTP(t, newServer(t, newFake(), tools.Options{}))
	for range 50 {
		status, body := modern(t, url, `"id":1,`, "subscriptions/listen", `,"notifications":{"toolsListChanged":true}`)
		ack, answer := strings.Index(body, "notifications/subscriptions/acknowledged"), strings.Index(body, `"result"`)
		if status != http.StatusOK || ack < 0 || answer < ack {
			t.Fatalf("%d: %s", status, body)
		}
	}
}

// A session that nobody uses is forgotten after an hour, and all are when the
// server closes; neither is about the principal of a request.
func TestSessionsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newServer(t, newFake(), tools.Options{}).HTTP()
		post := func(session, body string) *httptest.ResponseRecorder {
			r := httptest.NewRequestWithContext(tools.WithPrincipal(t.Context(), "test"), http.MethodPost, "/mcp", strings.NewReader(body))
			r.Header.Set("Content-Type", "application/json")
			r.Header.Set("Accept", "application/json, text/event-stream")
			if session != "" {
				r.Header.Set("Mcp-Session-Id", session)
			}
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			return w
		}
		open := func() string {
			return post("", `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"x","version":"1"}}}`).Header().Get("Mcp-Session-Id")
		}
		idle, busy := open(), open()
		status := func(session string) int {
			return post(session, `{"jsonrpc":"2.0","id":2,"method":"ping"}`).Code
		}
		for range 3 {
			time.Sleep(40 * time.Minute)
			if got := status(busy); got != http.StatusOK {
				t.Errorf("a session in use: %d", got)
			}
		}
		if got := status(idle); got != http.StatusNotFound {
			t.Errorf("a session that was idle for two hours: %d", got)
		}
		h.Close(t.Context())
		if got := status(busy); got != http.StatusNotFound {
			t.Errorf("a session after the server closed: %d", got)
		}
	})
}

// Which web pages may read is not said here, least of all that all may.
func TestNoStreamIsForEveryPage(t *testing.T) {
	url := serveHTTP(t, newServer(t, newFake(), tools.Options{}))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/sse", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Origin", "https://evil.test")
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("%d %v", resp.StatusCode, resp.Header)
	}
}
