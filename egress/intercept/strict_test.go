package intercept

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"
)

type readConn struct {
	net.Conn
	io.Reader
}

func (r readConn) Read(b []byte) (int, error) { return r.Reader.Read(b) }

// filter returns what of a stream passes.
func filter(r io.Reader) (passed []byte, reason string) {
	c := &strictConn{Conn: readConn{Reader: r}, refused: func(why string) { reason = why }}
	passed, _ = io.ReadAll(c)
	return passed, reason
}

// E2 and its like: HTTP/1 that is read in more than one way.
func TestStrictRefuses(t *testing.T) {
	const get, host = "GET / HTTP/1.1\r\n", "Host: a.test\r\n"
	for _, c := range []struct{ name, send, reason string }{
		{"bare LF", "GET / HTTP/1.1\nHost: a.test\n\n", "bare LF"},
		{"a bare LF among others", get + "X: y\n" + host + "\r\n", "bare LF"},
		{"bare CR", get + "X: y\rz\r\n" + host + "\r\n", "bare CR"},
		{"NUL", get + "X: y\x00\r\n" + host + "\r\n", "control"},
		{"space before colon", get + "Host : a.test\r\n\r\n", "proper name"},
		{"obs-fold", get + host + "X: y\r\n z\r\n\r\n", "proper name"},
		{"A8 duplicate Host", get + host + host + "\r\n", "2 Host"},
		{"A10 no Host", get + "\r\n", "0 Host"},
		{"A10 HTTP/1.0 without Host", "GET / HTTP/1.0\r\n\r\n", "0 Host"},
		{"A10 HTTP/0.9", "GET /\r\n\r\n", "request line"},
		{"HTTP/2.0 in words", "GET / HTTP/2.0\r\n" + host + "\r\n", "version"},
		{"an empty line first", "\r\n\r\n" + get + host + "\r\n", "request line"},
		{"two spaces", "GET  / HTTP/1.1\r\n" + host + "\r\n", "request line"},
		{"a tab", "GET\t/ HTTP/1.1\r\n" + host + "\r\n", "request line"},
		{"a space in the target", "GET /a b HTTP/1.1\r\n" + host + "\r\n", "request line"},
		{"a byte of another script in the target", "GET /\xc3\xa9 HTTP/1.1\r\n" + host + "\r\n", "escaped"},
		{"two lengths", "POST / HTTP/1.1\r\n" + host + "Content-Length: 1\r\nContent-Length: 2\r\n\r\nxy", "more than once"},
		{"the same length twice", "POST / HTTP/1.1\r\n" + host + "Content-Length: 1\r\nContent-Length: 1\r\n\r\nx", "more than once"},
		{"length and chunks", "POST / HTTP/1.1\r\n" + host + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "more than once"},
		{"a length with a sign", "POST / HTTP/1.1\r\n" + host + "Content-Length: +5\r\n\r\nhello", "not a number"},
		{"a list of lengths", "POST / HTTP/1.1\r\n" + host + "Content-Length: 5, 5\r\n\r\nhello", "not a number"},
		{"another encoding", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: gzip, chunked\r\n\r\n", "not chunked"},
		{"chunked, obfuscated", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: xchunked\r\n\r\n", "not chunked"},
		{"chunks in HTTP/1.0", "POST / HTTP/1.0\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n", "HTTP/1.0"},
		{"a chunk extension", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n1;a=b\r\nx\r\n0\r\n\r\n", "size of a chunk"},
		{"a chunk size with 0x", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n0x1\r\nx\r\n0\r\n\r\n", "size of a chunk"},
		{"a chunk size with a bare LF", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n1\nx\r\n0\r\n\r\n", "size of a chunk"},
		{"a chunk that lies", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n1\r\nxyz\r\n0\r\n\r\n", "longer than it says"},
		{"a trailer that frames", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 5\r\n\r\n", "trailer has"},
		{"an upgrade with a body", "GET / HTTP/1.1\r\n" + host + "Upgrade: websocket\r\nContent-Length: 3\r\n\r\nabc", "body"},
		{"E5 a long field", get + host + "X: " + strings.Repeat("y", maxHead) + "\r\n\r\n", "longer"},
		{"E5 many fields", get + host + strings.Repeat("X: y\r\n", maxFields+1) + "\r\n", "fields"},
		{"E5 a long target", "GET /" + strings.Repeat("y", 1<<20) + " HTTP/1.1\r\n" + host + "\r\n", "longer"},
		{"a name that is no token", get + host + "X(y): z\r\n\r\n", "proper name"},
		{"TLS", "\x16\x03\x01\x02\x00\x01\x00\n", "bare LF"},
	} {
		// A right request before it passes, and nothing after it does.
		before := "POST /before HTTP/1.1\r\nHost: a.test\r\nContent-Length: 2\r\n\r\nhi"
		for _, r := range []io.Reader{strings.NewReader(before + c.send), iotest.OneByteReader(strings.NewReader(before + c.send[:min(len(c.send), 5000)]))} {
			passed, reason := filter(r)
			_, isLong := r.(*strings.Reader)
			if (isLong || len(c.send) < 5000) && !strings.Contains(reason, c.reason) {
				t.Errorf("%s: reason %q, want %q", c.name, reason, c.reason)
			}
			if !strings.HasPrefix(string(passed), before) || strings.Contains(string(passed), "xyz\r\n0") {
				t.Errorf("%s: %q passes", c.name, passed)
			}
		}
	}
}

func TestStrictPasses(t *testing.T) {
	for _, s := range []string{
		"GET / HTTP/1.1\r\nHost: a.test\r\n\r\nGET /2 HTTP/1.1\r\nHost: a.test\r\nX:\t y \r\n\r\n",
		"GET http://a.test/ HTTP/1.0\r\nhost: a.test\r\nX: \xe9t\xe9\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n00a\r\n0123456789\r\n0\r\nX-Sum: 1\r\n\r\nGET / HTTP/1.1\r\nHost: a.test\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: a.test\r\nUpgrade: websocket\r\n\r\n\x81\x05hello\n\x00",
		"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 0\r\n\r\nOPTIONS * HTTP/1.1\r\nHost: a.test\r\n\r\n",
	} {
		for _, r := range []io.Reader{strings.NewReader(s), iotest.OneByteReader(strings.NewReader(s)), iotest.HalfReader(strings.NewReader(s))} {
			if passed, reason := filter(r); string(passed) != s || reason != "" {
				t.Errorf("%q becomes %q: %s", s, passed, reason)
			}
		}
	}
}

// What passes, Go's parser reads as the same requests, and it is a prefix of
// what was sent.
func FuzzStrict(f *testing.F) {
	f.Add([]byte("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"))
	f.Add([]byte("POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\nGET / HTTP/1.1\r\nHost: b.test\r\n\r\n"))
	f.Add([]byte("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 3\r\n\r\nabc"))
	f.Fuzz(func(t *testing.T, data []byte) {
		passed, reason := filter(bytes.NewReader(data))
		if !bytes.HasPrefix(data, passed) {
			t.Fatalf("%q passes of %q", passed, data)
		}
		if slow, why := filter(iotest.OneByteReader(bytes.NewReader(data))); !bytes.Equal(slow, passed) && len(data) < 1000 && reason == "" && why == "" {
			t.Fatalf("in pieces %q passes, and %q at once", slow, passed)
		}
		if reason != "" || bytes.Contains(bytes.ToLower(passed), []byte("upgrade")) {
			return
		}
		// Heads that passed are requests to Go, or Go refuses them too; it never
		// sees more requests than the filter did.
		br := bufio.NewReader(bytes.NewReader(passed))
		for range 100 {
			req, err := http.ReadRequest(br)
			if err != nil {
				return
			}
			if req.Host == "" && req.URL.Host == "" {
				if h := fmt.Sprint(req.Header); h == "" {
					t.Fatal("no host")
				}
			}
			io.Copy(io.Discard, req.Body)
			req.Body.Close()
		}
	})
}
