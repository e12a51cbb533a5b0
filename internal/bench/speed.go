package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// measureStart times from asking for a box to the first output of a command
// in it, in each way by turns. The image is in the cache.
func measureStart(ctx context.Context, s *setting, r *report) error {
	r.chapter("create → first output", "a box is made of a cached image and /bin/echo runs in it")
	took := map[way]*series{}
	for _, w := range s.ways() {
		took[w] = &series{}
		if _, err := firstOutput(ctx, w); err != nil { // the first probes the engine, and reads files from disk
			return fmt.Errorf("%s: %w", w.name(), err)
		}
	}
	for i := range s.times(15) {
		for _, w := range s.turn(i) {
			d, err := firstOutput(ctx, w)
			if err != nil {
				return fmt.Errorf("%s: %w", w.name(), err)
			}
			took[w].add(d)
		}
	}
	bare, api, mcp := *took[s.bare], *took[s.api], *took[s.mcp]
	r.add(result{name: "bare engine", unit: "ms", values: bare})
	r.add(result{name: "Go API", unit: "ms", values: api})
	r.add(result{name: "MCP", unit: "ms", values: mcp})
	r.add(result{name: "Go API / bare engine", unit: "×", values: over(api, bare), below: 1.5})
	r.add(result{name: "MCP / Go API", unit: "×", values: over(mcp, api)})
	r.add(result{name: "MCP / bare engine", unit: "×", values: over(mcp, bare), below: 1.5})
	return nil
}

func firstOutput(ctx context.Context, w way) (time.Duration, error) {
	begun := time.Now()
	b, err := w.create(ctx)
	if err != nil {
		return 0, err
	}
	done, err := b.run(ctx, "/bin/echo", "hi")
	if err == nil {
		err = done.mustBe("hi\n")
	}
	return done.first.Sub(begun), errors.Join(err, b.remove(ctx))
}

// measureExec times a command that does nothing in a box that runs, in each way
// by turns.
func measureExec(ctx context.Context, s *setting, r *report) (err error) {
	r.chapter("exec round trip", "/bin/true in a box that runs, until its exit code is known")
	took, boxes := map[way]*series{}, map[way]box{}
	defer func() {
		for _, b := range boxes {
			err = errors.Join(err, b.remove(ctx))
		}
	}()
	for _, w := range s.ways() {
		if boxes[w], err = w.create(ctx); err != nil {
			delete(boxes, w)
			return fmt.Errorf("%s: %w", w.name(), err)
		}
		took[w] = &series{}
	}
	const (
		warmUp = 5
		settle = 30 * time.Millisecond // a sandbox is busy for a while with the end of a command; not at the cost of the next
	)
	for i := range s.times(200) + warmUp {
		for _, w := range s.turn(i) {
			pause(ctx, settle)
			begun := time.Now()
			if _, err := boxes[w].run(ctx, "/bin/true"); err != nil {
				return fmt.Errorf("%s: %w", w.name(), err)
			}
			if i >= warmUp {
				took[w].add(time.Since(begun))
			}
		}
	}
	bare, api, mcp := *took[s.bare], *took[s.api], *took[s.mcp]
	r.add(result{name: "bare engine", unit: "ms", values: bare})
	r.add(result{name: "Go API", unit: "ms", values: api})
	r.add(result{name: "MCP", unit: "ms", values: mcp})
	r.add(result{name: "MCP / bare engine", unit: "×", values: over(mcp, bare)})
	r.add(result{name: "Go API − bare engine", unit: "ms", values: beyond(api, bare), signed: true})
	r.add(result{name: "MCP − bare engine", unit: "ms", values: beyond(mcp, bare), signed: true, below: 5})
	return nil
}

// measureRestart times the stop and the start of a box with files in it, and of
// one without.
func measureRestart(ctx context.Context, s *setting, r *report) error {
	r.chapter("stop and start", "full: the box has written 50 MB in 2,000 files; Go API")
	var stop, start, total [2]series // of the empty box, of the full one
	for i, script := range []string{"", `import os
os.mkdir("/data")
for i in range(2000):
    with open(f"/data/{i}", "wb") as f: f.write(os.urandom(25000))`} {
		b, err := s.api.create(ctx)
		if err != nil {
			return err
		}
		if _, err = b.run(ctx, "python3", "-c", script); err != nil {
			return errors.Join(err, b.remove(ctx))
		}
		for range s.times(3) {
			begun := time.Now()
			err := b.(apiBox).Stop(ctx)
			stop[i].add(time.Since(begun))
			stopped := time.Now()
			if err == nil {
				err = b.(apiBox).Start(ctx, nil)
			}
			start[i].add(time.Since(stopped))
			total[i].add(time.Since(begun))
			var done ran
			if err == nil {
				done, err = b.run(ctx, "sh", "-c", "cat /data/* 2>/dev/null | wc -c")
			}
			if err == nil {
				err = done.mustBe([]string{"0\n", "50000000\n"}[i])
			}
			if err != nil {
				return errors.Join(err, b.remove(ctx))
			}
		}
		if err := b.remove(ctx); err != nil {
			return err
		}
	}
	for i, name := range []string{"empty", "full"} {
		r.add(result{name: "stop, " + name, unit: "ms", values: stop[i]})
		r.add(result{name: "start, " + name, unit: "ms", values: start[i]})
	}
	r.add(result{name: "stop and start, full / empty", unit: "×", values: over(total[1], total[0])})
	return nil
}
