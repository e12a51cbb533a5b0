// Package examples_test holds the examples to what they promise.
package examples_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/boxlite-mcp/boxlite-mcp/internal/testbin"
	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// The configuration starts a server that answers, and it answers at once: no
// box, no download and no wait for the daemon comes before.
func TestClaudeConfigStartsAServer(t *testing.T) {
	text, err := os.ReadFile("claude-config.json")
	if err != nil {
		t.Fatal(err)
	}
	var config struct {
		Servers map[string]struct {
			Command string            `json:"command"`
			Args    []string          `json:"args"`
			Env     map[string]string `json:"env"`
		} `json:"mcpServers"`
	}
	if err := json.Unmarshal(text, &config); err != nil {
		t.Fatal(err)
	}
	if len(config.Servers) != 1 {
		t.Fatalf("%d servers, want one", len(config.Servers))
	}
	bin := testbin.All(t)
	for name, server := range config.Servers {
		// Other tests run beside this one: the fastest of three counts.
		fastest := time.Hour
		for range 3 {
			cmd := exec.CommandContext(t.Context(), filepath.Join(bin, server.Command), server.Args...)
			cmd.Env = append(os.Environ(), "BOXLITE_HOME="+filepath.Join(t.TempDir(), "home"))
			for k, v := range server.Env {
				cmd.Env = append(cmd.Env, k+"="+v)
			}
			cmd.Stderr = t.Output()
			fastest = min(fastest, answer(t, cmd))
		}
		if fastest > time.Second {
			t.Errorf("%s: answered after %v, want less than a second", name, fastest)
		}
	}
}

// answer starts a server and returns how long it took to list its tools.
func answer(t *testing.T, cmd *exec.Cmd) time.Duration {
	t.Helper()
	begun := time.Now()
	client := mcp.NewClient(&mcp.Implementation{Name: "test", Version: "1"}, nil)
	session, err := client.Connect(t.Context(), &mcp.CommandTransport{Command: cmd}, nil)
	if err != nil {
		t.Fatalf("connect: %v", err)
	}
	defer session.Close()
	tools, err := session.ListTools(t.Context(), nil)
	if err != nil {
		t.Fatalf("list tools: %v", err)
	}
	if len(tools.Tools) < 10 {
		t.Errorf("only %d tools", len(tools.Tools))
	}
	return time.Since(begun)
}
