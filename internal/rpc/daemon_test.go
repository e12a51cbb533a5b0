package rpc_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/internal/proc"
	"github.com/boxlite-mcp/boxlite-mcp/internal/rpc"
	"github.com/boxlite-mcp/boxlite-mcp/internal/unixsocket"
)

// The test binary with this variable is a daemon of the home it names, or a
// client of it. What the daemon does is said by files in its home.
const (
	daemonEnv  = "RPC_TEST_DAEMON"
	clientEnv  = "RPC_TEST_CLIENT"
	versionEnv = "RPC_TEST_VERSION"
)

// runDaemon is a daemon until it is asked to leave or its standard input ends.
func runDaemon(home string) int {
	note(home, "starts", fmt.Sprintf("%d %s\n", os.Getpid(), os.Getenv(versionEnv)))
	if exists(home, "broken") {
		fmt.Fprintln(os.Stderr, "opening the database: \x1b[31mit is damaged")
		return 1
	}
	lock, err := os.OpenFile(filepath.Join(home, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil || unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		fmt.Fprintln(os.Stderr, "the home is in use")
		return 3
	}
	defer lock.Close()
	l, err := unixsocket.Listen(rpc.Socket(home))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	leave := make(chan struct{})
	var once sync.Once
	go func() { io.Copy(io.Discard, os.Stdin); once.Do(func() { close(leave) }) }()
	if exists(home, "mute") {
		<-leave // listens and never answers
		return 0
	}
	srv := rpc.NewServer(rpc.ServerOptions{Open: always(slow{home: home}), Version: os.Getenv(versionEnv), Home: home,
		Shutdown: func(string) {
			if !exists(home, "stubborn") {
				once.Do(func() { close(leave) })
			}
		}})
	go srv.Serve(l)
	<-leave
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	srv.Stop(ctx)
	return 0
}

// slow is a Service in which nothing that takes time ends while the file
// "block" is in its home. It notes what it is asked to do.
type slow struct {
	memory
	home string
}

func (s slow) wait(ctx context.Context, what string) error {
	note(s.home, "asked", what+"\n")
	for {
		if !exists(s.home, "block") {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Millisecond):
		}
	}
}

func (s slow) GetBox(ctx context.Context, ref string) (boxlite.BoxDetails, error) {
	if err := s.wait(ctx, "get"); err != nil {
		return boxlite.BoxDetails{}, err
	}
	return s.memory.GetBox(ctx, ref)
}

func (s slow) CreateBox(ctx context.Context, req boxlite.CreateRequest, report func(boxlite.Progress)) (boxlite.BoxInfo, error) {
	if err := s.wait(ctx, "create"); err != nil {
		return boxlite.BoxInfo{}, err
	}
	return s.box(req.Name), nil
}

func (s slow) Run(ctx context.Context, box string, cmd boxlite.Command, _ func(boxlite.Progress)) (boxlite.ExecInfo, error) {
	if err := s.wait(ctx, "run "+cmd.Key); err != nil {
		return boxlite.ExecInfo{}, err
	}
	return boxlite.ExecInfo{ID: boxlite.ExecutionID(cmd.Key)}, nil
}

func (s slow) Output(ctx context.Context, id boxlite.ExecutionID, req boxlite.OutputRequest) (boxlite.Output, error) {
	if err := s.wait(ctx, "output"); err != nil {
		return boxlite.Output{}, err
	}
	return s.memory.Output(ctx, id, req)
}

// runClient returns 0 if the home's daemon answers, 3 if it does not.
func runClient(home string) int {
	c, err := rpc.Dial(context.Background(), rpc.Options{Socket: rpc.Socket(home), Principal: "other"})
	if err != nil {
		fmt.Fprintln(os.Stderr, boxlite.KindOf(err).String(), err)
		return 3
	}
	c.Close()
	return 0
}

func exists(home, file string) bool {
	_, err := os.Stat(filepath.Join(home, file))
	return err == nil
}

func note(home, file, text string) {
	f, err := os.OpenFile(filepath.Join(home, file), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		panic(err)
	}
	f.WriteString(text)
	f.Close()
}

