package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/boxlite-mcp/boxlite-mcp"
)

// Badger writes through mappings of sparse files: where the disk has no block
// for one, the kernel answers with SIGBUS, which ends the process. So there is
// always room: logs get their blocks before they are needed, changes are
// refused while there is still space, and a reserve is given up when others
// have filled the disk.
const (
	low     boxlite.Bytes = 16 * boxlite.MiB // below it, new records are refused
	floor   boxlite.Bytes = 6 * boxlite.MiB  // below it, changes are too; opening needs it
	reserve boxlite.Bytes = 8 * boxlite.MiB  // size of the reserve file
	logSize               = memTableSize + memTableSize/4
)

const fullHint = "Free space on the disk of the home directory: remove boxes or images that are not needed."

// free returns the space that the file system of dir has for us.
func (d *disk) free() (boxlite.Bytes, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(d.dir, &st); err != nil {
		return 0, err
	}
	return boxlite.Bytes(st.Bavail) * boxlite.Bytes(st.Bsize), nil
}

// room reports whether a change may be made, one with new records if grows.
//
// Errors: [boxlite.Exhausted].
func (d *disk) room(grows bool) error {
	free, err := d.free()
	if err != nil {
		return classify("measure disk", d.dir, err)
	}
	if free > low+reserve+low/4 {
		d.keepReserve()
	}
	if free >= low || !grows && free >= floor {
		return nil
	}
	if grows {
		return full(d.dir, free)
	}
	return d.makeRoom()
}

// makeRoom gives up the reserve if there is too little space without.
//
// Errors: [boxlite.Exhausted] if that was not enough.
func (d *disk) makeRoom() error {
	free, err := d.free()
	if err != nil || free >= floor {
		return err
	}
	if err := os.Remove(filepath.Join(d.dir, reserveFile)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if free, err = d.free(); err == nil && free < floor {
		err = full(d.dir, free)
	}
	return err
}

func full(dir string, free boxlite.Bytes) error {
	return &boxlite.Error{Op: "write database", Kind: boxlite.Exhausted, Ref: dir, Hint: fullHint,
		Err: fmt.Errorf("the disk is full: %s are free", free)}
}

// keepReserve makes the reserve if there is none and plenty of space. It is a
// precaution: that it cannot be taken is not an error.
func (d *disk) keepReserve() {
	path := filepath.Join(d.dir, reserveFile)
	free, err := d.free()
	if err != nil || free < low+reserve || exists(path) {
		return
	}
	if err := allocateFile(path, int64(reserve)); err != nil {
		os.Remove(path)
	}
}

func allocateFile(path string, size int64) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(allocate(f, size), f.Close())
}

// preallocate gives Badger's newest log its blocks, once.
func (d *disk) preallocate() error {
	next := d.mem + 1
	if d.mem == 0 {
		next = d.newestLog()
	}
	for ; exists(d.log(next)); next++ {
		f, err := os.OpenFile(d.log(next), os.O_RDWR, 0)
		if err != nil {
			return err
		}
		if err := errors.Join(allocate(f, logSize), f.Close()); err != nil {
			return err
		}
		d.mem = next
	}
	return nil
}

func (d *disk) log(n int) string { return filepath.Join(d.dir, fmt.Sprintf("%05d.mem", n)) }

// newestLog returns the number of the newest log, 1 if there is none.
func (d *disk) newestLog() int {
	n := 1
	paths, _ := filepath.Glob(filepath.Join(d.dir, "*.mem")) // the pattern is good
	for _, p := range paths {
		var id int
		if _, err := fmt.Sscanf(filepath.Base(p), "%d.mem", &id); err == nil {
			n = max(n, id)
		}
	}
	return n
}
