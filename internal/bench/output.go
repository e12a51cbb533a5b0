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
// all of it, and straight from the agent, which keeps nothing.
func measureOutput(ctx context.Context, s *setting, r *report) (err error) {
	size := int64(1 << 30)
	if s.quick {
		size = 8 << 20
	}
	r.chapter("output", fmt.Sprintf("yes | head -c %d, read while it is written; peaks are resident memory", size))
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
	command := []string{"/bin/sh", "-c", fmt.Sprintf("yes | head -c %d", size)}
	for range s.times(2) {
		begun := time.Now()
		if err := printDirect(ctx, bare.(*bareBox), command, size); err != nil {
			return err
		}
		direct = append(direct, float64(size)/1e6/time.Since(begun).Seconds())
		begun = time.Now()
		if err := printThrough(ctx, b.(apiBox), command, size); err != nil {
			return err
		}
		through = append(through, float64(size)/1e6/time.Since(begun).Seconds())
	}
	after, err := peak(shim)
	if err != nil {
		return err
	}
	r.add(result{name: "bare engine", unit: "MB/s", values: direct})
	r.add(result{name: "Go API", unit: "MB/s", values: through})
	r.add(result{name: "Go API / bare engine", unit: "×", values: over(through, direct)})
	r.add(result{name: "peak of the shim before", unit: "MB", values: series{mb(before)}})
	r.add(result{name: "peak of the shim after", unit: "MB", values: series{mb(after)}})
	return nil
}

// A counter counts what is written to it.
type counter struct{ n int64 }

func (c *counter) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	return len(p), nil
}

func printDirect(ctx context.Context, b *bareBox, command []string, size int64) error {
	var got counter
	e, err := b.agent.Start(ctx, agent.ExecSpec{Args: command}, &got, nil)
	if err != nil {
		return err
	}
	if _, err := e.Wait(ctx); err != nil {
		return err
	}
	return exactly(got.n, size)
}

func printThrough(ctx context.Context, b apiBox, command []string, size int64) error {
	e, err := b.Run(ctx, boxlite.Command{Args: command}, nil)
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
