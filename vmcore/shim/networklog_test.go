package shim

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
)

func newDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "log"), 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

func openLog(t *testing.T, dir string) *networkLog {
	t.Helper()
	l, err := openNetworkLog(NetworkLogPath(dir))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func all(boxlite.NetworkEvent) bool { return true }

// Records are there after a kill in the middle of a line, and their numbers go
// on.
func TestNetworkLogGoesOn(t *testing.T) {
	dir := newDir(t)
	l := openLog(t, dir)
	if l.next() != 1 {
		t.Errorf("the first record is %d", l.next())
	}
	for seq := range uint64(3) {
		l.add(boxlite.NetworkEvent{Seq: seq + 1, Host: fmt.Sprint("h", seq), Open: true})
	}
	l.add(boxlite.NetworkEvent{Seq: 2, Host: "replaced"})
	if err := l.close(); err != nil {
		t.Fatal(err)
	}
	f, _ := os.OpenFile(NetworkLogPath(dir), os.O_APPEND|os.O_WRONLY, 0)
	fmt.Fprint(f, `{"seq":4,"host":"to`)
	f.Close()
	l = openLog(t, dir)
	if l.next() != 4 {
		t.Errorf("the next record is %d", l.next())
	}
	l.add(boxlite.NetworkEvent{Seq: 4, Host: "h4"})
	if err := l.close(); err != nil {
		t.Fatal(err)
	}
	list, err := ReadNetworkLog(dir, 10, false, all)
	var got []string
	for _, e := range list {
		got = append(got, fmt.Sprintf("%d %s", e.Seq, e.Host))
	}
	if s := strings.Join(got, " "); err != nil || s != "1 h0 2 replaced 3 h2 4 h4" {
		t.Errorf("%q, %v", s, err)
	}
	if list, _ := ReadNetworkLog(dir, 2, false, all); len(list) != 2 || list[1].Seq != 4 {
		t.Errorf("%+v", list)
	}
}

// The log has a size, whatever a box does, and a reader that follows it sees all
// that is on disk when it looks.
func TestNetworkLogIsBounded(t *testing.T) {
	dir := newDir(t)
	l := openLog(t, dir)
	r := FollowNetworkLog(dir)
	seen := map[uint64]bool{}
	var lost int64
	take := func() {
		for {
			list, err := r.Next()
			if err != nil {
				t.Fatal(err)
			}
			if len(list) == 0 {
				return
			}
			for _, e := range list {
				if e.Kind == boxlite.NetGap {
					lost += e.Count
					continue
				}
				seen[e.Seq] = true
			}
		}
	}
	const n = 60_000
	reason := strings.Repeat("x", 300)
	for seq := range uint64(n) {
		l.add(boxlite.NetworkEvent{Seq: seq + 1, Reason: reason})
		if seq%2000 == 0 {
			time.Sleep(5 * time.Millisecond)
			take()
		}
	}
	if err := l.close(); err != nil {
		t.Fatal(err)
	}
	take()
	l.mu.Lock()
	lost += l.lost
	l.mu.Unlock()
	if int64(len(seen))+lost != n {
		t.Errorf("%d records and %d lost of %d", len(seen), lost, n)
	}
	for _, name := range []string{"", ".old"} {
		if st, err := os.Stat(NetworkLogPath(dir) + name); err == nil && st.Size() > networkLogSize+networkLogQueue*1000 {
			t.Errorf("%s has %d bytes", name, st.Size())
		}
	}
}

// Writing never holds up who records: a disk that takes nothing costs records,
// and a gap says how many.
func TestNetworkLogOnAFullDisk(t *testing.T) {
	dir := newDir(t)
	f, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip(err)
	}
	l := &networkLog{path: filepath.Join(dir, "x"), queue: make(chan boxlite.NetworkEvent, 4), done: make(chan error, 1), first: 1}
	go func() { l.done <- l.write(f) }()
	var wg sync.WaitGroup
	began := time.Now()
	for range 4 {
		wg.Go(func() {
			for range 1000 {
				l.add(boxlite.NetworkEvent{Seq: 1})
			}
		})
	}
	wg.Wait()
	if d := time.Since(began); d > 5*time.Second {
		t.Errorf("recording took %v", d)
	}
	if err := l.close(); err == nil || !strings.Contains(err.Error(), "lost") {
		t.Errorf("the loss is not told: %v", err)
	}
}
