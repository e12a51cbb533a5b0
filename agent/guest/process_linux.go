package guest

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/agent/agentpb"
	"golang.org/x/sys/unix"
)

// A process is a command that was started, its streams, and what descends from
// it.
type process struct {
	box    *box
	tree   *tree
	pid    int // in the agent's numbering
	boxPID int

	stdin   *os.File  // to write to; nil: empty. On a terminal its master
	outputs []*output // to read from
	master  *os.File  // of the terminal; nil: none
	oom     uint64    // of the whole kernel, when the process was started
	status  unix.WaitStatus
	exited  chan struct{} // closed once status is set

	closed atomic.Bool // its streams have ended, or nobody wants them

	stdinMu     sync.Mutex
	stdinClosed bool // guarded by stdinMu
}

// An output is a stream that the host gets.
type output struct {
	file   *os.File
	stderr bool
	tty    bool
	exited atomic.Bool // what is there now was written before the program's end
}

// stdio is the command's end of its streams, and ours.
type stdio struct {
	files   [3]*os.File // the command's
	stdin   *os.File
	outputs []*output
	master  *os.File
}

// start looks a command up and starts it.
func (b *box) start(ctx context.Context, spec *request) (p *process, err error) {
	if e := b.fork.do(ctx, func() { p, err = b.startHere(spec) }); e != nil {
		if errors.Is(e, unix.ESRCH) {
			return nil, boxlite.Errorf(boxlite.InvalidState, "run command", "", "the box has ended")
		}
		return nil, e
	}
	return p, err
}

// startHere does so on the fork thread.
func (b *box) startHere(spec *request) (*process, error) {
	c, err := lookUp(spec)
	if err != nil {
		return nil, err
	}
	io, err := newStdio(spec, c.user)
	if err != nil {
		return nil, err
	}
	defer io.closeTheirs()
	t, err := b.trees.new()
	if err != nil {
		io.closeOurs()
		return nil, err
	}
	p := &process{box: b, tree: t, stdin: io.stdin, outputs: io.outputs, master: io.master,
		oom: kernelOOMKills(b.proc), exited: make(chan struct{})}
	if err := p.exec(c, io, spec.tty); err != nil {
		io.closeOurs()
		t.release()
		return nil, err
	}
	return p, nil
}

// exec starts the first of the command's programs that can be executed.
func (p *process) exec(c *command, io *stdio, tty bool) error {
	attr := &syscall.ProcAttr{
		Dir: c.dir,
		Env: c.env,
		Sys: &syscall.SysProcAttr{
			Setsid:     true,
			Setctty:    tty,
			Credential: &syscall.Credential{Uid: c.user.uid, Gid: c.user.gid, Groups: c.user.groups},
		},
	}
	if p.tree.dir >= 0 {
		attr.Sys.UseCgroupFD, attr.Sys.CgroupFD = true, p.tree.dir
	}
	for _, f := range io.files {
		attr.Files = append(attr.Files, f.Fd())
	}
	var first error
	for _, path := range c.paths {
		var err error
		p.pid, p.boxPID, err = p.box.startChild(path, c.args, attr, p.ended)
		if err == nil {
			return nil
		}
		if first == nil {
			first = c.explain(path, err)
		}
		if !errors.Is(err, unix.EACCES) && !errors.Is(err, unix.ENOENT) {
			break
		}
	}
	return first
}

// ended is told by the reaper.
func (p *process) ended(status unix.WaitStatus) {
	p.status = status
	close(p.exited)
}

// exit says how the process ended. It is valid once exited is closed.
func (p *process) exit() *agentpb.ExecExited {
	e := &agentpb.ExecExited{Code: int32(p.status.ExitStatus()), Oom: p.tree.oomKills() > 0}
	if p.status.Signaled() {
		e.Signal = int32(p.status.Signal())
		e.Code = -e.Signal
	}
	if e.Signal == int32(unix.SIGKILL) && kernelOOMKills(p.box.proc) > p.oom {
		e.Oom = true
	}
	return e
}

// newStdio makes the streams of a command. It is called on the fork thread:
// the terminal is the box's.
func newStdio(spec *request, u user) (*stdio, error) {
	if spec.tty {
		return newTerminal(spec, u)
	}
	s := &stdio{}
	if err := s.fillStdin(spec.stdin, u); err != nil {
		return nil, err
	}
	for fd := 1; fd <= 2; fd++ {
		r, w, err := pipe()
		if err != nil {
			s.closeTheirs()
			s.closeOurs()
			return nil, err
		}
		s.files[fd] = w
		s.outputs = append(s.outputs, &output{file: r, stderr: fd == 2})
		_ = unix.Fchown(int(w.Fd()), int(u.uid), int(u.gid)) // so that /dev/stdout can be opened again
	}
	return s, nil
}

