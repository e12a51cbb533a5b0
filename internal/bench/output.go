package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/agent"
)

// measureOutput runs a command that prints a lot, through the shim, which keeps
// all of it, and, before and after, an eighth of it straight from the agent,
// which keeps nothing.
func measureOutput(ctx context.Context, s *setting, r *report) (err error) {
	size := int64(1 << 30)
	if s.quick {
		size = 8 << 20
	}
	r.chapter("output", fmt.Sprintf("yes | head -c %d through the Go API, which the shim keeps; bare engine: an eighth of it,", size),
		"before and after, which nobody keeps; peaks are of resident memory")
	b, err := s.api.create(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.remove(ctx)) }()
	bare, err := s.bare.create(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, bare.remove(ctx)) }()
	if _, err := b.run(ctx, "/bin/true"); err != nil {
		return err
	}
	parents, err := parents()
	if err != nil {
		return err
	}
	shim := parents[b.(apiBox).Info().PID]
	before, err := peak(shim)
	if err != nil {
		return err
	}
	var through, direct series
	for _, print := range []func() error{
		func() error {
			return direct.rate(size/8, func(n int64) error { return printDirect(ctx, bare.(*bareBox), n) })
		},
		func() error {
			return through.rate(size, func(n int64) error { return printThrough(ctx, b.(apiBox), n) })
		},
		func() error {
			return direct.rate(size/8, func(n int64) error { return printDirect(ctx, bare.(*bareBox), n) })
		},
	} {
		if err := print(); err != nil {
			return err
		}
	}
	after, err := peak(shim)
	if err != nil {
		return err
	}
	r.add(result{name: "bare engine", unit: "MB/s", values: direct})
	r.add(result{name: "Go API", unit: "MB/s", values: through})
	r.add(result{name: "Go API / bare engine", unit: "×", values: series{through.median() / direct.median()}})
	r.add(result{name: "peak of the shim before", unit: "MB", values: series{mb(before)}})
	r.add(result{name: "peak of the shim after", unit: "MB", values: series{mb(after)}})
	return nil
}

// rate appends at how many MB/s f deals with n bytes.
func (s *series) rate(n int64, f func(int64) error) error {
	begun := time.Now()
	if err := f(n); err != nil {
		return err
	}
	*s = append(*s, mb(n)/time.Since(begun).Seconds())
	return nil
}

func printing(n int64) []string { return []string{"/bin/sh", "-c", fmt.Sprintf("yes | head -c %d", n)} }

// A counter counts what is written to it.
type counter struct{ n int64 }

func (c *counter) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	return len(p), nil
}

func printDirect(ctx context.Context, b *bareBox, size int64) error {
	var got counter
	e, err := b.agent.Start(ctx, agent.ExecSpec{Args: printing(size)}, &got, nil)
	if err != nil {
		return err
	}
	if _, err := e.Wait(ctx); err != nil {
		return err
	}
	return exactly(got.n, size)
}

func printThrough(ctx context.Context, b apiBox, size int64) error {
	e, err := b.Run(ctx, boxlite.Command{Args: printing(size)}, nil)
	if err != nil {
		return err
	}
	n, err := io.Copy(io.Discard, e.Stdout())
	if err != nil {
		return err
	}
	return exactly(n, size)
}

func exactly(got, want int64) error {
	if got != want {
		return fmt.Errorf("%d bytes came, want %d", got, want)
	}
	return nil
}
