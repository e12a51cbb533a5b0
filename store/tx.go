package store

import (
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/dgraph-io/badger/v4"

	"github.com/boxlite-mcp/boxlite-mcp"
)

// A Tx is a transaction: a view of the database as of its beginning, and
// changes that all happen or do not. It is valid until the function it was
// given to returns, and belongs to that function's goroutine.
type Tx struct {
	txn   *badger.Txn
	write bool
	delta seal // what the changes do to the seal
	dirty bool // there are changes
	grows bool // there are new records, which a nearly full disk refuses
}

// View calls fn with a transaction that only reads. The database does not
// change under it.
func (db *DB) View(fn func(tx *Tx) error) error {
	if err := db.begin(); err != nil {
		return err
	}
	defer db.running.Done()
	txn := db.b.NewTransaction(false)
	defer txn.Discard()
	return fn(&Tx{txn: txn})
}

// Update calls fn and makes its changes durable, or, if it fails, none of
// them. fn is called again if another transaction changed what it read, so it
// must have no side effects.
//
// Errors: fn's; [boxlite.Exhausted] if the disk is full, when changes of what
// is there may still be possible; [boxlite.InvalidArgument] if it is too large
// (600 KB, 6,000 entries); [boxlite.Canceled] and [boxlite.Timeout] by ctx.
func (db *DB) Update(ctx context.Context, fn func(tx *Tx) error) error {
	if err := db.begin(); err != nil {
		return err
	}
	defer db.running.Done()
	for attempt := 0; ; attempt++ {
		err := db.attempt(ctx, fn)
		if !errors.Is(err, badger.ErrConflict) {
			return err
		}
		if err := pause(ctx, attempt); err != nil {
			return err
		}
	}
}

// attempt runs fn in a new transaction and commits it.
func (db *DB) attempt(ctx context.Context, fn func(tx *Tx) error) error {
	if err := ended(ctx); err != nil {
		return err
	}
	txn := db.b.NewTransaction(true)
	defer txn.Discard()
	tx := &Tx{txn: txn, write: true}
	if err := fn(tx); err != nil || !tx.dirty {
		return err
	}
	select {
	case db.commits <- struct{}{}:
		defer func() { <-db.commits }()
	case <-ctx.Done():
		return ended(ctx)
	}
	return db.commit(tx)
}

// commit seals and commits. It is called with the right to commit, so that
// seals follow each other; Badger syncs transaction by transaction anyway.
func (db *DB) commit(tx *Tx) error {
	if db.disk != nil {
		if err := db.disk.room(tx.grows); err != nil {
			return err
		}
	}
	last, err := db.lastSeal()
	if err != nil {
		return classify("read seal", "", err)
	}
	next := last.next(tx.delta)
	value, err := json.Marshal(next)
	if err != nil {
		return err
	}
	err = guard(func() error {
		if err := tx.txn.Set([]byte(sealKey), value); err != nil {
			return err
		}
		return tx.txn.Commit()
	})
	if err != nil {
		if !errors.Is(err, badger.ErrConflict) {
			db.seal = nil // what became of it is known only to Badger
		}
		return classify("commit", "", err)
	}
	db.seal = &next
	if db.disk != nil {
		return classify("commit", "", db.disk.acknowledge(next.Seq))
	}
	return nil
}

func (db *DB) lastSeal() (s seal, err error) {
	if db.seal != nil {
		return *db.seal, nil
	}
	err = db.view(func(txn *badger.Txn) error { s, err = readSeal(txn); return err })
	return s, err
}

// view runs fn, which is ours and not a caller's, on a snapshot.
func (db *DB) view(fn func(*badger.Txn) error) error {
	return guard(func() error { return db.b.View(fn) })
}

// pause waits between attempts, longer and longer and never long, so that
// those who conflict get apart.
func pause(ctx context.Context, attempt int) error {
	most := min(100*time.Microsecond<<min(attempt, 10), 20*time.Millisecond)
	t := time.NewTimer(rand.N(most) + 1)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ended(ctx)
	}
}

// ended returns an error if ctx has ended.
func ended(ctx context.Context) error {
	err := ctx.Err()
	if err == nil {
		return nil
	}
	return &boxlite.Error{Op: "update database", Kind: boxlite.KindOf(err), Err: err}
}

// An entry is what is stored under a key.
type entry struct {
	value   []byte
	expires bool // it is not in the seal
}

// get returns the entry at a full key, nil if there is none.
func (tx *Tx) get(key string) (e *entry, err error) {
	err = guard(func() error {
		item, err := tx.txn.Get([]byte(key))
		if errors.Is(err, badger.ErrKeyNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		value, err := item.ValueCopy(nil)
		e = &entry{value, item.UserMeta() == expires}
		return err
	})
	return e, classify("read", show(key), err)
}

// set stores value at a full key whose present entry is prev. It expires after
// ttl if that is not 0.
func (tx *Tx) set(key string, prev *entry, value []byte, ttl time.Duration) error {
	if err := tx.replaces(key, prev); err != nil {
		return err
	}
	e := badger.NewEntry([]byte(key), value)
	if ttl > 0 {
		e = e.WithTTL(ttl).WithMeta(expires)
	} else {
		tx.delta.add(e.Key, value)
	}
	tx.grows = tx.grows || prev == nil
	return classify("write", show(key), guard(func() error { return tx.txn.SetEntry(e) }))
}

// delete removes a full key whose present entry is prev.
func (tx *Tx) delete(key string, prev *entry) error {
	if err := tx.replaces(key, prev); err != nil {
		return err
	}
	return classify("delete", show(key), guard(func() error { return tx.txn.Delete([]byte(key)) }))
}

// replaces takes the present entry out of the seal.
func (tx *Tx) replaces(key string, prev *entry) error {
	if !tx.write {
		return &boxlite.Error{Op: "write", Kind: boxlite.InvalidState, Ref: show(key), Err: errors.New("the transaction only reads")}
	}
	if prev != nil && !prev.expires {
		tx.delta.drop([]byte(key), prev.value)
	}
	tx.dirty = true
	return nil
}

func (tx *Tx) schema() (n int, err error) {
	e, err := tx.get(schemaKey)
	if err != nil || e == nil {
		return 0, err
	}
	return n, classify("read schema", "", json.Unmarshal(e.value, &n))
}

func (tx *Tx) setSchema(n int) error {
	value, err := json.Marshal(n)
	if err != nil {
		return err
	}
	tx.dirty = true
	return classify("write schema", "", guard(func() error { return tx.txn.Set([]byte(schemaKey), value) }))
}
