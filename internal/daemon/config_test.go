package daemon

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
)

func TestReadConfig(t *testing.T) {
	ca := filepath.Join(t.TempDir(), "ca.pem")
	os.WriteFile(ca, []byte("PEM"), 0o600)
	for _, c := range []struct{ name, text, says string }{
		{"all", "[network]\nallow_net = [\"*.example.com:443\"]\nstatic = [\"api.test=127.0.0.1:8443\"]\nca_file = \"" + ca + "\"\n", ""},
		{"empty", "", ""},
		{"a misspelt setting", "[network]\nallow_nets = []\n", "allow_nets"},
		{"not TOML", "[network\n", "line 1"},
		{"a rule that is none", "[network]\nallow_net = [\"https://x.test/\"]\n", "x.test"},
		{"an entry that is none", "[network]\nstatic = [\"x.test\"]\n", "'='"},
		{"a file that is not there", "[network]\nca_file = \"/nowhere/ca.pem\"\n", "/nowhere/ca.pem"},
	} {
		home := t.TempDir()
		os.WriteFile(ConfigFile(home), []byte(c.text), 0o600)
		opts, err := readConfig(home)
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
	if opts, err := readConfig(t.TempDir()); err != nil || opts.Ceiling != nil {
		t.Errorf("no file: %+v, %v", opts, err)
	}
}
