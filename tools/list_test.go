package tools_test

import (
	"encoding/json"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	"context"

	"github.com/google/jsonschema-go/jsonschema"
	"github.com/modelcontextprotocol/go-sdk/mcp"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/tools"
)

// ask returns the raw result of a request to a fresh connection.
func ask(t *testing.T, srv *tools.Server, method, params string) json.RawMessage {
	t.Helper()
	w := newWire(t, srv)
	w.hello()
	w.send(`{"jsonrpc":"2.0","id":1,"method":"` + method + `","params":` + params + `}`)
	var a struct {
		Result json.RawMessage `json:"result"`
	}
	if line := w.next(); json.Unmarshal([]byte(line), &a) != nil || a.Result == nil {
		t.Fatalf("%s: %s", method, line)
	}
	return a.Result
}

func TestToolListIsGoldenStableAndSmall(t *testing.T) {
	srv := newServer(t, newFake(), tools.Options{})
	list := ask(t, srv, "tools/list", "{}")
	golden(t, "tools_list.json", indent(t, list))
	if again := ask(t, newServer(t, newFake(), tools.Options{}), "tools/list", "{}"); string(again) != string(list) {
		t.Error("tools/list differs between two servers")
	}
	const bytesPerToken, most = 4, 6000
	tokens := len(list) / bytesPerToken
	t.Logf("tools/list: %d bytes, about %d tokens", len(list), tokens)
	if tokens >= most {
		t.Errorf("tools/list is about %d tokens; fewer than %d are allowed", tokens, most)
	}
}

func TestEveryToolIsFullyDescribed(t *testing.T) {
	var list struct {
		Tools []struct {
			Name, Title, Description  string
			InputSchema, OutputSchema json.RawMessage
			Annotations               map[string]any
		}
	}
	if err := json.Unmarshal(ask(t, newServer(t, newFake(), tools.Options{}), "tools/list", "{}"), &list); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, tool := range list.Tools {
		names = append(names, tool.Name)
		if !regexp.MustCompile(`^[a-z]+_[a-z]+$`).MatchString(tool.Name) || len(tool.Name) > 30 {
			t.Errorf("%s: bad name", tool.Name)
		}
		if n := utf8.RuneCountInString(tool.Description); n == 0 || n > 600 {
			t.Errorf("%s: description of %d characters", tool.Name, n)
		}
		if tool.Title == "" {
			t.Errorf("%s: no title", tool.Name)
		}
		for _, hint := range []string{"readOnlyHint", "destructiveHint", "idempotentHint", "openWorldHint"} {
			if _, ok := tool.Annotations[hint].(bool); !ok {
				t.Errorf("%s: %s is not set", tool.Name, hint)
			}
		}
		var in struct {
			Additional *bool `json:"additionalProperties"`
		}
		if err := json.Unmarshal(tool.InputSchema, &in); err != nil || in.Additional == nil || *in.Additional {
			t.Errorf("%s: input schema takes any property: %s", tool.Name, tool.InputSchema)
		}
		for _, raw := range []json.RawMessage{tool.InputSchema, tool.OutputSchema} {
			var s jsonschema.Schema
			err := json.Unmarshal(raw, &s)
			if err == nil {
				_, err = s.Resolve(&jsonschema.ResolveOptions{ValidateDefaults: true})
			}
			if err != nil {
				t.Errorf("%s: %v in %s", tool.Name, err, raw)
			}
		}
	}
	const want = "box_create box_list box_get box_start box_stop box_remove box_exec exec_read exec_write exec_stop file_read file_write image_list box_update network_log secret_list"
	if got := strings.Join(names, " "); got != want {
		t.Errorf("tools:\n got %s\nwant %s", got, want)
	}
}

