package store_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/store"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv("STORE_TEST_WRITER"); dir != "" {
		writeForever(dir)
	}
	goleak.VerifyTestMain(m)
}

type box struct {
	Principal string `json:"principal"`
	Name      string `json:"name,omitempty"`
	N         int    `json:"n"`
}

func byName(b box) []string {
	if b.Name == "" {
		return nil
	}
	return []string{b.Principal, b.Name}
}

func boxTable(db *store.DB) *store.Table[box] {
	return store.NewTable(db, "boxes", store.TableOptions[box]{Indexes: []store.Index[box]{{Name: "name", Key: byName}}})
}

// memory returns an empty database whose check passes in the end.
func memory(t testing.TB) *store.DB {
	t.Helper()
	db, err := store.OpenMemory(store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { shut(t, db) })
	return db
}

// opened opens dir, whose check passes in the end.
func opened(t testing.TB, dir string) *store.DB {
	t.Helper()
	db, err := store.Open(dir, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return db
}

func shut(t testing.TB, db *store.DB) {
	t.Helper()
	if err := db.Check(); err != nil && !errors.Is(err, boxlite.InvalidState) {
		t.Error(err)
	}
	if err := db.Close(); err != nil {
		t.Error(err)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantKind(t testing.TB, what string, err error, kind boxlite.Kind) {
	t.Helper()
	if _, ok := errors.AsType[*boxlite.Error](err); !ok || boxlite.KindOf(err) != kind {
		t.Errorf("%s: got %v (%T), want kind %v", what, err, err, kind)
	}
}

func keys(t testing.TB, tab *store.Table[box], prefix string) (all []string) {
	t.Helper()
	for rec, err := range tab.Prefix(prefix) {
		must(t, err)
		all = append(all, rec.Key)
	}
	return all
}

func TestTableKeepsRecords(t *testing.T) {
	for _, where := range []string{"memory", "disk"} {
		t.Run(where, func(t *testing.T) {
			db := memory(t)
			if where == "disk" {
				db = opened(t, t.TempDir())
				defer shut(t, db)
			}
			ctx, boxes := t.Context(), boxTable(db)

			_, err := boxes.Get("a")
			wantKind(t, "Get of nothing", err, boxlite.NotFound)
			must(t, boxes.Insert(ctx, "a", box{"local", "one", 1}))
			wantKind(t, "second Insert", boxes.Insert(ctx, "a", box{}), boxlite.AlreadyExists)
			must(t, boxes.Put(ctx, "b", box{"local", "two", 2}))
			must(t, boxes.Put(ctx, "b", box{"local", "two", 3}))
			got, err := boxes.Update(ctx, "a", func(b box) (box, error) { b.N += 10; return b, nil })
			if want := (box{"local", "one", 11}); err != nil || got != want {
				t.Errorf("Update: got %v, %v, want %v", got, err, want)
			}
			if n, err := boxes.Len(); n != 2 || err != nil {
				t.Errorf("Len: got %d, %v, want 2", n, err)
			}
			must(t, boxes.Delete(ctx, "a"))
			wantKind(t, "second Delete", boxes.Delete(ctx, "a"), boxlite.NotFound)
			_, err = boxes.Update(ctx, "a", func(b box) (box, error) { return b, nil })
			wantKind(t, "Update of nothing", err, boxlite.NotFound)
			if got, err := boxes.Get("b"); err != nil || got.N != 3 {
				t.Errorf("Get b: got %v, %v", got, err)
			}
		})
	}
}

func TestUpdateThatFailsChangesNothing(t *testing.T) {
	db := memory(t)
	boxes := boxTable(db)
	must(t, boxes.Insert(t.Context(), "a", box{N: 1}))
	boom := errors.New("boom")
	if _, err := boxes.Update(t.Context(), "a", func(b box) (box, error) { b.N = 9; return b, boom }); !errors.Is(err, boom) {
		t.Errorf("got %v, want fn's error as it is", err)
	}
	err := db.Update(t.Context(), func(tx *store.Tx) error {
		must(t, boxes.In(tx).Delete("a"))
		must(t, boxes.In(tx).Insert("b", box{}))
		return boom
	})
	if !errors.Is(err, boom) {
		t.Errorf("got %v, want fn's error as it is", err)
	}
	if got := keys(t, boxes, ""); !slices.Equal(got, []string{"a"}) {
		t.Errorf("keys are %q", got)
	}
}

func TestIndexIsUniqueAndFollowsTheRecord(t *testing.T) {
	db := memory(t)
	ctx, boxes := t.Context(), boxTable(db)
	must(t, boxes.Insert(ctx, "a", box{"local", "web", 1}))
	must(t, boxes.Insert(ctx, "b", box{"other", "web", 2})) // another principal
	must(t, boxes.Insert(ctx, "c", box{"local", "", 3}))    // no name
	must(t, boxes.Insert(ctx, "d", box{"local", "", 4}))
	err := boxes.Insert(ctx, "e", box{"local", "web", 5})
	wantKind(t, "Insert of a name in use", err, boxlite.AlreadyExists)
	if err == nil || !strings.Contains(err.Error(), "local/web") {
		t.Errorf("%v does not name the name", err)
	}
	_, err = boxes.Update(ctx, "c", func(b box) (box, error) { b.Name = "web"; return b, nil })
	wantKind(t, "Update to a name in use", err, boxlite.AlreadyExists)
	must(t, db.Check())

	_, err = boxes.Update(ctx, "a", func(b box) (box, error) { b.Name = "db"; return b, nil })
	must(t, err)
	_, _, err = boxes.Lookup("name", "local", "web")
	wantKind(t, "Lookup of the old name", err, boxlite.NotFound)
	if key, b, err := boxes.Lookup("name", "local", "db"); key != "a" || b.N != 1 || err != nil {
		t.Errorf("Lookup: got %q, %v, %v", key, b, err)
	}
	must(t, boxes.Put(ctx, "a", box{"local", "web", 6}))
	must(t, boxes.Delete(ctx, "a"))
	must(t, boxes.Insert(ctx, "e", box{"local", "web", 7}))
	wantKind(t, "Insert of a part with a zero byte", boxes.Insert(ctx, "f", box{"x", "a\x00b", 0}), boxlite.InvalidArgument)
	must(t, db.Check())
}

func TestIterationIsOrderedAndStops(t *testing.T) {
	db := memory(t)
	boxes := boxTable(db)
	other := store.NewTable(db, "boxes2", store.TableOptions[box]{}) // a name that begins like the other
	for _, k := range []string{"b/2", "a/1", "b/1", "c"} {
		must(t, boxes.Insert(t.Context(), k, box{}))
		must(t, other.Insert(t.Context(), k, box{}))
	}
	if got := keys(t, boxes, ""); !slices.Equal(got, []string{"a/1", "b/1", "b/2", "c"}) {
		t.Errorf("All: %q", got)
	}
	if got := keys(t, boxes, "b/"); !slices.Equal(got, []string{"b/1", "b/2"}) {
		t.Errorf("Prefix: %q", got)
	}
	for rec := range boxes.All() {
		if rec.Key != "a/1" {
			t.Errorf("the loop went on after break, to %q", rec.Key)
		}
		break
	}
	must(t, db.Update(t.Context(), func(tx *store.Tx) error { // loops nest, and may delete
		for range boxes.In(tx).All() {
			for rec, err := range boxes.In(tx).All() {
				must(t, err)
				must(t, boxes.In(tx).Delete(rec.Key))
			}
		}
		return nil
	}))
	if got := keys(t, boxes, ""); len(got) != 0 {
		t.Errorf("left: %q", got)
	}
}

func TestExpiringRecordsGo(t *testing.T) {
	db := memory(t)
	audit := store.NewTable(db, "audit", store.TableOptions[box]{TTL: 2 * time.Second})
	must(t, audit.Insert(t.Context(), "a", box{N: 1}))
	must(t, audit.Put(t.Context(), "a", box{N: 2}))
	if b, err := audit.Get("a"); err != nil || b.N != 2 {
		t.Errorf("before: %v, %v", b, err)
	}
	must(t, db.Check())
	for end := time.Now().Add(10 * time.Second); ; {
		_, err := audit.Get("a")
		if errors.Is(err, boxlite.NotFound) {
			break
		}
		if must(t, err); time.Now().After(end) {
			t.Fatal("it is still there")
		}
		time.Sleep(50 * time.Millisecond)
	}
	must(t, db.Check())
	must(t, audit.Insert(t.Context(), "a", box{N: 3}))
}

func TestRefusals(t *testing.T) {
	db := memory(t)
	ctx, boxes := t.Context(), boxTable(db)
	canceled, cancel := context.WithCancel(ctx)
	cancel()
	late, cancel := context.WithTimeout(ctx, 0)
	defer cancel()
	wantKind(t, "empty key", boxes.Insert(ctx, "", box{}), boxlite.InvalidArgument)
	wantKind(t, "long key", boxes.Insert(ctx, strings.Repeat("k", 1001), box{}), boxlite.InvalidArgument)
	wantKind(t, "large record", boxes.Insert(ctx, "a", box{Name: strings.Repeat("x", 1<<18)}), boxlite.InvalidArgument)
	wantKind(t, "canceled", boxes.Insert(canceled, "a", box{}), boxlite.Canceled)
	wantKind(t, "late", boxes.Insert(late, "a", box{}), boxlite.Timeout)
	wantKind(t, "write in View", db.View(func(tx *store.Tx) error { return boxes.In(tx).Insert("a", box{}) }), boxlite.InvalidState)
	wantKind(t, "large transaction", db.Update(ctx, func(tx *store.Tx) error {
		for i := range 20 {
			if err := boxes.In(tx).Insert(fmt.Sprint(i), box{Principal: strings.Repeat("x", 100<<10)}); err != nil {
				return err
			}
		}
		return nil
	}), boxlite.InvalidArgument)
	must(t, db.Check())
	if n, err := boxes.Len(); n != 0 || err != nil {
		t.Errorf("Len: got %d, %v, want 0", n, err)
	}
}

func TestBadNamesPanic(t *testing.T) {
	db := memory(t)
	for _, name := range []string{"", "Boxes", "a.b", "a\x00", "ä"} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("NewTable(%q) did not panic", name)
				}
			}()
			store.NewTable(db, name, store.TableOptions[box]{})
		}()
	}
}

