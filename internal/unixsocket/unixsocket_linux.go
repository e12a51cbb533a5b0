package unixsocket

import (
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxAddr is the size of sun_path, with its final NUL (unix(7)).
const maxAddr = 108

// shortDir names base in dir by way of a descriptor of dir.
func shortDir(dir, base string) (short string, release func(), err error) {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", nil, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	self := "/proc/self/fd/" + strconv.Itoa(fd)
	if _, err := os.Stat(self); err != nil { // no /proc
		unix.Close(fd)
		return viaLink(dir, base)
	}
	return filepath.Join(self, base), func() { unix.Close(fd) }, nil
}

// beforeBind sets the mode that the socket's file is born with: bind(2) takes
// it from the socket, less the umask.
func beforeBind(_, _ string, c syscall.RawConn) error {
	return c.Control(func(fd uintptr) {
		_ = unix.Fchmod(int(fd), 0o600) // where it fails, Listen's chmod comes a moment later
	})
}

func peerUID(fd int) (uint32, error) {
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return 0, os.NewSyscallError("getsockopt", err)
	}
	return cred.Uid, nil
}