func read(t *testing.T, home, file string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(home, file))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return string(b)
}

// A nursery starts daemons that end with the test.
type nursery struct {
	t       *testing.T
	home    string
	version string

	mu   sync.Mutex
	cmds []*exec.Cmd     // guarded by mu
	gone []chan struct{} // guarded by mu; closed when the process is
}

func newNursery(t *testing.T) *nursery {
	n := &nursery{t: t, home: t.TempDir(), version: "v1.0.0"}
	return n
}

// start is a Presence's Start.
func (n *nursery) start(context.Context) (<-chan error, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	log, err := os.OpenFile(rpc.LogFile(n.home), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), daemonEnv+"="+n.home, versionEnv+"="+n.version)
	cmd.Stderr = log
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	exited, done := make(chan error, 1), make(chan struct{})
	n.mu.Lock()
	n.cmds, n.gone = append(n.cmds, cmd), append(n.gone, done)
	n.mu.Unlock()
	go func() { exited <- cmd.Wait(); close(done) }()
	n.t.Cleanup(func() { in.Close(); cmd.Process.Kill(); <-done })
	return exited, nil
}

// kill ends the daemon started last, as kill -9 does, and waits until all its
// threads are gone.
func (n *nursery) kill() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cmds[len(n.cmds)-1].Process.Kill()
	<-n.gone[len(n.gone)-1]
}

func (n *nursery) presence(version string) *rpc.Presence {
	return &rpc.Presence{Home: n.home, Version: version, Start: n.start, Lock: filepath.Join(n.home, "lock"),
		StartWait: 10 * time.Second, LeaveWait: 10 * time.Second}
}

func (n *nursery) client(opts rpc.Options) *rpc.Client {
	opts.Connect = n.presence(n.version).Ensure
	return dial(n.t, n.home, opts)
}

func (n *nursery) touch(file string) { note(n.home, file, "") }

// awaitAsked returns once the daemons were asked so often.
func (n *nursery) awaitAsked(times int) {
	n.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); strings.Count(read(n.t, n.home, "asked"), "\n") < times; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			n.t.Fatalf("asked: %q", read(n.t, n.home, "asked"))
		}
	}
}

func (n *nursery) starts() int { return strings.Count(read(n.t, n.home, "starts"), "\n") }

func TestADaemonKilledBetweenCallsIsNotMissed(t *testing.T) {
	n := newNursery(t)
	c := n.client(rpc.Options{})
	for i := range 3 {
		if _, err := c.CreateBox(t.Context(), boxlite.CreateRequest{Name: "b"}, nil); err != nil {
			t.Fatalf("after %d kills: %v", i, err)
		}
		n.kill()
	}
	if got := strings.Count(read(t, n.home, "asked"), "create"); got != 3 {
		t.Errorf("the boxes were created %d times", got)
	}
}

func TestADaemonKilledDuringACall(t *testing.T) {
	for _, row := range []struct {
		name  string
		again bool
		call  func(context.Context, *rpc.Client) error
	}{
		{"get", true, func(ctx context.Context, c *rpc.Client) error { _, err := c.GetBox(ctx, "b"); return err }},
		{"output", true, func(ctx context.Context, c *rpc.Client) error {
			_, err := c.Output(ctx, "id", boxlite.OutputRequest{Wait: time.Minute})
			return err
		}},
		{"run", true, func(ctx context.Context, c *rpc.Client) error {
			_, err := c.Run(ctx, "b", boxlite.Shell("true"), nil)
			return err
		}},
		{"create", false, func(ctx context.Context, c *rpc.Client) error {
			_, err := c.CreateBox(ctx, boxlite.CreateRequest{}, nil)
			return err
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			n := newNursery(t)
			c := n.client(rpc.Options{})
			n.touch("block")
			failed := make(chan error, 1)
			go func() { failed <- row.call(t.Context(), c) }()
			n.awaitAsked(1)
			n.kill()
			if row.again {
				n.awaitAsked(2)
			}
			os.Remove(filepath.Join(n.home, "block"))
			err := <-failed
			if row.again && err != nil || !row.again && (!errors.Is(err, boxlite.RpcTransport) || boxlite.HintOf(err) == "") {
				t.Errorf("got %v, hint %q", err, boxlite.HintOf(err))
			}
			asked := strings.Split(strings.TrimSpace(read(t, n.home, "asked")), "\n")
			if row.again && (len(asked) != 2 || asked[0] != asked[1]) || !row.again && len(asked) != 1 {
				t.Errorf("the daemons were asked for %q", asked) // Run: with one key
			}
			if _, err := c.GetBox(t.Context(), "b"); err != nil {
				t.Errorf("afterwards: %v", err)
			}
		})
	}
}

