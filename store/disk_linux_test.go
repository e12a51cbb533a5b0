package store_test

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/store"
)

// mounted mounts a file system in memory of the given size, which needs root.
func mounted(t *testing.T, size string) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Skipf("mount: %v", err)
	}
	t.Cleanup(func() { must(t, syscall.Unmount(dir, 0)) })
	return dir
}

func TestReadOnlyDirectory(t *testing.T) {
	mnt := mounted(t, "64m")
	for _, dir := range []string{filepath.Join(mnt, "old"), mnt} {
		shut(t, opened(t, dir))
	}
	must(t, syscall.Mount("", mnt, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""))
	for _, dir := range []string{filepath.Join(mnt, "old"), filepath.Join(mnt, "new"), mnt} {
		_, err := store.Open(dir, store.Options{})
		wantKind(t, dir, err, boxlite.Storage)
		if boxlite.HintOf(err) == "" {
			t.Error("no hint")
		}
	}
}

// TestFullDisk fills the disk under an open database, step by step to the last
// byte. New records are refused first; those that are there can be read,
// changed and deleted; it can be opened again; and when there is space all is
// as before.
func TestFullDisk(t *testing.T) {
	mnt := mounted(t, "80m")
	dir := filepath.Join(mnt, "db")
	db := opened(t, dir)
	boxes := boxTable(db)
	ctx := t.Context()
	for i := range 50 {
		must(t, boxes.Insert(ctx, fmt.Sprint(i), box{N: i}))
	}
	fill(t, mnt, 8<<20)
	err := boxes.Insert(ctx, "new", box{})
	wantKind(t, "Insert", err, boxlite.Exhausted)
	if boxlite.HintOf(err) == "" {
		t.Error("no hint")
	}
	_, err = boxes.Update(ctx, "1", func(b box) (box, error) { b.N = 100; return b, nil })
	must(t, err)
	must(t, boxes.Delete(ctx, "2"))

	fill(t, mnt, 0)
	wantKind(t, "Insert", boxes.Insert(ctx, "new", box{}), boxlite.Exhausted)
	must(t, boxes.Delete(ctx, "3")) // out of the reserve
	if n, err := boxes.Len(); n != 48 || err != nil {
		t.Errorf("Len: got %d, %v, want 48", n, err)
	}
	shut(t, db)
	db = opened(t, dir)
	boxes = boxTable(db)
	must(t, boxes.Delete(ctx, "4"))
	shut(t, db)

	fill(t, mnt, 0) // the reserve, too
	_, err = store.Open(dir, store.Options{})
	wantKind(t, "Open", err, boxlite.Exhausted)
	_, err = store.Open(filepath.Join(mnt, "other"), store.Options{})
	wantKind(t, "Open of a new one", err, boxlite.Exhausted)

	fills, err := filepath.Glob(filepath.Join(mnt, "fill*"))
	must(t, err)
	for _, f := range fills {
		must(t, os.Remove(f))
	}
	db = opened(t, dir)
	boxes = boxTable(db)
	must(t, boxes.Insert(ctx, "new", box{}))
	if n, err := boxes.Len(); n != 48 || err != nil {
		t.Errorf("Len: got %d, %v, want 48", n, err)
	}
	shut(t, db)
}

// fill leaves so many bytes free in mnt.
func fill(t *testing.T, mnt string, leave int64) {
	t.Helper()
	f, err := os.CreateTemp(mnt, "fill")
	must(t, err)
	defer f.Close()
	var st syscall.Statfs_t
	must(t, syscall.Statfs(mnt, &st))
	if n := int64(st.Bavail)*st.Bsize - leave; n > 0 {
		must(t, syscall.Fallocate(int(f.Fd()), 0, 0, n))
	}
}
