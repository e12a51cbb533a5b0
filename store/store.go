// Package store keeps the records of a home: boxes, executions, images,
// leases. It is Badger behind typed tables, transactions over several tables,
// unique indexes, records that expire, and a database that says so when it is
// damaged instead of losing what it was told.
//
// It knows nothing about boxes, and it is not shared: one process owns a
// directory. No other package imports Badger.
//
//	db, err := store.Open(dir, store.Options{Log: log})
//	boxes := store.NewTable(db, "boxes", store.TableOptions[Box]{Indexes: []store.Index[Box]{
//		{Name: "name", Key: func(b Box) []string { return []string{b.Principal, b.Name} }},
//	}})
//	err = boxes.Insert(ctx, string(b.ID), b) // AlreadyExists if id or name is taken
//	b, err = boxes.Update(ctx, string(b.ID), func(b Box) (Box, error) { b.Status = "running"; return b, nil })
//	err = db.Update(ctx, func(tx *store.Tx) error { // both or neither
//		return errors.Join(boxes.In(tx).Delete(id), leases.In(tx).Delete(id))
//	})
//
// # Concurrency
//
// A [DB] and its tables may be used by many goroutines; a [Tx], and what
// [Table.In] makes of it, by the one that runs the function. Transactions are
// serializable for the keys they read: of two that conflict one is run again.
//
// # Durability
//
// What a method acknowledged has been synced: it survives kill -9 and a loss of
// power. Each transaction also advances the seal, a record of how many there
// were and of a sum over all records; the sequence number of the last
// acknowledged one is kept beside the database too. So [Open] notices records
// that are missing or changed, whatever the cause, and refuses with
// [boxlite.Database]; [Quarantine] then moves the directory aside, so that a
// new database can be made from what else is known.
//
// # Bytes on disk
//
// Keys and values, which are API (testdata/layout.golden):
//
//	<table> 00 <key>                              JSON of the record
//	<table> "." <index> 00 <part> 00 <part> ...   key of the record
//	00 "schema"                                   JSON number, Options.Schema
//	00 "seal"                                     {"seq":n,"records":n,"sum":n}
//
// A table's or index's name is of lower-case letters, digits, '_' and '-'; a
// key is 1 to 1000 bytes; parts have no zero byte, so [Key] can join them. The
// sum is that of FNV-1a (64 bits) over key, zero byte and value of every entry
// of the first two kinds that does not expire, modulo 2^64.
//
// In the directory, beside Badger's files: "owner" (locked by the owner, holds
// its process id), "acked" (the last acknowledged sequence number),
// "reserve" (space set aside for a full disk) and, while opening, "orphans".
//
// # Records over time
//
// A record written by an older program must decode: add fields, never rename,
// retype or reuse them, and let a new field's zero value mean what was so
// before. A change that cannot be made so raises Options.Schema and comes with
// Options.Migrate. A program refuses a database of a higher schema, because it
// would drop the fields it does not know.
package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/dgraph-io/badger/v4"

	"github.com/boxlite-mcp/boxlite-mcp"
)

// Options say how to open a database. The zero value opens one of schema 1.
type Options struct {
	Log *slog.Logger // nil discards

	// Schema is the version of the records' layout that the program knows.
	// 0 means 1. A new database gets it.
	Schema int

	// Migrate changes the records of an older schema into those of Schema, in
	// one transaction with the new version. nil: older ones are used as they are.
	Migrate func(tx *Tx, from int) error
}

// A DB is an open database. Close it.
type DB struct {
	b    *badger.DB
	log  *slog.Logger
	disk *disk // nil in memory

	lifeMu  sync.Mutex // guards closed, and running.Add against Close
	closed  bool
	running sync.WaitGroup // transactions under way

	commits chan struct{} // holds a token: the right to commit
	seal    *seal         // of the last commit; nil: not known, read it. Guarded by commits

	checkMu sync.Mutex // guards checks
	checks  []check
}

// Open opens the database in dir, and makes it if there is none. It checks
// every file and every record first, so that Badger, which ends the process
// over some damage and drops data over other, only sees sound ones.
//
// Errors: [boxlite.Database] if it is damaged, [boxlite.InvalidState] if
// another process has it open, [boxlite.Unsupported] if a newer program wrote
// it, [boxlite.Exhausted] if the disk is full, [boxlite.Storage] if dir cannot
// be used.
func Open(dir string, opts Options) (*DB, error) {
	d, err := openDisk(dir)
	if err != nil {
		return nil, err
	}
	db, err := open(onDisk(dir), d, opts)
	if err != nil {
		return nil, also(classify("open database", dir, err), d.close())
	}
	return db, nil
}

// OpenMemory returns an empty database without files, for tests.
func OpenMemory(opts Options) (*DB, error) {
	return open(inMemory(), nil, opts)
}

