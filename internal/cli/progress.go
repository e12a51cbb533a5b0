package cli

import (
	"fmt"
	"io"
	"sync"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/spf13/pflag"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

// mostBars is how many phases are shown at once; layers beyond it are not.
const mostBars = 12

// A progress shows how far something long has got. report may be called
// concurrently; end must be called before anything else writes to the writer.
type progress struct {
	mu    sync.Mutex
	w     io.Writer
	bars  map[string]*mpb.Bar // by phase; guarded by mu; nil: lines
	group *mpb.Progress       // guarded by mu; nil until there is something to show
	seen  map[string]bool     // phases whose line was written; guarded by mu
	ended bool                // guarded by mu
}

// progressFlag adds --progress, whose default is what "auto" means off a
// terminal.
func progressFlag(fs *pflag.FlagSet, mode *string, off string) {
	fs.StringVar(mode, "progress", "auto", "how to show progress on standard error: bar, plain, none, or auto: bar on a terminal, else "+off)
	fromEnv(fs, "progress")
}

// newProgress returns a progress of the given mode; off is what auto means
// where w is no terminal.
//
// Errors: InvalidArgument.
func (m *commander) newProgress(mode, off string) (*progress, error) {
	if mode == "auto" {
		mode = off
		if isTerminal(m.Stderr) {
			mode = "bar"
		}
	}
	p := &progress{w: m.Stderr}
	switch mode {
	case "bar":
		p.bars = map[string]*mpb.Bar{}
	case "plain":
		p.seen = map[string]bool{}
	case "none":
		p.ended = true
	default:
		return nil, usage("--progress", "Use auto, bar, plain or none.", nil)
	}
	return p, nil
}

// report shows one step.
func (p *progress) report(step boxlite.Progress) {
	p.mu.Lock()
	defer p.mu.Unlock()
	phase := cut(oneLine(step.Phase), 40)
	switch {
	case p.ended || phase == "":
	case p.bars != nil:
		p.bar(phase, step)
	case !p.seen[phase]:
		p.seen[phase] = true
		fmt.Fprintln(p.w, phase)
	}
}

// bar needs mu.
func (p *progress) bar(phase string, step boxlite.Progress) {
	if p.group == nil {
		p.group = mpb.New(mpb.WithOutput(p.w), mpb.WithWidth(72))
	}
	b := p.bars[phase]
	if b == nil {
		if len(p.bars) >= mostBars {
			return
		}
		b = p.newBar(phase, step.Total)
		p.bars[phase] = b
	}
	if step.Total > 0 {
		b.SetTotal(step.Total, false)
		b.SetCurrent(min(step.Current, step.Total))
	}
}

// newBar needs mu.
func (p *progress) newBar(phase string, total int64) *mpb.Bar {
	name := mpb.PrependDecorators(decor.Name(phase, decor.WCSyncSpaceR))
	if total <= 0 {
		return p.group.AddSpinner(0, name, mpb.BarRemoveOnComplete())
	}
	return p.group.AddBar(total, name, mpb.AppendDecorators(decor.CountersKibiByte("% .1f / % .1f")))
}

// end leaves what is shown as it is and gives the writer back. It is
// idempotent.
func (p *progress) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended = true
	if p.group == nil {
		return
	}
	for _, b := range p.bars {
		b.Abort(b.Current() == 0)
	}
	p.group.Wait()
	p.group = nil
}
