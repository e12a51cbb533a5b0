package config // the schema and the reading of secrets are inside

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
)

// load reads the file with the text, and what it names.
func load(t *testing.T, text string) (Policy, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := Open(path)
	if err != nil {
		return Policy{}, err
	}
	return f.Policy(t.Context())
}

func TestReadConfig(t *testing.T) {
	ca := filepath.Join(t.TempDir(), "ca.pem")
	os.WriteFile(ca, []byte("PEM"), 0o600)
	for _, c := range []struct{ name, text, says string }{
		{"all", "[network]\nallow_net = [\"*.example.com:443\"]\nstatic = [\"api.test=127.0.0.1:8443\"]\nca_file = \"" + ca + "\"\n", ""},
		{"empty", "", ""},
		{"a misspelt setting", "[network]\nallow_nets = []\n", "allow_nets"},
		{"not TOML", "[network\n", "config.toml:1: "},
		{"a rule that is none", "[network]\nallow_net = [\"https://x.test/\"]\n", "x.test"},
		{"an entry that is none", "[network]\nstatic = [\"x.test\"]\n", "'='"},
		{"a file that is not there", "[network]\nca_file = \"/nowhere/ca.pem\"\n", "/nowhere/ca.pem"},
	} {
		p, err := load(t, c.text)
		opts := p.Runtime.Network
		if c.says == "" {
			if err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
		} else if boxlite.KindOf(err) != boxlite.Config || !strings.Contains(err.Error(), c.says) || boxlite.HintOf(err) == "" {
			t.Errorf("%s: %v (hint %q)", c.name, err, boxlite.HintOf(err))
		}
		if c.name == "all" && (opts.Ceiling == nil || opts.Ceiling.String() != "*.example.com:443" || len(opts.Static) != 1 || string(opts.RootCAs) != "PEM") {
			t.Errorf("%+v", opts)
		}
	}
	f, err := Open(filepath.Join(t.TempDir(), "config.toml"))
	if err != nil {
		t.Fatal(err)
	}
	if p, err := f.Policy(t.Context()); err != nil || p.Runtime.Network.Ceiling != nil {
		t.Errorf("no file: %+v, %v", p, err)
	}
}

// F25: where values may come from.
func TestConfiguredSecrets(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		os.WriteFile(path, []byte(text), 0o600)
		os.Chmod(path, mode)
		return path
	}
	good := write("good", "sk-0123456789\n", 0o600)
	os.Symlink(good, filepath.Join(dir, "link"))
	for _, c := range []struct{ name, setting, says string }{
		{"a file", "file = \"" + good + "\"", ""},
		{"a command", `command = ["/bin/echo", "sk-0123456789"]`, ""},
		{"neither", "", "file and command"},
		{"both", "file = \"" + good + "\"\ncommand = [\"/bin/true\"]", "file and command"},
		{"a file that others read", "file = \"" + write("open", "sk-0123456789", 0o644) + "\"", "mode"},
		{"a symbolic link", "file = \"" + filepath.Join(dir, "link") + "\"", "symbolic"},
		{"a directory", "file = \"" + dir + "\"", "regular"},
		{"no file", "file = \"/nowhere/key\"", "/nowhere/key"},
		{"a relative path", `file = "key"`, "absolute"},
		{"a large file", "file = \"" + write("large", strings.Repeat("x", 2<<20), 0o600) + "\"", "more than"},
		{"two lines", "file = \"" + write("lines", "sk-01234\n56789\n", 0o600) + "\"", "control"},
		{"too short", "file = \"" + write("short", "abc", 0o600) + "\"", "too few"},
		{"a command that fails", `command = ["/bin/false"]`, "/bin/false"},
		{"a command by its name", `command = ["echo", "x"]`, "absolute"},
	} {
		p, err := load(t, "[secrets.key]\nhosts = [\"api.test\"]\n"+c.setting+"\n")
		list := p.Runtime.Secrets
		if c.says == "" {
			if err != nil || len(list) != 1 || list[0].Name != "key" || list[0].Value.Reveal() != "sk-0123456789" {
				t.Errorf("%s: %+v, %v", c.name, list, err)
			}
		} else if boxlite.KindOf(err) != boxlite.Config || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), "key") || strings.Contains(err.Error(), "01234") {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}
