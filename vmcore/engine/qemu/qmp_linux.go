package qemu

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"time"
)

// maxReply bounds a line of QMP, in bytes.
const maxReply = 64 << 10

// A monitor is a QMP conversation over a connected socket. One call at a time.
type monitor struct {
	conn  net.Conn
	lines *bufio.Reader
	id    int
}

// newMonitor greets QEMU. It takes over conn.
func newMonitor(ctx context.Context, conn net.Conn) (*monitor, error) {
	m := &monitor{conn: conn, lines: bufio.NewReaderSize(conn, maxReply)}
	if err := m.do(ctx, "qmp_capabilities"); err != nil {
		conn.Close()
		return nil, err
	}
	return m, nil
}

// reply is a line that QEMU says: a greeting, an event or an answer.
type reply struct {
	ID    int                    `json:"id"`
	Error *struct{ Desc string } `json:"error"`
}

// do runs a command without arguments and waits for its answer.
func (m *monitor) do(ctx context.Context, command string) error {
	stop := context.AfterFunc(ctx, func() { _ = m.conn.SetDeadline(time.Unix(1, 0)) })
	err := m.exchange(command)
	if !stop() {
		_ = m.conn.SetDeadline(time.Time{})
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("QMP %s: %w", command, err)
	}
	return nil
}

func (m *monitor) exchange(command string) error {
	m.id++
	line, err := json.Marshal(map[string]any{"execute": command, "id": m.id})
	if err != nil {
		return err
	}
	if _, err := m.conn.Write(append(line, '\n')); err != nil {
		return err
	}
	for {
		text, err := m.lines.ReadSlice('\n')
		if err != nil {
			return err
		}
		var r reply
		if err := json.Unmarshal(text, &r); err != nil {
			return err
		}
		switch {
		case r.ID != m.id: // an event, or the answer to a command that was given up
		case r.Error != nil:
			return fmt.Errorf("%.300s", r.Error.Desc)
		default:
			return nil
		}
	}
}
