package clitest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
)

// A Program is what a command does. Its result is the exit code.
type Program func(p *Process) int

// stdinRoom is how much input a program that does not read can be sent.
const stdinRoom = 64 << 10

// A Process is a running program.
type Process struct {
	Command boxlite.Command
	Stdin   io.Reader
	Stdout  io.Writer
	Stderr  io.Writer
	// Signals delivers signals, SIGKILL excepted, once Trap was called.
	Signals chan int
	// Sizes delivers the terminal's sizes.
	Sizes chan [2]uint16
	// Killed is closed when the process is to be gone; Stdin then ends.
	Killed chan struct{}

	mu      sync.Mutex
	changed chan struct{}    // closed and replaced at every change; guarded by mu
	info    boxlite.ExecInfo // guarded by mu
	out     [2]bytes.Buffer  // guarded by mu
	in      []byte           // guarded by mu
	inEOF   bool             // guarded by mu
	trap    bool             // guarded by mu
	signal  int              // what it was killed by; guarded by mu
}

// Trap lets the program receive its signals itself.
func (p *Process) Trap() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.trap = true
}

// change tells all who wait; it needs mu.
func (p *Process) change() {
	close(p.changed)
	p.changed = make(chan struct{})
}

func (p *Process) infoNow() boxlite.ExecInfo {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.info
}

func (p *Process) kill(signal int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.signal == 0 && p.info.Running {
		p.signal = signal
		close(p.Killed)
		p.change()
	}
}

// readStdin is the Read of Stdin.
func (p *Process) readStdin(b []byte) (int, error) {
	for {
		p.mu.Lock()
		if n := copy(b, p.in); n > 0 {
			p.in = p.in[n:]
			p.change()
			p.mu.Unlock()
			return n, nil
		}
		over, changed := p.inEOF || p.signal != 0, p.changed
		p.mu.Unlock()
		if over {
			return 0, io.EOF
		}
		<-changed
	}
}

func (p *Process) writer(stream int) io.Writer {
	return writerFunc(func(b []byte) (int, error) {
		p.mu.Lock()
		defer p.mu.Unlock()
		n, err := p.out[stream].Write(b)
		p.info.StdoutEnd, p.info.StderrEnd = int64(p.out[0].Len()), int64(p.out[1].Len())
		p.change()
		return n, err
	})
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }

// run runs the program to its end.
func (p *Process) run(program Program) {
	began := time.Now()
	timer := time.AfterFunc(max(p.Command.Timeout, 1), func() {
		if p.Command.Timeout > 0 {
			p.kill(15)
		}
	})
	code := program(p)
	timer.Stop()
	p.mu.Lock()
	defer p.mu.Unlock()
	r := &boxlite.ExecResult{ExitCode: code, Duration: time.Since(began)}
	if p.signal != 0 {
		r.ExitCode, r.Signal = -p.signal, p.signal
		r.TimedOut = p.Command.Timeout > 0 && r.Duration >= p.Command.Timeout
	}
	p.info.Running, p.info.Result = false, r
	p.change()
}

// Programs are what every world can run.
var Programs = map[string]Program{
	"echo": func(p *Process) int {
		fmt.Fprintln(p.Stdout, strings.Join(p.Command.Args[1:], " "))
		return 0
	},
	"complain": func(p *Process) int {
		fmt.Fprintln(p.Stderr, strings.Join(p.Command.Args[1:], " "))
		return 0
	},
	"cat": func(p *Process) int {
		_, _ = io.Copy(p.Stdout, p.Stdin)
		return 0
	},
	"exit": func(p *Process) int {
		code, _ := strconv.Atoi(p.Command.Args[1])
		return code
	},
	"env": func(p *Process) int {
		for _, e := range p.Command.Env {
			fmt.Fprintln(p.Stdout, e)
		}
		return 0
	},
	// yes writes so many bytes.
	"yes": func(p *Process) int {
		n, _ := strconv.Atoi(p.Command.Args[1])
		for block := bytes.Repeat([]byte("y\n"), 16<<10); n > 0; n -= len(block) {
			if _, err := p.Stdout.Write(block[:min(n, len(block))]); err != nil {
				return 1
			}
		}
		return 0
	},
	"sleep": func(p *Process) int {
		<-p.Killed
		return 0
	},
	// trap prints "ready", then the signals that it gets, and ends at SIGTERM.
	"trap": func(p *Process) int {
		p.Trap()
		fmt.Fprintln(p.Stdout, "ready")
		for {
			select {
			case s := <-p.Signals:
				fmt.Fprintln(p.Stdout, "signal", s)
				if s == 15 {
					return 7
				}
			case <-p.Killed:
				return 0
			}
		}
	},
	// tty prints its size at the beginning and whenever it changes, and its
	// input in hexadecimal, until it reads a q.
	"tty": func(p *Process) int { return tty(p, true) },
	// tty-until-killed is the same, and ends only when it is killed.
	"tty-until-killed": func(p *Process) int { return tty(p, false) },
}

