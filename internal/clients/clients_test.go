package clients_test

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/boxlite-mcp/boxlite-mcp/internal/clients"
	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
)

var update = flag.Bool("update", false, "write the golden files")

var entry = clients.Entry{
	Name: "boxlite", Command: "/opt/box lite/bin/boxlite-mcp",
	Args: []string{"serve", "--principal", "me", "--home", "/srv/boxes"},
}

func find(t testing.TB, id string) clients.Client {
	t.Helper()
	c, ok := clients.Find(id)
	if !ok {
		t.Fatalf("there is no client %q", id)
	}
	return c
}

// What is printed is what people copy: it changes only on purpose.
func TestSnippets(t *testing.T) {
	for _, c := range clients.All() {
		golden := filepath.Join("testdata", "snippet", c.ID+".golden")
		got := c.Snippet(entry)
		if *update {
			if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.ID, diff)
		}
	}
}

func TestClientsAreWhereTheyLook(t *testing.T) {
	env := map[string]string{}
	files := map[string]string{}
	linux := clients.Places{
		OS: "linux", Home: "/home/me",
		LookupEnv: func(name string) (string, bool) { v, ok := env[name]; return v, ok },
		ReadFile: func(name string) ([]byte, error) {
			if text, ok := files[name]; ok {
				return []byte(text), nil
			}
			return nil, os.ErrNotExist
		},
		Exists: func(name string) bool { _, ok := files[name]; return ok },
	}
	mac := linux
	mac.OS, mac.Home = "darwin", "/Users/me"
	check := func(p clients.Places, id, want string) {
		t.Helper()
		if got := find(t, id).Path(p); got != want {
			t.Errorf("%s on %s with %v is at %q, want %q", id, p.OS, env, got, want)
		}
	}
	for _, c := range []struct{ id, linux, mac string }{
		{"claude-desktop", "/home/me/.config/Claude/claude_desktop_config.json", "/Users/me/Library/Application Support/Claude/claude_desktop_config.json"},
		{"claude-code", "/home/me/.claude.json", "/Users/me/.claude.json"},
		{"cursor", "/home/me/.cursor/mcp.json", "/Users/me/.cursor/mcp.json"},
		{"vscode", "/home/me/.config/Code/User/mcp.json", "/Users/me/Library/Application Support/Code/User/mcp.json"},
		{"zed", "/home/me/.config/zed/settings.json", "/Users/me/.config/zed/settings.json"},
		{"lm-studio", "/home/me/.lmstudio/mcp.json", "/Users/me/.lmstudio/mcp.json"},
		{"continue", "/home/me/.continue/config.yaml", "/Users/me/.continue/config.yaml"},
		{"codex", "/home/me/.codex/config.toml", "/Users/me/.codex/config.toml"},
	} {
		check(linux, c.id, c.linux)
		check(mac, c.id, c.mac)
	}
	files["/home/me/.cache/lm-studio"] = ""
	check(linux, "lm-studio", "/home/me/.cache/lm-studio/mcp.json")
	files["/home/me/.lmstudio-home-pointer"] = "/data/lm\n"
	check(linux, "lm-studio", "/data/lm/mcp.json")
	env = map[string]string{
		"XDG_CONFIG_HOME": "/xdg", "CLAUDE_CONFIG_DIR": "/cc", "CODEX_HOME": "/cx", "CONTINUE_GLOBAL_DIR": "relative",
	}
	check(linux, "claude-desktop", "/xdg/Claude/claude_desktop_config.json")
	check(linux, "vscode", "/xdg/Code/User/mcp.json")
	check(linux, "zed", "/xdg/zed/settings.json")
	check(mac, "zed", "/Users/me/.config/zed/settings.json")
	check(linux, "claude-code", "/cc/.claude.json")
	check(linux, "codex", "/cx/config.toml")
	check(linux, "continue", "/home/me/.continue/config.yaml")
}

// Each case is a file as it was (in), with the entry (out), and without it
// again (back, or in). The first line names the client, and --force or CRLF.
func TestEditsChangeNothingElse(t *testing.T) {
	cases, err := filepath.Glob("testdata/edit/*.txtar")
	if err != nil || len(cases) < 10 {
		t.Fatalf("only %d cases: %v", len(cases), err)
	}
	for _, path := range cases {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) { testEdit(t, path) })
	}
}

func testEdit(t *testing.T, path string) {
	archive, err := txtar.ParseFile(path)
	if err != nil {
		t.Fatal(err)
	}
	head, _, _ := strings.Cut(string(archive.Comment), "\n")
	words := strings.Fields(head)
	c, force, crlf := find(t, strings.TrimSuffix(words[0], ":")), strings.Contains(head, "--force"), strings.Contains(head, "CRLF")
	parts := map[string]string{}
	for _, f := range archive.Files {
		parts[f.Name] = string(f.Data)
	}
	ends := func(s string) string {
		if crlf {
			return strings.ReplaceAll(s, "\n", "\r\n")
		}
		return s
	}
	file := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(file, []byte(ends(parts["in"])), 0o640); err != nil {
		t.Fatal(err)
	}
	install := func(force bool) clients.Result {
		t.Helper()
		r, err := c.Install(file, entry, force)
		if err != nil {
			t.Fatalf("install: %v", err)
		}
		return r
	}
	if !install(force).Changed {
		t.Error("installing changed nothing")
	}
	out := read(t, file)
	if install(false).Changed || read(t, file) != out {
		t.Error("installing twice changed something")
	}
	if r, err := c.Uninstall(file, entry.Name, false); err != nil || !r.Changed {
		t.Fatalf("uninstall: %+v, %v", r, err)
	}
	back := read(t, file)
	if r, err := c.Uninstall(file, entry.Name, false); err != nil || r.Changed || read(t, file) != back {
		t.Errorf("uninstalling twice: %+v, %v", r, err)
	}
	if *update {
		updateEdit(t, path, archive, strings.ReplaceAll(out, "\r\n", "\n"), strings.ReplaceAll(back, "\r\n", "\n"))
		return
	}
	want, ok := parts["back"]
	if !ok {
		want = parts["in"]
	}
	if diff := cmp.Diff(ends(parts["out"]), out); diff != "" {
		t.Errorf("installed (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(ends(want), back); diff != "" {
		t.Errorf("uninstalled (-want +got):\n%s", diff)
	}
}

func updateEdit(t *testing.T, path string, a *txtar.Archive, out, back string) {
	t.Helper()
	in := a.Files[0]
	a.Files = []txtar.File{in, {Name: "out", Data: []byte(out)}}
	if back != string(in.Data) {
		a.Files = append(a.Files, txtar.File{Name: "back", Data: []byte(back)})
	}
	if err := os.WriteFile(path, txtar.Format(a), 0o644); err != nil {
		t.Fatal(err)
	}
}

func read(t testing.TB, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
