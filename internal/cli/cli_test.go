package cli_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/internal/cli"
	"github.com/boxlite-mcp/boxlite-mcp/internal/cli/clitest"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A bench runs command lines against one world.
type bench struct {
	t       *testing.T
	world   *clitest.World
	home    string
	env     map[string]string
	stdin   io.Reader
	stdout  io.Writer // nil: collected
	signals chan os.Signal
	refused int // connections that fail before one succeeds
}

func newBench(t *testing.T) *bench {
	w := clitest.New()
	t.Cleanup(w.Wait)
	return &bench{t: t, world: w, home: t.TempDir(), env: map[string]string{}, signals: make(chan os.Signal)}
}

// run returns what a command line writes and its exit code.
func (b *bench) run(args ...string) (stdout, stderr string, code int) {
	b.t.Helper()
	var out, errs lockedBuffer
	app := &cli.App{
		Stdin: b.stdin, Stdout: &out, Stderr: &errs, UserHome: b.home, Signals: b.signals,
		LookupEnv: func(name string) (string, bool) { v, ok := b.env[name]; return v, ok },
		Connect: func(context.Context, cli.Config) (boxlite.Service, func() error, error) {
			if b.refused > 0 {
				b.refused--
				return nil, nil, &boxlite.Error{Op: "dial", Kind: boxlite.RpcTransport}
			}
			return b.world, b.world.Hangup, nil
		},
	}
	if b.stdout != nil {
		app.Stdout = b.stdout
	}
	code = cli.Exit(&errs, app.Run(b.t.Context(), args))
	return out.String(), errs.String(), code
}

// A lockedBuffer is a bytes.Buffer for several goroutines.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func TestExitCodeIsTheCommandsOrSaysWhoFailed(t *testing.T) {
	b := newBench(t)
	b.world.Programs = map[string]clitest.Program{
		"die": func(p *clitest.Process) int { return -11 },
	}
	for _, tt := range []struct {
		args string
		code int
		says string // on standard error; "": nothing
	}{
		{"run img echo hi", 0, ""},
		{"run img exit 3", 3, ""},
		{"run img -- exit 3", 3, ""},
		{"run img die", 128 + 11, ""},
		{"run --timeout 50ms img sleep", 124, "timeout of 50ms"},
		{"run img nothing-there", 127, "hint: Install it"},
		{"run img /etc/passwd", 126, "permission denied"},
		{"run img", 125, "hint: Name the command"},
		{"run", 125, "hint: Usage: boxlite-mcp run"},
		{"run --cpus 1000 img echo", 125, "hint: Choose cpus"},
		{"run --nam x img echo", 125, "Did you mean --name?"},
		{"run -it img echo", 125, "standard input is not a terminal"},
		{"run -id img echo", 125, "hint: Leave out -i or -d"},
		{"run -e =x img echo", 125, "hint: Write NAME=value"},
		{"run oci: echo", 125, "hint: Write oci:PATH"},
		{"run --memory lots img echo", 125, "write a size"},
		{"exec nobox echo", 125, "hint: Run boxlite-mcp ps -a"},
		{"start nobox", 3, "not found"},
		{"rm a b", 3, "not found"},
		{"pull missing/image", 3, "--registry"},
		{"ps extra", 2, "takes no arguments"},
		{"ps --filter x=y", 2, "hint: Filter by"},
		{"ps --filter status=happy", 2, "hint: Use one of"},
		{"--log-level loud ps", 2, "hint: Use debug"},
		{"--isolation magic ps", 2, "hint: Use vm"},
		{"--principal a/b ps", 2, "hint: Use 1 to 63"},
		{"serve", 7, "not supported"},
		{"stat", 2, "Did you mean start or stop?"},
	} {
		_, stderr, code := b.run(strings.Fields(tt.args)...)
		if code != tt.code || !strings.Contains(stderr, tt.says) || tt.says == "" && stderr != "" {
			t.Errorf("%s: exit code %d, want %d; stderr %q, want %q", tt.args, code, tt.code, stderr, tt.says)
		}
	}
	if left := b.world.Boxes(); len(left) != 0 {
		t.Errorf("%d boxes are left, want none: %v", len(left), left)
	}
}

