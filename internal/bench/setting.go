package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/boxlite-mcp/boxlite-mcp/internal/testimage"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/image"
)

// A setting is what all measurements share: a registry with the image, and the
// ways to use boxes. Each way with a home has its own.
type setting struct {
	options
	dir      string
	programs vmcore.Programs
	registry *testimage.Registry
	image    string // reference of Debian with Python

	mcp  *mcpWay
	api  *apiWay
	bare *bareWay
}

// newSetting brings everything up, with the image in both caches.
func newSetting(ctx context.Context, o options) (_ *setting, err error) {
	s := &setting{options: o}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close(context.WithoutCancel(ctx)))
		}
	}()
	if s.dir, err = os.MkdirTemp("", "boxlite-bench-"); err != nil {
		return nil, err
	}
	bin := filepath.Dir(o.server)
	s.programs = vmcore.Programs{Helper: o.server, Sandbox: filepath.Join(bin, "boxlite-sandbox"), Jail: filepath.Join(bin, "boxlite-jail"), Agent: filepath.Join(bin, "boxlite-agent")}
	for _, program := range []string{s.programs.Helper, s.programs.Sandbox, s.programs.Jail, s.programs.Agent} {
		if _, err := os.Stat(program); err != nil {
			return nil, fmt.Errorf("%w; make build makes it", err)
		}
	}
	img, err := testimage.Debian(ctx, o.cache, io.Discard)
	if err != nil {
		return nil, err
	}
	if s.registry, err = testimage.Serve(ctx, filepath.Join(s.dir, "registry"), io.Discard); err != nil {
		return nil, err
	}
	if s.image, err = s.registry.Push(ctx, img, "bench/python:3"); err != nil {
		return nil, err
	}
	if s.api, err = openAPI(ctx, s); err != nil {
		return nil, fmt.Errorf("the Go API: %w", err)
	}
	if s.bare, err = openBare(s); err != nil {
		return nil, fmt.Errorf("the bare engine: %w", err)
	}
	if s.mcp, err = openMCP(ctx, s, "mcp"); err != nil {
		return nil, fmt.Errorf("MCP: %w", err)
	}
	return s, nil
}

// registries are where images come from.
func (s *setting) registries() []image.Registry {
	return []image.Registry{{Host: s.registry.Addr(), HTTP: true, Search: true}}
}

// ways returns the ways to use boxes, the bare engine first.
func (s *setting) ways() []way { return []way{s.bare, s.api, s.mcp} }

// turn returns the ways in the order of turn i: each follows each other.
func (s *setting) turn(i int) []way {
	ways := s.ways()
	if i%2 == 1 {
		slices.Reverse(ways)
	}
	return slices.Concat(ways[i%3:], ways[:i%3])
}

// times returns how often to do something: n, or once to see whether it can be
// done.
func (s *setting) times(n int) int {
	if s.quick {
		return 1
	}
	return n
}

func (s *setting) close(ctx context.Context) error {
	var errs []error
	if s.mcp != nil {
		errs = append(errs, s.mcp.close(ctx))
	}
	if s.api != nil {
		errs = append(errs, s.api.rt.Close())
	}
	if s.registry != nil {
		errs = append(errs, s.registry.Close())
	}
	if s.dir != "" {
		errs = append(errs, os.RemoveAll(s.dir))
	}
	return errors.Join(errs...)
}
