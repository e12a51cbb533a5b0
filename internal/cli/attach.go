package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"syscall"
	"time"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
)

const (
	chunkSize = 1 << 20          // of output, a stream and call
	inputSize = 32 << 10         // of input, a call
	pollWait  = 25 * time.Second // for output, a call; shorter than what proxies and people suspect

	// straggle is how long output is awaited that a command left behind in the
	// pipe when it exited while something it started holds the pipe open.
	straggle = 100 * time.Millisecond

	callTimeout = 5 * time.Second // of a call that only passes something on
)

// Why an attachment ended without its command.
var (
	errDetached = errors.New("detached")
	errGaveUp   = errors.New("gave up waiting for the command to end")
)

// An attachment connects an execution's streams to ours, from the given offsets
// on, until the execution ends. Output is polled by offset, so a connection
// that is lost costs nothing of it.
type attachment struct {
	link           *link
	id             boxlite.ExecutionID
	stdout, stderr io.Writer
	note           func(format string, args ...any) // tells the person something

	stdin    io.Reader // nil: not attached
	keys     bool      // stdin is a raw terminal; look for the detach keys
	resize   func() (rows, cols uint16)
	intr     *interrupts // nil: signals are not passed on
	from     [2]int64    // offsets of stdout and stderr to begin at; negative counts from the end
	noFollow bool        // end where the output ends now
}

// run returns once the execution has ended and all its output is written.
//
// Errors: errDetached, errGaveUp, an *outputError, those of the Service.
func (a *attachment) run(ctx context.Context) (boxlite.ExecInfo, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel(nil)

	if a.intr != nil {
		fw := &forwarder{attachment: a, giveUp: func() { cancel(errGaveUp) }, queue: make(chan syscall.Signal, 16)}
		defer a.intr.attached(fw.take)()
		wg.Go(func() { fw.run(ctx) })
	}
	if a.stdin != nil {
		in, err := newWakeable(a.stdin)
		if err != nil {
			return boxlite.ExecInfo{}, fmt.Errorf("open standard input: %w", err)
		}
		stop := context.AfterFunc(ctx, in.wake)
		wg.Go(func() {
			defer in.free()
			defer stop()
			if err := a.pump(ctx, in); err != nil {
				cancel(err)
			}
		})
	}
	info, err := a.copyOutput(ctx)
	if cause := context.Cause(ctx); err != nil && cause != nil && !errors.Is(cause, context.Canceled) {
		err = cause
	}
	return info, err
}

// copyOutput writes the output until the execution has ended.
func (a *attachment) copyOutput(ctx context.Context) (boxlite.ExecInfo, error) {
	req := boxlite.OutputRequest{StdoutOffset: a.from[0], StderrOffset: a.from[1], MaxBytes: chunkSize, Wait: pollWait}
	if a.noFollow {
		req.Wait = 0
	}
	var ended time.Time
	for {
		var out boxlite.Output
		err := a.link.again(ctx, func(s boxlite.Service) (err error) {
			out, err = s.Output(ctx, a.id, req)
			return err
		})
		if err != nil {
			return boxlite.ExecInfo{}, err
		}
		if err := errors.Join(a.write("stdout", a.stdout, out.Stdout), a.write("stderr", a.stderr, out.Stderr)); err != nil {
			return out.Exec, err
		}
		req.StdoutOffset, req.StderrOffset = out.Stdout.Next(), out.Stderr.Next()
		if more(out.Stdout) || more(out.Stderr) {
			continue
		}
		if a.noFollow || !out.Exec.Running && (out.Stdout.EOF && out.Stderr.EOF) {
			return out.Exec, nil
		}
		if !out.Exec.Running && !a.straggling(ctx, &ended) {
			return out.Exec, nil
		}
	}
}

// more reports whether there is more of the stream to read now.
func more(c boxlite.OutputChunk) bool { return c.Next() < c.End }

// straggling waits a little for what is left in a pipe that something else
// holds open, and reports whether to look again.
func (a *attachment) straggling(ctx context.Context, ended *time.Time) bool {
	if ended.IsZero() {
		*ended = time.Now()
	}
	if time.Since(*ended) > straggle {
		return false
	}
	select {
	case <-ctx.Done():
		return false
	case <-time.After(straggle / 5):
		return true
	}
}

func (a *attachment) write(name string, w io.Writer, c boxlite.OutputChunk) error {
	if c.Dropped > 0 {
		a.note("%s of %s are lost: they are beyond the limit of what is kept", boxlite.Bytes(c.Dropped), name)
	}
	if len(c.Data) == 0 {
		return nil
	}
	_, err := output{w}.Write(c.Data)
	return err
}

