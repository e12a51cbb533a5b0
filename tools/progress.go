package tools

import (
	"context"
	"fmt"
	"sync"
	"time"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
)

// When a client that asked for progress hears of it.
const (
	firstProgress = 900 * time.Millisecond
	nextProgress  = 3 * time.Second
)

// A sendProgress tells the client that asked: how far, a number that grows, and
// what is being done. It may block as long as the client does not read.
type sendProgress func(step float64, message string)

// A progress tells a client how a call is getting on. A nil sender tells
// nobody. It may be used concurrently.
type progress struct {
	started time.Time

	sendMu sync.Mutex // held across send, so that nothing is sent after close returned
	send   sendProgress
	last   float64 // guarded by sendMu
	closed bool    // guarded by sendMu

	mu     sync.Mutex
	phase  string    // guarded by mu
	source *progress // guarded by mu; whose phase counts instead
}

// report notes a phase, to be told at the next tick. It never blocks.
func (p *progress) report(step boxlite.Progress) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.phase = phaseText(step)
}

// current returns the phase reported last.
func (p *progress) current() string {
	p.mu.Lock()
	phase, source := p.phase, p.source
	p.mu.Unlock()
	if source != nil {
		return source.current()
	}
	return phase
}

// follow makes the phase of other, something that the call waits for, the
// phase of the call; nil ends that.
func (p *progress) follow(other *progress) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.source = other
}

// tell sends a message now.
func (p *progress) tell(message string) {
	p.sendMu.Lock()
	defer p.sendMu.Unlock()
	if p.send == nil || p.closed {
		return
	}
	step := time.Since(p.started).Round(time.Millisecond).Seconds()
	if step <= p.last {
		step = p.last + 0.001
	}
	p.last = step
	p.send(step, message)
}

// run tells the phase regularly until ctx ends.
func (p *progress) run(ctx context.Context) {
	timer := time.NewTimer(firstProgress)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		phase := p.current()
		if phase == "" {
			phase = "working"
		}
		p.tell(fmt.Sprintf("%s (%d s)", phase, int(time.Since(p.started).Seconds()+0.5)))
		timer.Reset(nextProgress)
	}
}

// close makes sure that nothing is sent any more.
func (p *progress) close() {
	p.sendMu.Lock()
	defer p.sendMu.Unlock()
	p.closed = true
}

// phaseText returns "pulling image 40 %", "pulling image 12 MiB" or "starting".
func phaseText(s boxlite.Progress) string {
	phase := oneLine(s.Phase, 120)
	switch {
	case s.Total > 0:
		return fmt.Sprintf("%s %d %%", phase, min(100, 100*s.Current/s.Total))
	case s.Current > 0:
		return fmt.Sprintf("%s %s", phase, boxlite.Bytes(s.Current))
	}
	return phase
}
