package flatten

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
)

const (
	blockBits = 12
	blockSize = 1 << blockBits

	// holeUnit is the granularity at which zeros become holes.
	holeUnit = 64 << 10
	// bufferSize is how much is written at once.
	bufferSize = 1 << 20
)

var zeros [holeUnit]byte

// An extent is a range of the output, in bytes.
type extent struct{ off, size int64 }

func roundUp[T int | int64](n, to T) T { return (n + to - 1) / to * to }

// An appender writes a file from front to back in big pieces, leaving holes
// where it is told to.
type appender struct {
	file *os.File
	off  int64 // where the next byte goes, buffered ones counted
	buf  []byte
}

// copyFrom appends size bytes of r and zeros up to the next block. It returns
// the block where they begin.
func (a *appender) copyFrom(r io.Reader, size int64) (block uint32, err error) {
	if a.off+size > maxBlocks*blockSize {
		return 0, refuse(hintTooBig, "the image is bigger than EROFS holds")
	}
	block = uint32(a.off / blockSize)
	for left := size; left > 0; {
		unit, err := a.room(int(min(left, holeUnit)))
		if err != nil {
			return 0, err
		}
		if _, err := io.ReadFull(r, unit); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return 0, err
		}
		if len(unit) == holeUnit && bytes.Equal(unit, zeros[:]) {
			err = a.skip(holeUnit)
		} else {
			a.keep(len(unit))
		}
		if err != nil {
			return 0, err
		}
		left -= int64(len(unit))
	}
	pad := int(roundUp(a.off, blockSize) - a.off)
	tail, err := a.room(pad)
	if err != nil {
		return 0, err
	}
	clear(tail)
	a.keep(pad)
	return block, nil
}

// room returns n bytes to fill in before keep.
func (a *appender) room(n int) ([]byte, error) {
	if a.buf == nil {
		a.buf = make([]byte, 0, bufferSize)
	}
	if len(a.buf)+n > cap(a.buf) {
		if err := a.flush(); err != nil {
			return nil, err
		}
	}
	return a.buf[len(a.buf) : len(a.buf)+n], nil
}

// keep appends the first n bytes of the last room.
func (a *appender) keep(n int) {
	a.buf = a.buf[:len(a.buf)+n]
	a.off += int64(n)
}

// skip leaves a hole of n bytes.
func (a *appender) skip(n int64) error {
	err := a.flush()
	a.off += n
	return err
}

func (a *appender) flush() error {
	if len(a.buf) == 0 {
		return nil
	}
	_, err := a.file.WriteAt(a.buf, a.off-int64(len(a.buf)))
	a.buf = a.buf[:0]
	return err
}

// finish writes what is buffered and lets go of the buffer.
func (a *appender) finish() error {
	err := a.flush()
	a.buf = nil
	return err
}

// zero overwrites e with zeros.
func (a *appender) zero(e extent) error {
	for e.size > 0 {
		n, err := a.file.WriteAt(zeros[:min(e.size, holeUnit)], e.off)
		if err != nil {
			return err
		}
		e.off, e.size = e.off+int64(n), e.size-int64(n)
	}
	return nil
}

// copyData makes the first size bytes of dst those of src: by sharing blocks,
// else by copying what is not a hole.
func copyData(ctx context.Context, dst, src *os.File, size int64) error {
	if cloneFile(dst, src) {
		return dst.Truncate(size)
	}
	for off := int64(0); off < size; {
		from, to, err := nextData(src, off, size)
		if err != nil {
			return err
		}
		if err := copyRange(ctx, dst, src, from, to); err != nil {
			return err
		}
		off = to
	}
	return dst.Truncate(size)
}

func copyRange(ctx context.Context, dst, src *os.File, from, to int64) error {
	const step = 64 << 20
	for from < to {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := io.Copy(io.NewOffsetWriter(dst, from), io.NewSectionReader(src, from, min(step, to-from)))
		if err != nil {
			return err
		}
		if n == 0 {
			return io.ErrUnexpectedEOF
		}
		from += n
	}
	return nil
}
