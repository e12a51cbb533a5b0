package tools_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/modelcontextprotocol/go-sdk/mcp"
	"go.uber.org/goleak"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/tools"
)

var update = flag.Bool("update", false, "write golden files")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// golden compares got with a file in testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
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
		t.Errorf("%s differs (-want +got; -update writes it):\n%s", path, diff)
	}
}

// newServer returns a server before a fake. Both end with the test, nothing
// left.
func newServer(t *testing.T, f *fake, opts tools.Options) *tools.Server {
	t.Helper()
	srv, err := tools.NewServer(tools.Always(f), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := srv.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		f.wait()
	})
	return srv
}

// A link is the two ends of a served connection.
type link struct {
	in     *io.PipeWriter
	out    *io.PipeReader
	served chan error
	cancel context.CancelFunc
}

// serveLink serves srv on pipes until the test ends or the link is closed.
func serveLink(t *testing.T, srv *tools.Server) *link {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	inR, inW := io.Pipe()
	outR, outW := io.Pipe()
	l := &link{in: inW, out: outR, served: make(chan error, 1), cancel: cancel}
	go func() {
		err := srv.ServeStdio(ctx, inR, outW)
		outW.Close()
		inR.Close()
		l.served <- err
	}()
	t.Cleanup(func() {
		inW.Close()
		cancel()
		outR.Close()
		if err := <-l.served; err != nil {
			t.Errorf("ServeStdio: %v", err)
		}
	})
	return l
}

// connect returns the official SDK's client, connected to srv.
func connect(t *testing.T, srv *tools.Server, opts *mcp.ClientOptions) *mcp.ClientSession {
	t.Helper()
	l := serveLink(t, srv)
	client := mcp.NewClient(&mcp.Implementation{Name: "test", Version: "1"}, opts)
	s, err := client.Connect(context.Background(), &mcp.IOTransport{Reader: l.out, Writer: l.in}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// callTool calls a tool with arguments in JSON and returns the result.
func callTool(t *testing.T, s *mcp.ClientSession, name, args string) *mcp.CallToolResult {
	t.Helper()
	r, err := s.CallTool(context.Background(), &mcp.CallToolParams{Name: name, Arguments: json.RawMessage(args)})
	if err != nil {
		t.Fatalf("%s %s: %v", name, args, err)
	}
	return r
}

// textOf returns a result's text.
func textOf(r *mcp.CallToolResult) string {
	var b strings.Builder
	for _, c := range r.Content {
		b.WriteString(c.(*mcp.TextContent).Text)
	}
	return b.String()
}

// into decodes a structured result.
func into[T any](t *testing.T, r *mcp.CallToolResult) (v T) {
	t.Helper()
	data, err := json.Marshal(r.StructuredContent)
	if err == nil {
		err = json.Unmarshal(data, &v)
	}
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// A wire is a client that writes and reads lines.
type wire struct {
	t *testing.T
	*link
	lines chan string
}

func newWire(t *testing.T, srv *tools.Server) *wire {
	w := &wire{t: t, link: serveLink(t, srv), lines: make(chan string, 10_000)}
	go func() {
		defer close(w.lines)
		for r := bufio.NewReaderSize(w.out, 1<<20); ; {
			line, err := r.ReadString('\n')
			if err != nil {
				return
			}
			w.lines <- strings.TrimSuffix(line, "\n")
		}
	}()
	return w
}

func (w *wire) send(lines ...string) {
	w.t.Helper()
	for _, line := range lines {
		if _, err := io.WriteString(w.in, line+"\n"); err != nil {
			w.t.Fatal(err)
		}
	}
}

// next returns the next line.
func (w *wire) next() string {
	w.t.Helper()
	select {
	case line, ok := <-w.lines:
		if !ok {
			w.t.Fatal("the server closed its output")
		}
		return line
	case <-time.After(time.Minute):
		w.t.Fatal("no answer for a minute")
	}
	return ""
}

// An answer is a message from the server, decoded.
type answer struct {
	ID     json.RawMessage `json:"id"`
	Method string          `json:"method"`
	Params struct {
		Token    any     `json:"progressToken"`
		Progress float64 `json:"progress"`
		Message  string  `json:"message"`
	} `json:"params"`
	Result struct {
		Content []struct {
			Text string `json:"text"`
		} `json:"content"`
		Structured map[string]any `json:"structuredContent"`
		IsError    bool           `json:"isError"`
	} `json:"result"`
	Error *struct {
		Code    int    `json:"code"`
		Message string `json:"message"`
	} `json:"error"`
}

func (a answer) text() string {
	if len(a.Result.Content) == 0 {
		return ""
	}
	return a.Result.Content[0].Text
}

func (w *wire) answer() (a answer) {
	w.t.Helper()
	line := w.next()
	if err := json.Unmarshal([]byte(line), &a); err != nil {
		w.t.Fatalf("%v in %s", err, line)
	}
	return a
}

// hello does the handshake.
func (w *wire) hello() {
	w.t.Helper()
	w.send(`{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"t","version":"1"}}}`,
		`{"jsonrpc":"2.0","method":"notifications/initialized"}`)
	if a := w.answer(); a.Error != nil {
		w.t.Fatalf("initialize: %+v", a.Error)
	}
}

func toolCall(id any, name, args, meta string) string {
	i, _ := json.Marshal(id)
	if meta != "" {
		meta = `,"_meta":` + meta
	}
	return `{"jsonrpc":"2.0","id":` + string(i) + `,"method":"tools/call","params":{"name":"` + name + `","arguments":` + args + meta + `}}`
}

// newBox makes a box directly in the fake.
func newBox(t *testing.T, f *fake, name string) boxlite.BoxID {
	t.Helper()
	info, err := f.CreateBox(t.Context(), boxlite.CreateRequest{Name: name}, func(boxlite.Progress) {})
	if err != nil {
		t.Fatal(err)
	}
	return info.ID
}

func indent(t *testing.T, raw []byte) string {
	t.Helper()
	var b bytes.Buffer
	if err := json.Indent(&b, raw, "", "  "); err != nil {
		t.Fatal(err)
	}
	return b.String() + "\n"
}

func decode64(s string) ([]byte, error) { return base64.StdEncoding.DecodeString(s) }
