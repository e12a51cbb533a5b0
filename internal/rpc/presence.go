package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unicode"

	"golang.org/x/sys/unix"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/internal/proc"
)

// A Presence makes sure that a home has a daemon. Home, Version and Start are
// required. Any number of processes may do so for one home at once: a lock
// elects one that starts the daemon, the others wait for it.
//
// A daemon that is older than Version is asked to leave and replaced; a newer
// one is spoken to if it still speaks this program's protocol.
type Presence struct {
	Home    string // absolute; it exists
	Version string

	// Start starts a daemon that outlives this process. What it returns
	// receives once, if the daemon ends before it answers; it has room for
	// that. A [boxlite.Error] in it is the daemon's own word. It may be nil.
	Start func(ctx context.Context) (exited <-chan error, err error)

	// Lock is a file on which whoever owns the home holds an flock while it
	// lives. A daemon is started once nobody does. "": there is none.
	Lock string

	StartWait time.Duration // from Start to the first answer; 0: 20 seconds
	LeaveWait time.Duration // for an older or leaving daemon to be gone; 0: 30 seconds

	Log *slog.Logger // nil: discard
}

// Ensure returns once a daemon answers that this program can speak to, starting
// one where that is needed.
//
// Errors: RpcTransport, with the end of the daemon's log, if it does not come
// up, or if an older one does not leave; InvalidState if the home is in use by
// something that is no daemon; Unsupported if the daemon is too new; Denied if
// it is another user's; Storage; Canceled and Timeout as ctx says.
func (p *Presence) Ensure(ctx context.Context) error {
	if d := p.ask(ctx); d.usable(p.Version) {
		return nil
	}
	release, err := p.elect(ctx)
	if err != nil || release == nil {
		return err
	}
	defer release()
	d := p.ask(ctx)
	switch {
	case d.usable(p.Version):
		return nil
	case d.session != nil && d.older(p.Version):
		if err := p.replace(ctx, d.process); err != nil {
			return err
		}
	case d.err != nil && !errors.Is(d.err, boxlite.RpcTransport):
		return d.err
	}
	if done, err := p.awaitHome(ctx); done || err != nil {
		return err
	}
	return p.start(ctx)
}

// An answer is what a daemon said to a hello.
type answer struct {
	*session       // closed; nil without an answer
	err      error // why there is none, or why the daemon is of no use
}

// ask says hello to the daemon.
func (p *Presence) ask(ctx context.Context) answer {
	s, err := p.operator(ctx)
	if err != nil {
		return answer{err: err}
	}
	s.conn.Close()
	return answer{s, checkProtocol(Protocol, MinProtocol, s.protocol, s.minProtocol, s.version)}
}

func (p *Presence) operator(ctx context.Context) (*session, error) {
	return dialSession(ctx, Options{Socket: Socket(p.Home), Operator: true, Version: p.Version}, min(maxHello, p.startWait()))
}

// older reports whether a program of the given version replaces the daemon.
func (a answer) older(version string) bool {
	return a.protocol < Protocol || a.protocol == Protocol && Newer(version, a.version)
}

// usable reports whether a program of the given version speaks to the daemon.
func (a answer) usable(version string) bool { return a.err == nil && !a.older(version) }

// elect returns once this process is the only one that may start a daemon, and
// what ends that; or nil if another process has started one meanwhile.
func (p *Presence) elect(ctx context.Context) (release func(), err error) {
	path := filepath.Join(p.Home, "daemon.start")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, &boxlite.Error{Op: "start daemon", Kind: boxlite.Storage, Ref: path, Err: err,
			Hint: "Make the home directory writable, or name another one with --home or BOXLITE_HOME."}
	}
	var locked, usable bool
	err = poll(ctx, p.startWait()+p.leaveWait(), func() (bool, error) {
		if locked, err = flock(f); locked || err != nil {
			return true, err
		}
		usable = p.ask(ctx).usable(p.Version)
		return usable, nil
	})
	if locked {
		return func() { f.Close() }, nil
	}
	f.Close()
	if errors.Is(err, errPatience) {
		err = p.failure(boxlite.RpcTransport, "Try again, or end the process that does.", 0, errors.New("another process has been starting it for too long"))
	}
	return nil, err
}

// replace asks the older daemon to leave and waits until it is gone.
func (p *Presence) replace(ctx context.Context, old proc.ID) error {
	s, err := p.operator(ctx)
	if errors.Is(err, boxlite.RpcTransport) {
		return nil // it has just left
	}
	if err != nil {
		return err
	}
	defer s.conn.Close()
	p.log().Info("daemon replaced", "old", s.version, "new", p.Version, "pid", old.PID)
	if err := shutdown(ctx, s, "replaced by version "+p.Version); err != nil && !errors.Is(err, boxlite.RpcTransport) {
		return err
	}
	err = poll(ctx, p.leaveWait(), func() (bool, error) { return !old.Alive(), nil })
	if errors.Is(err, errPatience) {
		return p.failure(boxlite.RpcTransport, fmt.Sprintf("End process %d, the older daemon, and try again: boxes go on.", old.PID), 0,
			fmt.Errorf("the older daemon did not leave in %s", p.leaveWait()))
	}
	return err
}

