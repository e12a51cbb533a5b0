package gvisor

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// A controller speaks gVisor's control protocol over one connection: a call is
// a JSON object {"method", "arg"}, its answer {"success", "err", "result"};
// descriptors travel beside the first byte. There is one call at a time.
type controller struct {
	conn *net.UnixConn
	busy chan struct{} // holds a token while a call is under way
}

func newController(conn *net.UnixConn) *controller {
	return &controller{conn: conn, busy: make(chan struct{}, 1)}
}

// A remoteError is what the sandbox said against a call.
type remoteError struct {
	method string
	text   string
}

func (e *remoteError) Error() string { return e.method + ": " + e.text }

// An answer is what came back.
type answer struct {
	Success bool            `json:"success"`
	Err     string          `json:"err"`
	Result  json.RawMessage `json:"result"`

	files []*os.File // the receiver closes them
}

// call makes a call and waits for its answer. A call that ctx ends goes on
// without a listener, and the next one waits for its end. files remain the
// caller's but must not be closed before the call has been sent; call does not
// return before that.
func (c *controller) call(ctx context.Context, method string, arg any, files ...*os.File) (answer, error) {
	select {
	case c.busy <- struct{}{}:
	case <-ctx.Done():
		return answer{}, ctx.Err()
	}
	if err := c.send(method, arg, files); err != nil {
		<-c.busy
		return answer{}, fmt.Errorf("call %s: %w", method, err)
	}
	type outcome struct {
		answer
		err error
	}
	done := make(chan outcome, 1)
	go func() { // ends with the answer, at the latest when the machine closes the connection
		a, err := c.receive()
		<-c.busy
		done <- outcome{a, err}
	}()
	select {
	case out := <-done:
		if out.err == nil && !out.Success {
			out.err = &remoteError{method, out.Err}
		} else if out.err != nil {
			out.err = fmt.Errorf("call %s: %w", method, out.err)
		}
		return out.answer, out.err
	case <-ctx.Done():
		return answer{}, ctx.Err()
	}
}

func (c *controller) send(method string, arg any, files []*os.File) error {
	data, err := json.Marshal(map[string]any{"method": method, "arg": arg})
	if err != nil {
		return err
	}
	var oob []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			fds[i] = int(f.Fd())
		}
		oob = unix.UnixRights(fds...)
	}
	for len(data) > 0 {
		n, _, err := c.conn.WriteMsgUnix(data, oob, nil)
		if err != nil {
			return err
		}
		data, oob = data[n:], nil
	}
	return nil
}

func (c *controller) receive() (answer, error) {
	first := make([]byte, 1)
	oob := make([]byte, unix.CmsgSpace(4*8))
	n, oobn, _, _, err := c.conn.ReadMsgUnix(first, oob)
	if err != nil {
		return answer{}, err
	}
	if n == 0 {
		return answer{}, io.EOF
	}
	var a answer
	if a.files, err = rights(oob[:oobn]); err != nil {
		return a, err
	}
	const longest = 1 << 20 // the sandbox is not trusted to be brief
	return a, json.NewDecoder(io.LimitReader(io.MultiReader(bytes.NewReader(first), c.conn), longest)).Decode(&a)
}

// rights returns the files that came with a message.
func rights(oob []byte) ([]*os.File, error) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	var files []*os.File
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			return files, err
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			files = append(files, os.NewFile(uintptr(fd), "sandbox"))
		}
	}
	return files, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}
