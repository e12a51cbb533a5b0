package agent_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/agent"
)

// both runs a test with either way of keeping trees.
func both(t *testing.T, f func(t *testing.T, r *rig)) {
	t.Run("cgroups", func(t *testing.T) {
		r := newRig(t, false)
		if !r.Guest().Cgroups {
			t.Skip("this host has no cgroup2 with cgroup.kill; the other way is tested below")
		}
		f(t, r)
	})
	t.Run("marks", func(t *testing.T) {
		r := newRig(t, true)
		if r.Guest().Cgroups {
			t.Fatal("cgroups are in use")
		}
		f(t, r)
	})
}

func sh(line string) agent.ExecSpec { return agent.ExecSpec{Args: []string{"/bin/sh", "-c", line}} }

func TestCommandsDoNotSeeTheAgent(t *testing.T) {
	r := newRig(t, false)
	out, _, _ := r.run(t, `for p in /proc/[0-9]*; do echo $(cat $p/comm); done; ls /proc/1/fd /proc/1/environ /proc/1/mem 2>&1; cat /proc/1/environ 2>&1; kill -SEGV 1; kill -TERM 1; kill -INT 1; kill -HUP 1; echo alive`)
	if strings.Contains(out, "test-agent") || strings.Contains(out, "agent.test") {
		t.Errorf("the agent is visible:\n%s", out)
	}
	if !strings.Contains(out, "Permission denied") {
		t.Errorf("the box's init lies open:\n%s", out)
	}
	if out, _, _ := r.run(t, "kill -9 -1; echo still"); out != "still\n" {
		t.Errorf("after the box tried to kill everything: %q", out)
	}
	// Linux protects the init; gVisor does not, and the box ends then.
	if out, _, _ := r.run(t, "kill -9 1; kill -STOP 1; echo still"); out != "still\n" {
		t.Errorf("after the box tried to kill its init: %q", out)
	}
}

func TestRootInTheBoxHasDockersCapabilities(t *testing.T) {
	r := newRig(t, false)
	for _, user := range []string{"", "ada"} {
		out, _, _ := r.runSpec(t, agent.ExecSpec{Args: []string{"grep", "Cap", "/proc/self/status"}, User: user})
		want := map[string]string{"CapInh:": "0", "CapPrm:": "a80425fb", "CapEff:": "a80425fb", "CapBnd:": "a80425fb", "CapAmb:": "0"}
		if user != "" {
			want["CapPrm:"], want["CapEff:"] = "0", "0"
		}
		for line := range strings.Lines(out) {
			f := strings.Fields(line)
			if got := strings.TrimLeft(f[1], "0"); got != strings.TrimLeft(want[f[0]], "0") {
				t.Errorf("user %q: %s%s, want %s", user, f[0], f[1], want[f[0]])
			}
		}
	}
	for _, line := range []string{"mount -t tmpfs x /tmp", "echo x > /proc/sys/kernel/core_pattern", "hostname x", "mount -o remount,rw /proc/sys",
		"umount /proc/sys", "echo 1 > /proc/sysrq-trigger", "cat /proc/kcore"} {
		if _, _, status := r.run(t, line); status.Code == 0 && line != "cat /proc/kcore" {
			t.Errorf("%s: worked", line)
		}
	}
	if out, _, _ := r.run(t, "head -c 1 /proc/keys | wc -c"); strings.TrimSpace(out) != "0" {
		t.Error("/proc/keys says something")
	}
}

