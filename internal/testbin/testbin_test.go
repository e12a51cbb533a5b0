package testbin

import (
	"os"
	"path/filepath"
	"testing"
)

// Whoever runs a program keeps it while another takes its place.
func TestPublishLeavesTheOldFileAlone(t *testing.T) {
	dir := t.TempDir()
	built, path := filepath.Join(dir, "built"), filepath.Join(dir, "program")
	write := func(text string) {
		t.Helper()
		os.Remove(built)
		if err := os.WriteFile(built, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := publish(built, path); err != nil {
			t.Fatal(err)
		}
	}
	write("old")
	running, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer running.Close()
	write("new!")

	if got, err := os.ReadFile(path); string(got) != "new!" || err != nil {
		t.Errorf("the program is %q, %v; want the new one", got, err)
	}
	buf := make([]byte, 8)
	if n, _ := running.Read(buf); string(buf[:n]) != "old" {
		t.Errorf("the running program reads %q, want it unchanged", buf[:n])
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*.link")); left != nil {
		t.Errorf("left behind: %v", left)
	}
}

func TestPathBuildsAProgramThatRuns(t *testing.T) {
	path := Path(t, "boxlite-agent")
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode()&0o111 != 0o111 {
		t.Errorf("%s has mode %v, want it executable for all", path, info.Mode())
	}
	if again := Path(t, "boxlite-agent"); again != path {
		t.Errorf("the second call returns %s, the first %s", again, path)
	}
}
