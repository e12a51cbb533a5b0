package config_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/boxlite-mcp/boxlite-mcp/internal/config"
)

func TestEveryWayToChangeTheFileIsNoticedOnce(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "config.toml")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	then := time.Now().Add(-time.Hour).Truncate(time.Second)
	f := config.Follow(path)
	for _, step := range []struct {
		name string
		do   func()
		want bool
	}{
		{"nothing there", func() {}, false},
		{"made", func() { must(os.WriteFile(path, []byte("a"), 0o600)); must(os.Chtimes(path, then, then)) }, true},
		{"read", func() { _, err := os.ReadFile(path); must(err) }, false},
		{"longer, at the same time", func() { must(os.WriteFile(path, []byte("ab"), 0o600)); must(os.Chtimes(path, then, then)) }, true},
		{"as long, later", func() { must(os.WriteFile(path, []byte("xy"), 0o600)) }, true},
		{"another file, as long and at the same time", func() {
			info, err := os.Stat(path)
			must(err)
			must(os.WriteFile(path+".new", []byte("zz"), 0o600))
			must(os.Chtimes(path+".new", info.ModTime(), info.ModTime()))
			must(os.Rename(path+".new", path))
		}, true},
		{"removed", func() { must(os.Remove(path)) }, true},
		{"still gone", func() {}, false},
	} {
		step.do()
		if got := f.Changed(0); got != step.want {
			t.Errorf("%s: %v", step.name, got)
		}
		if f.Changed(0) {
			t.Errorf("%s: noticed twice", step.name)
		}
	}
	must(os.WriteFile(path, []byte("a"), 0o600))
	if f.Changed(time.Hour) {
		t.Error("it looked again within the hour")
	}
	if !f.Changed(0) {
		t.Error("what was not looked at is lost")
	}
}
