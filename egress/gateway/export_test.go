package gateway

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/boxlite-mcp/boxlite-mcp/egress/policy"
)

// CheckFrame is what decides about each frame.
var CheckFrame = check

// NewReplier returns what answers DNS messages, for an allow_net.
func NewReplier(tb testing.TB, resolve func(context.Context, string) ([]netip.Addr, error), allow ...string) func([]byte) []byte {
	tb.Helper()
	access, err := policy.ParseAccess(allow)
	if err != nil {
		tb.Fatal(err)
	}
	p, err := policy.New(policy.Config{Access: access, Own: func() ([]netip.Prefix, error) { return nil, nil }, BoxNets: []netip.Prefix{BoxNet}})
	if err != nil {
		tb.Fatal(err)
	}
	cfg := Config{Resolve: resolve, Limits: Limits{}.withDefaults()}
	g := &Gateway{cfg: cfg, names: newNames(synthetic), answer: newAnswers(resolve), record: newRecorder(cfg), limits: newLimits(cfg.Limits), ctx: tb.Context()}
	g.policy.Store(p)
	return g.reply
}

// ReadHello reads a greeting out of bytes.
func ReadHello(sent []byte) (raw []byte, sni string, err error) {
	return readHello(context.Background(), bytesConn{bytes.NewReader(sent[1:])}, sent[:1])
}

type bytesConn struct{ io.Reader }

func (bytesConn) Write(b []byte) (int, error)      { return len(b), nil }
func (bytesConn) Close() error                     { return nil }
func (bytesConn) LocalAddr() net.Addr              { return nil }
func (bytesConn) RemoteAddr() net.Addr             { return nil }
func (bytesConn) SetDeadline(time.Time) error      { return nil }
func (bytesConn) SetReadDeadline(time.Time) error  { return nil }
func (bytesConn) SetWriteDeadline(time.Time) error { return nil }
