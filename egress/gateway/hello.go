package gateway

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"time"
)

const (
	maxHello     = 64 << 10         // bytes of a TLS greeting, its records' headers included
	helloTimeout = 15 * time.Second // from its first byte to its last
)

// tlsHandshake is the first byte of a TLS connection.
const tlsHandshake = 0x16

// errHello ends the handshake that readHello pretends to do.
var errHello = errors.New("the greeting has been read")

// readHello reads a TLS greeting from c, whose first bytes are given, and returns
// all bytes it has read and the host name (SNI) in it, "" if there is none.
//
// The parser is crypto/tls's, which refuses what two parsers could read in two
// ways: several names, the same extension twice, a length that does not fit.
func readHello(ctx context.Context, c net.Conn, first []byte) (raw []byte, sni string, err error) {
	t := &tape{Conn: c, ahead: first}
	read := false
	config := &tls.Config{GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		read, sni = true, h.ServerName
		return nil, errHello
	}, MinVersion: tls.VersionTLS10} //nolint:gosec // no connection is made with it
	_ = c.SetReadDeadline(time.Now().Add(helloTimeout)) // ctx cannot end a read: a tape does not close
	defer func() { _ = c.SetReadDeadline(time.Time{}) }()
	err = tls.Server(t, config).HandshakeContext(ctx)
	if read {
		err = nil
	}
	return t.seen.Bytes(), sni, err
}

// A tape is a connection that keeps what is read from it and writes nothing.
type tape struct {
	net.Conn
	ahead []byte // to be read first
	seen  bytes.Buffer
}

func (t *tape) Read(b []byte) (n int, err error) {
	if room := maxHello - t.seen.Len(); room <= 0 {
		return 0, errors.New("the greeting is too long")
	} else if len(b) > room {
		b = b[:room]
	}
	if len(t.ahead) > 0 {
		n = copy(b, t.ahead)
		t.ahead = t.ahead[n:]
	} else {
		n, err = t.Conn.Read(b)
	}
	t.seen.Write(b[:n])
	return n, err
}

// Write takes everything: alerts are not for the box, which gets a reset.
func (t *tape) Write(b []byte) (int, error) { return len(b), nil }

// Close does nothing: the connection goes on, or its owner ends it.
func (t *tape) Close() error { return nil }

// closeWrite ends one direction of a connection.
func closeWrite(c net.Conn) error {
	if hc, ok := c.(interface{ CloseWrite() error }); ok {
		return hc.CloseWrite()
	}
	return c.Close()
}
