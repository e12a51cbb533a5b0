package store

import (
	"iter"

	"github.com/dgraph-io/badger/v4"
)

// A found entry is one that iteration came to.
type found struct {
	key   string // in full
	value []byte // valid until the next
}

// each iterates over the entries whose keys begin with prefix, in key order.
// The database may be changed in the loop: of what was there at its start it
// skips what is deleted. It stops after an error.
func (tx *Tx) each(prefix string) iter.Seq2[found, error] {
	if tx.write {
		return tx.eachKey(prefix)
	}
	return tx.eachItem(prefix)
}

// eachKey is for a transaction that writes. Badger allows it one iterator at a
// time, so the loop is over a list of the keys; they are small, and loops nest.
func (tx *Tx) eachKey(prefix string) iter.Seq2[found, error] {
	return func(yield func(found, error) bool) {
		var keys []string
		err := guard(func() error {
			return scan(tx.txn, prefix, func(key string, _ *badger.Item) error { keys = append(keys, key); return nil })
		})
		if err != nil {
			yield(found{}, classify("list", show(prefix), err))
			return
		}
		for _, key := range keys {
			e, err := tx.get(key)
			if e == nil && err == nil {
				continue
			}
			if err != nil {
				yield(found{key: key}, err)
				return
			}
			if !yield(found{key, e.value}, nil) {
				return
			}
		}
	}
}

// eachItem is for one that reads.
func (tx *Tx) eachItem(prefix string) iter.Seq2[found, error] {
	return func(yield func(found, error) bool) {
		it := tx.txn.NewIterator(iteratorOptions(prefix))
		defer it.Close()
		var value []byte
		for step := it.Rewind; ; step = it.Next {
			var at *found
			err := guard(func() (err error) {
				if step(); !it.Valid() {
					return nil
				}
				at = &found{key: string(it.Item().Key())}
				value, err = it.Item().ValueCopy(value)
				at.value = value
				return err
			})
			switch {
			case err != nil:
				yield(found{}, classify("list", show(prefix), err))
				return
			case at == nil || !yield(*at, nil):
				return
			}
		}
	}
}

// scan calls fn for every entry whose key begins with prefix, in key order,
// until it fails. The item is valid during the call.
func scan(txn *badger.Txn, prefix string, fn func(key string, item *badger.Item) error) error {
	it := txn.NewIterator(iteratorOptions(prefix))
	defer it.Close()
	for it.Rewind(); it.Valid(); it.Next() {
		if err := fn(string(it.Item().Key()), it.Item()); err != nil {
			return err
		}
	}
	return nil
}

// iteratorOptions ask for no prefetch: values are with the keys.
func iteratorOptions(prefix string) badger.IteratorOptions {
	return badger.IteratorOptions{Prefix: []byte(prefix)}
}