func TestKillsUnderLoadAreNotNoticed(t *testing.T) {
	if testing.Short() {
		t.Skip("takes two seconds")
	}
	n := newNursery(t)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	var calls atomic.Int64
	for range 8 {
		c := n.client(rpc.Options{})
		wg.Go(func() {
			for ctx.Err() == nil {
				if _, err := c.Run(ctx, "b", boxlite.Shell("true"), nil); err != nil && ctx.Err() == nil {
					t.Error(err)
					return
				}
				calls.Add(1)
			}
		})
	}
	const kills = 12
	for range kills {
		time.Sleep(100 * time.Millisecond)
		before := calls.Load()
		n.kill()
		for deadline := time.Now().Add(10 * time.Second); calls.Load() < before+50; time.Sleep(time.Millisecond) {
			if t.Failed() || time.Now().After(deadline) {
				t.Fatal("the clients are stuck")
			}
		}
	}
	if n.starts() != kills+1 {
		t.Errorf("%d kills, %d daemons", kills, n.starts())
	}
	t.Logf("%d calls", calls.Load())
}

func TestALeavingDaemonHandsItsWaitersOver(t *testing.T) {
	n := newNursery(t)
	c := n.client(rpc.Options{})
	n.touch("block")
	failed := make(chan error, 1)
	go func() {
		_, err := c.Output(t.Context(), "id", boxlite.OutputRequest{Wait: time.Minute})
		failed <- err
	}()
	n.awaitAsked(1)
	operator, err := rpc.Dial(t.Context(), rpc.Options{Socket: rpc.Socket(n.home), Operator: true})
	if err != nil {
		t.Fatal(err)
	}
	defer operator.Close()
	_, id, err := operator.Hello(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := operator.Shutdown(t.Context(), "test"); err != nil {
		t.Fatal(err)
	}
	awaitGone(t, id)
	if d := time.Since(began); d > 2*time.Second {
		t.Errorf("the daemon left after %s", d)
	}
	n.awaitAsked(2)
	os.Remove(filepath.Join(n.home, "block"))
	if err := <-failed; err != nil || n.starts() != 2 {
		t.Errorf("%v; %d daemons", err, n.starts())
	}
}

func awaitGone(t *testing.T, id proc.ID) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); id.Alive(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("process %d is still there", id.PID)
		}
	}
}

func TestStopLetsAShortCallFinish(t *testing.T) {
	home := t.TempDir()
	proceed, begun := make(chan struct{}), make(chan struct{})
	srv := serve(t, home, rpc.ServerOptions{Open: always(held{begun: begun, proceed: proceed})})
	c := dial(t, home, rpc.Options{})
	failed := make(chan error, 1)
	go func() { _, err := c.StopBox(t.Context(), "b"); failed <- err }()
	<-begun
	stopped := make(chan struct{})
	go func() { srv.Stop(context.Background()); close(stopped) }()
	time.Sleep(20 * time.Millisecond)
	close(proceed)
	if err := <-failed; err != nil {
		t.Error(err)
	}
	<-stopped
}

// held is a Service whose StopBox waits for the test.
type held struct {
	memory
	begun, proceed chan struct{}
}

func (h held) StopBox(ctx context.Context, ref string) (boxlite.BoxInfo, error) {
	close(h.begun)
	<-h.proceed
	return h.memory.StopBox(ctx, ref)
}

