package tools

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"log/slog"
	"runtime/debug"
	"time"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
)

// Clients give up after about a minute, so a call ends its waits after
// waitLimit and has answered after answerLimit.
const (
	answerLimit = 50 * time.Second
	waitLimit   = 47 * time.Second
	unwindLimit = 1500 * time.Millisecond // for a tool to notice that its wait was ended
)

// A call is one call of a tool in flight.
type call struct {
	svc      boxlite.Service
	starts   *starts
	progress *progress
	readOnly bool      // the server may change nothing
	deadline time.Time // when waits end
}

// waitFor returns how long a caller that asked for so many seconds may wait.
func (c *call) waitFor(seconds int) time.Duration {
	return max(0, min(time.Duration(seconds)*time.Second, time.Until(c.deadline)-500*time.Millisecond))
}

// run answers one call. It never fails: what goes wrong is an error result. It
// returns within answerLimit, and soon after ctx ends; a service that ignores
// its context is left behind, and Close waits for it.
func (s *Server) run(ctx context.Context, t *tool, raw json.RawMessage, send sendProgress) result {
	ctx, cancel := context.WithTimeout(ctx, waitLimit)
	defer cancel()
	p := &progress{started: time.Now(), send: send}
	defer p.close()
	done := make(chan result, 1)
	if !s.work.start(func() { done <- s.attempt(ctx, t, raw, p) }) {
		return failure(&boxlite.Error{Op: "call " + t.name, Kind: boxlite.Canceled, Hint: "The server is shutting down."}, "")
	}
	if send != nil {
		s.work.start(func() { p.run(ctx) })
	}
	select {
	case r := <-done:
		return r
	case <-ctx.Done():
	}
	unwind := time.NewTimer(unwindLimit)
	defer unwind.Stop()
	select {
	case r := <-done:
		return r
	case <-unwind.C:
		s.log.Warn("tool left behind", "tool", t.name, "dur", time.Since(p.started))
		return failure(&boxlite.Error{Op: "finish " + t.name + " in time", Kind: boxlite.Timeout}, "")
	}
}

// attempt runs the tool and makes a result of whatever comes of it.
func (s *Server) attempt(ctx context.Context, t *tool, raw json.RawMessage, p *progress) (r result) {
	reference := rand.Text()[:8]
	defer func() {
		if v := recover(); v != nil {
			s.log.Error("tool panicked", "tool", t.name, "reference", reference, "err", v, "stack", string(debug.Stack()))
			r = failure(&boxlite.Error{Op: "run " + t.name}, reference)
		}
	}()
	r, err := s.once(ctx, t, raw, p)
	if err != nil {
		s.log.LogAttrs(ctx, level(err), "tool failed", slog.String("tool", t.name), slog.String("kind", boxlite.KindOf(err).String()),
			slog.String("reference", reference), slog.Duration("dur", time.Since(p.started)), slog.Any("err", chain(err)))
		return failure(err, reference)
	}
	s.log.Debug("tool called", "tool", t.name, "dur", time.Since(p.started))
	return r
}

// chain returns the cause that a fault stands for, which the log wants.
func chain(err error) error {
	if f, ok := err.(*fault); ok && f.cause != nil { //nolint:errorlint // the outermost only
		return f.cause
	}
	return err
}

func level(err error) slog.Level {
	if boxlite.KindOf(err) == boxlite.Internal {
		return slog.LevelError
	}
	return slog.LevelWarn
}

// once runs the tool. Making a lost connection good is the service's business.
func (s *Server) once(ctx context.Context, t *tool, raw json.RawMessage, p *progress) (result, error) {
	enabled := s.enabled()
	if err := enabled.refuses(t); err != nil {
		return result{}, err
	}
	c := &call{starts: &s.starts, progress: p, readOnly: s.opts.ReadOnly || enabled.ReadOnly}
	c.deadline, _ = ctx.Deadline()
	svc, err := s.connect(ctx)
	if err != nil {
		return result{}, err
	}
	c.svc = svc
	r, err := t.call(ctx, c, raw)
	if err == nil && t.name == "box_list" && enabled.Note != "" {
		r.text += "\nNote: " + enabled.Note
	}
	return r, err
}