func TestErrorsOfStartNameWhatWasTried(t *testing.T) {
	r := newRig(t, false)
	must(t, os.WriteFile(filepath.Join(r.root, "tmp/plain"), []byte("x"), 0o644))
	must(t, os.WriteFile(filepath.Join(r.root, "tmp/script"), []byte("#!/no/interpreter\n"), 0o755))
	must(t, os.WriteFile(filepath.Join(r.root, "tmp/garbage"), []byte("\x01\x02\x03"), 0o755))
	must(t, os.WriteFile(filepath.Join(r.root, "tmp/roots"), []byte("#!/bin/sh\n"), 0o700))
	must(t, os.Mkdir(filepath.Join(r.root, "tmp/private"), 0o700))
	for name, c := range map[string]struct {
		spec agent.ExecSpec
		kind boxlite.Kind
		text string
	}{
		"not-found":      {agent.ExecSpec{Args: []string{"no-such-program"}}, boxlite.Run, "no-such-program"},
		"no-file":        {agent.ExecSpec{Args: []string{"/bin/nothing"}}, boxlite.Run, "/bin/nothing"},
		"not-executable": {agent.ExecSpec{Args: []string{"/tmp/plain"}}, boxlite.Run, "not executable"},
		"directory":      {agent.ExecSpec{Args: []string{"/tmp"}}, boxlite.Run, "not a file"},
		"interpreter":    {agent.ExecSpec{Args: []string{"/tmp/script"}}, boxlite.Run, "what should load it"},
		"format":         {agent.ExecSpec{Args: []string{"/tmp/garbage"}}, boxlite.Run, "format"},
		"denied":         {agent.ExecSpec{Args: []string{"/tmp/roots"}, User: "ada"}, boxlite.Run, "user 1000"},
		"no-dir":         {agent.ExecSpec{Args: []string{"true"}, Dir: "/nowhere"}, boxlite.Run, "/nowhere"},
		"dir-is-file":    {agent.ExecSpec{Args: []string{"true"}, Dir: "/bin/busybox"}, boxlite.Run, "not a directory"},
		"dir-denied":     {agent.ExecSpec{Args: []string{"true"}, Dir: "/tmp/private", User: "ada"}, boxlite.Run, "/tmp/private"},
		"no-user":        {agent.ExecSpec{Args: []string{"true"}, User: "nobody-here"}, boxlite.Run, "nobody-here"},
		"no-group":       {agent.ExecSpec{Args: []string{"true"}, User: "ada:none"}, boxlite.Run, "none"},
		"empty":          {agent.ExecSpec{}, boxlite.InvalidArgument, "empty"},
		"relative-dir":   {agent.ExecSpec{Args: []string{"true"}, Dir: "tmp"}, boxlite.InvalidArgument, "absolute"},
		"nul":            {agent.ExecSpec{Args: []string{"true", "a\x00b"}}, boxlite.InvalidArgument, "NUL"},
		"too-long":       {agent.ExecSpec{Args: []string{"true", strings.Repeat("x", 1<<20)}}, boxlite.InvalidArgument, "bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := r.Start(t.Context(), c.spec, nil, nil)
			wantKind(t, err, c.kind)
			if err != nil && !strings.Contains(err.Error(), c.text) {
				t.Errorf("error %q does not mention %q", err, c.text)
			}
			if c.kind == boxlite.Run && boxlite.HintOf(err) == "" {
				t.Errorf("error %q has no hint", err)
			}
		})
	}
	if out, _, _ := r.run(t, "echo usable"); out != "usable\n" {
		t.Errorf("the box afterwards: %q", out)
	}
}

func TestDirectoryIsMadeForItsUser(t *testing.T) {
	r := newRig(t, false)
	out, _, _ := r.runSpec(t, agent.ExecSpec{Args: []string{"sh", "-c", "pwd; touch x && ls -ln x"}, Dir: "/srv/app/x", CreateDir: true, User: "ada"})
	if !strings.HasPrefix(out, "/srv/app/x\n") || !strings.Contains(out, "1000     1000") {
		t.Errorf("got %q", out)
	}
}

func TestUsersAndEnvironment(t *testing.T) {
	r := newRig(t, false)
	for user, want := range map[string]string{
		"":         "0:0:0 /root root",
		"ada":      "1000:1000:1000 10 100 /home/ada ada",
		"1000":     "1000:1000:1000 10 100 /home/ada ada",
		"ada:root": "1000:0:0 /home/ada ada",
		"4242":     "4242:0:0 / ",
		"4242:77":  "4242:77:77 / ",
	} {
		out, errs, _ := r.runSpec(t, agent.ExecSpec{Args: []string{"sh", "-c", `echo "$(id -u):$(id -g):$(id -G)" $HOME $USER`}, User: user})
		if strings.TrimSpace(out) != strings.TrimSpace(want) {
			t.Errorf("user %q: %q, want %q (%s)", user, out, want, errs)
		}
	}
	out, _, _ := r.runSpec(t, agent.ExecSpec{Args: []string{"env"}, Env: []string{"A=1", "B=2", "A=3", "HOME=/x", "BAD"}})
	for _, want := range []string{"A=3\n", "B=2\n", "HOME=/x\n", "PATH=/usr/local/sbin:", "USER=root\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("environment %q lacks %q", out, want)
		}
	}
	if strings.Contains(out, "A=1") || strings.Contains(out, "BAD") || strings.Contains(out, "GO") {
		t.Errorf("environment %q has too much", out)
	}
}