func TestTenFrontEndsStartOneDaemon(t *testing.T) {
	n := newNursery(t)
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			c, err := rpc.Dial(t.Context(), rpc.Options{Socket: rpc.Socket(n.home), Principal: "p", Connect: n.presence("v1.0.0").Ensure})
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			if _, err := c.GetBox(t.Context(), "b"); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n.starts() != 1 {
		t.Errorf("%d daemons were started", n.starts())
	}
}

func TestADaemonThatDoesNotComeUpSaysWhy(t *testing.T) {
	n := newNursery(t)
	note(n.home, "daemon.log", "an old complaint\n")
	n.touch("broken")
	err := n.presence("v1.0.0").Ensure(t.Context())
	if !errors.Is(err, boxlite.RpcTransport) || !strings.Contains(err.Error(), "it is damaged") || !strings.Contains(err.Error(), "exit status 1") ||
		strings.Contains(err.Error(), "old complaint") || strings.Contains(err.Error(), "\x1b") || boxlite.HintOf(err) == "" {
		t.Errorf("got %q", err)
	}
	if n.starts() != 1 {
		t.Errorf("it was started %d times", n.starts())
	}
	// The log was large and is set aside by the start.
	note(n.home, "daemon.log", strings.Repeat("x", 10000))
	p := n.presence("v1.0.0")
	p.Start = func(ctx context.Context) (<-chan error, error) {
		os.Remove(rpc.LogFile(n.home))
		return n.start(ctx)
	}
	if err := p.Ensure(t.Context()); !strings.Contains(err.Error(), "it is damaged") {
		t.Errorf("with a new log: %q", err)
	}
}

func TestADaemonThatNeverAnswersIsGivenUp(t *testing.T) {
	n := newNursery(t)
	n.touch("mute")
	p := n.presence("v1.0.0")
	p.StartWait = 100 * time.Millisecond
	if err := p.Ensure(t.Context()); !errors.Is(err, boxlite.RpcTransport) || !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := p.Ensure(ctx); !errors.Is(err, boxlite.Timeout) {
		t.Errorf("with a deadline: %v", err)
	}
}

func TestAnOlderDaemonIsReplacedAndANewerOneKept(t *testing.T) {
	n := newNursery(t)
	old := n.client(rpc.Options{Version: "v1.0.0"})
	if err := n.presence("v0.9.0").Ensure(t.Context()); err != nil || n.starts() != 1 {
		t.Errorf("an older front end: %v, %d daemons", err, n.starts())
	}
	n.version = "v1.1.0"
	if err := n.presence("v1.1.0").Ensure(t.Context()); err != nil || n.starts() != 2 {
		t.Fatalf("a newer front end: %v, %d daemons", err, n.starts())
	}
	old2 := n.presence("v1.0.0")
	if err := old2.Ensure(t.Context()); err != nil || n.starts() != 2 {
		t.Errorf("the older front end again: %v, %d daemons", err, n.starts())
	}
	if version, _, err := old.Hello(t.Context()); version != "v1.1.0" || err != nil {
		t.Errorf("the old client now speaks to %s, %v", version, err)
	}
}

func TestAStubbornDaemonIsNamed(t *testing.T) {
	n := newNursery(t)
	if err := n.presence("v1.0.0").Ensure(t.Context()); err != nil {
		t.Fatal(err)
	}
	n.touch("stubborn")
	p := n.presence("v2.0.0")
	p.LeaveWait = 50 * time.Millisecond
	err := p.Ensure(t.Context())
	if pid := fmt.Sprint(n.cmds[0].Process.Pid); !errors.Is(err, boxlite.RpcTransport) || !strings.Contains(boxlite.HintOf(err), pid) {
		t.Errorf("got %v, hint %q, want process %s", err, boxlite.HintOf(err), pid)
	}
}

func TestAHomeInUseBySomethingElse(t *testing.T) {
	n := newNursery(t)
	lock, err := os.Create(filepath.Join(n.home, "lock"))
	if err != nil || unix.Flock(int(lock.Fd()), unix.LOCK_EX) != nil {
		t.Fatal(err)
	}
	p := n.presence("v1.0.0")
	p.LeaveWait = 50 * time.Millisecond
	if err := p.Ensure(t.Context()); !errors.Is(err, boxlite.InvalidState) || n.starts() != 0 {
		t.Errorf("got %v, %d daemons", err, n.starts())
	}
	p.LeaveWait = 10 * time.Second
	time.AfterFunc(30*time.Millisecond, func() { lock.Close() })
	if err := p.Ensure(t.Context()); err != nil || n.starts() != 1 {
		t.Errorf("once it is gone: %v, %d daemons", err, n.starts())
	}
}

func TestOtherUsersAreRefused(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to be another user")
	}
	home, err := os.MkdirTemp("/tmp", "rpc") //nolint:usetesting // others cannot get at what is in t.TempDir
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(home)
	serve(t, home, rpc.ServerOptions{Open: always(memory{})})
	exe := filepath.Join(home, "self")
	copyFile(t, exe)
	for _, f := range []string{home, rpc.Socket(home)} { // what keeps others out before the check does
		if err := os.Chmod(f, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	for uid, want := range map[uint32]int{0: 0, 65534: 3} {
		cmd := exec.Command(exe)
		cmd.Env = append(os.Environ(), clientEnv+"="+home)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		out, err := cmd.CombinedOutput()
		if got := cmd.ProcessState.ExitCode(); got != want || want != 0 && !bytes.Contains(out, []byte("rpc_transport")) {
			t.Errorf("as user %d: exit code %d, want %d; %v\n%s", uid, got, want, err, out)
		}
	}
}

func copyFile(t *testing.T, to string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, b, 0o755); err != nil {
		t.Fatal(err)
	}
}

// pattern returns n bytes of an endless stream, from off on.
func pattern(n int, off int64) []byte {
	b := make([]byte, n)
	for i := range b {
		x := off + int64(i)
		b[i] = byte(x ^ x>>8 ^ x>>16)
	}
	return b
}

// streaming is a Service with one execution that has written so much.
type streaming struct {
	memory
	size int64
}

// window is what every piece is cut from: the pattern repeats after it.
var window = sync.OnceValue(func() []byte { return pattern(1<<24, 0) })

func (s streaming) Output(_ context.Context, _ boxlite.ExecutionID, req boxlite.OutputRequest) (boxlite.Output, error) {
	n := int(min(int64(req.MaxBytes), s.size-req.StdoutOffset))
	from := int(req.StdoutOffset % int64(len(window())))
	data := window()[from:min(len(window()), from+n)]
	return boxlite.Output{Stdout: boxlite.OutputChunk{Offset: req.StdoutOffset, Data: data, End: s.size, EOF: req.StdoutOffset+int64(len(data)) == s.size}}, nil
}

// readAll reads a streaming execution's output and returns how much it was.
func readAll(t testing.TB, c *rpc.Client, each func(boxlite.OutputChunk)) int64 {
	var off int64
	for {
		out, err := c.Output(t.Context(), "id", boxlite.OutputRequest{StdoutOffset: off, MaxBytes: 1 << 20})
		if err != nil {
			t.Fatal(err)
		}
		each(out.Stdout)
		if off = out.Stdout.Next(); out.Stdout.EOF {
			return off
		}
	}
}

func TestMuchOutputTakesLittleMemory(t *testing.T) {
	const size = 256<<20 + 12345
	c := dial(t, start(t, streaming{size: size}), rpc.Options{})
	window()
	var before, now runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	var most uint64
	i := 0
	n := readAll(t, c, func(chunk boxlite.OutputChunk) {
		if from := chunk.Offset % int64(len(window())); !bytes.Equal(chunk.Data, window()[from:from+int64(len(chunk.Data))]) {
			t.Fatalf("wrong bytes at %d", chunk.Offset)
		}
		if i++; i%16 == 0 {
			runtime.ReadMemStats(&now)
			most = max(most, now.HeapInuse)
		}
	})
	if n != size {
		t.Errorf("%d bytes, want %d", n, size)
	}
	if grown := int64(most) - int64(before.HeapInuse); grown > 64<<20 {
		t.Errorf("the heap grew by %d MiB", grown>>20)
	} else {
		t.Logf("the heap grew by %d MiB at most", grown>>20)
	}
}
