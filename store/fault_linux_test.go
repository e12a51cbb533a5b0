package store

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestGuardReturnsFaults(t *testing.T) {
	mapped := mappedBeyondEnd(t)
	if err := guard(func() error { sink = mapped[0]; return nil }); err == nil {
		t.Error("reading a page that the file lost gave no error")
	}
}

var sink byte // so that the read happens

// mappedBeyondEnd returns a mapped page of a file that was cut since.
func mappedBeyondEnd(t *testing.T) []byte {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(4096); err != nil {
		t.Fatal(err)
	}
	data, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Munmap(data) })
	if err := f.Truncate(0); err != nil {
		t.Fatal(err)
	}
	return data
}
