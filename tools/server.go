package tools

import (
	"context"
	_ "embed"
	"fmt"
	"log/slog"
	"slices"
	"time"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/prompts"
)

// instructions tell a model how the tools work together.
//
//go:embed instructions.md
var instructions string

// Connect returns the service that a call is for. It is called once a call,
// with the call's context, which says whose call it is where there are several
// principals; nothing before the first call of a tool calls it. It must return
// the same, comparable value (a pointer) for the same principal, and may be
// called concurrently.
type Connect func(ctx context.Context) (boxlite.Service, error)

// Always returns a Connect for a service that is there already.
func Always(svc boxlite.Service) Connect {
	return func(context.Context) (boxlite.Service, error) { return svc, nil }
}

// Once returns a Connect that calls dial until it has succeeded once, one call
// at a time, and then returns that service. A lost connection is for the
// service to mend.
func Once(dial Connect) Connect {
	turn := make(chan struct{}, 1) // holds a token while somebody dials
	var svc boxlite.Service        // guarded by turn
	return func(ctx context.Context) (boxlite.Service, error) {
		select {
		case turn <- struct{}{}:
			defer func() { <-turn }()
		case <-ctx.Done():
			return nil, &boxlite.Error{Op: "connect to the service", Kind: boxlite.KindOf(ctx.Err()), Err: ctx.Err()}
		}
		if svc != nil {
			return svc, nil
		}
		s, err := dial(ctx)
		if err == nil {
			svc = s
		}
		return s, err
	}
}

// Options says what a [Server] offers. The zero value offers everything.
type Options struct {
	Version  string       // of the program, for clients; "": "dev"
	Log      *slog.Logger // nil discards
	ReadOnly bool         // only tools that change nothing
	Toolsets []string     // of [Toolsets]; nil: all

	// Extend adds what others' test suites expect of a server; nil adds nothing. It is
	// for internal/conformance, which tests the transports and not the tools.
	Extend Extension
	// Enabled says what the operator leaves of these tools, before each list and
	// each call: it may change while the server runs. It may be called
	// concurrently. nil: all of them.
	Enabled func() Enabled
}

// Enabled are the tools that an operator wants.
type Enabled struct {
	ReadOnly bool
	Toolsets []string // of [Toolsets]
	Note     string   // what a client should know of the operator's wishes; box_list says it; "": nothing
}

// all reports whether the operator wants all tools.
func (e Enabled) all() bool {
	return !e.ReadOnly && !slices.ContainsFunc(Toolsets, func(set string) bool { return !slices.Contains(e.Toolsets, set) })
}

// refuses returns the operator's refusal of a tool, nil if he wants it.
func (e Enabled) refuses(t *tool) error {
	setting := ""
	switch {
	case e.ReadOnly && !t.readOnly:
		setting = "tools.read_only = true"
	case !slices.Contains(e.Toolsets, t.set):
		setting = "tools.toolsets or tools.disabled"
	default:
		return nil
	}
	return &boxlite.Error{Op: "call " + t.name, Kind: boxlite.Denied, Hint: "Do without it, or tell the user.",
		Err: fmt.Errorf("the operator has switched it off: %s in config.toml", setting)}
}

// enabled returns what the operator wants.
func (s *Server) enabled() Enabled {
	if s.opts.Enabled == nil {
		return Enabled{Toolsets: Toolsets}
	}
	return s.opts.Enabled()
}

// A Server answers MCP clients. Close it when no transport needs it any more.
type Server struct {
	connect Connect
	opts    Options
	log     *slog.Logger
	tools   []tool
	prompts []prompts.Prompt
	mcp     *adapter

	work   crew // calls
	starts starts
}

// NewServer returns a server whose calls go to the services that connect
// returns.
//
// Errors: [boxlite.InvalidArgument] for a toolset that does not exist.
func NewServer(connect Connect, opts Options) (*Server, error) {
	if opts.Version == "" {
		opts.Version = "dev"
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	for _, set := range opts.Toolsets {
		if !slices.Contains(Toolsets, set) {
			return nil, &boxlite.Error{Op: "choose toolset", Ref: set, Kind: boxlite.InvalidArgument, Hint: "Choose from boxes, exec, files, images, network."}
		}
	}
	s := &Server{connect: connect, opts: opts, log: opts.Log}
	for _, t := range all() {
		if (opts.Toolsets == nil || slices.Contains(opts.Toolsets, t.set)) && (!opts.ReadOnly || t.readOnly) {
			s.tools = append(s.tools, t)
		}
	}
	if !opts.ReadOnly && opts.Toolsets == nil {
		s.prompts = prompts.All()
	}
	s.mcp = newAdapter(s)
	return s, nil
}

// closeLimit is how long Close waits for work that ignores its context.
const closeLimit = 5 * time.Second

// Close ends the work that outlived its calls, such as the start of a box, and
// waits for it. Boxes and executions go on. Use no transport after it.
func (s *Server) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeLimit)
	defer cancel()
	for _, done := range []<-chan struct{}{s.starts.stop(), s.work.close()} {
		select {
		case <-done:
		case <-ctx.Done():
			return &boxlite.Error{Op: "close server", Kind: boxlite.Timeout, Hint: "A call to the service did not end."}
		}
	}
	return nil
}
