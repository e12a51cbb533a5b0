package agent_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/agent"
	"golang.org/x/sys/unix"
)

func (r *rig) read(t testing.TB, name string, opts agent.ReadOptions) string {
	t.Helper()
	var b bytes.Buffer
	_, err := r.ReadFile(t.Context(), name, opts, &b)
	must(t, err)
	return b.String()
}

func (r *rig) write(t testing.TB, name, data string, opts agent.WriteOptions) {
	t.Helper()
	n, err := r.WriteFile(t.Context(), name, strings.NewReader(data), opts)
	must(t, err)
	if n != int64(len(data)) {
		t.Errorf("wrote %d bytes of %d", n, len(data))
	}
}

func TestFilesGoInAndOut(t *testing.T) {
	r := newRig(t, false)
	big := strings.Repeat("0123456789abcdef", 300_000)
	r.run(t, "mkdir -m 777 /srv")
	r.write(t, "/srv/data/big", big, agent.WriteOptions{CreateParents: true, Mode: 0o640, User: "ada:users"})
	if got := r.read(t, "/srv/data/big", agent.ReadOptions{}); got != big {
		t.Errorf("%d bytes came back of %d", len(got), len(big))
	}
	if got := r.read(t, "/srv/data/big", agent.ReadOptions{Offset: 10, Limit: 7}); got != "abcdef0" {
		t.Errorf("a piece: %q", got)
	}
	if got := r.read(t, "/srv/data/big", agent.ReadOptions{Offset: 1 << 40}); got != "" {
		t.Errorf("past the end: %d bytes", len(got))
	}
	info, err := r.Stat(t.Context(), "/srv/data/big", "")
	if err != nil || info.Name != "big" || info.Size != int64(len(big)) || info.Mode != 0o640 || info.UID != 1000 || info.GID != 100 {
		t.Errorf("%+v %v", info, err)
	}
	if time.Since(info.ModTime).Abs() > time.Minute {
		t.Errorf("modified %s", info.ModTime)
	}
	out, _, _ := r.run(t, "wc -c < /srv/data/big; ls -a /srv/data")
	if strings.TrimSpace(strings.Split(out, "\n")[0]) != fmt.Sprint(len(big)) || strings.Contains(out, "boxlite") {
		t.Errorf("in the box: %q", out)
	}
}

func TestWriteReplacesOrAppends(t *testing.T) {
	r := newRig(t, false)
	r.run(t, "echo old > /tmp/f; chown 1000:100 /tmp/f; chmod 4751 /tmp/f; ln -s f /tmp/link; ln -s new /tmp/dangling; ln -s loop /tmp/loop")
	r.write(t, "/tmp/link", "new", agent.WriteOptions{})
	info, err := r.Stat(t.Context(), "/tmp/f", "")
	if err != nil || info.Mode != 0o751|fs.ModeSetuid || info.UID != 1000 || info.GID != 100 {
		t.Errorf("%+v %v", info, err)
	}
	r.write(t, "/tmp/f", "er", agent.WriteOptions{Append: true})
	if got := r.read(t, "/tmp/link", agent.ReadOptions{}); got != "newer" {
		t.Errorf("got %q", got)
	}
	r.write(t, "/tmp/dangling", "there", agent.WriteOptions{})
	if got := r.read(t, "/tmp/new", agent.ReadOptions{}); got != "there" {
		t.Errorf("got %q", got)
	}
	_, err = r.WriteFile(t.Context(), "/tmp/loop", strings.NewReader("x"), agent.WriteOptions{})
	wantKind(t, err, boxlite.InvalidArgument)
}

func TestInterruptedWriteLeavesTheOldFile(t *testing.T) {
	r := newRig(t, false)
	r.write(t, "/tmp/f", "old", agent.WriteOptions{})
	broken := errors.New("broken")
	_, err := r.WriteFile(t.Context(), "/tmp/f", io.MultiReader(strings.NewReader(strings.Repeat("x", 1<<20)), iotest.ErrReader(broken)), agent.WriteOptions{})
	if !errors.Is(err, broken) {
		t.Errorf("error %v", err)
	}
	waitFor(t, func() bool { out, _, _ := r.run(t, "ls -A /tmp"); return out == "f\n" })
	if got := r.read(t, "/tmp/f", agent.ReadOptions{}); got != "old" {
		t.Errorf("got %q", got)
	}
}