func TestKindsHaveTheirExitCodes(t *testing.T) {
	want := map[boxlite.Kind]int{
		boxlite.InvalidArgument: 2, boxlite.Config: 2, boxlite.NotFound: 3, boxlite.AlreadyExists: 4, boxlite.InvalidState: 4,
		boxlite.Denied: 5, boxlite.Exhausted: 5, boxlite.Rpc: 6, boxlite.RpcTransport: 6, boxlite.Unsupported: 7,
		boxlite.UnsupportedEngine: 7, boxlite.Timeout: 124, boxlite.Canceled: 130, boxlite.Internal: 1, boxlite.Engine: 1, boxlite.Image: 1,
	}
	for kind, code := range want {
		var w bytes.Buffer
		err := &boxlite.Error{Op: "op", Kind: kind, Hint: "Do it.", Err: errors.New("a\x1b[31mred\nline")}
		if got := cli.Exit(&w, err); got != code {
			t.Errorf("Exit(%v) = %d, want %d", kind, got, code)
		}
		if s := w.String(); strings.ContainsRune(s, 0x1b) || !strings.HasSuffix(s, "line\nhint: Do it.\n") {
			t.Errorf("Exit(%v) prints %q", kind, s)
		}
	}
}

func TestRunRemovesItsBoxUnlessItIsToBeKept(t *testing.T) {
	for _, tt := range []struct {
		args string
		kept bool
	}{
		{"run img echo", false},
		{"run img exit 1", false},
		{"run --name x img echo", true},
		{"run --name x img exit 1", true},
		{"run --name x --rm img echo", false},
		{"run --keep img echo", true},
		{"run -d img echo", true},
		{"run -d --rm img echo", true}, // it goes when it stops
		{"run --name x img nothing-there", true},
		{"run -d img nothing-there", false}, // nobody would know it
	} {
		b := newBench(t)
		b.run(strings.Fields(tt.args)...)
		if kept := len(b.world.Boxes()) == 1; kept != tt.kept {
			t.Errorf("%s: the box is kept: %v, want %v", tt.args, kept, tt.kept)
		}
		if b.world.Hangups() != 1 {
			t.Errorf("%s: %d connections were closed, want 1", tt.args, b.world.Hangups())
		}
	}
}

func TestRunPassesOnWhatItWasAskedFor(t *testing.T) {
	b := newBench(t)
	b.env["HERE"] = "from here"
	b.env["BOXLITE_MEMORY"] = "1g"
	b.env["BOXLITE_CPUS"] = "3"
	stdout, stderr, code := b.run("run", "--name", "x", "-e", "A=1", "-e", "HERE", "-e", "ABSENT", "--cpus", "1", "--disk", "1.5g",
		"--label", "k=v=w", "dir:root", "env", "--name", "y", "-e", "B=2")
	if code != 0 || stdout != "A=1\nHERE=from here\n" {
		t.Errorf("run: exit code %d, stdout %q, stderr %q", code, stdout, stderr)
	}
	box := b.world.Boxes()[0]
	wd, _ := os.Getwd()
	if box.CPUs != 1 || box.MemoryMiB != 1024 || box.DiskSizeGB != 2 || box.Labels["k"] != "v=w" || box.Image != "dir:"+wd+"/root" || box.AutoRemove {
		t.Errorf("box is %+v", box)
	}
	b.env["BOXLITE_MEMORY"] = "much"
	if _, stderr, code := b.run("run", "img", "echo"); code != 125 || !strings.Contains(stderr, "hint: Correct or unset BOXLITE_MEMORY") {
		t.Errorf("a bad variable: exit code %d, stderr %q", code, stderr)
	}
	if _, stderr, code := b.run("run", "--memory", "64m", "img", "echo"); code != 0 {
		t.Errorf("a flag over a bad variable: exit code %d, stderr %q", code, stderr)
	}
}

