package vm

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
)

// A layer has a journal and the size it was asked for, takes no space to speak
// of, and stays what it is when it is opened again.
func TestLayer(t *testing.T) {
	dir := t.TempDir()
	f, made, err := OpenLayer(t.Context(), dir, boxlite.GiB)
	if err != nil || !made {
		t.Fatalf("made %v, %v", made, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || info.Size() != int64(boxlite.GiB) {
		t.Errorf("%d bytes, %v", info.Size(), err)
	}
	if out, err := exec.Command("du", "-k", f.Name()).Output(); err != nil || len(strings.Fields(string(out))[0]) > 4 {
		t.Errorf("it takes %s KiB (%v)", out, err)
	}
	out, err := exec.Command("/sbin/dumpe2fs", "-h", f.Name()).Output()
	if err != nil || !strings.Contains(string(out), "has_journal") || !strings.Contains(string(out), "extent") {
		t.Errorf("%v\n%s", err, out)
	}
	again, made, err := OpenLayer(t.Context(), dir, 2*boxlite.GiB)
	if err != nil || made {
		t.Fatalf("made again: %v, %v", made, err)
	}
	again.Close()
	if left, _ := filepath.Glob(filepath.Join(dir, "*.new")); len(left) > 0 {
		t.Errorf("left %v", left)
	}
}

// What was used lately stays, and what was not goes, when new artefacts are made.
func TestAssemble(t *testing.T) {
	dir, input := t.TempDir(), filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(input, []byte("kernel and agent"), 0o600); err != nil {
		t.Fatal(err)
	}
	old, recent := filepath.Join(dir, "old.kernel"), filepath.Join(dir, "recent.kernel.new-1")
	long := time.Now().Add(-unused - time.Hour)
	for _, path := range []string{old, recent} {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chtimes(old, long, long); err != nil {
		t.Fatal(err)
	}
	a, err := Assemble(dir, Kernel{Image: input, load: []string{input}}, input)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(old); err == nil {
		t.Error("what was not used for a week is there")
	}
	if _, err := os.Stat(recent); err != nil {
		t.Error(err)
	}
	if err := os.Chtimes(a.Kernel, long, long); err != nil {
		t.Fatal(err)
	}
	again, err := Assemble(dir, Kernel{Image: input, load: []string{input}}, input)
	if err != nil || again != a {
		t.Errorf("again: %+v, %v", again, err)
	}
	if info, err := os.Stat(a.Kernel); err != nil || time.Since(info.ModTime()) > time.Hour {
		t.Errorf("use does not count: %v", err)
	}
	if data, err := os.ReadFile(a.Initramfs); err != nil || strings.Count(string(data), "kernel and agent") != 2 || !strings.Contains(string(data), "modules/00-file") {
		t.Errorf("the initramfs is %q (%v)", data, err)
	}
}

func TestNoKernel(t *testing.T) {
	place := t.TempDir()
	if _, err := FindKernel(place); err == nil || !strings.Contains(err.Error(), ErrNoKernel.Error()) {
		t.Errorf("in an empty place: %v", err)
	}
	for _, dir := range []string{"boot", "lib/modules/6.1-cloud"} {
		if err := os.MkdirAll(filepath.Join(place, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(place, "boot", "vmlinuz-6.1-cloud"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, err := FindKernel(place)
	if err == nil || !strings.Contains(err.Error(), "module virtio_pci is neither built in") {
		t.Errorf("without modules: %v", err)
	}
	if images := Images(place); len(images) != 1 {
		t.Errorf("images: %v", images)
	}
}
