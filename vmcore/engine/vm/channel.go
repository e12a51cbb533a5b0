package vm

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/boxlite-mcp/boxlite-mcp/agent/vmboot"
)

// A Channel is the host's end of the engine channel. Its machine may be
// hostile: it can end a wait early with a lie, and no more. One call at a time.
type Channel struct {
	conn  net.Conn
	lines *bufio.Reader
	last  uint64 // number of the last command
}

// Greet waits until the machine says that it is ready. It takes over conn.
func Greet(ctx context.Context, conn net.Conn) (*Channel, error) {
	c := &Channel{conn: conn, lines: bufio.NewReaderSize(conn, vmboot.MaxLine)}
	line, err := c.read(ctx)
	if err != nil {
		conn.Close()
		return nil, err
	}
	if want := fmt.Sprintf("ready %d", vmboot.Version); line != want {
		conn.Close()
		return nil, fmt.Errorf("the machine greets with %.60q, not with %q", line, want)
	}
	return c, nil
}

// Close closes the channel.
func (c *Channel) Close() error { return c.conn.Close() }

// Do has the machine do a command of package vmboot, and returns what it
// answers beside "ok". Answers to earlier commands, whose contexts ended, are
// passed over.
func (c *Channel) Do(ctx context.Context, command string, args ...any) (string, error) {
	c.last++
	words := append([]any{c.last, command}, args...)
	if err := c.within(ctx, func() error { _, err := fmt.Fprintln(c.conn, words...); return err }); err != nil {
		return "", fmt.Errorf("ask the machine to %s: %w", command, err)
	}
	for range 64 { // of those that were given up, and a flood ends
		line, err := c.read(ctx)
		if err != nil {
			return "", fmt.Errorf("ask the machine to %s: %w", command, err)
		}
		number, answer, _ := strings.Cut(line, " ")
		if n, err := strconv.ParseUint(number, 10, 64); err != nil || n != c.last {
			continue
		}
		if rest, ok := strings.CutPrefix(answer, "ok"); ok {
			return strings.TrimSpace(rest), nil
		}
		return "", fmt.Errorf("the machine did not %s: %.300q", command, strings.TrimPrefix(answer, "error "))
	}
	return "", fmt.Errorf("ask the machine to %s: it answers something else", command)
}

func (c *Channel) read(ctx context.Context) (line string, err error) {
	err = c.within(ctx, func() error {
		text, err := c.lines.ReadSlice('\n')
		line = strings.TrimSuffix(string(text), "\n")
		if errors.Is(err, bufio.ErrBufferFull) {
			return fmt.Errorf("a line of more than %d bytes", vmboot.MaxLine)
		}
		return err
	})
	return line, err
}

// within does something with the connection that ctx ends.
func (c *Channel) within(ctx context.Context, do func() error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = c.conn.SetDeadline(time.Unix(1, 0)) })
	err := do()
	if !stop() {
		_ = c.conn.SetDeadline(time.Time{})
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}