func TestFilesObeyPermissions(t *testing.T) {
	r := newRig(t, false)
	r.run(t, "mkdir -m 700 /root/secret; echo s > /root/secret/f; echo r > /tmp/readonly; chmod 600 /tmp/readonly; mkdir /tmp/d; echo own > /tmp/d/f; chown 1000 /tmp/d/f")
	for _, name := range []string{"/root/secret/f", "/tmp/readonly"} {
		_, err := r.ReadFile(t.Context(), name, agent.ReadOptions{User: "ada"}, io.Discard)
		wantKind(t, err, boxlite.Denied)
		_, err = r.WriteFile(t.Context(), name, strings.NewReader("x"), agent.WriteOptions{User: "ada"})
		wantKind(t, err, boxlite.Denied)
	}
	_, err := r.WriteFile(t.Context(), "/etc/new", strings.NewReader("x"), agent.WriteOptions{User: "ada"})
	wantKind(t, err, boxlite.Denied)
	r.write(t, "/tmp/d/f", "mine", agent.WriteOptions{User: "ada"}) // in place: the directory is root's
	if got := r.read(t, "/tmp/d/f", agent.ReadOptions{User: "ada"}); got != "mine" {
		t.Errorf("got %q", got)
	}
	r.write(t, "/home/ada/f", "x", agent.WriteOptions{User: "ada"})
	if info, err := r.Stat(t.Context(), "/home/ada/f", ""); err != nil || info.UID != 1000 {
		t.Errorf("%+v %v", info, err)
	}
	if out, _, _ := r.run(t, "id -u"); out != "0\n" {
		t.Errorf("who runs commands afterwards: %q", out)
	}
	_, err = r.ReadFile(t.Context(), "/tmp/d/f", agent.ReadOptions{User: "nobody-here"}, io.Discard)
	wantKind(t, err, boxlite.InvalidArgument)
}

func TestSymbolicLinksStayInTheBox(t *testing.T) {
	r := newRig(t, false)
	outside := filepath.Join(t.TempDir(), "outside")
	must(t, os.WriteFile(outside, []byte("host"), 0o666))
	up := strings.Repeat("../", 30)
	for i, target := range []string{outside, up + outside[1:], "/proc/1/root" + outside, "/proc/self/root" + outside, "/proc/1/cwd/" + up + outside} {
		link := fmt.Sprintf("/tmp/link%d", i)
		r.run(t, fmt.Sprintf("ln -s '%s' %s", target, link))
		var b bytes.Buffer
		if _, err := r.ReadFile(t.Context(), link, agent.ReadOptions{}, &b); err == nil || b.Len() > 0 {
			t.Errorf("%s: read %q, %v", target, b.String(), err)
		}
		if _, err := r.WriteFile(t.Context(), link, strings.NewReader("box"), agent.WriteOptions{}); err == nil {
			t.Logf("%s: written in the box", target)
		}
	}
	if b, err := os.ReadFile(outside); err != nil || string(b) != "host" {
		t.Errorf("the host's file: %q %v", b, err)
	}
	for _, name := range []string{"/proc/1/mem", "/proc/sys/kernel/core_pattern", "/proc/1/oom_score_adj"} {
		if _, err := r.WriteFile(t.Context(), name, strings.NewReader("x"), agent.WriteOptions{}); err == nil {
			t.Errorf("%s: written", name)
		}
	}
}