func TestConflictingUpdatesAllCount(t *testing.T) {
	db := memory(t)
	boxes := boxTable(db)
	must(t, boxes.Insert(t.Context(), "a", box{}))
	const workers, each = 16, 25
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for range each {
				if _, err := boxes.Update(t.Context(), "a", func(b box) (box, error) { b.N++; return b, nil }); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if b, err := boxes.Get("a"); b.N != workers*each || err != nil {
		t.Errorf("got %v, %v, want %d", b, err, workers*each)
	}
}

func TestOneOfManyInsertsOfANameWins(t *testing.T) {
	db := memory(t)
	boxes := boxTable(db)
	var wg sync.WaitGroup
	won := make(chan string, 20) // one for each
	for i := range cap(won) {
		wg.Go(func() {
			err := boxes.Insert(t.Context(), fmt.Sprint(i), box{"local", "web", i})
			if err == nil {
				won <- fmt.Sprint(i)
			} else if !errors.Is(err, boxlite.AlreadyExists) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	close(won)
	if key, _, err := boxes.Lookup("name", "local", "web"); len(won) != 1 || key != <-won || err != nil {
		t.Errorf("%d won; the name leads to %q, %v", len(won), key, err)
	}
}

func TestCloseWaitsAndEndsUse(t *testing.T) {
	db := opened(t, t.TempDir())
	boxes := boxTable(db)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for n := 0; ; n++ {
				if err := boxes.Put(t.Context(), fmt.Sprint(i, "-", n%10), box{N: n}); err != nil {
					wantKind(t, "Put while closing", err, boxlite.InvalidState)
					return
				}
				for _, err := range boxes.All() {
					if err != nil {
						wantKind(t, "All while closing", err, boxlite.InvalidState)
						return
					}
				}
			}
		})
	}
	time.Sleep(50 * time.Millisecond)
	must(t, db.Close())
	wg.Wait()
	must(t, db.Close())
	_, err := boxes.Get("a")
	wantKind(t, "Get after Close", err, boxlite.InvalidState)
	wantKind(t, "Check after Close", db.Check(), boxlite.InvalidState)
}

func TestInvariantsAreAsked(t *testing.T) {
	db, err := store.OpenMemory(store.Options{})
	must(t, err)
	defer db.Close()
	boxes := boxTable(db)
	db.AddInvariant("numbers are positive", func(tx *store.Tx) error {
		for rec, err := range boxes.In(tx).All() {
			if err != nil || rec.Value.N < 0 {
				return fmt.Errorf("box %s has %d: %w", rec.Key, rec.Value.N, err)
			}
		}
		return nil
	})
	must(t, boxes.Insert(t.Context(), "a", box{N: 1}))
	must(t, db.Check())
	must(t, boxes.Put(t.Context(), "a", box{N: -1}))
	if err := db.Check(); err == nil || !strings.Contains(err.Error(), "numbers are positive: box a has -1") {
		t.Errorf("Check: %v", err)
	}
}

func TestSchemaIsChecked(t *testing.T) {
	dir := t.TempDir()
	db := opened(t, dir)
	must(t, boxTable(db).Insert(t.Context(), "a", box{Name: "x", N: 1}))
	shut(t, db)

	boom := errors.New("boom")
	_, err := store.Open(dir, store.Options{Schema: 2, Migrate: func(*store.Tx, int) error { return boom }})
	if !errors.Is(err, boom) {
		t.Errorf("failed migration: %v", err)
	}
	var from int
	db, err = store.Open(dir, store.Options{Schema: 3, Migrate: func(tx *store.Tx, have int) error {
		from = have
		return store.TableIn(tx, "boxes", store.TableOptions[box]{Indexes: []store.Index[box]{{Name: "number",
			Key: func(b box) []string { return []string{fmt.Sprint(b.N)} }}}}).Reindex()
	}})
	if err == nil {
		t.Cleanup(func() { db.Close() })
	}
	if from != 1 || err != nil {
		t.Fatalf("migrated from %d, %v", from, err)
	}
	must(t, db.Close())
	_, err = store.Open(dir, store.Options{Schema: 2})
	wantKind(t, "newer schema", err, boxlite.Unsupported)
	if boxlite.HintOf(err) == "" {
		t.Error("no hint")
	}
}
