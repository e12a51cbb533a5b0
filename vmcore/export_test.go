package vmcore

import (
	"context"
	"time"
)

// LoseEnd ends the box's shim in such a way that nobody writes it down, as when
// the disk is full then.
func (b *Box) LoseEnd() error {
	b.rt.mu.Lock()
	l := b.rt.live[b.id]
	delete(b.rt.live, b.id)
	b.rt.mu.Unlock()
	return l.shim.Kill(5 * time.Second)
}

// SettleUnder ends the box's shim and writes that down on behalf of a caller
// whose context is ctx.
func (b *Box) SettleUnder(ctx context.Context) error {
	release, err := b.rt.acquire(context.Background(), b.id)
	if err != nil {
		return err
	}
	defer release()
	l := b.rt.liveBox(b.id)
	if err := l.shim.Kill(5 * time.Second); err != nil {
		return err
	}
	_, err = b.rt.settle(ctx, b.id, l)
	return err
}

// Engines returns the engines to try for a box that wants the named one.
func (r EngineRules) Engines(name string) ([]string, error) { return r.engines(name) }

// Runtime returns the runtime of the box.
func (b *Box) Runtime() *Runtime { return b.rt }
