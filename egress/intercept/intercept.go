// Package intercept reads a box's connections to hosts that a secret or an HTTP
// rule is bound to: it judges each request, puts values in the place of
// placeholders on the way out, over TLS that it has verified, and takes them out
// of what comes back.
//
// It is between package gateway, which hands it connections and dials hosts by
// policy, and the host. Which requests may pass is for package policy, where
// values go for package secrets; the box's side of TLS is an [Authority] that
// only the box trusts.
//
//	i := intercept.New(intercept.Config{Authority: ca, Secrets: set})
//	gw, err := gateway.New(gateway.Config{Interceptor: i, ...}, socket)
//
// # What it carries
//
// HTTP/1.1 and HTTP/2 on both sides, in any combination, as they come: bodies
// stream, trailers and informational answers pass. A WebSocket is judged by its
// handshake and is opaque afterwards: nothing is put in or taken out. HTTP/1
// that can be read in two ways is refused before anything parses it (strict.go).
//
// # What it refuses
//
// A TLS name, a Host or an :authority that is not the name the connection is for
// (421). A request that no rule allows (403, with the reason). A host whose
// certificate does not verify for that name, or that answers a request with
// values in it in a coding that cannot be read (502).
package intercept

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/egress"
	"github.com/boxlite-mcp/boxlite-mcp/egress/policy"
	"github.com/boxlite-mcp/boxlite-mcp/secrets"
)

// A Config is what an [Interceptor] is made of.
type Config struct {
	Authority *Authority // required
	Secrets   *secrets.Set
	RootCAs   *x509.CertPool // verify hosts; nil: the host system's
	Log       *slog.Logger   // nil discards
}

// An Interceptor serves the connections of one box. It is an
// [egress.Interceptor].
type Interceptor struct {
	cfg       Config
	authority atomic.Pointer[Authority]
	secrets   atomic.Pointer[secrets.Set]
}

// New returns an interceptor.
func New(cfg Config) *Interceptor {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	i := &Interceptor{cfg: cfg}
	i.authority.Store(cfg.Authority)
	i.secrets.Store(cfg.Secrets)
	return i
}

// SetSecrets replaces the secrets. Requests that are under way end with the ones
// they began with.
func (i *Interceptor) SetSecrets(s *secrets.Set) { i.secrets.Store(s) }

// SetAuthority replaces the authority, for the connections to come.
func (i *Interceptor) SetAuthority(a *Authority) { i.authority.Store(a) }

// Intercepts reports whether a secret is bound to that name and port.
func (i *Interceptor) Intercepts(name string, port uint16) bool {
	return i.secrets.Load().For(name, port) != nil
}

// The time limits of a connection of the box.
const (
	greetTime  = 15 * time.Second // its first byte, and its handshake
	headTime   = 30 * time.Second // the head of a request
	quietTime  = 2 * time.Minute  // between requests
	answerTime = 10 * time.Minute // from a request to the head of its answer
)

// Serve implements [egress.Interceptor].
func (i *Interceptor) Serve(ctx context.Context, conn net.Conn, flow egress.Flow) {
	defer conn.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	x := &exchange{i: i, flow: flow}
	_ = conn.SetReadDeadline(time.Now().Add(greetTime))
	var first [1]byte
	if _, err := io.ReadFull(conn, first[:]); err != nil {
		return
	}
	const tlsHandshake = 0x16
	box := net.Conn(&prefixed{Conn: conn, ahead: first[:]})
	if x.secure = first[0] == tlsHandshake; x.secure {
		var err error
		if box, err = x.greet(ctx, box); err != nil {
			x.refuse(egress.CodeSNI, err.Error())
			return
		}
	}
	_ = conn.SetReadDeadline(time.Time{})
	x.serve(ctx, box)
}

// prefixed is a connection of which some bytes have been read.
type prefixed struct {
	net.Conn
	ahead []byte
}

func (p *prefixed) Read(b []byte) (int, error) {
	if len(p.ahead) > 0 {
		n := copy(b, p.ahead)
		p.ahead = p.ahead[n:]
		return n, nil
	}
	return p.Conn.Read(b)
}

// An exchange is one connection of the box and what is asked on it.
type exchange struct {
	i      *Interceptor
	flow   egress.Flow
	secure bool

	requests sync.WaitGroup
}

// greet is the host's part of a TLS handshake.
func (x *exchange) greet(ctx context.Context, box net.Conn) (net.Conn, error) {
	a := x.i.authority.Load()
	var sni error
	cfg := &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}, SessionTicketsDisabled: true,
		GetCertificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
			if name, err := policy.CanonicalName(h.ServerName); err != nil || name != x.flow.Name {
				sni = errors.New("the TLS greeting names " + printable(h.ServerName) + ", and " + x.flow.Name + " was looked up")
				return nil, sni
			}
			return a.certificate(x.flow.Name)
		},
	}
	c := tls.Server(box, cfg)
	ctx, cancel := context.WithTimeout(ctx, greetTime)
	defer cancel()
	if err := c.HandshakeContext(ctx); err != nil {
		if sni != nil {
			err = sni
		}
		return nil, errors.New("no TLS with the box: " + printable(err.Error()))
	}
	return c, nil
}

// refuse records that the connection was refused before there was a request.
func (x *exchange) refuse(code, reason string) {
	x.flow.Record(boxlite.NetworkEvent{Kind: boxlite.NetRequest, Time: time.Now(), Proto: "tcp", Host: x.flow.Name, Port: x.flow.Port, Code: code, Reason: reason})
}

// serve answers requests until the box has no more of them.
func (x *exchange) serve(ctx context.Context, box net.Conn) {
	tlsConn, isTLS := box.(*tls.Conn)
	if !isTLS || tlsConn.ConnectionState().NegotiatedProtocol != "h2" {
		box = &strictConn{Conn: box, refused: func(reason string) { x.refuse(egress.CodeProtocol, "not plain HTTP/1: "+reason) }}
	}
	p := x.proxy()
	l := newOneConn(box)
	srv := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			x.requests.Add(1)
			defer x.requests.Done()
			p.ServeHTTP(w, r)
		}),
		ReadHeaderTimeout: headTime, IdleTimeout: quietTime, MaxHeaderBytes: maxHead,
		ErrorLog: slog.NewLogLogger(x.i.cfg.Log.Handler(), slog.LevelDebug),
		ConnState: func(_ net.Conn, s http.ConnState) {
			if s == http.StateClosed || s == http.StateHijacked {
				l.Close()
			}
		},
	}
	stop := context.AfterFunc(ctx, func() { srv.Close() })
	defer stop()
	_ = srv.Serve(l)
	x.requests.Wait()
	srv.Close()
	p.close()
}

// oneConn is a listener that has one connection.
type oneConn struct {
	conn   chan net.Conn
	addr   net.Addr
	once   sync.Once
	closed chan struct{}
}

func newOneConn(c net.Conn) *oneConn {
	l := &oneConn{conn: make(chan net.Conn, 1), addr: c.LocalAddr(), closed: make(chan struct{})}
	l.conn <- c
	return l
}

func (l *oneConn) Accept() (net.Conn, error) {
	select {
	case c := <-l.conn:
		return c, nil
	default:
	}
	<-l.closed
	return nil, net.ErrClosed
}

func (l *oneConn) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *oneConn) Addr() net.Addr { return l.addr }