func TestOutputArrivesWholeThoughConnectionsAreLost(t *testing.T) {
	b := newBench(t)
	b.world.LoseAfter = 2
	want := pattern(5<<20 + 17)
	b.world.Programs = map[string]clitest.Program{"both": func(p *clitest.Process) int {
		var wg sync.WaitGroup
		for _, w := range []io.Writer{p.Stdout, p.Stderr} {
			wg.Go(func() { w.Write(want) })
		}
		wg.Wait()
		return 9
	}}
	stdout, stderr, code := b.run("run", "img", "both")
	if code != 9 || stdout != string(want) || stderr != string(want) {
		t.Errorf("exit code %d, %d bytes of stdout and %d of stderr; want 9 and %d each, the same", code, len(stdout), len(stderr), len(want))
	}
	if b.world.Hangups() < 5 {
		t.Errorf("%d connections were made; the test wants more to be lost", b.world.Hangups())
	}
}

// pattern returns bytes whose period is no power of two.
func pattern(size int) []byte {
	p := make([]byte, size)
	for i := range p {
		p[i] = byte(i % 251)
	}
	return p
}

func TestInputArrivesWholeAndEnds(t *testing.T) {
	data := make([]byte, 3<<20)
	rand.Read(data)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for name, stdin := range map[string]io.Reader{"reader": bytes.NewReader(data), "pipe": r} {
		b := newBench(t)
		b.stdin = stdin
		if name == "pipe" {
			go func() { w.Write(data); w.Close() }()
		}
		stdout, stderr, code := b.run("run", "-i", "img", "cat")
		if code != 0 || stdout != string(data) {
			t.Errorf("%s: exit code %d, %d bytes back of %d, stderr %q", name, code, len(stdout), len(data), stderr)
		}
	}
}

func TestInputIsLeftAloneWhenTheCommandIsOver(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	b := newBench(t)
	b.stdin = r
	if _, stderr, code := b.run("run", "-i", "img", "exit", "4"); code != 4 { // though the input stays open
		t.Errorf("exit code %d, stderr %q", code, stderr)
	}
	w.WriteString("next")
	buf := make([]byte, 4)
	if _, err := io.ReadFull(r, buf); err != nil || string(buf) != "next" {
		t.Errorf("what comes later: %q, %v", buf, err)
	}
}

func TestInputThatMayBeLostEndsTheCommand(t *testing.T) {
	b := newBench(t)
	b.world.LoseInput = true
	b.stdin = strings.NewReader("data")
	_, stderr, code := b.run("run", "-i", "img", "cat")
	if code != 125 || !strings.Contains(stderr, "hint: How much of the input arrived is not known") {
		t.Errorf("exit code %d, stderr %q", code, stderr)
	}
	if !slices.Equal(b.world.Signals(), []int{-1}) || len(b.world.Boxes()) != 0 {
		t.Errorf("signals %v and boxes %v; want the command stopped and the box removed", b.world.Signals(), b.world.Boxes())
	}
}

func TestReaderThatLeavesEndsTheCommandQuietly(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	r.Close()
	b := newBench(t)
	b.stdout = w
	b.world.Programs = map[string]clitest.Program{"forever": func(p *clitest.Process) int {
		p.Stdout.Write([]byte("line\n"))
		<-p.Killed
		return 0
	}}
	if _, stderr, code := b.run("run", "img", "forever"); code != 128+int(syscall.SIGPIPE) || stderr != "" {
		t.Errorf("exit code %d, stderr %q", code, stderr)
	}
	if !slices.Equal(b.world.Signals(), []int{-1}) || len(b.world.Boxes()) != 0 {
		t.Errorf("signals %v and boxes %v; want the command stopped and the box removed", b.world.Signals(), b.world.Boxes())
	}
	b.world.Add(boxlite.BoxInfo{ID: "aB3cD4eF5gH6"})
	if _, stderr, code := b.run("ps", "-a"); code != 128+int(syscall.SIGPIPE) || stderr != "" {
		t.Errorf("ps: exit code %d, stderr %q", code, stderr)
	}
}

