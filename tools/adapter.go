package tools

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"io"
	"log/slog"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/mark3labs/mcp-go/mcp"
	"github.com/mark3labs/mcp-go/server"

	"github.com/boxlite-mcp/boxlite-mcp/prompts"
)

// This file knows mcp-go, and http.go does. See docs/decisions/0050-stdio.md for what
// it is used for, and what not.

// An adapter is the tools and prompts of a [Server] as mcp-go serves them.
type adapter struct {
	mcp *server.MCPServer
	log *slog.Logger

	names []string // of the tools
}

// An Extension adds to what mcp-go serves.
type Extension func(*server.MCPServer)

func newAdapter(s *Server) *adapter {
	hooks := &server.Hooks{}
	hooks.AddOnRequestInitialization(refuseModernOnSSE)
	hooks.AddAfterSubscriptionsListen(func(context.Context, any, *mcp.SubscriptionsListenRequest, *mcp.SubscriptionsListenResult) {
		emptyQueue() // where nothing can be subscribed to, the acknowledgement is followed by the answer at once
	})
	hooks.AddAfterListTools(s.leaveOut)
	hooks.AddAfterListPrompts(func(_ context.Context, _ any, _ *mcp.ListPromptsRequest, list *mcp.ListPromptsResult) {
		if !s.enabled().all() { // they speak of tools that are not there
			list.Prompts = []mcp.Prompt{}
		}
	})
	m := server.NewMCPServer("boxlite-mcp", s.opts.Version,
		server.WithHooks(hooks),
		server.WithTitle("BoxLite: isolated Linux boxes"),
		server.WithInstructions(instructions),
		server.WithToolCapabilities(false),
		server.WithToolFilter(inOrder(s.tools)),
	)
	var names []string
	for i := range s.tools {
		names = append(names, s.tools[i].name)
		m.AddTool(describeTool(&s.tools[i]), handleTool(s, &s.tools[i]))
	}
	if len(s.prompts) > 0 {
		m.AddPrompts(servePrompts(s.prompts)...)
	}
	if s.opts.Extend != nil {
		s.opts.Extend(m)
	}
	return &adapter{mcp: m, log: s.log, names: names}
}

func describeTool(t *tool) mcp.Tool {
	return mcp.Tool{
		Name: t.name, Title: t.title, Description: t.description,
		RawInputSchema: t.input, RawOutputSchema: t.output,
		Annotations: mcp.ToolAnnotation{
			ReadOnlyHint: &t.readOnly, DestructiveHint: &t.destructive,
			IdempotentHint: &t.idempotent, OpenWorldHint: &t.openWorld,
		},
	}
}

// inOrder undoes mcp-go's sorting by name. Tools that others added come last.
func inOrder(tools []tool) server.ToolFilterFunc {
	return func(_ context.Context, found []mcp.Tool) []mcp.Tool {
		byName := make(map[string]mcp.Tool, len(found))
		for _, t := range found {
			byName[t.Name] = t
		}
		ordered := make([]mcp.Tool, 0, len(found))
		for _, t := range tools {
			if m, ok := byName[t.name]; ok {
				ordered = append(ordered, m)
				delete(byName, t.name)
			}
		}
		for _, t := range found {
			if _, ok := byName[t.Name]; ok {
				ordered = append(ordered, t)
			}
		}
		return ordered
	}
}

// leaveOut takes the tools that the operator does not want from a list. A filter
// would do it for calls, too, which are to be told why.
func (s *Server) leaveOut(_ context.Context, _ any, _ *mcp.ListToolsRequest, list *mcp.ListToolsResult) {
	enabled := s.enabled()
	list.Tools = slices.DeleteFunc(list.Tools, func(m mcp.Tool) bool {
		i := slices.IndexFunc(s.tools, func(t tool) bool { return t.name == m.Name })
		return i >= 0 && enabled.refuses(&s.tools[i]) != nil
	})
}

func handleTool(s *Server, t *tool) server.ToolHandlerFunc {
	return func(ctx context.Context, req mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		raw := req.Params.RawArguments
		if raw == nil && req.Params.Arguments != nil { // did not come as JSON
			raw, _ = json.Marshal(req.Params.Arguments)
		}
		send, settle := progressSender(ctx, req.Params.Meta)
		r := s.run(ctx, t, raw, send)
		settle()
		return &mcp.CallToolResult{
			Content:           []mcp.Content{mcp.TextContent{Type: "text", Text: r.text}},
			StructuredContent: r.structured,
			IsError:           r.isError,
		}, nil
	}
}

// writerKey is the context key of a connection's [lineWriter].
type writerKey struct{}

