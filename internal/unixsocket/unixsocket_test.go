package unixsocket_test

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/internal/unixsocket"
)

// dialAs makes the test binary a client of the socket it names.
const dialAs = "UNIXSOCKET_TEST_DIAL"

func TestMain(m *testing.M) {
	if path := os.Getenv(dialAs); path != "" {
		os.Exit(echoOnce(path))
	}
	goleak.VerifyTestMain(m)
}

// echoOnce returns 0 if path answers with what it was sent, 3 if it hangs up.
func echoOnce(path string) int {
	conn, err := unixsocket.Dial(context.Background(), path)
	if err != nil {
		println(err.Error())
		return 4
	}
	defer conn.Close()
	conn.Write([]byte("x"))
	if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
		return 3
	}
	return 0
}

// serve echoes on l until the test ends.
func serve(t *testing.T, l net.Listener) {
	var wg sync.WaitGroup
	t.Cleanup(func() { l.Close(); wg.Wait() })
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { io.Copy(conn, conn); conn.Close() })
		}
	})
}

func listen(t *testing.T, path string) net.Listener {
	t.Helper()
	l, err := unixsocket.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func echo(t *testing.T, path string) {
	t.Helper()
	if code := echoOnce(path); code != 0 {
		t.Fatalf("echo over %s: %d", path, code)
	}
}

func TestPathsOfAnyLength(t *testing.T) {
	for _, n := range []int{0, 40, 90, 107, 108, 109, 300, 2000} {
		dir := t.TempDir()
		for len(dir) < n {
			dir = filepath.Join(dir, strings.Repeat("d", min(200, max(1, n-len(dir)))))
		}
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, "daemon.sock")
		l := listen(t, path)
		if got := l.Addr().String(); got != path {
			t.Errorf("Addr() = %q, want %q", got, path)
		}
		serve(t, l)
		echo(t, path)
		l.Close()
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("after Close: %v", err)
		}
	}
}

func TestFileNameTooLongIsAnError(t *testing.T) {
	path := filepath.Join(t.TempDir(), strings.Repeat("x", 120))
	if _, err := unixsocket.Listen(path); !errors.Is(err, syscall.ENAMETOOLONG) {
		t.Errorf("Listen: %v", err)
	}
	if _, err := unixsocket.Dial(t.Context(), path); !errors.Is(err, syscall.ENAMETOOLONG) {
		t.Errorf("Dial: %v", err)
	}
}

func TestSocketIsPrivateWhateverTheUmask(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0))
	path := filepath.Join(t.TempDir(), "s")
	defer listen(t, path).Close()
	info, err := os.Lstat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode is %v, %v", info.Mode(), err)
	}
}

func TestStaleSocketIsReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close() // as kill -9 leaves it
	if _, err := unixsocket.Dial(t.Context(), path); !errors.Is(err, syscall.ECONNREFUSED) || boxlite.KindOf(err) != boxlite.RpcTransport {
		t.Errorf("Dial: %v", err)
	}
	serve(t, listen(t, path))
	echo(t, path)
}

func TestLiveSocketIsNotReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	serve(t, listen(t, path))
	if _, err := unixsocket.Listen(path); !errors.Is(err, boxlite.InvalidState) {
		t.Errorf("Listen: %v", err)
	}
	echo(t, path)
}

func TestOtherFilesAreNotReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := unixsocket.Listen(path); !errors.Is(err, boxlite.InvalidState) {
		t.Errorf("Listen: %v", err)
	}
	if b, _ := os.ReadFile(path); string(b) != "precious" {
		t.Errorf("the file is now %q", b)
	}
}

func TestCloseLeavesTheSuccessorsSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	old := listen(t, path)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	serve(t, listen(t, path))
	old.Close()
	echo(t, path)
}

func TestDialWithoutSocket(t *testing.T) {
	_, err := unixsocket.Dial(t.Context(), filepath.Join(t.TempDir(), "s"))
	if !errors.Is(err, fs.ErrNotExist) || boxlite.KindOf(err) != boxlite.RpcTransport {
		t.Errorf("Dial: %v", err)
	}
}

func TestDialWaitsForAFullQueue(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrUnix{Name: path}), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	first, err := unixsocket.Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()

	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := unixsocket.Dial(ctx, path); boxlite.KindOf(err) != boxlite.Timeout {
		t.Fatalf("Dial with a full queue: %v", err)
	}
	if _, err := unixsocket.Listen(path); !errors.Is(err, boxlite.InvalidState) {
		t.Errorf("Listen with a full queue: %v", err)
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		time.Sleep(20 * time.Millisecond)
		if nfd, _, err := unix.Accept(fd); err == nil {
			unix.Close(nfd)
		}
	})
	second, err := unixsocket.Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	second.Close()
}

func TestPeerUID(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	serve(t, listen(t, path))
	conn, err := unixsocket.Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if uid, err := unixsocket.PeerUID(conn); err != nil || int(uid) != os.Geteuid() {
		t.Errorf("PeerUID = %d, %v", uid, err)
	}
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if err := unixsocket.CheckPeer(a); !errors.Is(err, boxlite.InvalidArgument) {
		t.Errorf("CheckPeer of a pipe: %v", err)
	}
}

func TestHungUp(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l := listen(t, path)
	defer l.Close()
	conn, err := unixsocket.Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	peer, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if unixsocket.HungUp(conn) {
		t.Error("with a silent peer")
	}
	peer.Write([]byte("x"))
	peer.Close()
	if unixsocket.HungUp(conn) {
		t.Error("with something to read")
	}
	if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if !unixsocket.HungUp(conn) {
		t.Error("not after the peer is gone")
	}
	conn.Close()
	if !unixsocket.HungUp(conn) {
		t.Error("not after Close")
	}
}

func TestOtherUsersAreHungUpOn(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to be another user")
	}
	dir, err := os.MkdirTemp("/tmp", "unixsocket") //nolint:usetesting // others cannot get at what is in t.TempDir
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	exe := copySelf(t, dir)
	path := filepath.Join(dir, "s")
	serve(t, unixsocket.SameUser(listen(t, path)))
	for _, f := range []string{dir, path} { // what keeps others out before the check does
		if err := os.Chmod(f, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o777 {
		t.Fatal(info.Mode(), err)
	}
	for uid, want := range map[uint32]int{0: 0, 65534: 3} {
		cmd := exec.Command(exe)
		cmd.Env = append(os.Environ(), dialAs+"="+path)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		out, err := cmd.CombinedOutput()
		if got := cmd.ProcessState.ExitCode(); got != want {
			t.Errorf("as user %d: exit code %d, want %d; %v\n%s", uid, got, want, err, out)
		}
	}
}

// copySelf puts the test binary where other users can run it.
func copySelf(t *testing.T, dir string) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	exe := filepath.Join(dir, "self")
	if err := os.WriteFile(exe, b, 0o755); err != nil {
		t.Fatal(err)
	}
	return exe
}
