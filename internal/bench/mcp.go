package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/boxlite-mcp/boxlite-mcp/internal/proc"
	"github.com/boxlite-mcp/boxlite-mcp/internal/rpc"
)

// mcpWay is an MCP client with the front end that it started, as an agent's
// program does it, and the daemon that this one started.
type mcpWay struct {
	home    string
	image   string
	session *mcp.ClientSession
	stderr  bytes.Buffer
	daemon  proc.ID
	front   int // pid
}

// openMCP starts a front end on a home below the setting's directory, and
// makes sure that its daemon is there and has the image.
func openMCP(ctx context.Context, s *setting, home string) (*mcpWay, error) {
	w := &mcpWay{home: filepath.Join(s.dir, home), image: s.image}
	cmd := exec.Command(s.server, "serve", "--home", w.home, "--registry", s.registry.URL(), "--log-level", "error") //nolint:noctx // closed by its client
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + s.dir}
	cmd.Stderr = &w.stderr
	client := mcp.NewClient(&mcp.Implementation{Name: "bench", Version: "1"}, nil)
	var err error
	if w.session, err = client.Connect(ctx, &mcp.CommandTransport{Command: cmd}, nil); err != nil {
		return nil, fmt.Errorf("connect: %w: %s", err, w.stderr.String())
	}
	w.front = cmd.Process.Pid
	if err := w.call(ctx, "box_list", args{}, nil); err != nil {
		return nil, errors.Join(err, w.session.Close())
	}
	err = w.operate(ctx, func(c *rpc.Client) error {
		_, w.daemon, err = c.Hello(ctx)
		return err
	})
	return w, err
}

// operate speaks to the daemon as its operator.
func (w *mcpWay) operate(ctx context.Context, f func(*rpc.Client) error) error {
	c, err := rpc.Dial(ctx, rpc.Options{Socket: rpc.Socket(w.home), Operator: true})
	if err != nil {
		return err
	}
	defer c.Close()
	return f(c)
}

// close ends the front end and the daemon, and waits for both.
func (w *mcpWay) close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	err := w.session.Close()
	err = errors.Join(err, w.operate(ctx, func(c *rpc.Client) error { return c.Shutdown(ctx, "the benchmark is over") }))
	for w.daemon.Alive() {
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return errors.Join(err, errors.New("the daemon does not leave"), w.daemon.Kill(10*time.Second))
		}
	}
	return err
}

// args are the arguments of a tool.
type args map[string]any

// call calls a tool and decodes its structured result into v, which may be
// nil.
func (w *mcpWay) call(ctx context.Context, tool string, a args, v any) error {
	res, err := w.session.CallTool(ctx, &mcp.CallToolParams{Name: tool, Arguments: a})
	if err != nil {
		return fmt.Errorf("%s: %w: %s", tool, err, w.stderr.String())
	}
	data, err := json.Marshal(res.StructuredContent)
	if err == nil && res.IsError {
		err = fmt.Errorf("%s: %s", tool, data)
	}
	if err != nil || v == nil {
		return err
	}
	return json.Unmarshal(data, v)
}

func (w *mcpWay) name() string { return "MCP" }

// create calls box_create, which returns when the box runs.
func (w *mcpWay) create(ctx context.Context) (box, error) {
	var b struct {
		ID     string `json:"box_id"`
		Status string `json:"status"`
	}
	err := w.call(ctx, "box_create", args{"image": w.image}, &b)
	if err == nil && b.Status != "running" {
		err = fmt.Errorf("box %s is %s", b.ID, b.Status)
	}
	return mcpBox{w, b.ID}, err
}

type mcpBox struct {
	w  *mcpWay
	id string
}

// run calls box_exec. The client has the first of the output when it has all.
func (b mcpBox) run(ctx context.Context, argv ...string) (ran, error) {
	var r struct {
		Status string `json:"status"`
		Code   *int   `json:"exit_code"`
		Stdout struct {
			Text string `json:"text"`
		} `json:"stdout"`
	}
	if err := b.w.call(ctx, "box_exec", args{"box": b.id, "argv": argv}, &r); err != nil {
		return ran{}, err
	}
	if r.Status != "exited" || r.Code == nil || *r.Code != 0 {
		return ran{}, fmt.Errorf("%q: %+v", argv, r)
	}
	return ran{r.Stdout.Text, time.Now()}, nil
}

func (b mcpBox) remove(ctx context.Context) error {
	return b.w.call(ctx, "box_remove", args{"box": b.id, "force": true}, nil)
}
