package store

// About the inside: bytes on disk, and what only somebody who writes past the
// tables can do.

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dgraph-io/badger/v4"

	"github.com/boxlite-mcp/boxlite-mcp"
)

var update = flag.Bool("update", false, "rewrite golden files")

type rec struct {
	Name string `json:"name,omitempty"`
	N    int    `json:"n"`
}

func recTable(db *DB) *Table[rec] {
	return NewTable(db, "boxes", TableOptions[rec]{Indexes: []Index[rec]{
		{"name", func(r rec) []string { return []string{"local", r.Name} }}}})
}

func testDB(t testing.TB) *DB {
	t.Helper()
	db, err := OpenMemory(Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

// TestLayout compares every key and value of a small database with those of
// the golden file: they are what an older program wrote.
func TestLayout(t *testing.T) {
	db := testDB(t)
	if err := recTable(db).Insert(t.Context(), "aZ3", rec{"web", 7}); err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	err := db.view(func(txn *badger.Txn) error {
		return scan(txn, "", func(key string, item *badger.Item) error {
			return item.Value(func(v []byte) error { fmt.Fprintf(&got, "%q %s\n", key, v); return nil })
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	golden := filepath.Join("testdata", "layout.golden")
	if *update {
		if err := os.WriteFile(golden, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil || got.String() != string(want) {
		t.Errorf("got\n%swant\n%s%v", got.Bytes(), want, err)
	}
}

func TestCheckFindsWhatIsWrong(t *testing.T) {
	for _, row := range []struct {
		name string
		do   func(txn *badger.Txn) error
		want string
	}{
		{"changed", func(txn *badger.Txn) error { return txn.Set([]byte("boxes\x00a"), []byte(`{"name":"web","n":8}`)) },
			"the contents of its 4 records were changed"},
		{"undecodable", func(txn *badger.Txn) error { return txn.Set([]byte("boxes\x00a"), []byte(`{"n":"x"}`)) }, "read boxes a: database error"},
		{"lost_record", func(txn *badger.Txn) error { return txn.Delete([]byte("boxes\x00a")) }, "index entry without record: boxes.name/local/web/a"},
		{"lost_entry", func(txn *badger.Txn) error { return txn.Delete([]byte("boxes.name\x00local\x00web")) },
			"record without index entry: boxes.name/local/web/a"},
		{"stray_record", func(txn *badger.Txn) error { return txn.Set([]byte("boxes\x00c"), []byte(`{}`)) }, "it has 5 records, and should have 4"},
		{"wrong_entry", func(txn *badger.Txn) error { return txn.Set([]byte("boxes.name\x00local\x00web"), []byte("b")) },
			"index entry without record: boxes.name/local/web/b"},
	} {
		t.Run(row.name, func(t *testing.T) {
			db := testDB(t)
			tab := recTable(db)
			for key, name := range map[string]string{"a": "web", "b": "db"} {
				if err := tab.Insert(t.Context(), key, rec{Name: name}); err != nil {
					t.Fatal(err)
				}
			}
			if err := db.Check(); err != nil {
				t.Fatal(err)
			}
			if err := db.b.Update(row.do); err != nil {
				t.Fatal(err)
			}
			err := db.Check()
			if !errors.Is(err, boxlite.Database) || !strings.Contains(err.Error(), row.want) {
				t.Errorf("got %v, want %q", err, row.want)
			}
		})
	}
}

func TestUndecodableRecordIsAnErrorNotAnEnd(t *testing.T) {
	db := testDB(t)
	tab := recTable(db)
	for _, key := range []string{"a", "b", "c"} {
		if err := tab.Insert(t.Context(), key, rec{Name: key}); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.b.Update(func(txn *badger.Txn) error { return txn.Set([]byte("boxes\x00b"), []byte("{")) }); err != nil {
		t.Fatal(err)
	}
	var got []string
	for r, err := range tab.All() {
		got = append(got, fmt.Sprint(r.Key, " ", errors.Is(err, boxlite.Database)))
	}
	if want := "[a false b true c false]"; fmt.Sprint(got) != want {
		t.Errorf("got %v, want %s", got, want)
	}
	_, err := tab.Get("b")
	if !errors.Is(err, boxlite.Database) {
		t.Errorf("Get: %v", err)
	}
}

// TestFailedCommitIsNotCounted makes Badger refuse one and goes on.
func TestFailedCommitIsNotCounted(t *testing.T) {
	db := testDB(t)
	tab := recTable(db)
	if err := tab.Insert(t.Context(), "a", rec{Name: "a"}); err != nil {
		t.Fatal(err)
	}
	err := db.Update(t.Context(), func(tx *Tx) error {
		tx.delta.Records += 7
		for i := range 7000 { // more than a transaction holds
			tx.txn.Set(fmt.Append(nil, "x\x00", i), nil)
		}
		return tab.In(tx).Insert("b", rec{Name: "b"})
	})
	if !errors.Is(err, boxlite.InvalidArgument) {
		t.Errorf("got %v", err)
	}
	if err := tab.Insert(t.Context(), "c", rec{Name: "c"}); err != nil {
		t.Error(err)
	}
	if err := db.Check(); err != nil {
		t.Error(err)
	}
}

func TestGuardReturnsPanics(t *testing.T) {
	if err := guard(func() error { panic("boom") }); err == nil || !strings.Contains(err.Error(), "boom") {
		t.Errorf("got %v", err)
	}
}

func FuzzKey(f *testing.F) {
	f.Add("local", "web")
	f.Add("", "")
	f.Add("a\x00", "b")
	f.Fuzz(func(t *testing.T, a, b string) {
		key, err := Key(a, b)
		bad := strings.Contains(a+b, separator) || len(a)+len(b) >= maxKey
		if (err != nil) != bad {
			t.Fatalf("Key(%q, %q): %v", a, b, err)
		}
		if err != nil {
			return
		}
		if parts := SplitKey(key); len(parts) != 2 || parts[0] != a || parts[1] != b {
			t.Fatalf("SplitKey(%q) = %q", key, parts)
		}
	})
}

// FuzzBytes gives every parser of bytes on disk any bytes: none may panic, and
// what is not a record is a Database error.
func FuzzBytes(f *testing.F) {
	f.Add([]byte(`{"name":"a","n":1}`))
	f.Add(bytes.Repeat([]byte{0xff}, 64))
	f.Add(append(make([]byte, logHeader), 0x40, 0, 9, 1, 0))
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, err := newTable("t", TableOptions[rec]{}).decode("k", data); err != nil && !errors.Is(err, boxlite.Database) {
			t.Error(err)
		}
		if soundHeader(data) {
			if _, end := replay(data); end < logHeader || end > len(data) {
				t.Errorf("a log of %d bytes ends at %d", len(data), end)
			}
		}
		cutChecksum(data)
		guard(func() error { return checkTable(data) })
	})
}
