package store

import (
	"iter"
	"slices"
	"strings"

	"github.com/dgraph-io/badger/v4"
)

// A TxTable is a [Table] in a transaction, and valid as long as that is. Its
// methods fail as the table's do.
type TxTable[T any] struct {
	t  *Table[T]
	tx *Tx
}

// Get returns the record at key.
func (t TxTable[T]) Get(key string) (T, error) {
	rec, _, err := t.get("get", key)
	return rec, err
}

// Lookup returns the record that an index finds by parts, and its key.
func (t TxTable[T]) Lookup(index string, parts ...string) (string, T, error) {
	var zero T
	joined, err := Key(parts...)
	if err != nil {
		return "", zero, err
	}
	e, err := t.tx.get(indexPrefix(t.t.name, index) + joined)
	if err != nil {
		return "", zero, err
	}
	if e == nil {
		return "", zero, t.t.notFound("find", show(joined))
	}
	rec, err := t.Get(string(e.value))
	return string(e.value), rec, err
}

// Insert stores a new record.
func (t TxTable[T]) Insert(key string, rec T) error {
	prev, err := t.tx.get(t.t.prefix + key)
	if err != nil {
		return err
	}
	if prev != nil {
		return t.t.exists(show(key))
	}
	return t.put(key, nil, nil, rec)
}

// Put stores a record, in place of the one at key if there is one.
func (t TxTable[T]) Put(key string, rec T) error {
	prev, err := t.tx.get(t.t.prefix + key)
	if err != nil {
		return err
	}
	old, err := t.oldEntries(key, prev)
	if err != nil {
		return err
	}
	return t.put(key, prev, old, rec)
}

// Update replaces the record at key by what fn makes of it, and returns that.
func (t TxTable[T]) Update(key string, fn func(T) (T, error)) (T, error) {
	var zero T
	rec, prev, err := t.get("update", key)
	if err != nil {
		return zero, err
	}
	old, err := t.t.entryKeys(rec) // before fn, which may change what rec points to
	if err != nil {
		return zero, err
	}
	next, err := fn(rec)
	if err != nil {
		return zero, err
	}
	return next, t.put(key, prev, old, next)
}

// Delete removes the record at key.
func (t TxTable[T]) Delete(key string) error {
	rec, prev, err := t.get("delete", key)
	if err != nil {
		return err
	}
	old, err := t.t.entryKeys(rec)
	if err != nil {
		return err
	}
	if err := t.reindex(key, old, make([]string, len(old))); err != nil {
		return err
	}
	return t.tx.delete(t.t.prefix+key, prev)
}

// All iterates over all records in key order.
func (t TxTable[T]) All() iter.Seq2[Record[T], error] { return t.Prefix("") }

// Prefix iterates over the records whose keys begin with prefix, in key order.
// A record that does not decode is yielded as its key and a [boxlite.Database]
// error; the loop may go on. The records may be changed in the loop, of which
// it then sees the changes, but no new ones.
func (t TxTable[T]) Prefix(prefix string) iter.Seq2[Record[T], error] {
	return func(yield func(Record[T], error) bool) {
		for e, err := range t.tx.each(t.t.prefix + prefix) {
			rec := Record[T]{Key: strings.TrimPrefix(e.key, t.t.prefix)}
			if err == nil {
				rec.Value, err = t.t.decode(rec.Key, e.value)
			}
			if !yield(rec, err) {
				return
			}
		}
	}
}

// Len returns the number of records.
func (t TxTable[T]) Len() (n int, err error) {
	err = guard(func() error {
		return scan(t.tx.txn, t.t.prefix, func(string, *badger.Item) error { n++; return nil })
	})
	return n, classify("count", t.t.name, err)
}

// Reindex rewrites the entries of all indexes from the records, for a
// migration that changes what is indexed.
func (t TxTable[T]) Reindex() error {
	for e, err := range t.tx.each(t.t.name + ".") {
		if err != nil {
			return err
		}
		if err := t.unlink(e.key); err != nil {
			return err
		}
	}
	for rec, err := range t.All() {
		if err != nil {
			return err
		}
		next, err := t.t.entryKeys(rec.Value)
		if err != nil {
			return err
		}
		if err := t.reindex(rec.Key, make([]string, len(next)), next); err != nil {
			return err
		}
	}
	return nil
}

// get returns the record at key and its entry.
func (t TxTable[T]) get(op, key string) (rec T, e *entry, err error) {
	e, err = t.tx.get(t.t.prefix + key)
	if err != nil {
		return rec, nil, err
	}
	if e == nil {
		return rec, nil, t.t.notFound(op, show(key))
	}
	rec, err = t.t.decode(key, e.value)
	return rec, e, err
}

// oldEntries returns the index entries of the record that prev is.
func (t TxTable[T]) oldEntries(key string, prev *entry) ([]string, error) {
	if prev == nil || len(t.t.opts.Indexes) == 0 {
		return nil, nil
	}
	rec, err := t.t.decode(key, prev.value)
	if err != nil {
		return nil, err
	}
	return t.t.entryKeys(rec)
}

// put stores rec at key, where prev is, and moves its index entries from old.
func (t TxTable[T]) put(key string, prev *entry, old []string, rec T) error {
	value, err := t.t.encode(key, rec)
	if err != nil {
		return err
	}
	next, err := t.t.entryKeys(rec)
	if err != nil {
		return err
	}
	if old == nil {
		old = make([]string, len(next))
	}
	if err := t.reindex(key, old, next); err != nil {
		return err
	}
	return t.tx.set(t.t.prefix+key, prev, value, t.t.opts.TTL)
}

// reindex moves the entries that point to key from old to next; "" is none.
func (t TxTable[T]) reindex(key string, old, next []string) error {
	for i := range next {
		if old[i] == next[i] {
			continue
		}
		if err := t.unlink(old[i]); err != nil {
			return err
		}
		if err := t.link(next[i], key); err != nil {
			return err
		}
	}
	return nil
}

func (t TxTable[T]) unlink(entryKey string) error {
	if entryKey == "" {
		return nil
	}
	prev, err := t.tx.get(entryKey)
	if err != nil {
		return err
	}
	return t.tx.delete(entryKey, prev)
}

func (t TxTable[T]) link(entryKey, key string) error {
	if entryKey == "" {
		return nil
	}
	prev, err := t.tx.get(entryKey)
	if err != nil {
		return err
	}
	if prev != nil {
		return t.t.exists(named(entryKey))
	}
	return t.tx.set(entryKey, nil, []byte(key), 0)
}

// verify is the table's invariant: every record decodes and has its entries,
// and every entry belongs to a record.
func (t TxTable[T]) verify() error {
	var bad problems
	var want []string // entry keys and record keys, joined
	for rec, err := range t.All() {
		if err != nil {
			bad.add(err)
			continue
		}
		keys, err := t.t.entryKeys(rec.Value)
		bad.add(err)
		for _, k := range keys {
			if k != "" {
				want = append(want, k+separator+rec.Key)
			}
		}
	}
	var have []string
	for e, err := range t.tx.each(t.t.name + ".") {
		bad.add(err)
		have = append(have, e.key+separator+string(e.value))
	}
	slices.Sort(want)
	slices.Sort(have)
	bad.missing("record without index entry", want, have)
	bad.missing("index entry without record", have, want)
	return bad.err()
}

// missing adds every string that is in a and not in b, both sorted.
func (p *problems) missing(what string, a, b []string) {
	for _, s := range a {
		if _, ok := slices.BinarySearch(b, s); !ok {
			p.add(damage("%s: %s", what, strings.ReplaceAll(s, separator, "/")))
		}
	}
}
