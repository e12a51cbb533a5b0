package child

import (
	"bytes"
	"os"
	"strings"
	"sync"
)

// consoleLimit is how much one machine may add to its log, in bytes: the
// guest's agent writes there, too.
const consoleLimit = 1 << 20

// tailSize is how much of the console's end an Exit quotes, in bytes.
const tailSize = 4 << 10

// A Console copies what a machine says into its log and remembers the end.
type Console struct {
	// Done is closed when the machine can say no more.
	Done chan struct{}

	mu    sync.Mutex
	tail  []byte // guarded by mu
	crash string // the line in which a Go program said that it dies, ""; guarded by mu
}

// NewConsole reads from pipe into the file at path until the other end is
// closed everywhere. It takes over pipe.
func NewConsole(pipe *os.File, path string) (*Console, error) {
	log, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	c := &Console{Done: make(chan struct{})}
	go func() { // ends with the sandbox, whose last process closes the pipe
		defer close(c.Done)
		defer log.Close()
		defer pipe.Close()
		c.copy(pipe, log)
	}()
	return c, nil
}

func (c *Console) copy(pipe, log *os.File) {
	buf := make([]byte, 4<<10)
	room := consoleLimit
	for {
		n, err := pipe.Read(buf)
		c.remember(buf[:n])
		if take := min(n, room); take > 0 {
			_, _ = log.Write(buf[:take]) // a full disk is no reason to end the machine
			if room -= take; room == 0 {
				_, _ = log.WriteString("\n[the rest of the console is not kept]\n")
			}
		}
		if err != nil {
			return
		}
	}
}

func (c *Console) remember(b []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tail = append(c.tail, b...)
	if c.crash == "" {
		c.crash = crashLine(c.tail)
	}
	if cut := len(c.tail) - tailSize; cut > 0 {
		c.tail = append(c.tail[:0], c.tail[cut:]...)
	}
}

// Lines returns the last of what was said, whole lines, at most max.
func (c *Console) Lines(max int) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	lines := strings.Split(strings.TrimSpace(string(c.tail)), "\n")
	return strings.Join(lines[len(lines)-min(max, len(lines)):], "\n")
}

// crashLine returns the first line that begins like the end of a Go program.
func crashLine(text []byte) string {
	for line := range bytes.Lines(text) {
		if bytes.HasPrefix(line, []byte("panic: ")) || bytes.HasPrefix(line, []byte("fatal error: ")) {
			return string(bytes.TrimSpace(line[:min(len(line), 300)]))
		}
	}
	return ""
}

// Crashed returns that line, "" if there was none.
func (c *Console) Crashed() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.crash
}