// A watcher is a writer that says when it has seen a text.
type watcher struct {
	lockedBuffer
	text string
	seen chan struct{}
	once sync.Once
}

func (w *watcher) Write(p []byte) (int, error) {
	n, err := w.lockedBuffer.Write(p)
	if strings.Contains(w.String(), w.text) {
		w.once.Do(func() { close(w.seen) })
	}
	return n, err
}

func TestSignalsGoToTheCommand(t *testing.T) {
	for _, tt := range []struct {
		name string
		send []os.Signal
		code int
		want []int
	}{
		{"term", []os.Signal{syscall.SIGTERM}, 7, []int{15}},
		{"int-then-term", []os.Signal{syscall.SIGINT, syscall.SIGTERM}, 7, []int{2, 15}},
		{"int-twice", []os.Signal{syscall.SIGINT, syscall.SIGINT}, 137, []int{2, -1}},
		{"pipe-is-not-one", []os.Signal{syscall.SIGPIPE, syscall.SIGTERM}, 7, []int{15}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t)
			out := &watcher{text: "ready", seen: make(chan struct{})}
			b.stdout = out
			var wg sync.WaitGroup
			wg.Go(func() {
				<-out.seen
				for _, s := range tt.send {
					b.signals <- s
				}
			})
			_, stderr, code := b.run("run", "img", "trap")
			wg.Wait()
			if code != tt.code || !slices.Equal(b.world.Signals(), tt.want) || stderr != "" {
				t.Errorf("exit code %d, signals %v, stderr %q; want %d, %v", code, b.world.Signals(), stderr, tt.code, tt.want)
			}
			if len(b.world.Boxes()) != 0 {
				t.Errorf("boxes left: %v", b.world.Boxes())
			}
		})
	}
}

func TestThirdInterruptGivesUp(t *testing.T) {
	b := newBench(t)
	stuck := make(chan struct{})
	b.world.Programs = map[string]clitest.Program{"stuck": func(p *clitest.Process) int {
		p.Trap()
		p.Stdout.Write([]byte("ready"))
		<-stuck // even when it was killed
		return 0
	}}
	defer close(stuck)
	out := &watcher{text: "ready", seen: make(chan struct{})}
	b.stdout = out
	go func() {
		<-out.seen
		for range 3 {
			b.signals <- syscall.SIGINT
		}
	}()
	began := time.Now()
	_, stderr, code := b.run("run", "--keep", "img", "stuck")
	if code != 130 || !strings.Contains(stderr, "gave up") || !strings.Contains(stderr, "boxlite-mcp logs") {
		t.Errorf("exit code %d, stderr %q", code, stderr)
	}
	if d := time.Since(began); d > 4*time.Second {
		t.Errorf("it took %v", d)
	}
}

func TestSignalBeforeTheCommandRunsCancels(t *testing.T) {
	b := newBench(t)
	b.world.Progress = []boxlite.Progress{{Phase: "pulling image"}}
	app := &cli.App{Stdin: nil, Stdout: io.Discard, Stderr: io.Discard, UserHome: b.home, Signals: b.signals,
		LookupEnv: func(string) (string, bool) { return "", false },
		Connect: func(ctx context.Context, _ cli.Config) (boxlite.Service, func() error, error) {
			b.signals <- syscall.SIGTERM
			<-ctx.Done()
			return nil, nil, &boxlite.Error{Op: "dial", Kind: boxlite.Canceled}
		}}
	var stderr bytes.Buffer
	if code := cli.Exit(&stderr, app.Run(t.Context(), []string{"run", "img", "echo"})); code != 128+15 {
		t.Errorf("exit code %d, stderr %q", code, stderr.String())
	}
}

