package clients_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
)

func write(t testing.TB, file, text string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(file, mode); err != nil {
		t.Fatal(err)
	}
}

// names returns what is in a directory.
func names(t testing.TB, dir string) (all []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}

func TestFileIsMadeForItsOwnerAlone(t *testing.T) {
	file := filepath.Join(t.TempDir(), "a", "b", "mcp.json")
	r, err := find(t, "cursor").Install(file, entry, false)
	if err != nil || !r.Changed || r.File != file || r.Backup != "" {
		t.Fatalf("%+v, %v", r, err)
	}
	if info, err := os.Stat(file); err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if got := names(t, filepath.Dir(file)); len(got) != 1 {
		t.Errorf("there is more than the file: %q", got)
	}
}

func TestFileKeepsItsModeAndACopy(t *testing.T) {
	file := filepath.Join(t.TempDir(), "mcp.json")
	const was = `{"other": 1}`
	write(t, file, was, 0o644)
	r, err := find(t, "cursor").Install(file, entry, false)
	if err != nil {
		t.Fatal(err)
	}
	if !regexp.MustCompile(`/mcp\.json\.backup-20\d\d-\d\d-\d\dT\d\d-\d\d-\d\d$`).MatchString(r.Backup) {
		t.Errorf("the copy is called %s", r.Backup)
	}
	if got := read(t, r.Backup); got != was {
		t.Errorf("the copy is %q", got)
	}
	for _, f := range []string{file, r.Backup} {
		if info, err := os.Stat(f); err != nil || info.Mode() != 0o644 {
			t.Errorf("%s: %v, %v", f, info.Mode(), err)
		}
	}
	// Copies of the same second have names of their own.
	second, err := find(t, "cursor").Uninstall(file, entry.Name, false)
	if err != nil || second.Backup == r.Backup || !strings.Contains(read(t, second.Backup), entry.Command) {
		t.Errorf("%+v, %v", second, err)
	}
}

func TestUninstallMakesNothing(t *testing.T) {
	dir := t.TempDir()
	r, err := find(t, "zed").Uninstall(filepath.Join(dir, "a", "settings.json"), "boxlite", false)
	if err != nil || r.Changed || len(names(t, dir)) != 0 {
		t.Errorf("%+v, %v, and %q", r, err, names(t, dir))
	}
}