func TestTwoHundredCommandsAtOnce(t *testing.T) {
	both(t, func(t *testing.T, r *rig) {
		var wg sync.WaitGroup
		for i := range 200 {
			wg.Go(func() {
				var out, errs bytes.Buffer
				e, err := r.Start(t.Context(), sh(fmt.Sprintf("echo out %d; echo err %d >&2; exit %d", i, i, i)), &out, &errs)
				if err != nil {
					t.Errorf("%d: %v", i, err)
					return
				}
				status, err := e.Wait(t.Context())
				if err != nil || status.Code != i || out.String() != fmt.Sprintf("out %d\n", i) || errs.String() != fmt.Sprintf("err %d\n", i) {
					t.Errorf("%d: %q %q %+v %v", i, out.String(), errs.String(), status, err)
				}
			})
		}
		wg.Wait()
	})
}

func TestBinaryStreamComesBackIdentical(t *testing.T) {
	r := newRig(t, false)
	data := make([]byte, 5<<20+17)
	_, _ = rand.Read(data)
	var out bytes.Buffer
	e, err := r.Start(t.Context(), agent.ExecSpec{Args: []string{"cat"}, Stdin: true}, &out, nil)
	must(t, err)
	n, err := e.Write(t.Context(), data)
	if n != len(data) || err != nil {
		t.Fatalf("wrote %d: %v", n, err)
	}
	must(t, e.CloseStdin(t.Context()))
	must(t, e.CloseStdin(t.Context()))
	status, err := e.Wait(t.Context())
	if err != nil || status.Code != 0 || !bytes.Equal(out.Bytes(), data) {
		t.Errorf("%d bytes of %d came back; %+v, %v", out.Len(), len(data), status, err)
	}
	_, err = e.Write(t.Context(), []byte("x"))
	wantKind(t, err, boxlite.InvalidState)
}

func TestWithoutStdinTheInputIsEmpty(t *testing.T) {
	r := newRig(t, false)
	if out, _, status := r.run(t, "cat; readlink /proc/self/fd/0"); out != "/dev/null\n" || status.Code != 0 {
		t.Errorf("%q %+v", out, status)
	}
	e, err := r.Start(t.Context(), sh("sleep 0.1"), nil, nil)
	must(t, err)
	_, err = e.Write(t.Context(), []byte("x"))
	wantKind(t, err, boxlite.InvalidState)
}

func TestProgramThatDoesNotReadBlocksOnlyItsWriter(t *testing.T) {
	r := newRig(t, false)
	e, err := r.Start(t.Context(), agent.ExecSpec{Args: []string{"sleep", "100"}, Stdin: true}, nil, nil)
	must(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	n, err := e.Write(ctx, make([]byte, 8<<20))
	wantKind(t, err, boxlite.Timeout)
	if n >= 8<<20 || n < 64<<10 {
		t.Errorf("%d bytes were taken", n)
	}
	must(t, e.Signal(t.Context(), syscall.SIGINT))
	status, err := e.Wait(t.Context())
	if err != nil || status != (agent.ExitStatus{Code: -2, Signal: 2}) {
		t.Errorf("%+v %v", status, err)
	}
	wantKind(t, e.Signal(t.Context(), syscall.SIGINT), boxlite.InvalidState)
}

func TestManyBytesInBoundedMemory(t *testing.T) {
	r := newRig(t, false)
	const size = 128 << 20
	var out count
	start := time.Now()
	e, err := r.Start(t.Context(), sh(fmt.Sprintf("dd if=/dev/zero bs=1M count=%d", size>>20)), &out, nil)
	must(t, err)
	status, err := e.Wait(t.Context())
	if err != nil || status.Code != 0 || out.n != size {
		t.Errorf("%d bytes, %+v, %v", out.n, status, err)
	}
	rss := residentKiB(t, r.cmd.Process.Pid)
	t.Logf("%.0f MB/s, agent %d KiB", size/1e6/time.Since(start).Seconds(), rss)
	if rss > 100<<10 {
		t.Errorf("the agent has %d KiB", rss)
	}
}

func residentKiB(t testing.TB, pid int) int {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	must(t, err)
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			n, err := strconv.Atoi(strings.Fields(rest)[0])
			must(t, err)
			return n
		}
	}
	t.Fatal("no VmHWM")
	return 0
}