// awaitHome returns once nobody owns the home; or answered is true if a daemon
// turned out to.
func (p *Presence) awaitHome(ctx context.Context) (answered bool, err error) {
	if p.Lock == "" {
		return false, nil
	}
	err = poll(ctx, p.leaveWait(), func() (bool, error) {
		if free, err := isFree(p.Lock); free || err != nil {
			return true, err
		}
		answered = p.ask(ctx).usable(p.Version)
		return answered, nil
	})
	if errors.Is(err, errPatience) {
		err = p.failure(boxlite.InvalidState, "End the program that uses this home, or give another one with --home.", 0,
			errors.New("something that is not a daemon holds the home's lock"))
	}
	return answered, err
}

// start starts the daemon and waits until it answers.
func (p *Presence) start(ctx context.Context) error {
	var logged int64
	if info, err := os.Stat(LogFile(p.Home)); err == nil {
		logged = info.Size()
	}
	exited, err := p.Start(ctx)
	if err != nil {
		return err
	}
	const hint = "Look at the daemon's log, or start it in a terminal with boxlite-mcp daemon."
	var last answer
	err = poll(ctx, p.startWait(), func() (bool, error) {
		select {
		case ended := <-exited:
			if last = p.ask(ctx); last.err == nil { // of someone else
				return true, nil
			}
			if why := itsReason(ended); why != nil {
				return true, why
			}
			return true, p.failure(boxlite.RpcTransport, hint, logged, fmt.Errorf("the daemon ended: %w", orEnded(ended)))
		default:
		}
		last = p.ask(ctx)
		return last.err == nil || !errors.Is(last.err, boxlite.RpcTransport), nil
	})
	switch {
	case errors.Is(err, errPatience):
		return p.failure(boxlite.RpcTransport, hint, logged, fmt.Errorf("the daemon does not answer after %s: %w", p.startWait(), last.err))
	case err != nil:
		return err
	}
	return last.err
}

// itsReason returns what a daemon that ended said of why, where trying again
// would not help. That another process has the home is not among that.
func itsReason(ended error) error {
	e, ok := errors.AsType[*boxlite.Error](ended)
	if !ok {
		return nil
	}
	switch e.Kind {
	case boxlite.Config, boxlite.Database, boxlite.Denied, boxlite.Exhausted, boxlite.Storage:
		return e
	default:
		return nil
	}
}

func orEnded(err error) error {
	if err == nil {
		return errors.New("without an error")
	}
	return err
}

// failure returns an error about the daemon with what its log says after the
// given size.
func (p *Presence) failure(kind boxlite.Kind, hint string, logged int64, err error) error {
	if tail := logTail(LogFile(p.Home), logged); tail != "" {
		err = fmt.Errorf("%w; its log ends:\n%s", err, tail)
	}
	return &boxlite.Error{Op: "start daemon", Kind: kind, Hint: hint, Err: err}
}

// logTail returns the last lines of a file after the given size, without what a
// terminal would obey.
func logTail(path string, after int64) string {
	const most, lines = 2 << 10, 8
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil {
		if info.Size() < after { // another file has taken its place
			after = 0
		}
		after = max(after, info.Size()-most)
	}
	b, _ := io.ReadAll(io.NewSectionReader(f, after, most)) // what can be read is enough
	all := strings.Split(strings.TrimSpace(string(b)), "\n")
	tail := strings.Join(all[max(0, len(all)-lines):], "\n")
	return strings.Map(func(r rune) rune {
		if r == '\n' || unicode.IsPrint(r) {
			return r
		}
		return -1
	}, tail)
}

func (p *Presence) startWait() time.Duration { return orDefault(p.StartWait, 20*time.Second) }
func (p *Presence) leaveWait() time.Duration { return orDefault(p.LeaveWait, 30*time.Second) }

func orDefault(d, def time.Duration) time.Duration {
	if d == 0 {
		return def
	}
	return d
}

func (p *Presence) log() *slog.Logger {
	if p.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return p.Log
}

// errPatience is what poll returns when its time is over.
var errPatience = errors.New("out of patience")

// poll calls fn, ever more slowly, until it is done or fails, patience is over
// or ctx ends.
func poll(ctx context.Context, patience time.Duration, fn func() (done bool, err error)) error {
	deadline := time.Now().Add(patience)
	for pause := 2 * time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		if done, err := fn(); done || err != nil {
			return err
		}
		if time.Now().After(deadline) {
			return errPatience
		}
		select {
		case <-ctx.Done():
			return &boxlite.Error{Op: "start daemon", Kind: boxlite.KindOf(ctx.Err()), Err: ctx.Err()}
		case <-time.After(pause):
		}
	}
}

// flock takes f's lock if nobody has it. It goes with f.
func flock(f *os.File) (bool, error) {
	for {
		switch err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); {
		case err == nil:
			return true, nil
		case errors.Is(err, unix.EWOULDBLOCK):
			return false, nil
		case !errors.Is(err, unix.EINTR):
			return false, &boxlite.Error{Op: "start daemon", Kind: boxlite.Storage, Ref: f.Name(), Err: os.NewSyscallError("flock", err)}
		}
	}
}

// isFree reports whether nobody holds a lock on the file at path.
func isFree(path string) (bool, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	if err != nil {
		return false, &boxlite.Error{Op: "start daemon", Kind: boxlite.Storage, Ref: path, Err: err}
	}
	defer f.Close()
	return flock(f)
}
