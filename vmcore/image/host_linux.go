package image

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// realPath returns where an open file really is.
func realPath(f *os.File) (string, error) {
	return os.Readlink(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
}

// identity tells directories apart whatever they are called.
func identity(path string) (dev, ino uint64, err error) {
	var st unix.Stat_t
	err = unix.Stat(path, &st)
	return st.Dev, st.Ino, err
}

// openPlain opens a file below dir, following no symbolic link (openat2(2)).
func openPlain(dir *os.File, name string) (*os.File, error) {
	fd, err := unix.Openat2(int(dir.Fd()), name, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_NONBLOCK | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}
