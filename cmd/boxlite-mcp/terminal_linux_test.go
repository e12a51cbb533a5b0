package main // the program is this test binary, run by the name boxlite-mcp

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/boxlite-mcp/boxlite-mcp/internal/cli/clitest"
	"github.com/creack/pty"
	"golang.org/x/sys/unix"
)

// A screen is the program on a terminal, and all that the terminal showed.
type screen struct {
	t   *testing.T
	cmd *exec.Cmd
	tty *os.File // the terminal's other end
	own *os.File // the program's end, kept open to look at its modes

	world string // its file

	mu   sync.Mutex
	text bytes.Buffer // guarded by mu
	done chan struct{}
}

// open starts the program on a terminal of 24 rows and 80 columns.
func open(t *testing.T, args ...string) *screen {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ptmx, tty, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	if err := pty.Setsize(ptmx, &pty.Winsize{Rows: 24, Cols: 80}); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	s := &screen{t: t, tty: ptmx, own: tty, world: dir + "/world.json", done: make(chan struct{}), cmd: exec.Command(exe)}
	s.cmd.Args = append([]string{"boxlite-mcp"}, args...)
	s.cmd.Env = []string{"WORLD=" + s.world, "HOME=" + dir, "TERM=vt100"}
	s.cmd.Stdin, s.cmd.Stdout, s.cmd.Stderr = tty, tty, tty
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go s.read()
	t.Cleanup(func() {
		_ = s.cmd.Process.Kill()
		_ = s.cmd.Wait()
		tty.Close()
		ptmx.Close()
		<-s.done
	})
	return s
}

func (s *screen) read() {
	defer close(s.done)
	b := make([]byte, 4096)
	for {
		n, err := s.tty.Read(b)
		s.mu.Lock()
		s.text.Write(b[:n])
		s.mu.Unlock()
		if err != nil {
			return
		}
	}
}

func (s *screen) shows() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// await waits until the terminal has shown a text.
func (s *screen) await(text string) {
	s.t.Helper()
	for end := time.Now().Add(10 * time.Second); !strings.Contains(s.shows(), text); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			s.t.Fatalf("the terminal does not show %q, but %q", text, s.shows())
		}
	}
}

func (s *screen) press(keys string) {
	s.t.Helper()
	if _, err := s.tty.WriteString(keys); err != nil {
		s.t.Fatal(err)
	}
}

// modes returns the terminal's modes.
func (s *screen) modes() unix.Termios {
	s.t.Helper()
	m, err := unix.IoctlGetTermios(int(s.own.Fd()), unix.TCGETS)
	if err != nil {
		s.t.Fatal(err)
	}
	return *m
}

// code waits for the program to end.
func (s *screen) code() int {
	s.t.Helper()
	timer := time.AfterFunc(10*time.Second, func() { _ = s.cmd.Process.Kill() })
	defer timer.Stop()
	_ = s.cmd.Wait()
	return s.cmd.ProcessState.ExitCode()
}

// start opens a screen and waits for the terminal program to run on it in raw
// mode. before is how the terminal was.
func start(t *testing.T, args ...string) (s *screen, before unix.Termios) {
	t.Helper()
	ptmx, tty, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	m, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	tty.Close()
	ptmx.Close()
	s = open(t, args...)
	s.await("size 24 80")
	if s.modes().Lflag&(unix.ICANON|unix.ECHO|unix.ISIG) != 0 {
		t.Errorf("the terminal is not raw: lflag %#o", s.modes().Lflag)
	}
	return s, *m
}

func TestTerminalIsRawFollowsSizeAndIsRestored(t *testing.T) {
	s, before := start(t, "run", "-it", "alpine", "tty")
	s.press("\x03a") // Ctrl-C is a key like any other
	s.await("61\r\n")
	if !strings.Contains(s.shows(), "keys 03") {
		t.Errorf("Ctrl-C did not arrive as a key: %q", s.shows())
	}
	if err := pty.Setsize(s.tty, &pty.Winsize{Rows: 40, Cols: 132}); err != nil {
		t.Fatal(err)
	}
	s.await("size 40 132")
	s.press("q")
	if code := s.code(); code != 0 {
		t.Errorf("exit code %d: %q", code, s.shows())
	}
	if got := s.modes(); got != before {
		t.Errorf("the terminal's modes are %+v, were %+v", got, before)
	}
}

func TestTerminalIsRestoredHoweverItEnds(t *testing.T) {
	for _, tt := range []struct {
		name string
		end  func(*screen)
		code int
		says string
		kept bool
	}{
		{"detached", func(s *screen) { s.press("\x1d\x1d\x1d") }, 0, "logs --follow", true},
		{"terminated", func(s *screen) { _ = s.cmd.Process.Signal(syscall.SIGTERM) }, 128 + 15, "", false},
		{"hung-up", func(s *screen) { _ = s.cmd.Process.Signal(syscall.SIGHUP) }, 128 + 1, "", false},
		{"interrupted-from-outside", func(s *screen) { _ = s.cmd.Process.Signal(syscall.SIGINT) }, 128 + 2, "", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, before := start(t, "run", "--rm", "-it", "alpine", "tty-until-killed")
			tt.end(s)
			if code := s.code(); code != tt.code || !strings.Contains(s.shows(), tt.says) {
				t.Errorf("exit code %d, want %d: %q", code, tt.code, s.shows())
			}
			if got := s.modes(); got != before {
				t.Errorf("the terminal's modes are %+v, were %+v", got, before)
			}
			world, err := clitest.Load(s.world)
			if err != nil || len(world.Boxes()) == 1 != tt.kept {
				t.Errorf("boxes: %v, %v; want one kept: %v", world.Boxes(), err, tt.kept)
			}
		})
	}
}

func TestProgressBarsAreShownOnATerminal(t *testing.T) {
	s := open(t, "pull", "localhost:5000/x")
	if code := s.code(); code != 0 {
		t.Errorf("exit code %d: %q", code, s.shows())
	}
	s.await("localhost:5000/x@sha256:")
	if text := s.shows(); !strings.Contains(text, "pulling image") || !strings.Contains(text, "4.0 MiB / 4.0 MiB") {
		t.Errorf("the terminal shows %q", text)
	}
}

func TestInterruptIsForwardedWithoutATerminalInTheBox(t *testing.T) {
	s := open(t, "run", "alpine", "trap")
	s.await("ready")
	s.press("\x03") // the terminal turns it into a signal
	s.await("signal 2")
	time.Sleep(1100 * time.Millisecond) // a second one within a second would kill
	s.press("\x03")
	s.await("signal 2\r\n^Csignal 2")
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	if code := s.code(); code != 7 {
		t.Errorf("exit code %d, want the command's 7: %q", code, s.shows())
	}
}
