// Command agent-over-sse is an agent framework's part of the conversation, as
// short as it can be: it connects over SSE, creates a box, runs what it is given
// in it, prints what came of it, and removes the box.
//
//	boxlite-mcp token add framework
//	boxlite-mcp serve --listen 127.0.0.1:7777
//	BOXLITE_TOKEN=... go run ./examples/agent-over-sse -image python:3.12 'python3 -c "print(6*7)"'
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Getenv("BOXLITE_TOKEN"), os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "agent-over-sse:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, arguments []string, token string, out io.Writer) (err error) {
	flags := flag.NewFlagSet("agent-over-sse", flag.ContinueOnError)
	endpoint := flags.String("endpoint", "http://127.0.0.1:7777/sse", "the server's `URL`")
	image := flags.String("image", "python:3.12", "the box's `image`")
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	if flags.NArg() != 1 {
		return errors.New("give the command to run as one argument")
	}
	client := mcp.NewClient(&mcp.Implementation{Name: "agent-over-sse", Version: "1"}, nil)
	transport := &mcp.SSEClientTransport{Endpoint: *endpoint, HTTPClient: &http.Client{Transport: bearer(token)}}
	session, err := client.Connect(ctx, transport, nil)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer session.Close()
	call := func(tool string, args map[string]any) (map[string]any, error) {
		res, err := session.CallTool(ctx, &mcp.CallToolParams{Name: tool, Arguments: args})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", tool, err)
		}
		if res.IsError {
			text, _ := res.Content[0].(*mcp.TextContent)
			return nil, fmt.Errorf("%s: %s", tool, text.Text)
		}
		facts, _ := res.StructuredContent.(map[string]any)
		return facts, nil
	}
	box, err := call("box_create", map[string]any{"image": *image, "ttl_seconds": 3600})
	if err != nil {
		return err
	}
	defer func() {
		_, gone := call("box_remove", map[string]any{"box": box["box_id"], "force": true})
		err = errors.Join(err, gone)
	}()
	result, err := call("box_exec", map[string]any{"box": box["box_id"], "command": flags.Arg(0)})
	if err != nil {
		return err
	}
	stdout, _ := result["stdout"].(map[string]any)
	_, err = fmt.Fprintf(out, "%v\nexit code %v\n", stdout["text"], result["exit_code"])
	return err
}

// bearer sends a token with each request.
type bearer string

// RoundTrip implements [http.RoundTripper].
func (b bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+string(b))
	return http.DefaultTransport.RoundTrip(r)
}