// Where configuration is kept with others' in one place, links lead there.
func TestLinksAreFollowed(t *testing.T) {
	dir := t.TempDir()
	kept, link := filepath.Join(dir, "dotfiles", "zed.json"), filepath.Join(dir, "zed", "settings.json")
	for _, f := range []string{kept, link} {
		if err := os.Mkdir(filepath.Dir(f), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write(t, kept, "// mine\n{}\n", 0o600)
	if err := os.Symlink("../dotfiles/zed.json", link); err != nil {
		t.Fatal(err)
	}
	r, err := find(t, "zed").Install(link, entry, false)
	if err != nil || filepath.Dir(r.File) != filepath.Dir(kept) {
		t.Fatalf("%+v, %v", r, err)
	}
	if to, err := os.Readlink(link); err != nil || to != "../dotfiles/zed.json" {
		t.Errorf("the link is %q, %v", to, err)
	}
	if text := read(t, kept); !strings.HasPrefix(text, "// mine\n") || !strings.Contains(text, entry.Command) {
		t.Errorf("%s", text)
	}
	if err := os.Remove(kept); err != nil {
		t.Fatal(err)
	}
	if r, err := find(t, "zed").Install(link, entry, false); !errors.Is(err, boxlite.Storage) {
		t.Errorf("a link that leads nowhere: %+v, %v", r, err)
	}
}

// What cannot be read or edited is left alone, and the message says what to do.
func TestFilesThatAreNotEdited(t *testing.T) {
	for _, c := range []struct{ client, text, says string }{
		{"claude-desktop", `{"mcpServers": {`, "not JSON"},
		{"claude-desktop", `{"mcpServers": {}} // mine`, "comments"},
		{"claude-desktop", `{"mcpServers": {},}`, "comments or commas"},
		{"claude-desktop", `[]`, "not an object"},
		{"cursor", `{"mcpServers": []}`, "form"},
		{"cursor", `{"mcpServers": "x"}`, "not servers"},
		{"cursor", `{"mcpServers": {"a": {}}, "mcpServers": {"b": {}}}`, "form"},
		{"cursor", `{"mcpServers": {"a": {}}} /*`, "not JSON"},
		{"cursor", "\x00\x01\x02", "not JSON"},
		{"zed", "{} {}", "not JSON"},
		{"codex", "[mcp_servers\n", "not TOML"},
		{"codex", "mcp_servers = { a = { command = 'a' } }\n", "form"},
		{"codex", "[[mcp_servers]]\nname = 'a'\n", "form"},
		{"continue", "name: [\n", "not YAML"},
		{"continue", "a: 1\n---\nb: 2\n", "more than one document"},
		{"continue", "{name: Mine, mcpServers: []}\n", "form"},
		{"continue", "mcpServers: [{name: a, command: a}]\n", "form"},
		{"continue", "mcpServers:\n  - name: boxlite\n    command: a\n  - name: boxlite\n    command: b\n", "two entries"},
		{"continue", "name: Mine\n...\n", "form"},
		{"continue", "- a\n", "not YAML"},
	} {
		dir := t.TempDir()
		file := filepath.Join(dir, "config")
		write(t, file, c.text, 0o600)
		_, err := find(t, c.client).Install(file, entry, true)
		if !errors.Is(err, boxlite.Config) || !regexp.MustCompile(c.says).MatchString(err.Error()) || boxlite.HintOf(err) == "" {
			t.Errorf("%s, %q: %v", c.client, c.text, err)
		}
		if got := names(t, dir); read(t, file) != c.text || len(got) != 1 {
			t.Errorf("%s, %q: now %q, and %q", c.client, c.text, read(t, file), got)
		}
	}
}

func TestOthersEntriesAreNotTouchedUnasked(t *testing.T) {
	c := find(t, "cursor")
	for _, theirs := range []string{
		`{"url": "http://127.0.0.1:1/mcp"}`,
		`{"command": "/opt/other", "args": ["serve"]}`,
		`7`,
	} {
		file := filepath.Join(t.TempDir(), "mcp.json")
		was := `{"mcpServers": {"boxlite": ` + theirs + `}}`
		write(t, file, was, 0o600)
		if _, err := c.Install(file, entry, false); !errors.Is(err, boxlite.AlreadyExists) || !strings.Contains(boxlite.HintOf(err), "--force") {
			t.Errorf("%s: install: %v", theirs, err)
		}
		if _, err := c.Uninstall(file, "boxlite", false); !errors.Is(err, boxlite.InvalidState) || !strings.Contains(boxlite.HintOf(err), "--force") {
			t.Errorf("%s: uninstall: %v", theirs, err)
		}
		if got := read(t, file); got != was {
			t.Errorf("%s became %s", was, got)
		}
		if r, err := c.Uninstall(file, "boxlite", true); err != nil || !r.Changed || read(t, file) != `{"mcpServers": {}}` {
			t.Errorf("%s: %+v, %v: %s", theirs, r, err, read(t, file))
		}
	}
}

// Files that txtar cannot hold: with a mark at the beginning, and without a line
// break at the end.
func TestEndsOfFilesStay(t *testing.T) {
	for _, c := range []struct{ client, text, back string }{
		{"zed", "\ufeff{}", "\ufeff{\n  \"context_servers\": {}\n}"},
		{"zed", "{\"context_servers\": {}} // end", "{\"context_servers\": {}} // end"},
		{"codex", "\ufeffmodel = \"m\"", "\ufeffmodel = \"m\"\n"},
		{"codex", "# mine", "# mine\n"},
		{"continue", "name: Mine # me", "name: Mine # me\nmcpServers: []\n"},
		{"continue", "# mine", "# mine\nname: Local Assistant\nversion: 1.0.0\nschema: v1\nmcpServers: []\n"},
	} {
		file := filepath.Join(t.TempDir(), "config")
		write(t, file, c.text, 0o600)
		if r, err := find(t, c.client).Install(file, entry, false); err != nil || !r.Changed || !strings.Contains(read(t, file), entry.Command) {
			t.Errorf("%q: install: %+v, %v: %s", c.text, r, err, read(t, file))
		}
		if r, err := find(t, c.client).Uninstall(file, entry.Name, false); err != nil || read(t, file) != c.back {
			t.Errorf("%q: uninstall: %+v, %v: now %q, want %q", c.text, r, err, read(t, file), c.back)
		}
	}
}

// What a person added to the entry is theirs.
func TestAnEntryMaySayMore(t *testing.T) {
	c := find(t, "lm-studio")
	file := filepath.Join(t.TempDir(), "mcp.json")
	text := strings.Replace(c.Snippet(entry), `"args"`, `"env": {"KEY": "value"}, "args"`, 1)
	write(t, file, text, 0o600)
	if r, err := c.Install(file, entry, false); err != nil || r.Changed || read(t, file) != text {
		t.Errorf("%+v, %v", r, err)
	}
}

// Nothing of what others write at the same time is lost.
func TestManyInstallAtOnce(t *testing.T) {
	for _, id := range []string{"zed", "codex", "continue"} {
		c := find(t, id)
		file := filepath.Join(t.TempDir(), "config")
		const n = 12
		var wg sync.WaitGroup
		for i := range n {
			wg.Go(func() {
				e := entry
				e.Name = fmt.Sprintf("box-%d", i)
				if _, err := c.Install(file, e, false); err != nil {
					t.Errorf("%s: %v", e.Name, err)
				}
			})
		}
		wg.Wait()
		for i := range n {
			name := fmt.Sprintf("box-%d", i)
			if r, err := c.Uninstall(file, name, false); err != nil || !r.Changed {
				t.Errorf("%s: %s is not there: %v", id, name, err)
			}
		}
	}
}

// A reader sees the file as it was or as it is, never half of it.
func TestReadersSeeWholeFiles(t *testing.T) {
	c := find(t, "claude-code")
	file := filepath.Join(t.TempDir(), ".claude.json")
	padding := `{"history": "` + strings.Repeat("x", 1<<20) + `"}`
	write(t, file, padding, 0o600)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range 10 {
			e := entry
			e.Name = fmt.Sprintf("box-%d", i)
			if _, err := c.Install(file, e, false); err != nil {
				t.Error(err)
			}
		}
	}()
	for reads := 0; ; reads++ {
		if text := read(t, file); len(text) < len(padding) || !strings.HasSuffix(strings.TrimSpace(text), "}") {
			t.Fatalf("a reader saw %d bytes", len(text))
		}
		select {
		case <-done:
			if reads == 0 {
				t.Error("nothing was read meanwhile")
			}
			return
		case <-time.After(time.Millisecond):
		}
	}
}
