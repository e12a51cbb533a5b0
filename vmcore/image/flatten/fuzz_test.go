package flatten_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/erofs/go-erofs"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/image/flatten"
	it "github.com/boxlite-mcp/boxlite-mcp/vmcore/image/imagetest"
)

// FuzzAddLayer checks that two layers of whatever bytes either are refused as
// an image, or make a file system that another program can walk.
func FuzzAddLayer(f *testing.F) {
	f.Add(it.Tar(it.File("a", 0o644, "a"), it.Symlink("s", "a"), it.Link("h", "a")), it.Tar(it.File(".wh.a", 0, ""), it.Dir("s", 0o755)))
	f.Add(it.Tar(it.Dir("./", 0o755), it.Symlink("l", "../..")), it.Tar(it.File("l/x", 0o644, "x"), it.File("l/.wh..wh..opq", 0, "")))
	f.Add(it.RawPAX("s", map[string]string{"GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.name": "s", "GNU.sparse.size": "9", "GNU.sparse.numblocks": "1", "GNU.sparse.map": "9,0"}), []byte{})
	f.Fuzz(func(t *testing.T, first, second []byte) {
		dir := t.TempDir()
		out := create(t, filepath.Join(dir, "out"))
		b := flatten.New(out, flatten.Limits{Bytes: 4 << 20, Entries: 1000})
		for _, layer := range [][]byte{first, second} {
			if err := b.AddLayer(t.Context(), bytes.NewReader(layer)); err != nil {
				if !errors.Is(err, boxlite.Image) {
					t.Fatalf("refused as %v: %v", boxlite.KindOf(err), err)
				}
				return
			}
		}
		if _, err := b.Finish(flatten.Full); err != nil {
			t.Fatal(err)
		}
		root, err := erofs.Open(out)
		if err != nil {
			t.Fatal(err)
		}
		err = fs.WalkDir(root, ".", func(p string, d fs.DirEntry, err error) error {
			if err == nil {
				_, err = d.Info()
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if left, err := os.ReadDir(dir); len(left) != 1 || err != nil {
			t.Fatalf("in the directory: %v, %v", left, err)
		}
	})
}
