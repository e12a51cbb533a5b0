package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// args are the arguments of a tool.
type args map[string]any

// A stage has the client on it and shows what it does. One goroutine tells the
// story; progress and what the server logs come from others.
type stage struct {
	printing        sync.Mutex // of out and silent
	out             io.Writer
	verbose, silent bool
	server          string // program
	home, registry  string
	api             *api
	cmd             *exec.Cmd // the server that runs
	session         *mcp.ClientSession
}

// connect starts the server, as an MCP client does by its configuration.
func (s *stage) connect(ctx context.Context) error {
	s.cmd = exec.CommandContext(ctx, s.server, "serve", "--home", s.home, "--registry", s.registry)
	s.cmd.Stderr = s
	begun := time.Now()
	client := mcp.NewClient(&mcp.Implementation{Name: "demo", Version: "1"}, &mcp.ClientOptions{ProgressNotificationHandler: s.progress})
	session, err := client.Connect(ctx, &mcp.CommandTransport{Command: s.cmd}, nil)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	s.session = session
	tools, err := session.ListTools(ctx, nil)
	if err != nil {
		return fmt.Errorf("list tools: %w", err)
	}
	names := make([]string, len(tools.Tools))
	for i, t := range tools.Tools {
		names[i] = t.Name
	}
	s.say("$ boxlite-mcp serve --registry %s", s.registry)
	s.say("It answered after %d ms and has %d tools: %s.", time.Since(begun).Milliseconds(), len(names), strings.Join(names, ", "))
	return nil
}

// call calls a tool and prints what the agent sees. An error result is an
// error, with the text that the agent gets.
func (s *stage) call(ctx context.Context, tool string, a args) (result, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute) // clients give up after about this
	defer cancel()
	line, err := json.Marshal(a)
	if err != nil {
		return result{}, err
	}
	s.show("→ ", tool+" "+string(line), 1)
	params := &mcp.CallToolParams{Name: tool, Arguments: a}
	params.SetProgressToken(tool)
	begun := time.Now()
	res, err := s.session.CallTool(ctx, params)
	if err != nil {
		return result{}, fmt.Errorf("%s: %w", tool, err)
	}
	var said strings.Builder
	for _, c := range res.Content {
		if t, ok := c.(*mcp.TextContent); ok {
			said.WriteString(t.Text)
		}
	}
	text := said.String()
	s.show("← ", text, 12)
	s.say("   (%d ms)", time.Since(begun).Milliseconds())
	if res.IsError {
		return result{}, fmt.Errorf("%s: %s", tool, text)
	}
	return result{res.StructuredContent}, nil
}

// progress prints what a long call says of itself.
func (s *stage) progress(_ context.Context, r *mcp.ProgressNotificationClientRequest) {
	if m := r.Params.Message; m != "" {
		s.say("   … %s", m)
	}
}

// killAll ends the server and the daemon as a crash would.
func (s *stage) killAll() error {
	pid, err := daemonPID(s.home)
	if err != nil {
		return fmt.Errorf("find the daemon: %w", err)
	}
	s.say("$ kill -9 %d %d   # server and daemon", s.cmd.Process.Pid, pid)
	err = errors.Join(s.cmd.Process.Kill(), kill(pid))
	_ = s.session.Close() // of a server that is gone
	s.session = nil
	return err
}

// end lets go of the server, and waits until nothing is left of it.
func (s *stage) end(ctx context.Context) error {
	if s.session == nil {
		return nil
	}
	pid, err := daemonPID(s.home)
	if err != nil {
		return fmt.Errorf("find the daemon: %w", err)
	}
	if err := s.session.Close(); err != nil {
		return fmt.Errorf("close: %w", err)
	}
	begun := time.Now()
	for alive(pid) {
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
		if time.Since(begun) > time.Minute {
			return errors.Join(fmt.Errorf("the daemon (pid %d) has not left", pid), kill(pid))
		}
	}
	s.say("The client has gone, and %.1f s later the daemon too.", time.Since(begun).Seconds())
	return nil
}

// quiet suppresses what is printed, if so asked, until the returned function
// is called.
func (s *stage) quiet(yes bool) (loud func()) {
	set := func(yes bool) {
		s.printing.Lock()
		defer s.printing.Unlock()
		s.silent = yes
	}
	set(yes)
	return func() { set(false) }
}

func (s *stage) chapter(title string) {
	s.printing.Lock()
	defer s.printing.Unlock()
	fmt.Fprintf(s.out, "\n== %s\n", title)
}

func (s *stage) say(format string, a ...any) {
	s.printing.Lock()
	defer s.printing.Unlock()
	if !s.silent {
		fmt.Fprintf(s.out, "   "+format+"\n", a...)
	}
}

// show prints a text of several lines, at most some of them.
func (s *stage) show(mark, text string, most int) {
	const width = 150
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	more := len(lines) - most
	for i, line := range lines {
		if i == most && !s.verbose {
			s.say("  … %d more lines", more)
			return
		}
		if r := []rune(line); len(r) > width && !s.verbose {
			line = string(r[:width]) + "…"
		}
		s.say("%s%s", mark, line)
		mark = "  "
	}
}

// A result is the structured content of a tool's result.
type result struct{ content any }

// at follows names into the result.
func (r result) at(path ...string) any {
	at := r.content
	for _, name := range path {
		m, ok := at.(map[string]any)
		if !ok {
			return nil
		}
		at = m[name]
	}
	return at
}

// text returns a string, "" where there is none.
func (r result) text(path ...string) string {
	t, _ := r.at(path...).(string)
	return t
}

// number returns a number, -1 where there is none.
func (r result) number(path ...string) int {
	n, ok := r.at(path...).(float64)
	if !ok {
		return -1
	}
	return int(n)
}

// Write prints what the server logs.
func (s *stage) Write(b []byte) (int, error) {
	s.say("server: %s", strings.TrimSpace(string(b)))
	return len(b), nil
}