func tty(p *Process, quits bool) int {
	fmt.Fprintf(p.Stdout, "size %d %d\r\n", p.Command.Rows, p.Command.Cols)
	done := make(chan struct{})
	go func() { // ends with the input, which ends with the process
		defer close(done)
		b := make([]byte, 64)
		for {
			n, err := p.Stdin.Read(b)
			if err != nil {
				return
			}
			fmt.Fprintf(p.Stdout, "keys %x\r\n", b[:n])
			if quits && bytes.IndexByte(b[:n], 'q') >= 0 {
				return
			}
		}
	}()
	for {
		select {
		case s := <-p.Sizes:
			fmt.Fprintf(p.Stdout, "size %d %d\r\n", s[0], s[1])
		case <-done:
			return 0
		}
	}
}

func (w *World) Run(_ context.Context, box string, cmd boxlite.Command, report func(boxlite.Progress)) (boxlite.ExecInfo, error) {
	if err := cmd.Check(); err != nil {
		return boxlite.ExecInfo{}, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	b, err := w.find("run in box", box)
	if err != nil {
		return boxlite.ExecInfo{}, err
	}
	w.start(b, report)
	program := w.Programs[cmd.Args[0]]
	if program == nil {
		program = Programs[cmd.Args[0]]
	}
	switch {
	case cmd.Args[0] == "/etc/passwd":
		return boxlite.ExecInfo{}, boxlite.Errorf(boxlite.Run, "run", cmd.Args[0], "permission denied")
	case program == nil:
		return boxlite.ExecInfo{}, &boxlite.Error{Op: "run", Kind: boxlite.Run, Ref: cmd.Args[0], Hint: "Install it in the box, or give its path.",
			Err: fmt.Errorf("executable file not found in PATH")}
	}
	p := &Process{Command: cmd, Signals: make(chan int, 8), Sizes: make(chan [2]uint16, 8), Killed: make(chan struct{}),
		changed: make(chan struct{}), inEOF: !cmd.Stdin,
		info: boxlite.ExecInfo{ID: cmd.ExecutionID(b.ID), Args: cmd.Args, User: cmd.User, TTY: cmd.TTY, Started: time.Now().UTC(), Running: true}}
	p.Stdin, p.Stdout, p.Stderr = readerFunc(p.readStdin), p.writer(0), p.writer(1)
	w.running[p.info.ID] = p
	info := p.info
	w.wg.Go(func() {
		p.run(program)
		w.keep(p)
	})
	return info, nil
}

// keep moves what has ended to where it can be saved.
func (w *World) keep(p *Process) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.state.Execs = append(w.state.Execs, ended{p.info, p.out[0].String(), p.out[1].String()})
	delete(w.running, p.info.ID)
}

// process returns a running process, or one that has ended.
func (w *World) process(op string, id boxlite.ExecutionID) (*Process, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if p := w.running[id]; p != nil {
		return p, nil
	}
	for _, e := range w.state.Execs {
		if e.Info.ID == id {
			p := &Process{info: e.Info, changed: make(chan struct{}), inEOF: true}
			p.out[0].WriteString(e.Stdout)
			p.out[1].WriteString(e.Stderr)
			p.info.StdoutEnd, p.info.StderrEnd = int64(p.out[0].Len()), int64(p.out[1].Len())
			return p, nil
		}
	}
	return nil, fail(boxlite.NotFound, op, string(id), "Run boxlite-mcp inspect BOX to see its executions.")
}

