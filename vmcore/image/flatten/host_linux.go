package flatten

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// cloneFile makes dst share the blocks of src, and reports whether the file
// system can.
func cloneFile(dst, src *os.File) bool {
	return unix.IoctlFileClone(int(dst.Fd()), int(src.Fd())) == nil
}

// nextData returns the first range at or behind off that is not a hole, or
// size twice.
func nextData(f *os.File, off, size int64) (from, to int64, err error) {
	from, err = f.Seek(off, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) || err == nil && from >= size {
		return size, size, nil
	}
	if err == nil {
		to, err = f.Seek(from, unix.SEEK_HOLE)
	}
	return from, min(to, size), err
}

// punchHole gives the space of a range back, or returns errNoHoles.
func punchHole(f *os.File, e extent) error {
	err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, e.off, e.size)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return errNoHoles
	}
	return err
}
