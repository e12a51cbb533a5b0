package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"

	"github.com/dgraph-io/badger/v4"
)

// A seal says what the database holds, so that loss and damage show. Each
// transaction writes the next one.
type seal struct {
	Seq     uint64 `json:"seq"`     // transactions so far
	Records uint64 `json:"records"` // entries that do not expire, indexes' included
	Sum     uint64 `json:"sum"`     // over them, see the package comment
}

// expires marks, in Badger's user meta byte, an entry that is not in the seal.
const expires byte = 1

// add counts an entry that is there after a transaction.
func (s *seal) add(key, value []byte) { s.Records++; s.Sum += sum(key, value) }

// drop counts an entry that was there before it.
func (s *seal) drop(key, value []byte) { s.Records--; s.Sum -= sum(key, value) }

// next returns the seal after a transaction that changed the contents by d.
func (s seal) next(d seal) seal {
	return seal{Seq: s.Seq + 1, Records: s.Records + d.Records, Sum: s.Sum + d.Sum}
}

func sum(key, value []byte) uint64 {
	h := fnv.New64a()
	h.Write(key)
	h.Write([]byte(separator))
	h.Write(value)
	return h.Sum64()
}

// readSeal returns the stored seal; an empty database has a zero one.
func readSeal(txn *badger.Txn) (seal, error) {
	var s seal
	item, err := txn.Get([]byte(sealKey))
	if errors.Is(err, badger.ErrKeyNotFound) {
		return s, nil
	}
	if err != nil {
		return s, err
	}
	return s, item.Value(func(v []byte) error { return json.Unmarshal(v, &s) })
}

// countSeal returns what the seal should be, without the sequence number.
func countSeal(txn *badger.Txn) (s seal, err error) {
	err = scan(txn, "", func(key string, item *badger.Item) error {
		if key[:1] == separator || item.UserMeta() == expires {
			return nil
		}
		return item.Value(func(v []byte) error { s.add([]byte(key), v); return nil })
	})
	return s, err
}

// verifySeal checks that the database has what it should have.
func (db *DB) verifySeal() error {
	return db.view(func(txn *badger.Txn) error {
		s, err := checkSeal(txn)
		if err != nil {
			return err
		}
		if db.disk != nil && s.Seq < db.disk.acked {
			return damage("the last %d transactions are missing", db.disk.acked-s.Seq)
		}
		return nil
	})
}

func checkSeal(txn *badger.Txn) (seal, error) {
	s, err := readSeal(txn)
	if err != nil {
		return s, fmt.Errorf("read seal: %w", err)
	}
	got, err := countSeal(txn)
	switch {
	case err != nil:
		return s, err
	case got.Records != s.Records:
		return s, damage("it has %d records, and should have %d", got.Records, s.Records)
	case got.Sum != s.Sum:
		return s, damage("the contents of its %d records were changed", s.Records)
	}
	return s, nil
}