// progressSender returns how to tell the client of progress, nil if it did not
// ask, and what to do before answering. Progress is written where the answer
// will be written: mcp-go's queue for notifications loses and delays them. A
// transport of mcp-go's own needs a moment for that queue to empty.
func progressSender(ctx context.Context, meta *mcp.Meta) (send sendProgress, settle func()) {
	settle = func() {}
	if meta == nil || meta.ProgressToken == nil {
		return nil, settle
	}
	const method = "notifications/progress"
	params := func(step float64, message string) map[string]any {
		return map[string]any{"progressToken": meta.ProgressToken, "progress": step, "message": message}
	}
	if out, ok := ctx.Value(writerKey{}).(*lineWriter); ok {
		return func(step float64, message string) {
			// The connection ends when a write fails; nothing to add here.
			_ = out.send(map[string]any{"jsonrpc": "2.0", "method": method, "params": params(step, message)})
		}, settle
	}
	var sent atomic.Bool
	send = func(step float64, message string) {
		sent.Store(true)
		if s := server.ServerFromContext(ctx); s != nil {
			_ = s.SendNotificationToClient(ctx, method, params(step, message)) // best effort by nature
		}
	}
	settle = func() {
		if sent.Load() {
			emptyQueue()
		}
	}
	return send, settle
}

// emptyQueue gives mcp-go's queue for notifications the moment that it needs: what
// is in it when the answer is there is lost, or comes after the answer.
func emptyQueue() {
	time.Sleep(5 * time.Millisecond) //nolint:forbidigo // what mcp-go has in hand cannot be waited for
}

func servePrompts(list []prompts.Prompt) []server.ServerPrompt {
	var served []server.ServerPrompt
	for _, p := range list {
		described := mcp.Prompt{Name: p.Name, Title: p.Title, Description: p.Description}
		for _, a := range p.Args {
			described.Arguments = append(described.Arguments, mcp.PromptArgument{Name: a.Name, Description: a.Description, Required: a.Required})
		}
		served = append(served, server.ServerPrompt{Prompt: described, Handler: handlePrompt(p)})
	}
	return served
}

func handlePrompt(p prompts.Prompt) server.PromptHandlerFunc {
	return func(_ context.Context, req mcp.GetPromptRequest) (*mcp.GetPromptResult, error) {
		text, err := p.Render(req.Params.Arguments)
		if err != nil {
			return nil, err
		}
		return &mcp.GetPromptResult{
			Description: p.Description,
			Messages:    []mcp.PromptMessage{{Role: mcp.RoleUser, Content: mcp.TextContent{Type: "text", Text: text}}},
		}, nil
	}
}

// ServeStdio answers one client that writes to in and reads from out, until in
// ends, ctx ends, or the client stops reading; each is a normal end. What was
// asked before in ended is still answered.
//
// Errors: [boxlite.RpcTransport] if in cannot be read.
func (s *Server) ServeStdio(ctx context.Context, in io.Reader, out io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w := &lineWriter{w: out, broken: cancel}
	one := &session{id: rand.Text(), queue: make(chan mcp.JSONRPCNotification, 16)}
	if err := s.mcp.mcp.RegisterSession(ctx, one); err != nil {
		return err
	}
	defer s.mcp.mcp.UnregisterSession(ctx, one.id)
	ctx = context.WithValue(s.mcp.mcp.WithContext(ctx, one), writerKey{}, w)
	s.work.start(func() { one.forward(ctx, w) })
	return serve(ctx, in, w, s.mcp.respond, s.log)
}

// respond has mcp-go answer a message, and gives the answer the id exactly as
// it came: mcp-go reads numbers as floating point.
func (a *adapter) respond(ctx context.Context, message, id json.RawMessage) (answer any) {
	defer func() {
		if v := recover(); v != nil {
			a.log.Error("message handler panicked", "err", v, "stack", string(debug.Stack()))
			answer = rpcError(id, codeInternal, "Internal error")
		}
	}()
	switch r := a.mcp.HandleMessage(ctx, message).(type) {
	case nil:
		return nil
	case mcp.JSONRPCResponse:
		r.ID = mcp.NewRequestId(id)
		return r
	case mcp.JSONRPCError:
		r.ID = mcp.NewRequestId(id)
		if strings.HasSuffix(r.Error.Message, server.ErrToolNotFound.Error()) {
			r.Error.Message = "There is no such tool. Tools: " + strings.Join(a.names, ", ")
		}
		return r
	default:
		return r
	}
}

// A session is a client on a pair of streams, to mcp-go.
type session struct {
	id          string
	queue       chan mcp.JSONRPCNotification // what mcp-go sends of its own accord
	initialized atomic.Bool
	version     atomic.Value // string
}

var (
	_ server.ClientSession              = (*session)(nil)
	_ server.SessionWithProtocolVersion = (*session)(nil)
)

func (s *session) SessionID() string                                   { return s.id }
func (s *session) NotificationChannel() chan<- mcp.JSONRPCNotification { return s.queue }
func (s *session) Initialize()                                         { s.initialized.Store(true) }
func (s *session) Initialized() bool                                   { return s.initialized.Load() }
func (s *session) SetProtocolVersion(v string)                         { s.version.Store(v) }

// ProtocolVersion returns what was agreed on in initialize, or "".
func (s *session) ProtocolVersion() string {
	v, _ := s.version.Load().(string)
	return v
}

// forward writes what mcp-go sends of its own accord, until ctx ends.
func (s *session) forward(ctx context.Context, w *lineWriter) {
	for {
		select {
		case n := <-s.queue:
			_ = w.send(n) // a write that fails ends the connection
		case <-ctx.Done():
			return
		}
	}
}
