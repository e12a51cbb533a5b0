package examples_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/boxlite-mcp/boxlite-mcp/internal/clients"
	"github.com/boxlite-mcp/boxlite-mcp/internal/testbin"
	"github.com/pelletier/go-toml/v2"
	"go.yaml.in/yaml/v3"
)

// A server as a client reads it from its configuration.
type server struct {
	Name, Command string
	Args          []string
}

// What "setup --install" writes is what the client reads, and what it starts
// answers: each client's file is read as the client does, and its server
// started.
func TestSetupStartsAServer(t *testing.T) {
	bin := testbin.All(t)
	for _, c := range clients.All() {
		t.Run(c.ID, func(t *testing.T) {
			dir := t.TempDir()
			file := filepath.Join(dir, "config")
			setup := exec.CommandContext(t.Context(), filepath.Join(bin, "boxlite-mcp"),
				"setup", c.ID, "--install", "--config", file, "--", "--home", filepath.Join(dir, "home"))
			setup.Env = append(os.Environ(), "HOME="+dir)
			if out, err := setup.CombinedOutput(); err != nil {
				t.Fatalf("setup: %v\n%s", err, out)
			}
			s := readServer(t, c.ID, file)
			if want := filepath.Join(bin, "boxlite-mcp"); s.Command != want {
				t.Fatalf("it starts %q, want %q", s.Command, want)
			}
			cmd := exec.CommandContext(t.Context(), s.Command, s.Args...)
			cmd.Dir, cmd.Env, cmd.Stderr = "/", []string{"HOME=" + dir}, t.Output()
			answer(t, cmd)
			if _, err := os.Stat(filepath.Join(dir, "home")); err != nil {
				t.Errorf("--home is not where it should be: %v", err)
			}
		})
	}
}

// readServer reads the one server of a file in the client's format, by a parser
// that knows nothing else.
func readServer(t *testing.T, client, file string) server {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var config struct {
		Servers        map[string]server `json:"servers"`
		MCPServers     map[string]server `json:"mcpServers"`
		ContextServers map[string]server `json:"context_servers"`
		TOML           map[string]server `json:"-" toml:"mcp_servers"`
	}
	switch client {
	case "codex":
		err = toml.Unmarshal(text, &config)
	case "continue":
		var list struct {
			Name, Version, Schema string
			Servers               []server `yaml:"mcpServers"`
		}
		err = yaml.Unmarshal(text, &list)
		if len(list.Servers) == 1 && strings.Join([]string{list.Schema, list.Servers[0].Name}, " ") == "v1 boxlite" {
			return list.Servers[0]
		}
	default:
		err = json.Unmarshal(text, &config)
	}
	if err != nil {
		t.Fatal(err)
	}
	tables := map[string]map[string]server{"vscode": config.Servers, "zed": config.ContextServers, "codex": config.TOML}
	table, ok := tables[client]
	if !ok {
		table = config.MCPServers
	}
	s, ok := table["boxlite"]
	if !ok || len(table) != 1 {
		t.Fatalf("%d servers:\n%s", len(table), text)
	}
	return s
}
