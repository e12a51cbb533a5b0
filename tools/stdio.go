package tools

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unicode/utf8"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
)

// Limits of one connection.
const (
	mostInFlight      = 512         // requests
	mostInFlightBytes = 64 << 20    // of requests
	mostBatch         = 100         // messages in a batch
	writeGrace        = time.Second // for the last answers, once the caller wants to leave
)

// JSON-RPC's error codes.
const (
	codeParse    = -32700
	codeInvalid  = -32600
	codeInternal = -32603
	codeBusy     = -32000
)

// A responder answers one JSON-RPC message, given as it came, with a value that
// marshals to the response; nil to a notification. It is called concurrently.
type responder func(ctx context.Context, message, id json.RawMessage) any

// A lineWriter writes messages to a client, each as one line, one at a time. It
// may be used concurrently, and blocks as long as the client does not read.
type lineWriter struct {
	mu  sync.Mutex            // held across Write, which is what it is for
	w   io.Writer             // guarded by mu
	err atomic.Pointer[error] // of the first write that failed; nothing is written after it
	// broken is called when a write fails.
	broken func()
}

// send writes one message.
func (l *lineWriter) send(message any) error {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(message); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.failed(); err != nil {
		return err
	}
	_, err := l.w.Write(b.Bytes())
	if err != nil {
		l.err.Store(&err)
		l.broken()
	}
	return err
}

// failed returns the error of the first write that failed. It does not wait.
func (l *lineWriter) failed() error {
	if err := l.err.Load(); err != nil {
		return *err
	}
	return nil
}

// A conn is one client on a pair of streams. It reads in order, answers
// requests concurrently, and drops the answers to those that were cancelled.
type conn struct {
	respond responder
	out     *lineWriter
	log     *slog.Logger
	calls   crew

	mu       sync.Mutex
	inFlight map[string]*request // guarded by mu; by id
	bytes    int                 // guarded by mu; of inFlight
}

// A request is one that is being answered.
type request struct {
	cancel    context.CancelFunc
	method    string
	size      int
	cancelled bool // by the client, which expects no answer; guarded by conn.mu
}

// serve answers a client until in ends, and then what was asked before; or
// until ctx ends (which out's broken should bring about), and then as little as
// possible. All of these are a normal end. One read of in may outlive it.
//
// Errors: of reading.
func serve(ctx context.Context, in io.Reader, out *lineWriter, respond responder, log *slog.Logger) error {
	c := &conn{respond: respond, out: out, log: log, inFlight: map[string]*request{}}
	read := make(chan error, 1)
	go func() { read <- c.readAll(ctx, in) }() // ends with in, or at the next message after ctx
	var err error
	select {
	case err = <-read:
		c.cancelWaiting()
	case <-ctx.Done():
	}
	c.drain(ctx)
	if failed := c.out.failed(); failed != nil && !clientGone(failed) {
		err = errors.Join(err, failed)
	}
	if err != nil {
		return &boxlite.Error{Op: "serve standard input", Kind: boxlite.RpcTransport, Err: err}
	}
	return nil
}

// drain waits for the answers under way, and only briefly once ctx has ended.
func (c *conn) drain(ctx context.Context) {
	done := c.calls.close()
	select {
	case <-done:
		return
	case <-ctx.Done():
	}
	timer := time.NewTimer(unwindLimit + writeGrace)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
		c.log.Warn("client does not read its answers")
	}
}

func clientGone(err error) bool {
	return errors.Is(err, syscall.EPIPE) || errors.Is(err, io.ErrClosedPipe) || errors.Is(err, os.ErrClosed) || errors.Is(err, syscall.ECONNRESET)
}

// cancelWaiting ends the requests that end only when the client leaves; calls
// of tools end by themselves and are answered.
func (c *conn) cancelWaiting() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range c.inFlight {
		if r.method != "tools/call" {
			r.cancel()
		}
	}
}

// readAll handles line after line.
func (c *conn) readAll(ctx context.Context, in io.Reader) error {
	r := bufio.NewReaderSize(in, 64<<10)
	for {
		line, scan, err := readLine(r)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // told to end, which is no failure
		}
		if line = bytes.TrimSpace(line); len(line) > 0 || scan.values > 0 {
			c.line(ctx, line, scan)
		}
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, os.ErrClosed), errors.Is(err, io.ErrClosedPipe):
			return nil
		case err != nil:
			return err
		}
	}
}

// readLine reads to the next newline or the end. Of a line that is too long it
// returns nothing but what the scanner saw.
func readLine(r *bufio.Reader) (line []byte, scan *scanner, err error) {
	scan = &scanner{}
	total := 0
	for {
		part, err := r.ReadSlice('\n')
		scan.write(part)
		if total += len(part); total <= mostLine {
			line = append(line, part...)
		} else {
			line = nil
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return line, scan, err
		}
	}
}

// line handles one line: a message, a batch, or neither.
func (c *conn) line(ctx context.Context, line []byte, scan *scanner) {
	switch problem := scan.problem(); {
	case len(line) == 0:
		c.refuse(scan.messageID(), codeInvalid, "Message is longer than 8 MiB")
	case problem != "":
		c.refuse(scan.messageID(), codeInvalid, problem)
	case !utf8.Valid(line):
		c.refuse(scan.messageID(), codeParse, "Message is not UTF-8")
	case line[0] == '[':
		c.batch(ctx, line)
	default:
		c.message(ctx, line, func(answer any) {
			if answer != nil {
				c.send(answer)
			}
		})
	}
}

