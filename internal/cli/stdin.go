package cli

import (
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// A wakeable is a reader whose pending Read ends when it is woken. One
// goroutine may read while another wakes.
type wakeable struct {
	io.Reader
	wake func() // ends Read now and later; idempotent
	free func() // call once nobody reads any more
}

// errWoken is what Read returns once it was woken.
var errWoken = errors.New("reading was given up")

// newWakeable returns a wakeable that reads r. A file is only read when there
// is something to read, so that nothing is taken from it that nobody wants. Any
// other reader is closed to wake it, if it can be.
func newWakeable(r io.Reader) (*wakeable, error) {
	if f := asFile(r); f != nil {
		return pollable(f)
	}
	wake := func() {}
	if c, ok := r.(io.Closer); ok {
		wake = func() { _ = c.Close() }
	}
	return &wakeable{r, wake, func() {}}, nil
}

func pollable(f *os.File) (*wakeable, error) {
	quit, signal, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	read := readerFunc(func(p []byte) (int, error) {
		if err := waitReadable(int(f.Fd()), int(quit.Fd())); err != nil {
			return 0, err
		}
		n, err := f.Read(p)
		if errors.Is(err, unix.EIO) { // the terminal is gone
			err = io.EOF
		}
		return n, err
	})
	return &wakeable{read,
		func() { _, _ = signal.Write([]byte{0}) },
		func() { _, _ = quit.Close(), signal.Close() },
	}, nil
}

// waitReadable waits until fd can be read or has ended. It fails with errWoken
// once quit can be read.
func waitReadable(fd, quit int) error {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}, {Fd: int32(quit), Events: unix.POLLIN}}
	for {
		_, err := unix.Poll(fds, -1)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return os.NewSyscallError("poll", err)
		case fds[1].Revents != 0:
			return errWoken
		case fds[0].Revents != 0:
			return nil
		}
	}
}

// A readerFunc is an io.Reader that is a function.
type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }
