package e2e

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// release returns a directory with the programs as if they were built at a
// version, which has seven bytes: the linker's record of it is changed.
func release(t *testing.T, bin, version string) string {
	t.Helper()
	dir := tempDir(t)
	data, err := os.ReadFile(filepath.Join(bin, "boxlite-mcp"))
	if err != nil {
		t.Fatal(err)
	}
	was := []byte("\tgithub.com/boxlite-mcp/boxlite-mcp\t(devel)\t")
	if n := bytes.Count(data, was); n == 0 {
		t.Fatal("the program does not record its version as expected")
	}
	data = bytes.ReplaceAll(data, was, bytes.Replace(was, []byte("(devel)"), []byte(version), 1))
	if err := os.WriteFile(filepath.Join(dir, "boxlite-mcp"), data, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"boxlite-agent", "boxlite-jail", "boxlite-sandbox"} {
		if err := os.Symlink(filepath.Join(bin, name), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// version returns what the program in a directory says that it is.
func (w *world) version() (v string) {
	w.t.Helper()
	var info struct{ Version string }
	if err := json.Unmarshal([]byte(w.must("version", "--json")), &info); err != nil {
		w.t.Fatal(err)
	}
	return info.Version
}

// TestANewerFrontEndReplacesTheDaemon has a box with a running command that
// must not notice, and a client of the older version that goes on.
func TestANewerFrontEndReplacesTheDaemon(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	older, newer := release(t, w.bin, "v98.0.0"), release(t, w.bin, "v99.0.0")
	w.bin = older
	if v := w.version(); v != "v98.0.0" {
		t.Fatalf("the older program is %s", v)
	}
	old := w.front()
	old.create("box", nil)
	exec := old.background("box", "for i in 0 1 2 3 4 5 6 7 8 9; do echo $i; sleep 0.3; done")
	pid, first := w.box("box").PID, w.daemon()

	w.bin = newer
	f := w.front()
	if e := f.sh("box", "echo new"); e.Stdout.Text != "new\n" {
		t.Errorf("through the newer front end: %+v", e)
	}
	second := w.daemon()
	if second.id == first.id || filepath.Dir(second.args[0]) != newer {
		t.Errorf("the daemon is %v, was %v", second, first)
	}
	if now := w.box("box").PID; now != pid {
		t.Errorf("the machine is %d, was %d", now, pid)
	}
	if e := old.sh("box", "echo old"); e.Stdout.Text != "old\n" {
		t.Errorf("through the older front end: %+v", e)
	}
	if third := w.daemon(); third.id != second.id {
		t.Errorf("the older front end has replaced the daemon by %v", third)
	}
	var e execView
	f.must("exec_read", args{"exec_id": exec, "until": "exit"}, &e)
	if e.code() != 0 || e.Stdout.Text != ten {
		t.Errorf("the command that ran meanwhile is %+v", e)
	}
}

// TestWhatNobodyUsesGoes has the defaults of the daemon and waits for them.
func TestWhatNobodyUsesGoes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	f := w.front()
	f.create("brief", args{"ttl_seconds": 3, "start": false})
	f.create("idle", args{"idle_timeout_seconds": 2})
	f.create("busy", args{"idle_timeout_seconds": 2})
	f.sh("idle", "echo kept > /root/file")
	f.background("busy", "sleep 60")
	gone := func() bool { _, ok := f.boxInfo("brief"); return !ok }
	if !eventually(40*time.Second, gone) {
		t.Error("a box whose time to live is over is there")
	}
	stopped := func() bool { b, _ := f.boxInfo("idle"); return b.Status == "stopped" }
	if !eventually(40*time.Second, stopped) {
		t.Error("an idle box runs")
	}
	if b, _ := f.boxInfo("busy"); b.Status != "running" {
		t.Errorf("a box whose command runs is %+v", b)
	}
	if e := f.sh("idle", "cat /root/file"); e.Stdout.Text != "kept\n" {
		t.Errorf("after an idle stop the file has %+v", e.Stdout)
	}
	d := w.daemon()
	f.must("box_stop", args{"box": "busy"}, nil)
	f.must("box_stop", args{"box": "idle"}, nil)
	begun := time.Now()
	f.close()
	if !eventually(50*time.Second, func() bool { return !d.id.Alive() }) {
		t.Error("a daemon that nobody needs stays")
	}
	t.Logf("the daemon left %.0f s after its last client", time.Since(begun).Seconds())
	w.audit([]string{string(w.box("busy").ID), string(w.box("idle").ID)})
}
