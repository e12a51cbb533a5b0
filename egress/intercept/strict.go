package intercept

import (
	"bytes"
	"fmt"
	"net"
	"strings"
)

// The bounds of a request's head.
const (
	maxHead    = 64 << 10 // bytes
	maxFields  = 500
	maxTrailer = 16 << 10
)

// A strictConn is a connection on which only HTTP/1 that can be read in one way
// passes. Go's parser, and those of hosts, take more, each something else: lines
// that end in a bare LF, lengths twice, folded fields. What it refuses ends the
// connection with an error of its own, which net/http answers with status 400.
//
// It passes bytes on unchanged, a head at a time, and keeps its place when a
// read runs into a deadline.
type strictConn struct {
	net.Conn
	refused func(reason string) // told why a request was refused

	in    []byte // read, and not passed on
	ready int    // bytes of in that may be
	state state
	left  int64 // bytes left of a body, or of a chunk
	err   error // that ends everything
}

type state uint8

const (
	inHead     state = iota
	inBody           // left bytes of it
	inSize           // the line before a chunk
	inChunk          // left bytes of it, and CRLF
	inTrailer        // after the last chunk
	unfiltered       // after a request to upgrade: the answer to it is the last, or it is another protocol
)

// Read passes on what is right.
func (c *strictConn) Read(p []byte) (int, error) {
	for c.ready == 0 {
		if c.err != nil {
			return 0, c.err
		}
		progress, err := c.step()
		if err != nil {
			c.err = err
			c.refused(err.Error())
			continue
		}
		if progress {
			continue
		}
		buf := make([]byte, 16<<10)
		n, err := c.Conn.Read(buf)
		c.in = append(c.in, buf[:n]...)
		if n == 0 && err != nil {
			return 0, err
		}
	}
	n := copy(p, c.in[:c.ready])
	c.in, c.ready = c.in[n:], c.ready-n
	return n, nil
}

// step judges what is in, and reports whether it got anywhere.
func (c *strictConn) step() (bool, error) {
	switch c.state {
	case inHead:
		return c.head()
	case inBody:
		c.ready = int(min(int64(len(c.in)), c.left))
		if c.left -= int64(c.ready); c.left == 0 {
			c.state = inHead
		}
		return c.ready > 0 || c.state == inHead, nil
	case inSize:
		return c.size()
	case inChunk:
		return c.chunk()
	case inTrailer:
		return c.trailer()
	default:
		c.ready = len(c.in)
		return c.ready > 0, nil
	}
}

// head judges a request's head once it is all there.
func (c *strictConn) head() (bool, error) {
	end := bytes.Index(c.in, []byte("\r\n\r\n"))
	if end < 0 {
		if i := bytes.IndexByte(c.in, '\n'); i >= 0 {
			if err := checkLineEnds(c.in); err != nil {
				return false, err
			}
		}
		if len(c.in) > maxHead {
			return false, fmt.Errorf("the head is longer than %d bytes", maxHead)
		}
		return false, nil
	}
	if end > maxHead {
		return false, fmt.Errorf("the head is longer than %d bytes", maxHead)
	}
	f, err := parseHead(string(c.in[:end]))
	if err != nil {
		return false, err
	}
	c.ready = end + 4
	switch {
	case f.upgrade:
		c.state = unfiltered
	case f.chunked:
		c.state = inSize
	case f.length > 0:
		c.state, c.left = inBody, f.length
	}
	return true, nil
}

// checkLineEnds refuses CR and LF that are not one after the other.
func checkLineEnds(b []byte) error {
	for i, x := range b {
		if x == '\n' && (i == 0 || b[i-1] != '\r') {
			return fmt.Errorf("a line ends in a bare LF")
		}
		if x == '\r' && i+1 < len(b) && b[i+1] != '\n' {
			return fmt.Errorf("there is a bare CR")
		}
	}
	return nil
}

// framing is what a head says about what follows.
type framing struct {
	length           int64
	chunked, upgrade bool
}

// parseHead reads a head, without the empty line at its end.
func parseHead(head string) (f framing, err error) {
	if err := checkLineEnds([]byte(head)); err != nil {
		return f, err
	}
	lines := strings.Split(head, "\r\n")
	if err := checkRequestLine(lines[0]); err != nil {
		return f, err
	}
	if len(lines) > maxFields {
		return f, fmt.Errorf("there are more than %d fields", maxFields)
	}
	var hosts, lengths, encodings int
	for _, line := range lines[1:] {
		name, value, err := parseField(line)
		if err != nil {
			return f, err
		}
		switch name {
		case "host":
			hosts++
		case "content-length":
			lengths++
			if f.length, err = parseLength(value); err != nil {
				return f, err
			}
		case "transfer-encoding":
			encodings++
			if f.chunked = strings.EqualFold(value, "chunked"); !f.chunked {
				return f, fmt.Errorf("transfer-encoding is not chunked")
			}
		case "upgrade":
			f.upgrade = true
		}
	}
	switch {
	case hosts != 1:
		return f, fmt.Errorf("there are %d Host fields", hosts)
	case lengths > 1 || encodings > 1 || lengths+encodings > 1:
		return f, fmt.Errorf("it says more than once how long the body is")
	case f.chunked && strings.HasSuffix(lines[0], "HTTP/1.0"):
		return f, fmt.Errorf("HTTP/1.0 has no chunks")
	case f.upgrade && (f.chunked || f.length > 0):
		return f, fmt.Errorf("a request to upgrade has a body")
	}
	return f, nil
}

