package cli_test

import (
	"os"
	"path/filepath"
	"testing"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/internal/cli"
)

func TestHomeOfAnotherProgramIsLeftAlone(t *testing.T) {
	user := t.TempDir()
	find := func(dir, want string) {
		t.Helper()
		got, err := cli.FindHome(dir, user)
		if err != nil || got != filepath.Join(user, want) {
			t.Errorf("FindHome(%q) = %q, %v; want %q", dir, got, err, want)
		}
	}
	find("", ".boxlite") // absent
	foreign := filepath.Join(user, ".boxlite")
	write(t, filepath.Join(foreign, "db", "theirs"), "x")
	find("", ".boxlite-mcp")

	_, err := cli.FindHome(foreign, user)
	if boxlite.KindOf(err) != boxlite.Config || boxlite.HintOf(err) == "" {
		t.Errorf("FindHome of a foreign directory: %v; want Config with a hint", err)
	}
	if err := cli.ClaimHome(foreign); boxlite.KindOf(err) != boxlite.Config {
		t.Errorf("ClaimHome of a foreign directory: %v; want Config", err)
	}
	if _, err := os.Lstat(filepath.Join(foreign, cli.HomeMarker)); err == nil {
		t.Error("a foreign directory was marked")
	}
	ours := filepath.Join(user, ".boxlite-mcp")
	for range 2 {
		if err := cli.ClaimHome(ours); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(ours, "db"), "x")
	find("", ".boxlite-mcp")
	find(ours, ".boxlite-mcp")
	if info, err := os.Stat(ours); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("home: %v, %v; want it for its owner alone", info.Mode(), err)
	}
	if _, err := cli.FindHome("", ""); boxlite.KindOf(err) != boxlite.Config {
		t.Errorf("FindHome without a user's home: %v; want Config", err)
	}
	file := filepath.Join(user, "file")
	write(t, file, "x")
	if err := cli.ClaimHome(filepath.Join(file, "home")); boxlite.KindOf(err) != boxlite.Storage {
		t.Errorf("ClaimHome below a file: %v; want Storage", err)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}