func TestSlowWriterSlowsOnlyItsCommand(t *testing.T) {
	r := newRig(t, false)
	gate := make(chan struct{})
	slow := &count{wait: gate}
	e, err := r.Start(t.Context(), sh("yes | head -c 10000000; echo done >&2"), slow, nil)
	must(t, err)
	if out, _, _ := r.run(t, "yes | head -c 3000000 | wc -c"); strings.TrimSpace(out) != "3000000" {
		t.Errorf("the other command: %q", out)
	}
	select {
	case <-e.Exited():
		t.Error("the command did not wait for its reader")
	default:
	}
	close(gate)
	if _, err := e.Wait(t.Context()); err != nil || slow.n != 10000000 {
		t.Errorf("%d bytes, %v", slow.n, err)
	}
}

func TestWriterThatFailsDoesNotStopTheCommand(t *testing.T) {
	r := newRig(t, false)
	pr, pw := io.Pipe()
	pr.CloseWithError(errors.New("full"))
	var errs bytes.Buffer
	e, err := r.Start(t.Context(), sh("yes | head -c 3000000; echo done >&2"), pw, &errs)
	must(t, err)
	if status, err := e.Wait(t.Context()); err != nil || status.Code != 0 || errs.String() != "done\n" {
		t.Errorf("%+v %v %q", status, err, errs.String())
	}
}

// lockedBuffer may be read while it is written.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func TestDaemonThatHoldsStdoutDoesNotHoldWait(t *testing.T) {
	both(t, func(t *testing.T, r *rig) {
		limit := soonAfter(t, r)
		var out lockedBuffer
		start := time.Now()
		e, err := r.Start(t.Context(), sh("(sleep 3; echo later; sleep 0.2) & echo now"), &out, nil)
		must(t, err)
		status, err := e.Wait(t.Context())
		if d := time.Since(start); d > limit {
			t.Errorf("Wait took %s, not %s", d, limit)
		}
		if err != nil || status.Code != 0 || out.String() != "now\n" {
			t.Errorf("%+v %v %q", status, err, out.String())
		}
		select {
		case <-e.Closed():
		case <-time.After(5 * time.Second):
			t.Error("the streams do not end")
		}
		if out.String() != "now\nlater\n" {
			t.Errorf("got %q", out.String())
		}
	})
}

// soonAfter is 300 ms, and what a command without a daemon takes on a busy
// host, thrice.
func soonAfter(t *testing.T, r *rig) time.Duration {
	start := time.Now()
	r.run(t, "true")
	return 300*time.Millisecond + 3*time.Since(start)
}

func TestDaemonThatFloodsDoesNotHoldWait(t *testing.T) {
	r := newRig(t, false)
	limit := soonAfter(t, r)
	var out count
	start := time.Now()
	e, err := r.Start(t.Context(), sh("yes & exit 3"), &out, nil)
	must(t, err)
	status, err := e.Wait(t.Context())
	if d := time.Since(start); d > limit || status.Code != 3 || err != nil {
		t.Errorf("%+v %v after %s", status, err, d)
	}
	must(t, e.KillTree(t.Context()))
	<-e.Closed()
}

// escapes is a command that leaves processes behind in every way it knows.
const escapes = `setsid sleep 9871 & (setsid sh -c 'sleep 9872 & exec sleep 9873' &) ; env -i setsid setsid sleep 9874 & 
(trap "" TERM HUP INT; setsid sh -c 'trap "" TERM; while :; do sleep 9875; done' & ) ; echo ready; exec sleep 9876`

func (r *rig) leftovers(t testing.TB) string {
	out, _, _ := r.run(t, "ps -o args | grep '[s]leep 987'")
	return out
}

func TestKillReachesEveryDescendant(t *testing.T) {
	for name, kill := range map[string]func(context.Context, *agent.Exec) error{
		"kill":      func(ctx context.Context, e *agent.Exec) error { return e.KillTree(ctx) },
		"terminate": func(ctx context.Context, e *agent.Exec) error { return e.Terminate(ctx, 200*time.Millisecond) },
	} {
		t.Run(name, func(t *testing.T) {
			both(t, func(t *testing.T, r *rig) {
				other, err := r.Start(t.Context(), sh("exec sleep 9999"), nil, nil)
				must(t, err)
				var out lockedBuffer
				e, err := r.Start(t.Context(), sh(escapes), &out, nil)
				must(t, err)
				waitFor(t, func() bool {
					return strings.Contains(out.String(), "ready") && strings.Count(r.leftovers(t), "\n") >= 6
				})
				start := time.Now()
				must(t, kill(t.Context(), e))
				if left := r.leftovers(t); left != "" {
					t.Errorf("left:\n%s", left)
				}
				t.Logf("took %s", time.Since(start))
				status, err := e.Wait(t.Context())
				if err != nil || status.Signal != 9 && status.Signal != 15 {
					t.Errorf("%+v %v", status, err)
				}
				select {
				case <-e.Closed():
				case <-time.After(5 * time.Second):
					t.Error("the streams do not end")
				}
				select {
				case <-other.Exited():
					t.Error("another command was killed")
				default:
				}
				must(t, e.KillTree(t.Context()))
				must(t, other.KillTree(t.Context()))
			})
		})
	}
}

