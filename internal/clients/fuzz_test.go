package clients_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
)

// Whatever a file holds, an edit keeps it or refuses; nothing panics, and what
// was put in can be taken out.
func FuzzInstall(f *testing.F) {
	cases, err := filepath.Glob("testdata/edit/*.txtar")
	if err != nil {
		f.Fatal(err)
	}
	for _, path := range cases {
		a, err := txtar.ParseFile(path)
		if err != nil {
			f.Fatal(err)
		}
		kind, _, _ := strings.Cut(filepath.Base(path), "-")
		for _, file := range a.Files {
			f.Add(kind, file.Data, false)
			f.Add(kind, file.Data, true)
		}
	}
	ids := map[string]string{"json": "claude-desktop", "jsonc": "zed", "toml": "codex", "yaml": "continue"}
	f.Fuzz(func(t *testing.T, kind string, text []byte, force bool) {
		id, ok := ids[kind]
		if !ok || len(text) > 1<<16 {
			t.Skip()
		}
		c, file := find(t, id), filepath.Join(t.TempDir(), "config")
		write(t, file, string(text), 0o600)
		r, err := c.Install(file, entry, force)
		if err != nil || !r.Changed {
			if read(t, file) != string(text) {
				t.Fatalf("changed: %q\nnow: %q\n%v", text, read(t, file), err)
			}
			return
		}
		if again, err := c.Install(file, entry, false); err != nil || again.Changed {
			t.Errorf("installed twice: %+v, %v", again, err)
		}
		if r, err := c.Uninstall(file, entry.Name, false); err == nil && !r.Changed {
			t.Errorf("not taken out: %q", read(t, file))
		}
		if _, err := os.Stat(file); err != nil {
			t.Error(err)
		}
	})
}