// pump sends the input until it ends, the command does, or the command closes
// it.
//
// Errors: errDetached; RpcTransport if the connection was lost while input was
// on its way: how much of it arrived cannot be told.
func (a *attachment) pump(ctx context.Context, in *wakeable) error {
	buf := make([]byte, inputSize)
	var keys detachKeys
	for {
		n, err := in.Read(buf)
		eof := errors.Is(err, io.EOF)
		over := errors.Is(err, errWoken) || ctx.Err() != nil
		if over {
			return nil
		}
		if err != nil && !eof {
			return fmt.Errorf("read standard input: %w", err)
		}
		if a.keys && keys.pressed(buf[:n], time.Now()) {
			return errDetached
		}
		if open, err := a.send(ctx, buf[:n]); err != nil || !open {
			return err
		}
		if eof {
			return a.sendEOF(ctx)
		}
	}
}

// send writes all of data, and reports whether more can follow.
func (a *attachment) send(ctx context.Context, data []byte) (open bool, err error) {
	for len(data) > 0 {
		var n int
		err := a.link.once(ctx, func(s boxlite.Service) (err error) {
			n, err = s.WriteStdin(ctx, a.id, data, false)
			return err
		})
		switch {
		case a.inputOver(ctx, err):
			return false, nil
		case lost(err) && a.keys:
			return true, nil // a key that was pressed while the daemon was away
		case err == nil && n == 0:
			err = io.ErrNoProgress
			fallthrough
		case err != nil:
			return false, &boxlite.Error{Op: "send input to", Kind: boxlite.KindOf(err), Ref: string(a.id), Err: err,
				Hint: "How much of the input arrived is not known; run the command again."}
		}
		data = data[min(n, len(data)):]
	}
	return true, nil
}

// sendEOF ends the input; that may be done twice.
func (a *attachment) sendEOF(ctx context.Context) error {
	err := a.link.again(ctx, func(s boxlite.Service) error {
		_, err := s.WriteStdin(ctx, a.id, nil, true)
		return err
	})
	if a.inputOver(ctx, err) {
		return nil
	}
	return err
}

// inputOver reports whether err says that the command wants no more input: it
// has closed it or ended, and its output says the rest.
func (a *attachment) inputOver(ctx context.Context, err error) bool {
	return ctx.Err() != nil || errors.Is(err, boxlite.InvalidState) || errors.Is(err, boxlite.NotFound)
}

// detachKeys finds Ctrl-] pressed three times within a second.
type detachKeys struct {
	count int
	first time.Time
}

const detachKey = 0x1d

func (d *detachKeys) pressed(keys []byte, now time.Time) bool {
	for _, k := range keys {
		switch {
		case k != detachKey:
			d.count = 0
			continue
		case d.count == 0 || now.Sub(d.first) > time.Second:
			d.count, d.first = 0, now
		}
		if d.count++; d.count == 3 {
			return true
		}
	}
	return false
}

// A forwarder passes our signals on to the command. Ctrl-C goes to it as it
// is; a second one within a second ends the command and all it started, and a
// third gives up.
type forwarder struct {
	*attachment
	giveUp func()
	queue  chan syscall.Signal // a signal, or SIGKILL for a second Ctrl-C; what does not fit is dropped

	count int
	last  time.Time
}

// take is called for every signal, one at a time, and does not block.
func (f *forwarder) take(sig syscall.Signal) {
	if sig == syscall.SIGINT {
		now := time.Now()
		if now.Sub(f.last) > time.Second {
			f.count = 0
		}
		f.count, f.last = f.count+1, now
		switch {
		case f.count == 2:
			sig = syscall.SIGKILL
		case f.count > 2:
			f.giveUp()
			return
		}
	}
	select {
	case f.queue <- sig:
	default:
	}
}

func (f *forwarder) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case sig := <-f.queue:
			f.pass(ctx, sig)
		}
	}
}

// pass does what a signal asks for. An error needs no telling: either the
// command has ended, or the output's reader meets the same error.
func (f *forwarder) pass(ctx context.Context, sig syscall.Signal) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_ = f.link.again(ctx, func(s boxlite.Service) error {
		switch {
		case sig == syscall.SIGKILL:
			_, err := s.StopExec(ctx, f.id, 0)
			return err
		case sig != syscall.SIGWINCH:
			return s.Signal(ctx, f.id, int(sig))
		case f.resize == nil:
			return nil
		}
		rows, cols := f.resize()
		return s.ResizeTTY(ctx, f.id, rows, cols)
	})
}
