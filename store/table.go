package store

import (
	"context"
	"encoding/json"
	"errors"
	"iter"
	"strconv"
	"strings"
	"time"

	"github.com/boxlite-mcp/boxlite-mcp"
)

// A Table is a map from keys to JSON records of type T, in key order. A T
// written by an older program must still decode, see the package comment.
//
// Each method is a transaction of its own; [Table.In] has them in a larger one.
type Table[T any] struct {
	db     *DB // nil for TableIn's
	name   string
	prefix string
	opts   TableOptions[T]
}

// TableOptions describe a table. The zero value has no index and keeps records
// until they are deleted.
type TableOptions[T any] struct {
	Indexes []Index[T]

	// TTL is how long after its last change a record is gone by itself, in
	// whole seconds. 0: never. Such a table has no index, and its records are
	// not in the seal.
	TTL time.Duration
}

// An Index is a second, unique way to a record. It is written in the same
// transaction as the record. Changing what Key returns for records that exist
// needs [TxTable.Reindex] in a migration.
type Index[T any] struct {
	Name string

	// Key returns the parts by which to find a record, none if it is not to be
	// found by this index. They have no zero byte.
	Key func(T) []string
}

// NewTable returns the table with the given name, which may not exist yet, and
// adds its check to those of [DB.Check]. It panics if a name is not one.
func NewTable[T any](db *DB, name string, opts TableOptions[T]) *Table[T] {
	t := newTable(name, opts)
	t.db = db
	db.AddInvariant("table "+name, func(tx *Tx) error { return t.In(tx).verify() })
	return t
}

// TableIn returns a table for one transaction, as a migration needs it for an
// old type of record.
func TableIn[T any](tx *Tx, name string, opts TableOptions[T]) TxTable[T] {
	return newTable(name, opts).In(tx)
}

func newTable[T any](name string, opts TableOptions[T]) *Table[T] {
	checkName(name)
	for _, ix := range opts.Indexes {
		checkName(ix.Name)
	}
	if opts.TTL > 0 && len(opts.Indexes) > 0 {
		panic("store: table " + name + " expires and has an index")
	}
	return &Table[T]{name: name, prefix: tablePrefix(name), opts: opts}
}

// In returns the table as tx sees it.
func (t *Table[T]) In(tx *Tx) TxTable[T] { return TxTable[T]{t, tx} }

// Get returns the record at key.
//
// Errors: [boxlite.NotFound]; [boxlite.Database] if it does not decode.
func (t *Table[T]) Get(key string) (rec T, err error) {
	err = t.db.View(func(tx *Tx) error { rec, err = t.In(tx).Get(key); return err })
	return rec, err
}

// Lookup returns the record that an index finds by parts, and its key.
//
// Errors: as Get.
func (t *Table[T]) Lookup(index string, parts ...string) (key string, rec T, err error) {
	err = t.db.View(func(tx *Tx) error { key, rec, err = t.In(tx).Lookup(index, parts...); return err })
	return key, rec, err
}

// Insert stores a new record.
//
// Errors: [boxlite.AlreadyExists] if key, or what an index finds the record
// by, is taken; [boxlite.InvalidArgument] if the record is over 256 KiB; those
// of [DB.Update].
func (t *Table[T]) Insert(ctx context.Context, key string, rec T) error {
	return t.db.Update(ctx, func(tx *Tx) error { return t.In(tx).Insert(key, rec) })
}

// Put stores a record, in place of the one at key if there is one.
//
// Errors: as Insert, but for a taken key.
func (t *Table[T]) Put(ctx context.Context, key string, rec T) error {
	return t.db.Update(ctx, func(tx *Tx) error { return t.In(tx).Put(key, rec) })
}

// Update replaces the record at key by what fn makes of it and returns the new
// record. fn may be called more than once, so it must have no side effects; if
// it fails, nothing changes and Update returns its error.
//
// Errors: [boxlite.NotFound]; as Insert; fn's.
func (t *Table[T]) Update(ctx context.Context, key string, fn func(T) (T, error)) (T, error) {
	var next T
	err := t.db.Update(ctx, func(tx *Tx) (err error) { next, err = t.In(tx).Update(key, fn); return err })
	if err != nil {
		var zero T
		return zero, err
	}
	return next, nil
}

// Delete removes the record at key.
//
// Errors: [boxlite.NotFound]; those of [DB.Update].
func (t *Table[T]) Delete(ctx context.Context, key string) error {
	return t.db.Update(ctx, func(tx *Tx) error { return t.In(tx).Delete(key) })
}

// All iterates over keys and records in key order, as of the first step. A
// record that does not decode ends it: [TxTable.Prefix] says how.
func (t *Table[T]) All() iter.Seq2[Record[T], error] { return t.Prefix("") }

// Prefix is All for the keys that begin with prefix.
func (t *Table[T]) Prefix(prefix string) iter.Seq2[Record[T], error] {
	return func(yield func(Record[T], error) bool) {
		err := t.db.View(func(tx *Tx) error {
			t.In(tx).Prefix(prefix)(yield)
			return nil
		})
		if err != nil { // the database is closed; the loop never ran
			yield(Record[T]{}, err)
		}
	}
}

// Len returns the number of records.
func (t *Table[T]) Len() (n int, err error) {
	err = t.db.View(func(tx *Tx) error { n, err = t.In(tx).Len(); return err })
	return n, err
}

// A Record is what iteration yields.
type Record[T any] struct {
	Key   string
	Value T
}

// encode returns the stored form of a record.
func (t *Table[T]) encode(key string, rec T) ([]byte, error) {
	if err := checkKey(key); err != nil {
		return nil, err
	}
	value, err := json.Marshal(rec)
	if err == nil && len(value) > maxRecord {
		err = errors.New("it is " + strconv.Itoa(len(value)) + " bytes, more than 256 KiB")
	}
	if err != nil {
		return nil, &boxlite.Error{Op: "write " + t.name, Kind: boxlite.InvalidArgument, Ref: show(key), Err: err}
	}
	return value, nil
}

// decode returns the record of a stored form.
//
// Errors: [boxlite.Database].
func (t *Table[T]) decode(key string, value []byte) (T, error) {
	var rec, zero T
	if err := json.Unmarshal(value, &rec); err != nil {
		return zero, &boxlite.Error{Op: "read " + t.name, Kind: boxlite.Database, Ref: show(key), Err: err}
	}
	return rec, nil
}

func (t *Table[T]) notFound(op, ref string) error {
	return &boxlite.Error{Op: op + " " + t.name, Kind: boxlite.NotFound, Ref: ref}
}

func (t *Table[T]) exists(ref string) error {
	return &boxlite.Error{Op: "add to " + t.name, Kind: boxlite.AlreadyExists, Ref: ref}
}

// entryKeys returns the full key of each index's entry for rec, "" for none.
func (t *Table[T]) entryKeys(rec T) ([]string, error) {
	keys := make([]string, len(t.opts.Indexes))
	for i, ix := range t.opts.Indexes {
		parts := ix.Key(rec)
		if len(parts) == 0 {
			continue
		}
		key, err := Key(parts...)
		if err != nil {
			return nil, err
		}
		keys[i] = indexPrefix(t.name, ix.Name) + key
	}
	return keys, nil
}

// named returns an index entry's parts, for a message.
func named(fullKey string) string {
	_, parts, _ := strings.Cut(fullKey, separator)
	return show(parts)
}