func (s *stdio) fillStdin(open bool, u user) error {
	if !open {
		if s.files[0] = openNull(); s.files[0] != nil {
			return nil
		}
	}
	r, w, err := pipe()
	if err != nil {
		return err
	}
	_ = unix.Fchown(int(r.Fd()), int(u.uid), int(u.gid))
	if s.files[0], s.stdin = r, w; !open {
		w.Close()
		s.stdin = nil
	}
	return nil
}

// openNull opens the box's /dev/null, if it is that.
func openNull() *os.File {
	fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOCTTY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil
	}
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != unix.Mkdev(1, 3) {
		unix.Close(fd)
		return nil
	}
	return blocking(fd, "/dev/null")
}

// pipe returns a pipe for a command. os.Pipe's ends wait in the poller, which
// takes no thread; the command's end must be blocking, and is made so by
// (*os.File).Fd.
func pipe() (r, w *os.File, err error) { return os.Pipe() }

func blocking(fd int, name string) *os.File {
	_ = unix.SetNonblock(fd, false)
	return os.NewFile(uintptr(fd), name)
}

// newTerminal makes a pseudo-terminal of the box's.
func newTerminal(spec *request, u user) (*stdio, error) {
	master, err := openMaster()
	if err != nil {
		return nil, runError("", "make a terminal: %w", err)
	}
	fd, err := openReplica(master)
	if err != nil {
		unix.Close(master)
		return nil, runError("", "open the terminal: %w", err)
	}
	_ = unix.Fchown(fd, int(u.uid), 5) // tty's number, as devpts is mounted
	_ = unix.Fchmod(fd, 0o620)
	_ = unix.SetNonblock(master, true)
	file := os.NewFile(uintptr(master), "terminal")
	replica := os.NewFile(uintptr(fd), "terminal")
	s := &stdio{files: [3]*os.File{replica, replica, replica}, stdin: file, master: file,
		outputs: []*output{{file: file, tty: true}}}
	return s, resize(file, spec.rows, spec.cols)
}

func openMaster() (fd int, err error) {
	for _, name := range []string{"/dev/pts/ptmx", "/dev/ptmx"} {
		fd, err = unix.Open(name, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err != nil {
			continue
		}
		if err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err == nil {
			return fd, nil
		}
		unix.Close(fd)
	}
	return -1, err
}

// openReplica opens the other end of the terminal without a path that the box
// could have put something else at.
func openReplica(master int) (int, error) {
	const flags = unix.O_RDWR | unix.O_NOCTTY | unix.O_CLOEXEC
	r, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(master), unix.TIOCGPTPEER, flags)
	if errno != 0 {
		return -1, errno
	}
	return int(r), nil
}

func resize(master *os.File, rows, cols uint32) error {
	if rows == 0 {
		rows = 24
	}
	if cols == 0 {
		cols = 80
	}
	conn, err := master.SyscallConn()
	if err != nil {
		return err
	}
	size := &unix.Winsize{Row: uint16(rows), Col: uint16(cols)}
	var ioctlErr error
	err = conn.Control(func(fd uintptr) { ioctlErr = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, size) })
	return errors.Join(err, ioctlErr)
}

func (s *stdio) closeTheirs() {
	for i, f := range s.files {
		if f != nil && (i == 0 || f != s.files[0]) {
			f.Close()
		}
	}
}

func (s *stdio) closeOurs() {
	if s.stdin != nil {
		s.stdin.Close()
	}
	for _, o := range s.outputs {
		o.file.Close() // once more for a terminal: harmless
	}
}

// copy gives the stream's bytes to send until its end. drained is called once,
// as soon as all that was written before the program's end has been sent.
func (o *output) copy(send func([]byte) error, drained func()) error {
	buf := make([]byte, 4<<10)
	for {
		n, err := o.file.Read(buf)
		if n > 0 {
			if err := send(buf[:n]); err != nil {
				return err
			}
		}
		if n == len(buf) && n < chunk { // most commands write little
			buf = make([]byte, 4*n)
		}
		switch {
		case err == nil:
		case errors.Is(err, os.ErrDeadlineExceeded) && o.exited.Load():
			_ = o.file.SetReadDeadline(time.Time{})
			if err := o.drain(buf, send); err != nil {
				return ended(err)
			}
			drained()
		default:
			return ended(err)
		}
	}
}

