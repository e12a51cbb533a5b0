package main

import (
	"path/filepath"
	"testing"

	"github.com/boxlite-mcp/boxlite-mcp/internal/testbin"
)

// The demo is the test of the whole, end to end.
func TestDemo(t *testing.T) {
	server := filepath.Join(testbin.All(t), "boxlite-mcp")
	root, err := testbin.ModuleRoot()
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"-server", server, "-cache", filepath.Join(root, "build", "testimage")}
	if err := run(t.Context(), args, t.Output()); err != nil {
		t.Fatal(err)
	}
}