func checkRequestLine(line string) error {
	parts := strings.Split(line, " ")
	if len(parts) != 3 || !isToken(parts[0]) || parts[1] == "" {
		return fmt.Errorf("the request line is not METHOD TARGET VERSION")
	}
	for _, b := range []byte(parts[1]) {
		if b <= ' ' || b >= 0x7f {
			return fmt.Errorf("the target has bytes that must be escaped")
		}
	}
	if parts[2] != "HTTP/1.1" && parts[2] != "HTTP/1.0" {
		return fmt.Errorf("the version is not HTTP/1.1")
	}
	return nil
}

// parseField reads a field and returns its name in lower case.
func parseField(line string) (name, value string, err error) {
	name, value, ok := strings.Cut(line, ":")
	if !ok || !isToken(name) {
		return "", "", fmt.Errorf("a field has no proper name")
	}
	for _, b := range []byte(value) {
		if b < ' ' && b != '\t' || b == 0x7f {
			return "", "", fmt.Errorf("the field %s has a control character", printable(name))
		}
	}
	return strings.ToLower(name), strings.Trim(value, " \t"), nil
}

// isToken reports whether s is a token of HTTP.
func isToken(s string) bool {
	for _, b := range []byte(s) {
		if b <= ' ' || b >= 0x7f || strings.IndexByte(`"(),/:;<=>?@[\]{}`, b) >= 0 {
			return false
		}
	}
	return s != ""
}

func parseLength(s string) (int64, error) {
	if s == "" || len(s) > 18 {
		return 0, fmt.Errorf("content-length is not a number")
	}
	var n int64
	for _, b := range []byte(s) {
		if b < '0' || b > '9' {
			return 0, fmt.Errorf("content-length is not a number")
		}
		n = 10*n + int64(b-'0')
	}
	return n, nil
}

// size judges the line before a chunk: nothing but hexadecimal digits.
func (c *strictConn) size() (bool, error) {
	const most = 15 // digits
	end := bytes.IndexByte(c.in, '\n')
	if end < 0 && len(c.in) <= most+2 {
		return false, nil
	}
	if end < 2 || end > most+1 || c.in[end-1] != '\r' {
		return false, fmt.Errorf("the size of a chunk is not a number")
	}
	var n int64
	for _, b := range bytes.ToLower(c.in[:end-1]) {
		d := strings.IndexByte("0123456789abcdef", b)
		if d < 0 {
			return false, fmt.Errorf("the size of a chunk is not a number")
		}
		n = 16*n + int64(d)
	}
	c.ready = end + 1
	if c.state, c.left = inChunk, n; n == 0 {
		c.state = inTrailer
	}
	return true, nil
}

// chunk passes a chunk on, and the CRLF behind it.
func (c *strictConn) chunk() (bool, error) {
	if c.left > 0 {
		c.ready = int(min(int64(len(c.in)), c.left))
		c.left -= int64(c.ready)
		return c.ready > 0, nil
	}
	if len(c.in) < 2 {
		return false, nil
	}
	if c.in[0] != '\r' || c.in[1] != '\n' {
		return false, fmt.Errorf("a chunk is longer than it says")
	}
	c.ready, c.state = 2, inSize
	return true, nil
}

// trailer judges the fields after the last chunk.
func (c *strictConn) trailer() (bool, error) {
	if bytes.HasPrefix(c.in, []byte("\r\n")) {
		c.ready, c.state = 2, inHead
		return true, nil
	}
	end := bytes.Index(c.in, []byte("\r\n\r\n"))
	if end > maxTrailer || end < 0 && len(c.in) > maxTrailer {
		return false, fmt.Errorf("the trailer is longer than %d bytes", maxTrailer)
	}
	if end < 0 {
		return false, checkLineEnds(c.in)
	}
	if err := checkLineEnds(c.in[:end]); err != nil {
		return false, err
	}
	for line := range strings.SplitSeq(string(c.in[:end]), "\r\n") {
		name, _, err := parseField(line)
		if err != nil {
			return false, err
		}
		switch name {
		case "host", "content-length", "transfer-encoding", "upgrade", "connection", "authorization", "cookie":
			return false, fmt.Errorf("the trailer has the field %s", name)
		}
	}
	c.ready, c.state = end+4, inHead
	return true, nil
}

// printable returns what a guest chose, escaped and cut.
func printable(s string) string {
	const most = 80
	if len(s) > most {
		s = s[:most]
	}
	q := fmt.Sprintf("%+q", s)
	return q[1 : len(q)-1]
}
