package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/boxlite-mcp/boxlite-mcp"
)

// Files of ours beside Badger's.
const (
	ownerFile   = "owner"
	ackedFile   = "acked"
	reserveFile = "reserve"
	orphanDir   = "orphans"
)

// A disk is a database's directory: who owns it, what was acknowledged, and
// whether there is room. Its fields are guarded by the right to commit.
type disk struct {
	dir   string
	owner *os.File // locked while the database is open
	ack   *os.File // ackedFile, open for writing
	acked uint64   // sequence number of the last acknowledged transaction
	mem   int      // number of the log that was given its blocks
}

// openDisk takes possession of dir and checks Badger's files in it.
func openDisk(dir string) (d *disk, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, classify("open database", dir, err)
	}
	d = &disk{dir: dir}
	if d.owner, err = lock(dir); err != nil {
		return nil, err
	}
	for _, step := range []func() error{d.makeRoom, d.openAcked, d.preflight} {
		if err := step(); err != nil {
			return nil, also(classify("open database", dir, err), d.close())
		}
	}
	return d, nil
}

func (d *disk) close() error {
	var err error
	if d.ack != nil {
		err = d.ack.Close()
	}
	// To close the file would not do: a process that was just forked may have it too.
	_ = unix.Flock(int(d.owner.Fd()), unix.LOCK_UN)
	return errors.Join(err, d.owner.Close())
}

// settle is called once the database is open and nothing is missing.
func (d *disk) settle() error {
	if err := os.RemoveAll(filepath.Join(d.dir, orphanDir)); err != nil {
		return err
	}
	d.keepReserve()
	return d.preallocate()
}

// lock makes this process the owner of dir.
//
// Errors: [boxlite.InvalidState] if another process is.
func lock(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, ownerFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, classify("open database", dir, err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		defer f.Close()
		return nil, inUse(dir, f)
	}
	if err == nil {
		err = errors.Join(f.Truncate(0), writeAt(f, strconv.Itoa(pid)+"\n"))
	}
	if err != nil && !errors.Is(err, syscall.ENOSPC) { // a full disk may still be read
		return nil, also(classify("lock database", dir, err), f.Close())
	}
	return f, nil
}

func writeAt(f *os.File, s string) error {
	_, err := f.WriteAt([]byte(s), 0)
	return err
}

// inUse returns the error that says who owns dir, by its owner file.
func inUse(dir string, f *os.File) error {
	var buf [32]byte
	n, _ := f.ReadAt(buf[:], 0) // what is not there is not said
	who := "another process"
	if id := strings.TrimSpace(string(buf[:n])); id != "" {
		who = "process " + id
	}
	return &boxlite.Error{Op: "open database", Kind: boxlite.InvalidState, Ref: dir,
		Hint: "Use the daemon that owns this home, or end " + who + " first.",
		Err:  fmt.Errorf("%s has it open", who)}
}

// ackedSize is that of the acked file: the sequence number and a checksum,
// both big-endian.
const ackedSize = 12

// openAcked reads what was acknowledged, or makes the file of a new database.
func (d *disk) openAcked() (err error) {
	path := filepath.Join(d.dir, ackedFile)
	if !exists(path) {
		if exists(filepath.Join(d.dir, badgerManifest)) {
			return damage("%s is missing", ackedFile)
		}
		if err := d.createAcked(path); err != nil {
			return err
		}
	}
	if d.ack, err = os.OpenFile(path, os.O_RDWR, 0); err != nil {
		return err
	}
	var buf [ackedSize + 1]byte
	n, _ := d.ack.ReadAt(buf[:], 0) // too little is damage
	if n != ackedSize || crc32.ChecksumIEEE(buf[:8]) != binary.BigEndian.Uint32(buf[8:]) {
		return damage("%s is damaged", ackedFile)
	}
	d.acked = binary.BigEndian.Uint64(buf[:])
	return nil
}

func encodeAcked(seq uint64) []byte {
	buf := binary.BigEndian.AppendUint64(nil, seq)
	return binary.BigEndian.AppendUint32(buf, crc32.ChecksumIEEE(buf))
}

// createAcked makes the file whole or not at all.
func (d *disk) createAcked(path string) error {
	f, err := os.OpenFile(path+".new", os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(encodeAcked(0))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return errors.Join(os.Rename(path+".new", path), syncDir(d.dir))
}

// acknowledge notes that seq is durable. It does not sync: the database is,
// and after a loss of power an older number only knows less. The write goes
// into an existing block, and is one that no kill divides.
func (d *disk) acknowledge(seq uint64) error {
	d.acked = seq
	if _, err := d.ack.WriteAt(encodeAcked(seq), 0); err != nil {
		return err
	}
	return d.preallocate()
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
