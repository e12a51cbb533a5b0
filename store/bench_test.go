package store_test

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"testing"

	"github.com/boxlite-mcp/boxlite-mcp/store"
)

// filled returns a database on disk with n records.
func filled(b testing.TB, dir string, n int) (*store.DB, *store.Table[box]) {
	b.Helper()
	db := opened(b, dir)
	boxes := boxTable(db)
	for i := 0; i < n; i += 500 {
		must(b, db.Update(b.Context(), func(tx *store.Tx) error {
			for j := i; j < min(i+500, n); j++ {
				if err := boxes.In(tx).Insert(fmt.Sprintf("%05d", j), box{"local", fmt.Sprint("name-", j), j}); err != nil {
					return err
				}
			}
			return nil
		}))
	}
	return db, boxes
}

// BenchmarkUpdate is one synced transaction.
func BenchmarkUpdate(b *testing.B) {
	db, boxes := filled(b, b.TempDir(), 100)
	defer db.Close()
	for b.Loop() {
		if _, err := boxes.Update(b.Context(), "00007", func(r box) (box, error) { r.N++; return r, nil }); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkUpdateParallel(b *testing.B) {
	db, boxes := filled(b, b.TempDir(), 100)
	defer db.Close()
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			if _, err := boxes.Update(b.Context(), fmt.Sprintf("%05d", i%100), func(r box) (box, error) { r.N++; return r, nil }); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkGet(b *testing.B) {
	db, boxes := filled(b, b.TempDir(), 10_000)
	defer db.Close()
	for b.Loop() {
		if _, err := boxes.Get("07777"); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkList10000(b *testing.B) {
	db, boxes := filled(b, b.TempDir(), 10_000)
	defer db.Close()
	for b.Loop() {
		n := 0
		for _, err := range boxes.All() {
			if err != nil {
				b.Fatal(err)
			}
			n++
		}
		if n != 10_000 {
			b.Fatal(n)
		}
	}
}

// BenchmarkOpen opens and closes; with 10,000 records it reads them all.
func BenchmarkOpen(b *testing.B) {
	for _, n := range []int{0, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			dir := b.TempDir()
			db, _ := filled(b, dir, n)
			must(b, db.Close())
			for b.Loop() {
				must(b, opened(b, dir).Close())
			}
		})
	}
}

// TestIdleMemory holds an idle store, with 10,000 records, to 20 MB of heap.
func TestIdleMemory(t *testing.T) {
	dir := t.TempDir()
	db, _ := filled(t, dir, 10_000)
	shut(t, db)
	before := inUse()
	db = opened(t, dir)
	defer shut(t, db)
	used := inUse() - before
	t.Logf("an idle store uses %d KiB of heap", used>>10)
	if used > 20_000_000 {
		t.Errorf("that is more than 20 MB")
	}
}

func inUse() int64 {
	debug.FreeOSMemory()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse + m.StackInuse)
}
