// Package unixsocket listens on and connects to stream sockets in the file
// system whose peers are processes of the same user: the daemon's and the
// shims'. Paths may be longer than the 108 bytes (104 on macOS) that a socket
// address holds.
//
// It is not a protocol, and it holds no lock: who listens owns the directory by
// other means, such as the home's lock.
//
//	l, err := unixsocket.Listen(filepath.Join(home, "daemon.sock"))
//	srv.Serve(unixsocket.SameUser(l))
//
//	conn, err := unixsocket.Dial(ctx, filepath.Join(home, "daemon.sock"))
//	err = unixsocket.CheckPeer(conn)
//
// Everything may be called concurrently. On disk it leaves one socket file of
// mode 0600, which goes away when the listener is closed.
package unixsocket

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/boxlite-mcp/boxlite-mcp"
)

// Listen makes a socket at path, with mode 0600, and listens on it. A socket
// that is there and that nobody answers is removed first. Only one process may
// do this for a path at a time; the caller sees to that with a lock. Closing
// the listener removes the socket, unless another has taken its place.
//
// Errors: InvalidState if somebody answers at path, or if what is there is no
// socket; RpcTransport.
func Listen(path string) (net.Listener, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, transport("listen", path, err)
	}
	if err := removeStale(path); err != nil {
		return nil, err
	}
	addr, release, err := shortPath(path)
	if err != nil {
		return nil, transport("listen", path, err)
	}
	defer release()
	config := net.ListenConfig{Control: beforeBind}
	l, err := config.Listen(context.Background(), "unix", addr)
	if err != nil {
		return nil, transport("listen", path, err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false) // addr means nothing after release
	if err := os.Chmod(path, 0o600); err != nil { // for systems where beforeBind cannot
		return nil, errors.Join(transport("listen", path, err), l.Close())
	}
	info, err := os.Lstat(path)
	if err != nil {
		return nil, errors.Join(transport("listen", path, err), l.Close())
	}
	return &listener{Listener: l, path: path, info: info}, nil
}

// A listener removes its socket when it is closed.
type listener struct {
	net.Listener
	path string
	info fs.FileInfo // of the socket as it was made
	once sync.Once
}

// Close stops listening and removes the socket file if it is still this
// listener's. The file goes first: while the listener is open its inode number
// cannot be given to another file.
func (l *listener) Close() error {
	l.once.Do(func() {
		if now, err := os.Lstat(l.path); err == nil && os.SameFile(now, l.info) {
			os.Remove(l.path) // else the next Listen does it
		}
	})
	return l.Listener.Close()
}

// Addr returns the address with the path as given to Listen.
func (l *listener) Addr() net.Addr { return &net.UnixAddr{Name: l.path, Net: "unix"} }

// removeStale removes the socket at path if nobody answers there.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return transport("listen", path, err)
	}
	if info.Mode().Type() != fs.ModeSocket {
		return &boxlite.Error{Op: "listen", Kind: boxlite.InvalidState, Ref: path,
			Hint: "Move the file away.", Err: fmt.Errorf("a file that is no socket is in the way")}
	}
	// A full queue of connections is a sign of life too.
	conn, err := dial(context.Background(), path)
	switch {
	case err == nil:
		conn.Close()
		fallthrough
	case !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, fs.ErrNotExist):
		return &boxlite.Error{Op: "listen", Kind: boxlite.InvalidState, Ref: path,
			Hint: "Stop the process that listens there.", Err: fmt.Errorf("the socket is in use: %w", or(err, syscall.EADDRINUSE))}
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return transport("listen", path, err)
	}
	return nil
}

