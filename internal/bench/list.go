package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/internal/cli"
	"github.com/boxlite-mcp/boxlite-mcp/internal/rpc"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore"
)

// measureList lists a home with many boxes: in the runtime, through the daemon
// and over MCP.
func measureList(ctx context.Context, s *setting, r *report) (err error) {
	many := 10_000
	if s.quick {
		many = 200
	}
	r.chapter("list", fmt.Sprintf("%d boxes that were created and never started", many))
	if err := measureRuntimeList(ctx, s, r, many); err != nil {
		return err
	}
	begun := time.Now()
	w, err := openMCP(ctx, s, "list")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.close(context.WithoutCancel(ctx))) }()
	r.add(result{name: "first box_list, starting front end and daemon", unit: "ms", values: series{float64(time.Since(begun)) / 1e6}})

	var page, all, tool series
	err = w.operate(ctx, func(c *rpc.Client) error {
		for range s.times(20) {
			begun := time.Now()
			if _, err := c.ListBoxes(ctx, boxlite.ListRequest{Limit: 20}); err != nil {
				return err
			}
			page.add(time.Since(begun))
			begun = time.Now()
			if n, err := listAll(ctx, c); err != nil || n != many {
				return fmt.Errorf("%d boxes are listed, want %d: %w", n, many, err)
			}
			all.add(time.Since(begun))
		}
		return nil
	})
	if err != nil {
		return err
	}
	for range s.times(20) {
		var list struct{ Total int }
		begun := time.Now()
		if err := w.call(ctx, "box_list", args{}, &list); err != nil {
			return err
		}
		tool.add(time.Since(begun))
		if list.Total != many {
			return fmt.Errorf("box_list says that there are %d boxes, want %d", list.Total, many)
		}
	}
	r.add(result{name: "daemon, a page of 20", unit: "ms", values: page})
	r.add(result{name: "daemon, all in pages of 1,000", unit: "ms", values: all})
	r.add(result{name: "box_list over MCP, a page of 20", unit: "ms", values: tool})
	return nil
}

// measureRuntimeList makes the home.
func measureRuntimeList(ctx context.Context, s *setting, r *report, many int) (err error) {
	home := filepath.Join(s.dir, "list")
	if err := cli.ClaimHome(home); err != nil { // or the daemon will not touch it
		return err
	}
	rt, err := vmcore.Open(ctx, vmcore.Options{Home: home, Programs: s.programs})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rt.Close()) }()
	begun := time.Now()
	g, inner := errgroup.WithContext(ctx)
	g.SetLimit(32)
	for i := range many {
		g.Go(func() error {
			// The principal of a front end that was not told another.
			_, err := rt.CreateFor(inner, vmcore.Owner{Principal: "local", Survives: true}, boxlite.CreateRequest{
				Name: fmt.Sprintf("box-%d", i), Options: boxlite.BoxOptions{Image: s.image, AutoRemove: new(false), Detach: true},
			})
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	r.add(result{name: "created", unit: "/s", values: series{float64(many) / time.Since(begun).Seconds()}})
	var took series
	for range s.times(20) {
		begun := time.Now()
		n := len(rt.ListInfo())
		took.add(time.Since(begun))
		if n != many {
			return fmt.Errorf("the runtime lists %d boxes, want %d", n, many)
		}
	}
	r.add(result{name: "runtime, all", unit: "ms", values: took})
	return nil
}

// listAll follows the cursor to the end.
func listAll(ctx context.Context, c *rpc.Client) (n int, err error) {
	req := boxlite.ListRequest{Limit: 1000}
	for {
		page, err := c.ListBoxes(ctx, req)
		if err != nil {
			return n, err
		}
		n += len(page.Boxes)
		if req.Cursor = page.Cursor; req.Cursor == "" {
			return n, nil
		}
	}
}
