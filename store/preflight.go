package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/fb"
	"github.com/dgraph-io/badger/v4/pb"
	"github.com/dgraph-io/badger/v4/table"
	"github.com/dgraph-io/badger/v4/y"
	"google.golang.org/protobuf/proto"
)

// Names of Badger's files.
const (
	badgerManifest = badger.ManifestFilename
	badgerRegistry = badger.KeyRegistryFileName
	badgerDiscard  = "DISCARD"
)

// preflight checks Badger's files before Badger sees them. Left to itself it
// ends the process over a table it cannot parse, drops a table whose checksum
// is wrong, deletes tables that its manifest lacks, allocates gigabytes for a
// length it read wrong, and cuts a log where it stops making sense.
func (d *disk) preflight() error {
	files, err := d.files()
	if err != nil {
		return err
	}
	if len(files) == 0 && d.acked == 0 {
		return nil // new
	}
	return guard(func() error {
		for _, check := range []func(map[string]int64) error{d.checkManifest, d.checkRegistry, d.checkValueLogs, d.checkLogs} {
			if err := check(files); err != nil {
				return err
			}
		}
		return nil
	})
}

// files returns Badger's files that have contents, and their sizes. Logs that
// have none are what a kill leaves of a log being made, over which Badger
// stumbles: they go.
func (d *disk) files() (map[string]int64, error) {
	entries, err := os.ReadDir(d.dir)
	if err != nil {
		return nil, err
	}
	files := map[string]int64{}
	for _, e := range entries {
		name, ext := e.Name(), filepath.Ext(e.Name())
		isLog := ext == ".mem" || ext == ".vlog"
		if !isLog && ext != ".sst" && name != badgerManifest && name != badgerRegistry && name != badgerDiscard {
			continue
		}
		fi, err := e.Info()
		if err != nil {
			return nil, err
		}
		if !fi.Mode().IsRegular() {
			return nil, damage("%s is not a file", name)
		}
		if fi.Size() == 0 && isLog {
			if err := os.Remove(filepath.Join(d.dir, name)); err != nil {
				return nil, err
			}
			continue
		}
		files[name] = fi.Size()
	}
	return files, nil
}

// checkManifest checks the list of tables and every table on it, and takes
// those that are not on it out of Badger's way until it is known that nothing
// is missing.
func (d *disk) checkManifest(files map[string]int64) error {
	f, err := os.Open(filepath.Join(d.dir, badgerManifest))
	if errors.Is(err, fs.ErrNotExist) {
		return damage("%s is missing", badgerManifest)
	}
	if err != nil {
		return err
	}
	defer f.Close()
	m, _, err := badger.ReplayManifestFile(f, 0, onDisk(d.dir))
	if err != nil {
		return damage("%s is damaged: %v", badgerManifest, err)
	}
	listed := map[string]bool{}
	for id := range m.Tables {
		name := table.IDToFilename(id)
		listed[name] = true
		if err := d.checkTable(name); err != nil {
			return err
		}
	}
	for name := range files {
		if filepath.Ext(name) == ".sst" && !listed[name] {
			if err := d.setAside(name); err != nil {
				return err
			}
		}
	}
	return nil
}

// setAside moves a table into orphanDir. A kill leaves such tables behind, and
// so does a manifest that lost its end.
func (d *disk) setAside(name string) error {
	to := filepath.Join(d.dir, orphanDir)
	if err := os.MkdirAll(to, 0o700); err != nil {
		return err
	}
	return os.Rename(filepath.Join(d.dir, name), filepath.Join(to, name))
}

// checkTable checks a table's index and blocks against their checksums.
func (d *disk) checkTable(name string) error {
	data, err := os.ReadFile(filepath.Join(d.dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return damage("table %s is missing", name)
	}
	if err != nil {
		return err
	}
	if err := guard(func() error { return checkTable(data) }); err != nil {
		return damage("table %s is damaged: %v", name, err)
	}
	return nil
}

// checkTable checks the bytes of a table:
//
//	block... index  index length(4)  checksum  checksum length(4)
func checkTable(data []byte) error {
	rest, sum, err := cutChecksum(data)
	if err != nil {
		return err
	}
	rest, n, err := cutLength(rest)
	if err != nil {
		return err
	}
	index := rest[len(rest)-n:]
	if err := y.VerifyChecksum(index, sum); err != nil {
		return err
	}
	ti := fb.GetRootAsTableIndex(index, 0)
	if ti.OffsetsLength() == 0 {
		return errors.New("no blocks")
	}
	for i := range ti.OffsetsLength() {
		var bo fb.BlockOffset
		ti.Offsets(&bo, i)
		if err := checkBlock(data[bo.Offset():][:bo.Len()]); err != nil {
			return fmt.Errorf("block %d: %w", i, err)
		}
	}
	return nil
}

// checkBlock checks the bytes of a block: what it covers, checksum, its length.
func checkBlock(data []byte) error {
	covered, sum, err := cutChecksum(data)
	if err != nil {
		return err
	}
	return y.VerifyChecksum(covered, sum)
}

// cutChecksum returns what is before a checksum and its length, and that.
func cutChecksum(data []byte) ([]byte, *pb.Checksum, error) {
	data, n, err := cutLength(data)
	if err != nil {
		return nil, nil, err
	}
	at := len(data) - n
	sum := new(pb.Checksum)
	return data[:at], sum, proto.Unmarshal(data[at:], sum)
}

// cutLength returns what is before a length, and that, if there is so much.
func cutLength(data []byte) ([]byte, int, error) {
	if len(data) < 4 {
		return nil, 0, errors.New("too short")
	}
	at := len(data) - 4
	n := binary.BigEndian.Uint32(data[at:])
	if uint64(n) > uint64(at) {
		return nil, 0, errors.New("too short")
	}
	return data[:at], int(n), nil
}

// checkRegistry checks the file of keys, which without encryption has none: 16
// random bytes and a text.
func (d *disk) checkRegistry(files map[string]int64) error {
	size, ok := files[badgerRegistry]
	if !ok {
		return nil // a new one is as good
	}
	data, err := os.ReadFile(filepath.Join(d.dir, badgerRegistry))
	if err != nil {
		return err
	}
	if size != 28 || !strings.HasSuffix(string(data), "Hello Badger") {
		return damage("%s is damaged", badgerRegistry)
	}
	return nil
}
