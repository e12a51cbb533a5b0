package store_test

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/store"
)

func contains(err error, s string) bool { return err != nil && strings.Contains(err.Error(), s) }

// records are what a database to be damaged has.
func records() map[string]box {
	all := map[string]box{}
	for i := range 40 {
		all[fmt.Sprintf("key-%02d", i)] = box{"local", fmt.Sprint("name-", i), i}
	}
	return all
}

// sound makes a database: closed twice, so with two tables, and then left as
// kill -9 leaves it, so with a log.
func sound(t *testing.T) string {
	t.Helper()
	live := t.TempDir()
	names := slices.Sorted(maps.Keys(records()))
	var dir string
	for round := range 3 {
		db := opened(t, live)
		boxes := boxTable(db)
		for i := round; i < len(names); i += 3 {
			must(t, boxes.Insert(t.Context(), names[i], records()[names[i]]))
		}
		if round == 2 {
			dir = t.TempDir()
			copyDir(t, live, dir)
		}
		shut(t, db)
	}
	return dir
}

func copyDir(t *testing.T, from, to string) {
	t.Helper()
	entries, err := os.ReadDir(from)
	must(t, err)
	for _, e := range entries {
		if e.Name() == "reserve" {
			continue // large and nobody reads it
		}
		data, err := os.ReadFile(filepath.Join(from, e.Name()))
		must(t, err)
		must(t, os.WriteFile(filepath.Join(to, e.Name()), data, 0o600))
	}
}

// open opens a damaged database. It must say so, or have everything.
func open(t *testing.T, what, dir string) (damaged bool) {
	t.Helper()
	start := time.Now()
	db, err := store.Open(dir, store.Options{})
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("%s: took %v", what, d)
	}
	if err != nil {
		wantKind(t, what, err, boxlite.Database)
		if boxlite.HintOf(err) == "" {
			t.Errorf("%s: no hint", what)
		}
		return true
	}
	got := map[string]box{}
	for rec, err := range boxTable(db).All() {
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
		got[rec.Key] = rec.Value
	}
	if !maps.Equal(got, records()) {
		t.Errorf("%s: opened with %d records of %d", what, len(got), len(records()))
	}
	shut(t, db)
	return false
}

// spots returns offsets in a file of the given size: some at the beginning and
// end of what it holds, others in between.
func spots(data []byte) []int {
	used := len(strings.TrimRight(string(data), "\x00"))
	var at []int
	for _, n := range []int{0, 3, 7, 8, 19, 20, 22, 23, 30, 50} {
		at = append(at, n, used-1-n)
	}
	for i := 1; i < 6; i++ {
		at = append(at, used*i/6, len(data)*i/6)
	}
	slices.Sort(at)
	return slices.DeleteFunc(slices.Compact(at), func(n int) bool { return n < 0 || n >= len(data) })
}

// TestDamageIsNoticed damages a database in every way at many places. There is
// no silent loss, no panic, no exit, no hang; and Quarantine leads out.
func TestDamageIsNoticed(t *testing.T) {
	if testing.Short() {
		t.Skip("567 databases take half a minute")
	}
	base := sound(t)
	work := scratch(t)
	entries, err := os.ReadDir(base)
	must(t, err)
	tried, noticed := 0, 0
	try := func(what string, change func(dir string)) {
		tried++
		dir := filepath.Join(work, "db")
		must(t, os.Mkdir(dir, 0o700))
		copyDir(t, base, dir)
		change(dir)
		if open(t, what, dir) {
			noticed++
			wayOut(t, what, dir)
		} else {
			open(t, what+", again", dir)
		}
		must(t, os.RemoveAll(dir))
	}
	kinds := map[string]bool{}
	for _, e := range entries {
		name := e.Name()
		if name == "owner" || name == "reserve" || name == "LOCK" {
			continue // nobody reads them
		}
		kinds[strings.TrimLeft(filepath.Ext(name), ".")] = true
		data, err := os.ReadFile(filepath.Join(base, name))
		must(t, err)
		put := func(change func() []byte) func(string) {
			return func(dir string) { must(t, os.WriteFile(filepath.Join(dir, name), change(), 0o600)) }
		}
		try(name+" removed", func(dir string) { must(t, os.Remove(filepath.Join(dir, name))) })
		try(name+" a directory", func(dir string) {
			must(t, os.Remove(filepath.Join(dir, name)))
			must(t, os.Mkdir(filepath.Join(dir, name), 0o700))
		})
		try(name+" emptied", put(func() []byte { return nil }))
		try(name+" zeroed", put(func() []byte { return make([]byte, len(data)) }))
		try(name+" filled", put(func() []byte { return []byte(strings.Repeat("\xff", len(data))) }))
		try(name+" with more", put(func() []byte { return append(slices.Clone(data), "garbage"...) }))
		for _, at := range spots(data) {
			try(fmt.Sprint(name, " cut at ", at), put(func() []byte { return data[:at] }))
			try(fmt.Sprint(name, " bit at ", at), put(func() []byte { d := slices.Clone(data); d[at] ^= 1 << (at % 8); return d }))
			try(fmt.Sprint(name, " hole at ", at), put(func() []byte { d := slices.Clone(data); clear(d[at:min(at+64, len(d))]); return d }))
		}
	}
	for _, k := range []string{"sst", "mem", "vlog"} {
		if !kinds[k] {
			t.Errorf("the database has no .%s to damage", k)
		}
	}
	t.Logf("%d kinds of damage: %d refused, %d without effect", tried, noticed, tried-noticed)
}

// scratch returns a directory in memory where there is one: what is tried
// hundreds of times need not reach a disk.
func scratch(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "store-test-") //nolint:usetesting // in memory, where there is such a place
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// wayOut quarantines dir and makes a new database in its place.
func wayOut(t *testing.T, what, dir string) {
	t.Helper()
	moved, err := store.Quarantine(dir)
	if err != nil {
		t.Errorf("%s: Quarantine: %v", what, err)
		return
	}
	defer os.RemoveAll(moved)
	if !strings.HasPrefix(moved, dir+".damaged-2") {
		t.Errorf("%s: moved to %s", what, moved)
	}
	db := opened(t, dir)
	must(t, boxTable(db).Insert(t.Context(), "a", box{}))
	shut(t, db)
}

func TestQuarantineOfNothing(t *testing.T) {
	_, err := store.Quarantine(filepath.Join(t.TempDir(), "db"))
	wantKind(t, "Quarantine", err, boxlite.NotFound)
}

func TestOldStateIsNoticed(t *testing.T) { // such as a restored backup of some of the files
	dir := t.TempDir()
	db := opened(t, dir)
	must(t, boxTable(db).Insert(t.Context(), "a", box{}))
	shut(t, db)
	old := t.TempDir()
	copyDir(t, dir, old)
	db = opened(t, dir)
	must(t, boxTable(db).Insert(t.Context(), "b", box{}))
	shut(t, db)
	acked, err := os.ReadFile(filepath.Join(dir, "acked"))
	must(t, err)
	must(t, os.WriteFile(filepath.Join(old, "acked"), acked, 0o600))
	_, err = store.Open(old, store.Options{})
	wantKind(t, "Open", err, boxlite.Database)
	if !contains(err, "the last 1 transactions are missing") {
		t.Error(err)
	}
}