func TestDaemonsCanBeKilledAfterTheirCommand(t *testing.T) {
	both(t, func(t *testing.T, r *rig) {
		e, err := r.Start(t.Context(), sh("setsid sleep 9871 >/dev/null 2>&1 & env -i setsid sleep 9872 >/dev/null 2>&1 &"), nil, nil)
		must(t, err)
		_, err = e.Wait(t.Context())
		must(t, err)
		<-e.Closed()
		waitFor(t, func() bool { return strings.Count(r.leftovers(t), "\n") == 2 })
		must(t, e.KillTree(t.Context()))
		if left := r.leftovers(t); left != "" {
			t.Errorf("left:\n%s", left)
		}
	})
}

func waitFor(t testing.TB, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("waited 10 s in vain")
		}
	}
}

func TestOrphansAreReaped(t *testing.T) {
	r := newRig(t, false)
	r.run(t, "for i in 1 2 3 4 5 6 7 8 9 10; do (sleep 0.1 &) ; done")
	waitFor(t, func() bool {
		out, _, _ := r.run(t, "grep -l '^State:.Z' /proc/[0-9]*/status; ps | grep '[s]leep'")
		return out == ""
	})
}

func TestTerminal(t *testing.T) {
	r := newRig(t, false)
	var out lockedBuffer
	e, err := r.Start(t.Context(), agent.ExecSpec{Args: []string{"sh"}, TTY: true, Rows: 33, Cols: 99, Stdin: true, User: "ada", Env: []string{"PS1=$ "}}, &out, nil)
	must(t, err)
	say := func(line string) {
		_, err := e.Write(t.Context(), []byte(line))
		must(t, err)
	}
	say("stty size; tty; echo $TERM; test -t 0 && echo is''tty\n")
	defer func() {
		if t.Failed() {
			t.Logf("%q", out.String())
		}
	}()
	waitFor(t, func() bool { return strings.Contains(out.String(), "istty") })
	for _, want := range []string{"33 99\r\n", "/dev/pts/0\r\n", "xterm-256color\r\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q lacks %q", out.String(), want)
		}
	}
	must(t, e.Resize(t.Context(), 50, 120))
	say("stty size\n")
	waitFor(t, func() bool { return strings.Contains(out.String(), "50 120\r\n") })
	say("sleep 100; echo inter''rupted\n")
	time.Sleep(100 * time.Millisecond)
	must(t, e.Signal(t.Context(), syscall.SIGINT))
	say("echo go''es on\n")
	waitFor(t, func() bool { return strings.Contains(out.String(), "goes on") })
	must(t, e.CloseStdin(t.Context()))
	status, err := e.Wait(t.Context())
	if err != nil {
		t.Errorf("%+v %v", status, err)
	}
	<-e.Closed()
}

func TestTerminalWithoutInputIsAtItsEnd(t *testing.T) {
	r := newRig(t, false)
	var out bytes.Buffer
	e, err := r.Start(t.Context(), agent.ExecSpec{Args: []string{"sh", "-c", "cat; seq 1 5000; echo last"}, TTY: true}, &out, nil)
	must(t, err)
	if status, err := e.Wait(t.Context()); err != nil || status.Code != 0 || !strings.HasSuffix(out.String(), "5000\r\nlast\r\n") {
		t.Errorf("%+v %v %q", status, err, out.String()[max(0, out.Len()-100):])
	}
}

func TestSignalsReachTheProcessGroup(t *testing.T) {
	r := newRig(t, false)
	var out lockedBuffer
	e, err := r.Start(t.Context(), sh(`trap "echo got; exit 5" USR1; echo ready; while :; do sleep 0.02; done`), &out, nil)
	must(t, err)
	waitFor(t, func() bool { return out.String() == "ready\n" })
	if e.PID() < 2 {
		t.Errorf("pid %d", e.PID())
	}
	must(t, e.Signal(t.Context(), syscall.SIGUSR1))
	if status, err := e.Wait(t.Context()); err != nil || status.Code != 5 && status.Signal == 0 {
		t.Errorf("%+v %v %q", status, err, out.String())
	}
	wantKind(t, e.Signal(t.Context(), 99), boxlite.InvalidArgument)
}