func TestProgressIsForPeople(t *testing.T) {
	b := newBench(t)
	b.world.Progress = []boxlite.Progress{{Phase: "pulling image", Current: 1, Total: 10}, {Phase: "pulling image", Current: 10, Total: 10},
		{Phase: "flattening\x1b[2J"}}
	for _, tt := range []struct{ args, want string }{
		{"run img echo", ""},
		{"run --progress plain img echo", "pulling image\nflattening�[2J\n"},
		{"pull img", "pulling image\nflattening�[2J\n"},
		{"pull --progress none img", ""},
	} {
		if _, stderr, code := b.run(strings.Fields(tt.args)...); code != 0 || stderr != tt.want {
			t.Errorf("%s: exit code %d, stderr %q, want %q", tt.args, code, stderr, tt.want)
		}
	}
	if _, stderr, code := b.run("pull", "--progress", "bar", "img"); code != 0 {
		t.Errorf("bars off a terminal: exit code %d, stderr %q", code, stderr)
	}
	if _, stderr, code := b.run("pull", "--progress", "loud", "img"); code != 2 || !strings.Contains(stderr, "hint: Use auto") {
		t.Errorf("exit code %d, stderr %q", code, stderr)
	}
}

func TestLostConnectionsAreMadeAgain(t *testing.T) {
	b := newBench(t)
	b.world.Add(boxlite.BoxInfo{ID: "aB3cD4eF5gH6", BoxState: boxlite.BoxState{Status: boxlite.StatusRunning}})
	b.refused = 3
	if stdout, stderr, code := b.run("ps", "-q"); code != 0 || stdout != "aB3cD4eF5gH6\n" {
		t.Errorf("exit code %d, stdout %q, stderr %q", code, stdout, stderr)
	}
}

func TestCompletionOffersWhatFits(t *testing.T) {
	b := newBench(t)
	b.world.Add(
		boxlite.BoxInfo{ID: "aB3cD4eF5gH6", Name: "dev", Image: "debian", BoxState: boxlite.BoxState{Status: boxlite.StatusRunning}},
		boxlite.BoxInfo{ID: "aB3cD4eF5gH7", Name: "old", BoxState: boxlite.BoxState{Status: boxlite.StatusStopped}},
		boxlite.BoxInfo{ID: "zB3cD4eF5gH8", BoxState: boxlite.BoxState{Status: boxlite.StatusRunning}})
	b.world.AddImages(boxlite.ImageInfo{Reference: "docker.io/library/debian:stable", Size: boxlite.MiB})
	for _, tt := range []struct{ args, want string }{
		{"stop|", "dev\trunning debian\nzB3cD4eF5gH8\trunning\n:4\n"},
		{"stop|dev|", "zB3cD4eF5gH8\trunning\n:4\n"},
		{"start|", "old\tstopped\n:4\n"},
		{"exec|d", "dev\trunning debian\n:4\n"},
		{"exec|dev|", ":0\n"},
		{"rmi|docker", "docker.io/library/debian:stable\t1 MiB\n:4\n"},
		{"completion|", "bash\nzsh\nfish\n:4\n"},
	} {
		stdout, _, _ := b.run(append([]string{"__complete"}, strings.Split(tt.args, "|")...)...)
		if stdout != tt.want {
			t.Errorf("completing %q: %q, want %q", tt.args, stdout, tt.want)
		}
	}
	b.refused = 1000
	began := time.Now()
	if stdout, _, _ := b.run("__complete", "stop", ""); stdout != ":4\n" || time.Since(began) > 4*time.Second {
		t.Errorf("without a daemon: %q after %v", stdout, time.Since(began))
	}
}
