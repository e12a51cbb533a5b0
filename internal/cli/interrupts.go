package cli

import (
	"context"
	"errors"
	"os"
	"sync"
	"syscall"
)

// A signalError is the cause of a context that a signal cancelled.
type signalError struct{ sig syscall.Signal }

func (e signalError) Error() string { return "ended by " + e.sig.String() }

// withSignal gives err the code of the signal that cancelled ctx, if one did.
func withSignal(ctx context.Context, err error) error {
	cause, ok := errors.AsType[signalError](context.Cause(ctx))
	if _, coded := errors.AsType[*exitError](err); err == nil || !ok || coded {
		return err
	}
	return &exitError{exitSignal + int(cause.sig), err}
}

// interrupts passes signals on: to the attached command, or else to the
// context. The zero value is ready.
type interrupts struct {
	mu     sync.Mutex
	attach func(syscall.Signal) // guarded by mu; must not block; nil: none
}

// attached makes fn receive the signals until the function it returns is
// called. fn must not block.
func (i *interrupts) attached(fn func(syscall.Signal)) (detach func()) {
	set := func(fn func(syscall.Signal)) {
		i.mu.Lock()
		defer i.mu.Unlock()
		i.attach = fn
	}
	set(fn)
	return func() { set(nil) }
}

// run passes signals on until ctx is done.
func (i *interrupts) run(ctx context.Context, signals <-chan os.Signal, cancel context.CancelCauseFunc, release func()) {
	for {
		select {
		case <-ctx.Done():
			return
		case s := <-signals:
			if i.take(s) {
				if release != nil {
					release()
				}
				cancel(signalError{s.(syscall.Signal)})
			}
		}
	}
}

// take handles one signal and reports whether it must end the command line.
func (i *interrupts) take(s os.Signal) (end bool) {
	sig, ok := s.(syscall.Signal)
	if !ok || sig == syscall.SIGPIPE { // the write's error says it
		return false
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.attach != nil {
		i.attach(sig)
		return false
	}
	return sig != syscall.SIGWINCH
}
