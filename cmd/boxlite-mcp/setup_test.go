package main // commandPath is of the inside

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/boxlite-mcp/boxlite-mcp/internal/cli"
)

// A link that follows updates stays one; what only has the same name does not
// count.
func TestCommandPathIsWhatThePersonUsed(t *testing.T) {
	dir := t.TempDir()
	program, link, other := filepath.Join(dir, "1.2", cli.Name), filepath.Join(dir, "links", cli.Name), filepath.Join(dir, "other", cli.Name)
	for _, f := range []string{program, link, other} {
		if err := os.Mkdir(filepath.Dir(f), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []string{program, other} {
		if err := os.WriteFile(f, nil, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("../1.2/"+cli.Name, link); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	t.Setenv("PATH", filepath.Dir(link))
	for _, c := range []struct{ typed, want string }{
		{cli.Name, link}, // by PATH
		{link, link},
		{"./links/" + cli.Name, link},
		{"./1.2/" + cli.Name, program},
		{other, program},
		{"gone", program},
		{"", program},
	} {
		if got := commandPath(c.typed, program); got != c.want {
			t.Errorf("commandPath(%q) = %q, want %q", c.typed, got, c.want)
		}
	}
	if got := commandPath("gone", ""); got != "" {
		t.Errorf("nothing is known, and the path is %q", got)
	}
}
