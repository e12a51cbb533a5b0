package guest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Main is the program, given its arguments without its name:
//
//	serve --fd N   serve the host over the inherited descriptor N
//	init ROOT      be a box's first process (serve starts it)
//
// It returns when there is nothing more to do.
func Main(ctx context.Context, args []string) error {
	switch {
	case len(args) == 2 && args[0] == "init":
		return boxInit(args[1])
	case len(args) == 3 && args[0] == "serve" && args[1] == "--fd":
		fd, err := strconv.Atoi(args[2])
		if err != nil || fd < 0 {
			return fmt.Errorf("--fd %q is not a descriptor", args[2])
		}
		conn, err := Inherited(fd)
		if err != nil {
			return err
		}
		Tune()
		return Serve(ctx, conn, Options{})
	}
	return errors.New("usage: boxlite-agent serve --fd N")
}

// Inherited returns the connection behind a descriptor that the process was
// started with: a socket, or a device that carries bytes both ways.
func Inherited(fd int) (net.Conn, error) {
	unix.CloseOnExec(fd)
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, fmt.Errorf("open descriptor %d: %w", fd, err)
	}
	f := os.NewFile(uintptr(fd), "host")
	if conn, err := net.FileConn(f); err == nil {
		return conn, f.Close()
	}
	return &fileConn{f}, nil
}

// A fileConn is a device as a connection.
type fileConn struct{ *os.File }

func (c *fileConn) LocalAddr() net.Addr  { return fileAddr(c.Name()) }
func (c *fileConn) RemoteAddr() net.Addr { return fileAddr(c.Name()) }

type fileAddr string

func (fileAddr) Network() string  { return "file" }
func (a fileAddr) String() string { return string(a) }