func TestAbandonedStartIsKilled(t *testing.T) {
	both(t, func(t *testing.T, r *rig) {
		for i := range 20 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i)*200*time.Microsecond)
			e, err := r.Start(ctx, sh("exec sleep 9871"), nil, nil)
			cancel()
			if err == nil {
				must(t, e.KillTree(t.Context()))
			} else {
				wantKind(t, err, boxlite.Timeout)
			}
		}
		waitFor(t, func() bool { return r.leftovers(t) == "" })
	})
}

func TestShutdownEndsEverything(t *testing.T) {
	r := newRig(t, false)
	var out lockedBuffer
	polite, err := r.Start(t.Context(), sh(`trap "echo bye; exit 0" TERM; echo ready; while :; do sleep 0.02; done`), &out, nil)
	must(t, err)
	rude, err := r.Start(t.Context(), sh(`trap "" TERM; echo ready; while :; do sleep 0.02; done`), &out, nil)
	must(t, err)
	waitFor(t, func() bool { return strings.Count(out.String(), "ready") == 2 })
	stats, err := r.Stats(t.Context())
	if err != nil || stats.Processes < 2 || stats.MemoryTotal == 0 || stats.MemoryFree == 0 {
		t.Errorf("%+v %v", stats, err)
	}
	start := time.Now()
	must(t, r.Shutdown(t.Context(), 300*time.Millisecond))
	if d := time.Since(start); d < 300*time.Millisecond || d > 2*time.Second {
		t.Errorf("took %s", d)
	}
	if s, err := polite.Wait(t.Context()); err != nil || s.Code != 0 || !strings.Contains(out.String(), "bye") {
		t.Errorf("polite: %+v %v %q", s, err, out.String())
	}
	if s, err := rude.Wait(t.Context()); err != nil || s.Signal != 9 {
		t.Errorf("rude: %+v %v", s, err)
	}
	_, err = r.Start(t.Context(), sh("true"), nil, nil)
	wantKind(t, err, boxlite.InvalidState)
}

func TestEverythingEndsWithTheConnection(t *testing.T) {
	both(t, func(t *testing.T, r *rig) {
		var out lockedBuffer
		e, err := r.Start(t.Context(), sh(escapes), &out, nil)
		must(t, err)
		waitFor(t, func() bool { return strings.Contains(out.String(), "ready") })
		must(t, r.Close())
		<-e.Closed()
		_, err = e.Wait(t.Context())
		wantKind(t, err, boxlite.RpcTransport)
		_, err = r.Start(t.Context(), sh("true"), nil, nil)
		wantKind(t, err, boxlite.RpcTransport)
		wantKind(t, r.Ping(t.Context()), boxlite.RpcTransport)
	})
}

func TestAgentKilledEndsTheClient(t *testing.T) {
	r := newRig(t, false)
	e, err := r.Start(t.Context(), sh("sleep 9999"), nil, nil)
	must(t, err)
	init := strings.TrimSpace(childrenOf(t, r.cmd.Process.Pid))
	must(t, r.cmd.Process.Kill())
	_, err = e.Wait(t.Context())
	wantKind(t, err, boxlite.RpcTransport)
	<-r.Done()
	for pid := range strings.FieldsSeq(init) { // nothing of the box is left, either
		waitFor(t, func() bool { _, err := os.Stat("/proc/" + pid + "/exe"); return err != nil })
	}
	removeCgroups(t, r.cmd.Process.Pid)
	r.cmd = nil
}

// removeCgroups removes what an agent that was killed could not.
func removeCgroups(t testing.TB, pid int) {
	own, err := os.ReadFile("/proc/self/cgroup")
	must(t, err)
	for line := range strings.Lines(string(own)) {
		path, _ := strings.CutPrefix(strings.TrimSpace(line), "0::")
		for _, mount := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
			dirs, _ := filepath.Glob(filepath.Join(mount, path, fmt.Sprintf("boxlite-%d-*", pid)))
			for _, d := range dirs {
				must(t, os.Remove(d))
			}
		}
	}
}

// childrenOf lists the children of a process, of all its threads.
func childrenOf(t testing.TB, pid int) string {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	must(t, err)
	var all strings.Builder
	for _, f := range files {
		b, _ := os.ReadFile(f)
		all.Write(b)
	}
	return all.String()
}
