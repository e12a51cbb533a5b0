package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/boxlite-mcp/boxlite-mcp/internal/proc"
)

// TestHomesWithAnyName has paths that sockets, arguments and mounts do not
// like.
func TestHomesWithAnyName(t *testing.T) {
	t.Parallel()
	for name, path := range map[string]string{
		"long":   strings.Repeat("/a-directory-with-a-long-name", 8),
		"blanks": "/home of a user, with = and: 'quotes'",
		"utf8":   "/Bücher/日本語/🙂",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorldAt(t, tempDir(t)+path)
			f := w.front()
			f.create("box", nil)
			exec := f.background("box", "for i in 0 1 2 3 4 5 6 7 8 9; do echo $i; sleep 0.1; done")
			f.kill()
			w.kill(w.daemon())
			f = w.front()
			var e execView
			f.must("exec_read", args{"exec_id": exec, "until": "exit"}, &e)
			if e.Stdout.Text != ten {
				t.Errorf("%+v", e)
			}
			w.must("stop", "box")
			if out := w.must("exec", "box", "--", "echo", "again"); out != "again\n" {
				t.Errorf("after a stop: %q", out)
			}
		})
	}
}

func TestAHomeThatIsNotUTF8IsRefused(t *testing.T) {
	t.Parallel()
	w := newWorldAt(t, tempDir(t)+"/not-utf8-\xff\xfe")
	w.unclean = true // nothing can be asked there
	if _, err := w.cli("ps"); err == nil || !strings.Contains(err.Error(), "not UTF-8") || !strings.Contains(err.Error(), "hint: ") {
		t.Errorf("ps: %v", err)
	}
}

// needRoot skips a test that mounts something.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
}

// mount mounts a file system in memory until the test ends.
func mount(t *testing.T, dir string, flags uintptr, data string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", flags, data); err != nil {
		t.Fatalf("mount: %v", err)
	}
	t.Cleanup(func() {
		var err error
		if !eventually(10*time.Second, func() bool { err = unix.Unmount(dir, 0); return err == nil }) {
			t.Errorf("unmount: %v", err)
			_ = unix.Unmount(dir, unix.MNT_DETACH)
		}
	})
}

// fill takes all the room there is, and returns what gives it back.
func fill(t *testing.T, dir string) (free func()) {
	t.Helper()
	path := filepath.Join(dir, "filler")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 1 << 20; size > 0; {
		if _, err := f.Write(make([]byte, size)); err != nil {
			size /= 2
		}
	}
	return func() {
		if err := os.Remove(path); err != nil {
			t.Error(err)
		}
	}
}

// TestAFullDiskLosesNothing fills the disk under a running box, does all that
// writes, and makes room again.
func TestAFullDiskLosesNothing(t *testing.T) {
	t.Parallel()
	needRoot(t)
	disk := filepath.Join(tempDir(t), "disk")
	mount(t, disk, 0, "size=96m")
	w := newWorldAt(t, filepath.Join(disk, "home"))
	f := w.front()
	f.create("box", nil)
	f.sh("box", "echo kept > /root/file")
	pid := w.box("box").PID
	id := f.background("box", "sleep 2; yes | head -c 4m; echo end >&2; exit 3")
	free := fill(t, disk)

	// Output is dropped where it cannot be kept, and that is said; the command
	// goes on.
	var e execView
	f.must("exec_read", args{"exec_id": id, "until": "exit"}, &e)
	if e.code() != 3 || e.Stdout.End != 4<<20 || e.Stderr.Text != "end\n" || !strings.HasPrefix(e.Stdout.Text, "y\ny\n") || !e.Truncated {
		t.Errorf("a command on a full disk: %+v", e)
	}
	_, notCreated := f.tryCreate(within(t, time.Minute), "more", nil)
	_, notRun := f.trySh(within(t, time.Minute), "box", "true")
	for what, err := range map[string]error{"box_create": notCreated, "box_exec": notRun} {
		actionable(t, err)
		if e := (&toolError{}); !errors.As(err, &e) || e.kind != "exhausted" || !strings.Contains(e.hint, "Free space") {
			t.Errorf("%s on a full disk: %v", what, err)
		}
	}
	w.kill(w.daemon())
	if _, err := w.cli("ps", "-a"); err != nil { // it may work, or say why not
		t.Log(err)
		if !strings.Contains(err.Error(), "hint: ") || !strings.Contains(err.Error(), "space") {
			t.Errorf("a daemon on a full disk: %v", err)
		}
	}
	free()
	if now := w.box("box"); now.PID != pid {
		t.Errorf("the box is %s with machine %d, was running with %d", now.Status, now.PID, pid)
	}
	if e := f.sh("box", "cat /root/file"); e.Stdout.Text != "kept\n" {
		t.Errorf("with room again the file has %+v", e)
	}
	w.must("stop", "box")
	if e := f.sh("box", "cat /root/file"); e.Stdout.Text != "kept\n" {
		t.Errorf("after a stop the file has %+v", e)
	}
	f.create("more-room", nil)
	if boxes, _ := w.boxes(); len(boxes) > 3 {
		t.Errorf("%d boxes", len(boxes))
	}
}

