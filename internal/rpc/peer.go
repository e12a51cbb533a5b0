package rpc

import (
	"context"
	"errors"
	"net"
	"sync"

	"google.golang.org/grpc/credentials"
	grpcpeer "google.golang.org/grpc/peer"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/internal/unixsocket"
)

// A peer is what the server knows of one connection.
type peer struct {
	credentials.CommonAuthInfo
	mu sync.Mutex
	id identity // guarded by mu
}

// An identity is who a connection is. The zero value is nobody.
type identity struct {
	hello     bool // it said who it is
	principal string
	operator  bool
	svc       boxlite.Service
	err       error // why there is no svc
}

// AuthType names the kind of authentication.
func (p *peer) AuthType() string { return "unix socket" }

func (p *peer) identity() identity {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.id
}

// introduce sets who the connection is, once.
func (p *peer) introduce(id identity) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.id.hello {
		return &boxlite.Error{Op: "say hello", Kind: boxlite.InvalidState, Err: errors.New("it was said before")}
	}
	id.hello = true
	p.id = id
	return nil
}

// peerOf returns the connection that a call came over.
func peerOf(ctx context.Context) *peer {
	if p, ok := grpcpeer.FromContext(ctx); ok {
		if own, ok := p.AuthInfo.(*peer); ok {
			return own
		}
	}
	return &peer{}
}

// A handshake is the server's side of a new connection: other users are hung up
// on before anything is read, and the rest get a peer.
type handshake struct{ s *Server }

// ServerHandshake admits conn.
func (h handshake) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	if err := unixsocket.CheckPeer(conn); err != nil {
		h.s.log.Warn("connection refused", "err", err)
		return nil, nil, err
	}
	p := &peer{CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}}
	return &countedConn{Conn: conn, s: h.s, p: p}, p, nil
}

// ClientHandshake is not for servers.
func (handshake) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("a server's credentials")
}

// Info describes the handshake.
func (handshake) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "unix"}
}

// Clone returns h.
func (h handshake) Clone() credentials.TransportCredentials { return h }

// OverrideServerName does nothing.
func (handshake) OverrideServerName(string) error { return nil }

// A countedConn is no client any more when it is closed.
type countedConn struct {
	net.Conn
	s    *Server
	p    *peer
	once sync.Once
}

// Close closes the connection.
func (c *countedConn) Close() error {
	c.once.Do(func() {
		// From here on introduce fails, so a hello cannot be counted later.
		if c.p.introduce(identity{}) != nil {
			c.s.count(-1)
		}
	})
	return c.Conn.Close()
}
