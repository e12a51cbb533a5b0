// Package rpc is the conversation between a home's daemon and its clients over
// <home>/daemon.sock. [Client] is a [boxlite.Service] at the front end or
// command line, [Server] serves one in the daemon, and [Presence] makes sure
// that there is a daemon to speak to.
//
// It has no opinion on boxes: who may do what is the Service's business, which
// the server opens for the principal that a connection names. Both ends check
// that the other is a process of the same user, or root's.
//
//	p := &rpc.Presence{Home: home, Version: version, Start: startDaemon}
//	client := rpc.New(rpc.Options{Socket: rpc.Socket(home), Principal: "local",
//		Version: version, Connect: p.Ensure})
//	defer client.Close()
//
//	srv := rpc.NewServer(rpc.ServerOptions{Open: open, Version: version, Log: log})
//	l, err := unixsocket.Listen(rpc.Socket(home))
//	go srv.Serve(l)
//	…
//	srv.Stop(ctx)
//
// All methods may be called concurrently. The wire is gRPC; see
// rpcpb/daemon.proto. On disk are the socket, the daemon's log, which is read
// for error messages, and the lock of the election, <home>/daemon.start.
package rpc

import (
	"encoding/json"
	"path/filepath"
	"time"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
)

// The protocol of this program, and the oldest that it still speaks.
const (
	Protocol    = 1
	MinProtocol = 1
)

const (
	maxMessage = 16 << 20 // bytes, of one message with everything in it
	maxData    = 4 << 20  // bytes, of one stream's output or one file's data in a reply
	maxWrite   = 15 << 20 // bytes, of one file's data in a request
	maxInput   = 1 << 20  // bytes, of standard input in one request

	maxStreams = 1000            // calls at once, on one connection
	maxHello   = 5 * time.Second // from connecting to the answer to Hello

	windowSize     = 1 << 20 // bytes under way, of one call
	connWindowSize = 8 << 20 // bytes under way, of one connection
	bufferSize     = 128 << 10

	keepaliveEvery = 20 * time.Second // an idle peer is asked whether it is there
	keepaliveWait  = 20 * time.Second // and is lost if it says nothing for this long
)

// Socket returns the path of the daemon's socket in a home.
func Socket(home string) string { return filepath.Join(home, "daemon.sock") }

// LogFile returns the path of the daemon's log in a home.
func LogFile(home string) string { return filepath.Join(home, "daemon.log") }

// Status is what a daemon says of itself to the operator.
type Status struct {
	PID      int             `json:"pid"`
	Version  string          `json:"version"`
	Protocol int             `json:"protocol"`
	Started  time.Time       `json:"started"` // UTC; when the server was made
	Home     string          `json:"home"`
	Clients  int             `json:"clients"`           // connections that said hello, with the one that asks
	Details  json.RawMessage `json:"details,omitempty"` // what the daemon adds
}

// encode returns v as it travels.
func encode(v any) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, &boxlite.Error{Op: "encode message", Kind: boxlite.Internal, Err: err}
	}
	return b, nil
}

// decode fills v from b.
//
// Errors: Rpc.
func decode(b []byte, v any) error {
	if err := json.Unmarshal(b, v); err != nil {
		return &boxlite.Error{Op: "decode message", Kind: boxlite.Rpc, Err: err}
	}
	return nil
}