func TestAHomeOfAnotherProduct(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	user := tempDir(t)
	theirs := filepath.Join(user, ".boxlite")
	if err := os.MkdirAll(theirs, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(theirs, "db"), []byte("theirs"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := w.command("ps") // as typed without --home
	cmd.Args = []string{cmd.Args[0], "ps"}
	cmd.Env = []string{"PATH=/usr/bin:/bin", "HOME=" + user}
	w.home = filepath.Join(user, ".boxlite-mcp")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("ps: %v: %s", err, out)
	}
	if entries, _ := os.ReadDir(theirs); len(entries) != 1 {
		t.Errorf("their home has %v", entries)
	}
	w.daemon() // of the other one
	w.home = theirs
	_, err := w.cli("ps")
	if err == nil || !strings.Contains(err.Error(), "belongs to another program") || !strings.Contains(err.Error(), "hint: ") {
		t.Errorf("their home by name: %v", err)
	}
	w.home = filepath.Join(user, ".boxlite-mcp")
}

func TestAReadOnlyHome(t *testing.T) {
	t.Parallel()
	needRoot(t)
	home := filepath.Join(tempDir(t), "home")
	mount(t, home, 0, "size=64m")
	w := newWorldAt(t, home) // which is let go of first
	w.must("ps")
	w.endDaemon()
	if !eventually(10*time.Second, func() bool { return unix.Mount("", w.home, "", unix.MS_REMOUNT|unix.MS_RDONLY, "") == nil }) {
		t.Fatal("the home cannot be made read-only")
	}
	_, err := w.cli("ps")
	if err == nil || !strings.Contains(err.Error(), "read-only file system") || !strings.Contains(err.Error(), w.home) || !strings.Contains(err.Error(), "hint: ") {
		t.Errorf("a read-only home: %v", err)
	}
	f, err := w.tryFront(w.command("serve"))
	if err != nil {
		t.Fatalf("a front end on a read-only home: %v", err) // it answers, and its tools say why they cannot
	}
	err = f.call(t.Context(), "box_list", nil, nil)
	if err == nil {
		t.Error("box_list works on a read-only home")
	}
	actionable(t, err)
	if err := unix.Mount("", w.home, "", unix.MS_REMOUNT, ""); err != nil {
		t.Fatal(err)
	}
	f.must("box_list", nil, nil) // it recovers
}

// damage overwrites part of every file below a directory.
func damage(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) == 0 {
		t.Fatalf("%v, %v", entries, err)
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if st, err := os.Stat(path); err != nil || !st.Mode().IsRegular() {
			continue
		}
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt(bytes.Repeat([]byte{0xa5}, 4096), 0); err != nil {
			t.Error(err)
		}
		f.Close()
	}
}