func TestWhatIsNoFileDoesNotHang(t *testing.T) {
	r := newRig(t, false)
	must(t, unix.Mkfifo(filepath.Join(r.root, "tmp/fifo"), 0o666))
	r.run(t, "ln -s fifo /tmp/link; mkdir /tmp/dir")
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	for _, name := range []string{"/tmp/fifo", "/tmp/link", "/tmp/dir", "/dev/zero", "/dev/tty", "/dev/ptmx"} {
		_, err := r.ReadFile(ctx, name, agent.ReadOptions{}, io.Discard)
		wantKind(t, err, boxlite.InvalidArgument)
		_, err = r.WriteFile(ctx, name, strings.NewReader("x"), agent.WriteOptions{})
		wantKind(t, err, boxlite.InvalidArgument)
	}
	for _, name := range []string{"/none", "/none/f", "/bin/busybox/f"} {
		_, err := r.ReadFile(ctx, name, agent.ReadOptions{}, io.Discard)
		wantKind(t, err, boxlite.NotFound)
		_, err = r.Stat(ctx, name, "")
		wantKind(t, err, boxlite.NotFound)
	}
	_, err := r.WriteFile(ctx, "/none/f", strings.NewReader("x"), agent.WriteOptions{})
	wantKind(t, err, boxlite.NotFound)
	r.run(t, "ln -s nowhere /tmp/dangling")
	_, err = r.WriteFile(ctx, "/tmp/dangling/f", strings.NewReader("x"), agent.WriteOptions{CreateParents: true})
	wantKind(t, err, boxlite.AlreadyExists)
	_, err = r.WriteFile(ctx, "/tmp/dangling/f", strings.NewReader("x"), agent.WriteOptions{})
	wantKind(t, err, boxlite.NotFound)
	_, err = r.WriteFile(ctx, "/tmp/"+strings.Repeat("x", 300), strings.NewReader("x"), agent.WriteOptions{})
	wantKind(t, err, boxlite.InvalidArgument)
	for _, name := range []string{"", "tmp/f", "/" + strings.Repeat("x", 5000), "/a\x00b"} {
		_, err := r.ReadFile(ctx, name, agent.ReadOptions{}, io.Discard)
		wantKind(t, err, boxlite.InvalidArgument)
	}
}

func TestFullDiskIsExhausted(t *testing.T) {
	r := newRig(t, false, "small")
	_, err := r.WriteFile(t.Context(), "/small/file", io.LimitReader(zeros{}, 1<<20), agent.WriteOptions{})
	wantKind(t, err, boxlite.Exhausted)
	if _, err := r.Stat(t.Context(), "/small/file", ""); !errors.Is(err, boxlite.NotFound) {
		t.Errorf("it is there: %v", err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestDirectoriesAreListed(t *testing.T) {
	r := newRig(t, false)
	r.run(t, "mkdir -p /tmp/d/sub; cd /tmp/d; echo hello > b; ln -s /far/away a; mkfifo p; printf x > \"$(printf 'odd\\377\\nname')\"")
	entries, more, err := r.ReadDir(t.Context(), "/tmp/d", "", 0)
	must(t, err)
	var got []string
	for _, e := range entries {
		got = append(got, fmt.Sprintf("%q %s %s", e.Name, e.Mode, e.Link))
	}
	want := []string{`"a" Lrwxrwxrwx /far/away`, `"b" -rw-r--r-- `, `"odd\xff\nname" -rw-r--r-- `, `"p" prw-r--r-- `, `"sub" drwxr-xr-x `}
	if more || strings.Join(got, "|") != strings.Join(want, "|") {
		t.Errorf("more %v, got %v, want %v", more, got, want)
	}
	entries, more, err = r.ReadDir(t.Context(), "/tmp/d", "", 2)
	if err != nil || !more || len(entries) != 2 || entries[1].Name != "b" {
		t.Errorf("two: %v %v %v", entries, more, err)
	}
	must(t, os.Mkdir(filepath.Join(r.root, "tmp/many"), 0o755))
	for i := range 800 { // more than a message holds
		must(t, os.Symlink(strings.Repeat("y", 1000), filepath.Join(r.root, "tmp/many", fmt.Sprint(i))))
	}
	if entries, _, err := r.ReadDir(t.Context(), "/tmp/many", "", 0); err != nil || len(entries) != 800 {
		t.Errorf("many: %d %v", len(entries), err)
	}
	_, _, err = r.ReadDir(t.Context(), "/tmp/d/b", "", 0)
	wantKind(t, err, boxlite.NotFound)
	info, err := r.Stat(t.Context(), "/", "")
	if err != nil || info.Name != "/" || !info.Mode.IsDir() {
		t.Errorf("root: %+v %v", info, err)
	}
}
