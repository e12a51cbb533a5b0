package unixsocket

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxAddr is the size of sun_path, with its final NUL (unix(4)).
const maxAddr = 104

// shortDir names base in dir by way of a symbolic link.
func shortDir(dir, base string) (short string, release func(), err error) { return viaLink(dir, base) }

// beforeBind does nothing: a socket has no mode here before it is bound. The
// moment until Listen's chmod is covered by the check of the peer's user.
func beforeBind(_, _ string, _ syscall.RawConn) error { return nil }

// peerUID is getpeereid(3).
func peerUID(fd int) (uint32, error) {
	cred, err := unix.GetsockoptXucred(fd, unix.SOL_LOCAL, unix.LOCAL_PEERCRED)
	if err != nil {
		return 0, os.NewSyscallError("getsockopt", err)
	}
	return cred.Uid, nil
}
