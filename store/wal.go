package store

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"hash/crc32"
	"os"
	"path/filepath"
	"strconv"
)

// Badger's logs: a header, then entries, then zeros.
//
//	header: key id(8) random(12)
//	entry:  meta(1) user meta(1) key length, value length, expiry (uvarints) key value CRC-32C(4)
//
// Keys end in the transaction's version, inverted (8). A transaction is
// entries with bitTxn, then one with bitFinTxn whose value is the version.
const (
	logHeader = 20
	bitTxn    = 1 << 6
	bitFinTxn = 1 << 7
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// checkValueLogs checks that the value log is as empty as it has to be.
func (d *disk) checkValueLogs(files map[string]int64) error {
	for name := range files {
		if filepath.Ext(name) != ".vlog" {
			continue
		}
		data, err := os.ReadFile(filepath.Join(d.dir, name))
		if err != nil {
			return err
		}
		if !soundHeader(data) || !zero(data[logHeader:]) {
			return damage("value log %s is damaged", name)
		}
	}
	return nil
}

// checkLogs checks the logs of what is not in tables yet. What follows the last
// whole transaction of one may be one that was never acknowledged, which
// Badger cuts off; if the logs end before what was acknowledged, it is not.
func (d *disk) checkLogs(files map[string]int64) error {
	var last uint64
	var broken string
	for name := range files {
		if filepath.Ext(name) != ".mem" {
			continue
		}
		data, err := os.ReadFile(filepath.Join(d.dir, name))
		if err != nil {
			return err
		}
		if !soundHeader(data) {
			return damage("log %s is damaged", name)
		}
		seq, end := replay(data)
		last = max(last, seq)
		if !zero(data[end:]) {
			broken = name
		}
	}
	// A log without a whole transaction says nothing: it may be a new one whose
	// first transaction was cut off by a kill, with all that was acknowledged in
	// tables. If something acknowledged was in it, the seal misses it.
	if broken != "" && 0 < last && last < d.acked {
		return damage("log %s is damaged: it ends with transaction %d of %d", broken, last, d.acked)
	}
	return nil
}

// soundHeader reports whether a log begins with a key id of none.
func soundHeader(data []byte) bool { return len(data) >= logHeader && zero(data[:8]) }

func zero(data []byte) bool { return len(bytes.TrimLeft(data, "\x00")) == 0 }

// replay returns the sequence number in the last seal of a log, and where its
// last whole transaction ends.
func replay(data []byte) (seq uint64, end int) {
	end = logHeader
	var version, pending uint64
	for at := end; ; {
		e, n := parseEntry(data[at:])
		if n == 0 || len(e.key) < 8 {
			return seq, end
		}
		at += n
		ts := ^binary.BigEndian.Uint64(e.key[len(e.key)-8:])
		switch {
		case e.meta&bitTxn != 0:
			if version == 0 {
				version = ts
			}
			if version != ts {
				return seq, end
			}
			if string(e.key[:len(e.key)-8]) == sealKey {
				var s seal
				if json.Unmarshal(e.value, &s) != nil {
					return seq, end
				}
				pending = s.Seq
			}
		case e.meta&bitFinTxn != 0:
			fin, err := strconv.ParseUint(string(e.value), 10, 64)
			if err != nil || fin != version {
				return seq, end
			}
			seq, end, version = max(seq, pending), at, 0
		case version != 0:
			return seq, end
		default:
			end = at
		}
	}
}

type logEntry struct {
	meta       byte
	key, value []byte
}

// parseEntry returns the entry that data begins with and its length, 0 if data
// does not begin with a sound one.
func parseEntry(data []byte) (e logEntry, n int) {
	if len(data) < 2 {
		return e, 0
	}
	at := 2
	var field [3]uint64 // key length, value length, expiry
	for i := range field {
		v, w := binary.Uvarint(data[at:])
		if w <= 0 {
			return e, 0
		}
		field[i] = v
		at += w
	}
	rest := uint64(len(data) - at)
	if field[0] == 0 || field[0] > rest || field[1] > rest || field[0]+field[1]+crc32.Size > rest {
		return e, 0
	}
	mid, end := at+int(field[0]), at+int(field[0]+field[1])
	if crc32.Checksum(data[:end], castagnoli) != binary.BigEndian.Uint32(data[end:]) {
		return e, 0
	}
	return logEntry{data[0], data[at:mid], data[mid:end]}, end + crc32.Size
}
