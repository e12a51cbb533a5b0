package main

import (
	"context"
	"net"
	"path/filepath"
	"syscall"
	"time"

	"github.com/boxlite-mcp/boxlite-mcp/internal/unixsocket"
)

// daemonPID returns the process that listens on the home's socket, as the
// kernel knows it.
func daemonPID(home string) (int, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	conn, err := unixsocket.Dial(ctx, filepath.Join(home, "daemon.sock"))
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0, err
	}
	var peer *syscall.Ucred
	var optErr error
	if err := raw.Control(func(fd uintptr) {
		peer, optErr = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	}); err != nil {
		return 0, err
	}
	if optErr != nil {
		return 0, optErr
	}
	return int(peer.Pid), nil
}

func kill(pid int) error { return syscall.Kill(pid, syscall.SIGKILL) }

func alive(pid int) bool { return syscall.Kill(pid, 0) == nil }