// Dial connects to the socket at path. While the listener's queue is full it
// tries again, until ctx ends. It does not check who listens; [CheckPeer] does.
//
// Errors: RpcTransport, wrapping fs.ErrNotExist where there is no socket and
// syscall.ECONNREFUSED where nobody listens; Denied where the socket or its
// directory is not this user's; Canceled and Timeout as ctx says.
func Dial(ctx context.Context, path string) (net.Conn, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, transport("connect to", path, err)
	}
	for {
		conn, err := dial(ctx, path)
		if err == nil {
			return conn, nil
		}
		if !errors.Is(err, syscall.EAGAIN) {
			return nil, transport("connect to", path, err)
		}
		select {
		case <-ctx.Done():
			return nil, transport("connect to", path, fmt.Errorf("%w: %w", ctx.Err(), err))
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// dial connects once to the socket at the absolute path.
func dial(ctx context.Context, path string) (net.Conn, error) {
	addr, release, err := shortPath(path)
	if err != nil {
		return nil, err
	}
	defer release()
	var d net.Dialer
	return d.DialContext(ctx, "unix", addr)
}

// shortPath returns a name of path that fits into a socket address and is good
// until release is called.
func shortPath(path string) (short string, release func(), err error) {
	if len(path) < maxAddr {
		return path, func() {}, nil
	}
	dir, base := filepath.Split(path)
	if len(base) > maxBase {
		return "", nil, fmt.Errorf("the file name has %d bytes, more than %d: %w", len(base), maxBase, syscall.ENAMETOOLONG)
	}
	return shortDir(dir, base)
}

// maxBase is the longest file name for which any directory has a short name.
const maxBase = 64

// viaLink names base in dir by way of a symbolic link in a directory of our
// own.
func viaLink(dir, base string) (short string, release func(), err error) {
	tmp, err := os.MkdirTemp("/tmp", "bx") // mode 0700
	if err != nil {
		return "", nil, err
	}
	release = func() { os.RemoveAll(tmp) }
	link := filepath.Join(tmp, "d")
	if err := os.Symlink(dir, link); err != nil {
		release()
		return "", nil, err
	}
	return filepath.Join(link, base), release, nil
}

// PeerUID returns the user id of the process at the other end of conn, as the
// kernel recorded it when that process connected or listened.
//
// Errors: InvalidArgument if conn is no unix socket; RpcTransport.
func PeerUID(conn net.Conn) (uint32, error) {
	const op = "identify peer"
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return 0, boxlite.Errorf(boxlite.InvalidArgument, op, "", "%T is no socket", conn)
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return 0, &boxlite.Error{Op: op, Kind: boxlite.RpcTransport, Err: err}
	}
	var uid uint32
	var uidErr error
	if err := raw.Control(func(fd uintptr) { uid, uidErr = peerUID(int(fd)) }); err != nil {
		uidErr = err
	}
	if uidErr != nil {
		return 0, &boxlite.Error{Op: op, Kind: boxlite.RpcTransport, Err: uidErr}
	}
	return uid, nil
}

// HungUp reports whether the other end of conn is closed and everything it sent
// was read. It does not block and reads nothing; of a conn that is no socket it
// says false.
func HungUp(conn net.Conn) bool {
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return true
	}
	var hungUp bool
	err = raw.Control(func(fd uintptr) {
		var b [1]byte
		n, _, err := unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		again := errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR)
		hungUp = n <= 0 && !again
	})
	return hungUp || err != nil // closed at this end
}

// CheckPeer reports whether the process at the other end of conn is of the user
// of this process, or root.
//
// Errors: Denied if it is not; those of [PeerUID].
func CheckPeer(conn net.Conn) error {
	uid, err := PeerUID(conn)
	if err != nil {
		return err
	}
	if own := uint32(os.Geteuid()); uid != own && uid != 0 {
		return &boxlite.Error{Op: "identify peer", Kind: boxlite.Denied,
			Hint: "Run both as the same user, or give another home directory.",
			Err:  fmt.Errorf("the peer is user %d, this is user %d", uid, own)}
	}
	return nil
}

// SameUser returns a listener like l that closes connections of other users,
// except root's, before anybody reads a byte of them.
func SameUser(l net.Listener) net.Listener { return sameUser{l} }

type sameUser struct{ net.Listener }

// Accept returns the next connection that passes [CheckPeer].
func (l sameUser) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if CheckPeer(conn) == nil {
			return conn, nil
		}
		conn.Close()
	}
}

// transport classifies err.
func transport(op, path string, err error) error {
	kind, hint := boxlite.RpcTransport, ""
	switch {
	case errors.Is(err, fs.ErrPermission):
		kind, hint = boxlite.Denied, "Run as the user that the directory belongs to."
	case errors.Is(err, context.Canceled):
		kind = boxlite.Canceled
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		kind = boxlite.Timeout
	}
	return &boxlite.Error{Op: op, Kind: kind, Ref: path, Hint: hint, Err: err}
}

// or returns the first error that is not nil.
func or(a, b error) error {
	if a != nil {
		return a
	}
	return b
}