// ended returns nil for the errors that mean the end of a stream. A terminal
// ends with EIO.
func ended(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, unix.EIO) {
		return nil
	}
	return err
}

// programExited wakes copy to look for what the program has left.
func (o *output) programExited() {
	o.exited.Store(true)
	_ = o.file.SetReadDeadline(time.Unix(1, 0))
}

// drain sends what was in the stream when the program had ended. A pipe knows
// how much that is; others may write on, for ever. A terminal does not: what
// it was given takes a moment to come out.
func (o *output) drain(buf []byte, send func([]byte) error) error {
	if o.tty {
		return o.drainTerminal(buf, send)
	}
	left, err := o.pending()
	for err == nil && left > 0 {
		var n int
		if n, err = o.file.Read(buf[:min(left, len(buf))]); n > 0 {
			left -= n
			if err := send(buf[:n]); err != nil {
				return err
			}
		}
	}
	return err
}

func (o *output) pending() (n int, err error) {
	conn, err := o.file.SyscallConn()
	if err != nil {
		return 0, err
	}
	err = errors.Join(conn.Control(func(fd uintptr) { n, err = unix.IoctlGetInt(int(fd), unix.TIOCINQ) }), err)
	return n, err
}

const (
	drainPause = 20 * time.Millisecond  // of a terminal's silence: it is empty
	drainLimit = 100 * time.Millisecond // of a terminal's draining
)

func (o *output) drainTerminal(buf []byte, send func([]byte) error) error {
	for end := time.Now().Add(drainLimit); time.Now().Before(end); {
		_ = o.file.SetReadDeadline(time.Now().Add(drainPause))
		n, err := o.file.Read(buf)
		if n > 0 {
			if err := send(buf[:n]); err != nil {
				return err
			}
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
		if err != nil {
			return err
		}
	}
	_ = o.file.SetReadDeadline(time.Time{})
	return nil
}

// writeStdin gives data to the program. Once it has ended, or does not want
// any, data goes nowhere.
func (p *process) writeStdin(data []byte) {
	if p.stdin != nil {
		_, _ = p.stdin.Write(data)
	}
}

// closeStdin ends the program's input.
func (p *process) closeStdin() {
	p.stdinMu.Lock()
	defer p.stdinMu.Unlock()
	if p.stdin == nil || p.stdinClosed {
		return
	}
	p.stdinClosed = true
	if p.master != nil {
		_, _ = p.stdin.Write([]byte{4}) // ^D
		return
	}
	p.stdin.Close()
}

// closeInput ends the input of a program that has exited, without typing.
func (p *process) closeInput() {
	p.stdinMu.Lock()
	defer p.stdinMu.Unlock()
	if p.stdinClosed = true; p.stdin != nil && p.master == nil {
		p.stdin.Close()
	}
}

// close lets go of the process's streams.
func (p *process) close() {
	p.closed.Store(true)
	if p.stdin != nil {
		p.stdin.Close()
	}
	for _, o := range p.outputs {
		o.file.Close()
	}
}

// signal sends sig to the program's process group and, on a terminal, to the
// one in the foreground.
func (p *process) signal(sig unix.Signal) error {
	err := p.box.signal(p.pid, true, sig)
	if p.master == nil || err != nil {
		return err
	}
	if conn, e := p.master.SyscallConn(); e == nil { // else it is closed
		_ = conn.Control(func(fd uintptr) { err = p.signalForeground(int(fd), sig) })
	}
	return err
}

// signalForeground finds out who is in the foreground of the terminal. gVisor
// does not say; there, the signals that keys stand for are typed.
func (p *process) signalForeground(master int, sig unix.Signal) error {
	group, err := unix.IoctlGetInt(master, unix.TIOCGPGRP)
	if err == nil {
		if group <= 1 || group == p.pid {
			return nil
		}
		return ignore(unix.Kill(-group, sig), unix.ESRCH)
	}
	key, ok := map[unix.Signal]int{unix.SIGINT: unix.VINTR, unix.SIGQUIT: unix.VQUIT, unix.SIGTSTP: unix.VSUSP}[sig]
	settings, err := unix.IoctlGetTermios(master, unix.TCGETS)
	if ok && err == nil && settings.Lflag&unix.ISIG != 0 && settings.Cc[key] != 0 {
		_, _ = unix.Write(master, settings.Cc[key:key+1])
	}
	return nil
}
