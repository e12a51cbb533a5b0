//go:build clients

package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestClients has other people's clients use the server, over each transport that
// they know. scripts/conformance installs them, and says where.
func TestClients(t *testing.T) {
	c := newClients(t)
	t.Run("TypeScript_v1_over_SSE", c.exampleInTypeScript)
	t.Run("TypeScript_v2_over_HTTP", func(t *testing.T) { c.modern(t, "modern", "http://"+c.h.addr+"/mcp") })
	t.Run("TypeScript_v2_over_SSE", func(t *testing.T) { c.modern(t, "legacy", "http://"+c.h.addr+"/sse") })
	t.Run("TypeScript_v2_over_stdio", func(t *testing.T) {
		c.modern(t, "modern", c.w.command("serve", "--principal", "v2stdio").Args...)
	})
	t.Run("mcp_remote_over_HTTP", func(t *testing.T) { c.remote(t, "/mcp", "http-only") })
	t.Run("mcp_remote_over_SSE", func(t *testing.T) { c.remote(t, "/sse", "sse-only") })
	t.Run("inspector_over_stdio", c.inspectorOverStdio)
}

// A clients is a listener, and the folder of those who call it.
type clients struct {
	w   *world
	h   *listener
	dir string
}

func newClients(t *testing.T) *clients {
	t.Helper()
	dir := os.Getenv("BOXLITE_CLIENTS")
	if dir == "" {
		t.Fatal("BOXLITE_CLIENTS is not set; run scripts/conformance")
	}
	w := newWorld(t)
	return &clients{w, w.listen(), dir}
}

// node returns a command that runs a program of the clients'.
func (c *clients) node(t *testing.T, token string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(within(t, 2*time.Minute), filepath.Join(c.dir, "node"), args...)
	cmd.Dir, cmd.Env = c.dir, append(c.w.env, "BOXLITE_TOKEN="+token, "BOXLITE_IMAGE="+c.w.image, "NO_COLOR=1")
	return cmd
}

// ran is what the command printed; it ends the test if the command failed.
func ran(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %v\n%s%s", cmd.Args[1:], err, out, &stderr)
	}
	return string(out)
}

// The example in TypeScript does what it says: it prints all of a long output,
// waits for a slow command, and leaves no box.
func (c *clients) exampleInTypeScript(t *testing.T) {
	out := ran(t, c.node(t, c.w.token("typescript"), "agent-over-sse.ts", "--endpoint", "http://"+c.h.addr+"/sse", "--image", c.w.image,
		"seq 20000", "sleep 2; echo $((6*7)); exit 3"))
	var want strings.Builder
	for i := range 20000 {
		want.WriteString(strconv.Itoa(i+1) + "\n")
	}
	want.WriteString("exit code 0\n42\nexit code 3\n")
	if out != want.String() {
		t.Errorf("%d bytes, want %d; it ends with %q", len(out), want.Len(), out[max(0, len(out)-60):])
	}
	if boxes, err := c.w.boxes(); err != nil || len(boxes) != 0 {
		t.Errorf("%d boxes are left, %v", len(boxes), err)
	}
}

// modern runs a client that would rather speak the newest revision.
func (c *clients) modern(t *testing.T, era string, server ...string) {
	t.Log(ran(t, c.node(t, c.w.token(strings.ToLower(path.Base(t.Name()))), append([]string{"modern.ts", era}, server...)...)))
}

// A client that knows standard input and output only works through mcp-remote.
func (c *clients) remote(t *testing.T, at, strategy string) {
	token := c.w.token("remote-" + strategy)
	cmd := c.node(t, token, "node_modules/mcp-remote/dist/proxy.js", "http://"+c.h.addr+at, "--transport", strategy, "--header", "Authorization:Bearer "+token)
	f, err := c.w.tryFront(cmd)
	if err != nil {
		t.Fatal(err)
	}
	box := f.create(strategy, nil).BoxID
	if e := f.sh(box, "echo hello; sleep 2"); e.Stdout.Text != "hello\n" || e.code() != 0 {
		t.Errorf("%+v", e)
	}
	f.must("box_remove", args{"box": box, "force": true}, nil)
	f.close()
}

// The inspector finds nothing to say about the schemas of the tools as the
// program offers them, and gets the results that they promise.
func (c *clients) inspectorOverStdio(t *testing.T) {
	inspect := func(v any, more ...string) {
		t.Helper()
		serve := c.w.command("serve", "--principal", "inspector")
		line := append([]string{"node_modules/@modelcontextprotocol/inspector/clients/launcher/build/index.js", "--cli"}, serve.Args...)
		line = append(line, more...)
		cmd := c.node(t, "", append(line, "--format", "json", "--quiet")...)
		if err := json.Unmarshal([]byte(ran(t, cmd)), &struct{ Result any }{v}); err != nil {
			t.Fatal(err)
		}
	}
	var tools struct{ Tools []struct{ Name string } }
	if inspect(&tools, "--method", "tools/list", "--strict"); len(tools.Tools) != 16 {
		t.Errorf("%+v", tools)
	}
	var prompts struct{ Prompts []struct{ Name string } }
	if inspect(&prompts, "--method", "prompts/list"); len(prompts.Prompts) != 3 {
		t.Errorf("%+v", prompts)
	}
	var result struct{ StructuredContent struct{ Total *int } }
	inspect(&result, "--method", "tools/call", "--tool-name", "box_list", "--tool-args-json", `{"limit":5}`)
	if result.StructuredContent.Total == nil || *result.StructuredContent.Total != 0 {
		t.Errorf("%+v", result)
	}
}