// TestADamagedDatabaseLosesNoBox follows the hint of the error, while a box
// runs and another one is stopped.
func TestADamagedDatabaseLosesNoBox(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	f := w.front()
	f.create("runs", nil)
	f.create("sleeps", nil)
	f.sh("sleeps", "echo kept > /root/file")
	f.must("box_stop", args{"box": "sleeps"}, nil)
	exec := f.background("runs", "for i in 0 1 2 3 4 5 6 7 8 9; do echo $i; sleep 0.3; done")
	pid := w.box("runs").PID
	machine, err := proc.Of(pid)
	if err != nil {
		t.Fatal(err)
	}
	w.kill(w.daemon())
	damage(t, filepath.Join(w.home, "db"))

	begun := time.Now()
	var told *toolError
	if err := f.call(t.Context(), "box_list", nil, nil); !errors.As(err, &told) || told.kind != "database" || !strings.Contains(told.hint, "doctor --repair") {
		t.Fatalf("the agent is told of a damaged database: %v", err)
	}
	if _, err = w.cli("ps"); err == nil || !strings.Contains(err.Error(), "hint: Run boxlite-mcp doctor --repair") {
		t.Fatalf("a person is told of a damaged database: %v", err)
	}
	if took := time.Since(begun); took > 15*time.Second {
		t.Errorf("it took %v to say so", took)
	}
	if !machine.Alive() {
		t.Error("the box has died of it")
	}
	t.Log(w.must("doctor", "--repair"))
	if now := w.box("runs"); now.PID != pid || now.Name != "runs" {
		t.Errorf("the box that ran is %+v", now.BoxInfo)
	}
	var e execView
	f.must("exec_read", args{"exec_id": exec, "until": "exit"}, &e)
	if e.Stdout.Text != ten || e.code() != 0 {
		t.Errorf("its command is %+v", e)
	}
	if e := f.sh("sleeps", "cat /root/file"); e.Stdout.Text != "kept\n" {
		t.Errorf("the file of the box that did not run: %+v", e)
	}
}

// TestADamagedCopyOfARecord is about box.json, which matters only where the
// database is lost.
func TestADamagedCopyOfARecord(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	f := w.front()
	var boxes []boxView
	for i := range 2 {
		boxes = append(boxes, f.create(fmt.Sprintf("box-%d", i), nil))
	}
	f.sh("box-0", "echo kept > /root/file")
	pid := w.box("box-0").PID
	copyOf := filepath.Join(w.home, "boxes", boxes[0].BoxID, "box.json")
	if err := os.WriteFile(copyOf, []byte("{\"id\":\"???"), 0o600); err != nil {
		t.Fatal(err)
	}
	w.kill(w.daemon())
	if now := w.box("box-0"); now.PID != pid {
		t.Errorf("the box is %s with machine %d, was %d", now.Status, now.PID, pid)
	}
	if e := f.sh("box-0", "cat /root/file"); e.Stdout.Text != "kept\n" {
		t.Errorf("the file has %+v", e)
	}

	// Both are lost: nothing of the box can be told, and so nothing of it is
	// deleted; but nothing of it runs on unseen either.
	if err := os.WriteFile(copyOf, []byte("{\"id\":\"???"), 0o600); err != nil {
		t.Fatal(err)
	}
	w.kill(w.daemon())
	damage(t, filepath.Join(w.home, "db"))
	w.must("doctor", "--repair")
	list, err := w.boxes()
	if err != nil || len(list) != 1 || list[0].Name != "box-1" {
		t.Errorf("the other box: %+v, %v", list, err)
	}
	if !eventually(10*time.Second, func() bool { return len(w.find("sandbox", boxes[0].BoxID))+len(w.find("shim", boxes[0].BoxID)) == 0 }) {
		t.Error("a box that nobody knows runs")
	}
	if _, err := os.Stat(filepath.Join(w.home, "lost", boxes[0].BoxID, "layer")); err != nil {
		t.Errorf("its disk: %v", err)
	}
}