func TestToolsetsAndReadOnlyChooseTools(t *testing.T) {
	for _, test := range []struct {
		opts tools.Options
		want string
	}{
		{tools.Options{ReadOnly: true}, "box_list box_get exec_read file_read image_list network_log secret_list"},
		{tools.Options{Toolsets: []string{"files"}}, "file_read file_write"},
		{tools.Options{Toolsets: []string{"exec", "images"}, ReadOnly: true}, "exec_read image_list"},
	} {
		s := connect(t, newServer(t, newFake(), test.opts), nil)
		list, err := s.ListTools(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, tool := range list.Tools {
			names = append(names, tool.Name)
		}
		if got := strings.Join(names, " "); got != test.want {
			t.Errorf("%+v: %s, want %s", test.opts, got, test.want)
		}
		if _, err := s.CallTool(t.Context(), &mcp.CallToolParams{Name: "box_create"}); err == nil {
			t.Errorf("%+v: box_create can be called", test.opts)
		}
	}
	if _, err := tools.NewServer(tools.Always(newFake()), tools.Options{Toolsets: []string{"nets"}}); boxlite.KindOf(err) != boxlite.InvalidArgument {
		t.Errorf("toolset nets: %v", err)
	}
}

// What the operator leaves may change while a client is connected.
func TestTheOperatorSwitchesToolsOffAndOn(t *testing.T) {
	var now atomic.Pointer[tools.Enabled]
	f := newFake()
	newBox(t, f, "dev")
	s := connect(t, newServer(t, f, tools.Options{Enabled: func() tools.Enabled { return *now.Load() }, Toolsets: []string{"boxes", "files", "images"}}), nil)
	all := tools.Enabled{Toolsets: tools.Toolsets}
	now.Store(&all)
	for _, step := range []struct {
		enabled          tools.Enabled
		list, call, says string
	}{
		{all, "box_create box_list box_get box_start box_stop box_remove file_read file_write image_list box_update", "box_create", ""},
		{tools.Enabled{Toolsets: []string{"boxes", "exec"}}, "box_create box_list box_get box_start box_stop box_remove box_update", "image_list", "tools.toolsets or tools.disabled in config.toml"},
		{tools.Enabled{Toolsets: tools.Toolsets, ReadOnly: true}, "box_list box_get file_read image_list", "box_create", "tools.read_only = true in config.toml"},
		{tools.Enabled{}, "", "box_list", "tools.toolsets or tools.disabled in config.toml"},
		{all, "box_create box_list box_get box_start box_stop box_remove file_read file_write image_list box_update", "box_list", ""},
	} {
		now.Store(&step.enabled)
		list, err := s.ListTools(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, tool := range list.Tools {
			names = append(names, tool.Name)
		}
		if got := strings.Join(names, " "); got != step.list {
			t.Errorf("%+v: %s, want %s", step.enabled, got, step.list)
		}
		r := callTool(t, s, step.call, "{}")
		if r.IsError != (step.says != "") || !strings.Contains(textOf(r), step.says) {
			t.Errorf("%+v: %s: %s", step.enabled, step.call, textOf(r))
		}
	}
	now.Store(&tools.Enabled{Toolsets: tools.Toolsets, Note: "something is wrong."})
	if r := callTool(t, s, "box_list", "{}"); r.IsError || !strings.HasSuffix(textOf(r), "\nNote: something is wrong.") {
		t.Errorf("box_list: %s", textOf(r))
	}
	now.Store(&tools.Enabled{Toolsets: tools.Toolsets, ReadOnly: true})
	if r := callTool(t, s, "file_read", `{"box":"dev","path":"/x"}`); !r.IsError || f.count("start") > 1 {
		t.Errorf("a box was started to be read: %s", textOf(r))
	}
}

func TestPromptsAreThereOnlyWithAllTools(t *testing.T) {
	var now atomic.Pointer[tools.Enabled]
	s := connect(t, newServer(t, newFake(), tools.Options{Enabled: func() tools.Enabled { return *now.Load() }}), nil)
	for _, step := range []struct {
		enabled tools.Enabled
		want    bool
	}{
		{tools.Enabled{Toolsets: tools.Toolsets}, true},
		{tools.Enabled{Toolsets: tools.Toolsets, ReadOnly: true}, false},
		{tools.Enabled{Toolsets: tools.Toolsets[1:]}, false},
		{tools.Enabled{Toolsets: tools.Toolsets}, true},
	} {
		now.Store(&step.enabled)
		list, err := s.ListPrompts(t.Context(), nil)
		if err != nil || len(list.Prompts) > 0 != step.want {
			t.Errorf("%+v: %+v, %v", step.enabled, list, err)
		}
	}
}

func TestReadOnlyServerStartsNoBox(t *testing.T) {
	f := newFake()
	newBox(t, f, "dev")
	s := connect(t, newServer(t, f, tools.Options{ReadOnly: true}), nil)
	r := callTool(t, s, "file_read", `{"box":"dev","path":"/x"}`)
	if !r.IsError || f.count("start") != 0 {
		t.Errorf("started %d boxes: %s", f.count("start"), textOf(r))
	}
}

func TestPromptsAreGolden(t *testing.T) {
	srv := newServer(t, newFake(), tools.Options{})
	golden(t, "prompts_list.json", indent(t, ask(t, srv, "prompts/list", "{}")))
	s := connect(t, srv, nil)
	r, err := s.GetPrompt(t.Context(), &mcp.GetPromptParams{Name: "run_code_safely", Arguments: map[string]string{"task": "print(1)"}})
	if err != nil {
		t.Fatal(err)
	}
	if text := r.Messages[0].Content.(*mcp.TextContent).Text; !strings.Contains(text, "print(1)") || !strings.Contains(text, "python:3.12") {
		t.Errorf("prompt: %s", text)
	}
	if _, err := s.GetPrompt(t.Context(), &mcp.GetPromptParams{Name: "run_code_safely"}); err == nil {
		t.Error("a prompt without its required argument is served")
	}
}

func TestHandshakeAndListDoNotWaitForTheService(t *testing.T) {
	blocked := make(chan struct{})
	srv, err := tools.NewServer(tools.Once(func(ctx context.Context) (boxlite.Service, error) {
		<-blocked
		return newFake(), nil
	}), tools.Options{Version: "1.2.3"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { srv.Close() })
	t.Cleanup(func() { close(blocked) })
	begun := time.Now()
	s := connect(t, srv, nil)
	if _, err := s.ListTools(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if d := time.Since(begun); d > time.Second {
		t.Errorf("took %s", d)
	}
	init := s.InitializeResult()
	if init.ServerInfo.Version != "1.2.3" || !strings.Contains(init.Instructions, "box_exec") {
		t.Errorf("initialize: %+v", init)
	}
}

func TestBothProtocolErasAreServed(t *testing.T) {
	srv := newServer(t, newFake(), tools.Options{})
	for _, version := range []string{"2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"} {
		w := newWire(t, srv)
		w.send(`{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"` + version + `","capabilities":{},"clientInfo":{"name":"t","version":"1"}}}`)
		if line := w.next(); !strings.Contains(line, `"protocolVersion":"`+version+`"`) {
			t.Errorf("%s: %s", version, line)
		}
	}
	const meta = `{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}`
	w := newWire(t, srv)
	w.send(`{"jsonrpc":"2.0","id":1,"method":"server/discover","params":{"_meta":` + meta + `}}`)
	if line := w.next(); !strings.Contains(line, `"2026-07-28"`) {
		t.Errorf("discover: %s", line)
	}
	w.send(toolCall(2, "box_list", "{}", meta))
	if a := w.answer(); a.Error != nil || a.Result.IsError || !strings.Contains(a.text(), "no such boxes") {
		t.Errorf("modern call without handshake: %+v", a)
	}
}