func (w *World) Output(ctx context.Context, id boxlite.ExecutionID, req boxlite.OutputRequest) (boxlite.Output, error) {
	w.mu.Lock()
	w.outputs++
	lose := w.LoseAfter > 0 && w.outputs%w.LoseAfter == 0
	w.mu.Unlock()
	if lose {
		return boxlite.Output{}, fail(boxlite.RpcTransport, "read output", string(id), "")
	}
	p, err := w.process("read output", id)
	if err != nil {
		return boxlite.Output{}, err
	}
	deadline := time.After(req.Wait)
	for {
		p.mu.Lock()
		out := boxlite.Output{Exec: p.info, Stdout: p.chunk(0, req.StdoutOffset, req.MaxBytes), Stderr: p.chunk(1, req.StderrOffset, req.MaxBytes)}
		changed := p.changed
		p.mu.Unlock()
		if req.Wait <= 0 || !out.Exec.Running || len(out.Stdout.Data)+len(out.Stderr.Data) > 0 {
			return out, nil
		}
		select {
		case <-changed:
		case <-deadline:
			req.Wait = 0
		case <-ctx.Done():
			return boxlite.Output{}, fail(boxlite.Canceled, "read output", string(id), "")
		}
	}
}

// chunk needs mu.
func (p *Process) chunk(stream int, offset int64, limit int) boxlite.OutputChunk {
	all := p.out[stream].Bytes()
	end := int64(len(all))
	if offset < 0 {
		offset = max(0, end+offset)
	}
	offset = min(offset, end)
	data := all[offset:]
	data = bytes.Clone(data[:min(limit, len(data))])
	return boxlite.OutputChunk{Offset: offset, Data: data, End: end, EOF: !p.info.Running && offset+int64(len(data)) == end}
}

func (w *World) WriteStdin(ctx context.Context, id boxlite.ExecutionID, data []byte, eof bool) (int, error) {
	if w.LoseInput {
		return 0, fail(boxlite.RpcTransport, "write input", string(id), "")
	}
	p, err := w.process("write input", id)
	if err != nil {
		return 0, err
	}
	total := 0
	for {
		p.mu.Lock()
		if p.inEOF || !p.info.Running {
			p.mu.Unlock()
			return total, fail(boxlite.InvalidState, "write input", string(id), "")
		}
		n := min(len(data), stdinRoom-len(p.in))
		p.in = append(p.in, data[:n]...)
		data, total = data[n:], total+n
		p.inEOF = eof && len(data) == 0
		p.change()
		changed := p.changed
		p.mu.Unlock()
		if len(data) == 0 {
			return total, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return total, fail(boxlite.Canceled, "write input", string(id), "")
		}
	}
}

func (w *World) Signal(_ context.Context, id boxlite.ExecutionID, signal int) error {
	p, err := w.process("signal", id)
	if err != nil {
		return err
	}
	w.mu.Lock()
	w.signals[id] = append(w.signals[id], signal)
	w.mu.Unlock()
	p.mu.Lock()
	trapped := p.trap
	p.mu.Unlock()
	if trapped && signal != 9 {
		p.Signals <- signal
		return nil
	}
	p.kill(signal)
	return nil
}

func (w *World) StopExec(ctx context.Context, id boxlite.ExecutionID, grace time.Duration) (boxlite.ExecInfo, error) {
	p, err := w.process("stop execution", id)
	if err != nil {
		return boxlite.ExecInfo{}, err
	}
	w.mu.Lock()
	w.signals[id] = append(w.signals[id], -1)
	w.mu.Unlock()
	p.kill(9)
	out, err := w.Output(ctx, id, boxlite.OutputRequest{Wait: time.Second, Until: boxlite.UntilExit})
	return out.Exec, err
}

func (w *World) ResizeTTY(_ context.Context, id boxlite.ExecutionID, rows, cols uint16) error {
	p, err := w.process("resize terminal", id)
	if err != nil {
		return err
	}
	select {
	case p.Sizes <- [2]uint16{rows, cols}:
	default:
	}
	return nil
}