// open opens Badger, proves that nothing is missing and settles the schema.
func open(bo badger.Options, d *disk, opts Options) (*DB, error) {
	log := opts.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	db := &DB{log: log, disk: d, commits: make(chan struct{}, 1)} // 1: a mutex one can stop waiting for
	err := openBadger(db, bo.WithLogger(logger{log}))
	if err != nil {
		return nil, err
	}
	err = db.settle(opts)
	if err != nil {
		return nil, also(err, guard(db.b.Close))
	}
	return db, nil
}

// forkTime is how long a process that was just forked, and has not become
// another program yet, may hold on to what we have closed.
const forkTime = 2 * time.Second

// openBadger opens Badger. Our own lock says that nobody else has the database;
// so if Badger's is held, it is by such a process.
func openBadger(db *DB, bo badger.Options) error {
	for begun := time.Now(); ; {
		err := guard(func() (err error) { db.b, err = badger.Open(bo); return })
		if err == nil || !strings.Contains(err.Error(), "Cannot acquire directory lock") || time.Since(begun) > forkTime {
			return err
		}
		timer := time.NewTimer(5 * time.Millisecond)
		<-timer.C
	}
}

// settle makes an opened database fit for use.
func (db *DB) settle(opts Options) error {
	if err := db.verifySeal(); err != nil {
		return err
	}
	if db.disk != nil {
		if err := db.disk.settle(); err != nil {
			return err
		}
	}
	return db.migrate(max(1, opts.Schema), opts.Migrate)
}

// Close waits for transactions that run and closes the database. Later calls
// of anything fail with [boxlite.InvalidState]; of Close they do nothing.
func (db *DB) Close() error {
	db.lifeMu.Lock()
	was := db.closed
	db.closed = true
	db.lifeMu.Unlock()
	if was {
		return nil
	}
	db.running.Wait()
	err := guard(db.b.Close)
	if db.disk != nil {
		err = errors.Join(err, db.disk.close())
	}
	return classify("close database", "", err)
}

// begin registers a transaction; the caller calls db.running.Done.
func (db *DB) begin() error {
	db.lifeMu.Lock()
	defer db.lifeMu.Unlock()
	if db.closed {
		return &boxlite.Error{Op: "use database", Kind: boxlite.InvalidState, Err: errors.New("it is closed")}
	}
	db.running.Add(1)
	return nil
}

// The sizes are small because the records are: some thousands of one or two
// KiB. A smaller memtable than that of an existing database may not fit its
// log: never lower it.
const (
	memTableSize = 4 << 20
	maxRecord    = 256 << 10 // bytes; below the threshold, so that the value log stays empty
	threshold    = 512 << 10
)

func onDisk(dir string) badger.Options {
	return tuned(dir).WithSyncWrites(true)
}

func inMemory() badger.Options { return tuned("").WithInMemory(true) }

// tuned returns Badger's options for a small database that opens fast. See
// docs/decisions/0030.
func tuned(dir string) badger.Options {
	o := badger.DefaultOptions(dir).
		WithMemTableSize(memTableSize).
		WithNumMemtables(2).
		WithNumLevelZeroTables(3).
		WithNumLevelZeroTablesStall(6).
		WithNumCompactors(2).
		WithValueThreshold(threshold).
		WithValueLogFileSize(1 << 20).
		WithNumVersionsToKeep(1).
		WithBlockCacheSize(0).
		WithCompactL0OnClose(false).
		WithMetricsEnabled(false).
		WithDetectConflicts(true)
	o.Compression = 0 // none: what is mapped needs no cache
	return o
}

// migrate brings the database to schema want.
func (db *DB) migrate(want int, fn func(*Tx, int) error) error {
	return db.Update(context.Background(), func(tx *Tx) error {
		have, err := tx.schema()
		switch {
		case err != nil || have == want:
			return err
		case have > want:
			return &boxlite.Error{Op: "open database", Kind: boxlite.Unsupported,
				Hint: "Upgrade boxlite-mcp, or use another home directory.",
				Err:  fmt.Errorf("a newer version wrote it: schema %d, this one knows %d", have, want)}
		case have > 0 && fn != nil:
			if err := fn(tx, have); err != nil {
				return fmt.Errorf("migrate from schema %d: %w", have, err)
			}
		}
		return tx.setSchema(want)
	})
}

// A logger hands Badger's messages to slog: warnings and errors at Debug+, the
// rest not at all, because what they mean for a caller comes as an error.
type logger struct{ log *slog.Logger }

func (l logger) Errorf(f string, a ...any)   { l.log.Warn("badger", "err", fmt.Sprintf(f, a...)) }
func (l logger) Warningf(f string, a ...any) { l.log.Debug("badger", "err", fmt.Sprintf(f, a...)) }
func (logger) Infof(string, ...any)          {}
func (logger) Debugf(string, ...any)         {}

var _ badger.Logger = logger{}

// pid is this process, as the owner file has it.
var pid = os.Getpid()