func (c *conn) send(message any) {
	if err := c.out.send(message); err != nil {
		c.log.Debug("cannot write to the client", "err", err)
	}
}

func (c *conn) refuse(id json.RawMessage, code int, message string) {
	c.send(rpcError(id, code, message))
}

// rpcError returns a JSON-RPC error response; the id is null if it is not known.
func rpcError(id json.RawMessage, code int, message string) any {
	if id == nil {
		id = json.RawMessage("null")
	}
	type details struct {
		Code    int    `json:"code"`
		Message string `json:"message"`
	}
	return struct {
		JSONRPC string          `json:"jsonrpc"`
		ID      json.RawMessage `json:"id"`
		Error   details         `json:"error"`
	}{"2.0", id, details{code, message}}
}

// batch answers the messages of a batch with a batch.
func (c *conn) batch(ctx context.Context, line []byte) {
	var messages []json.RawMessage
	switch err := json.Unmarshal(line, &messages); {
	case err != nil:
		c.refuse(nil, codeParse, "Parse error")
		return
	case len(messages) == 0 || len(messages) > mostBatch:
		c.refuse(nil, codeInvalid, "A batch has 1 to 100 messages")
		return
	}
	var mu sync.Mutex
	var answers []any // guarded by mu
	var pending sync.WaitGroup
	for _, m := range messages {
		pending.Add(1)
		c.message(ctx, m, func(answer any) {
			defer pending.Done()
			if answer != nil {
				mu.Lock()
				defer mu.Unlock()
				answers = append(answers, answer)
			}
		})
	}
	c.calls.start(func() {
		pending.Wait()
		if len(answers) > 0 {
			c.send(answers)
		}
	})
}

// An envelope is what is looked at of a message before it is handed on.
type envelope struct {
	ID     json.RawMessage `json:"id"`
	Method string          `json:"method"`
	Params json.RawMessage `json:"params"`
	Result json.RawMessage `json:"result"`
	Error  json.RawMessage `json:"error"`
}

// answers reports whether the message is a response.
func (m envelope) answers() bool { return m.Result != nil || m.Error != nil }

func (m envelope) validID() bool {
	return m.ID[0] == '"' || m.ID[0] == '-' || m.ID[0] >= '0' && m.ID[0] <= '9'
}

// requestID returns the request that a cancellation is about.
func (m envelope) requestID() string {
	var p struct {
		RequestID json.RawMessage `json:"requestId"`
	}
	if json.Unmarshal(m.Params, &p) != nil {
		return ""
	}
	return string(p.RequestID)
}

// message handles one message, and calls done once with the answer or nil,
// perhaps later and on another goroutine.
func (c *conn) message(ctx context.Context, raw json.RawMessage, done func(answer any)) {
	var m envelope
	if err := json.Unmarshal(raw, &m); err != nil {
		if json.Valid(raw) {
			done(rpcError(nil, codeInvalid, "Invalid request"))
		} else {
			done(rpcError(nil, codeParse, "Parse error"))
		}
		return
	}
	switch {
	case m.Method == "" && m.answers(): // this server asks nothing
		done(nil)
	case m.Method == "":
		done(rpcError(nil, codeInvalid, "Invalid request: there is no method"))
	case m.Method == "notifications/cancelled":
		c.cancel(m.requestID())
		done(nil)
	case len(m.ID) == 0 || string(m.ID) == "null":
		c.respond(ctx, raw, nil)
		done(nil)
	case !m.validID():
		done(rpcError(nil, codeInvalid, "id must be a string or a number"))
	case m.Method == "initialize": // what follows relies on it
		done(c.respond(ctx, raw, m.ID))
	default:
		c.request(ctx, m.Method, m.ID, raw, done)
	}
}

// request answers a request on its own goroutine. Its cancellation is in place
// before the next message is read.
func (c *conn) request(ctx context.Context, method string, id, raw json.RawMessage, done func(answer any)) {
	ctx, cancel := context.WithCancel(ctx)
	r := &request{cancel: cancel, method: method, size: len(raw)}
	if problem, code := c.admit(string(id), r); problem != "" {
		cancel()
		done(rpcError(id, code, problem))
		return
	}
	if !c.calls.start(func() {
		answer := c.respond(ctx, raw, id)
		if c.release(string(id), r) {
			answer = nil
		}
		cancel()
		done(answer)
	}) { // leaving
		c.release(string(id), r)
		cancel()
		done(nil)
	}
}

// admit notes a request, or says why it is refused.
func (c *conn) admit(id string, r *request) (problem string, code int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.inFlight[id]; ok {
		return "A request with this id is still being answered", codeInvalid
	}
	if len(c.inFlight) >= mostInFlight || c.bytes+r.size > mostInFlightBytes {
		return "Too many requests at once; wait for answers", codeBusy
	}
	c.inFlight[id] = r
	c.bytes += r.size
	return "", 0
}

// release forgets a request and reports whether the client cancelled it.
func (c *conn) release(id string, r *request) (cancelled bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.inFlight, id)
	c.bytes -= r.size
	return r.cancelled
}

// cancel ends the wait for a request.
func (c *conn) cancel(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r, ok := c.inFlight[id]; ok {
		r.cancelled = true
		r.cancel()
	}
}
