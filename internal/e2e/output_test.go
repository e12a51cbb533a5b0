package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/image"
)

const gigabyte = 1 << 30

// mostMemory is what a process that passes output on may ever have had
// resident, in MiB, however much passes.
const mostMemory = 150

// peak returns the most memory that a process has had resident, in MiB.
func peak(t testing.TB, pid int) int {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	return field(string(data), "VmHWM:") >> 10
}

// yes returns n bytes of the output of yes from an offset on.
func yes(off int64, n int) []byte {
	b := bytes.Repeat([]byte("y\n"), n/2+1)
	return b[off%2:][:n]
}

func TestAGigabyteOverMCP(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	image := w.debian()
	f := w.front()
	box := f.create("loud", args{"image": image})
	begun := time.Now()
	e := f.sh("loud", "yes | head -c 1G")
	t.Logf("%.1f s", time.Since(begun).Seconds())
	if e.code() != 0 || e.Stdout.End != gigabyte || e.Stdout.Dropped != 0 {
		t.Fatalf("the command is %s with code %d after %d bytes, %d dropped", e.Status, e.code(), e.Stdout.End, e.Stdout.Dropped)
	}
	for i := range 60 {
		off := rand.Int64N(gigabyte)
		switch i {
		case 0:
			off = 0
		case 1:
			off = gigabyte - 1000
		}
		var r execView
		f.must("exec_read", args{"exec_id": e.ExecID, "stdout_offset": off, "encoding": "base64", "max_output_bytes": 8000, "wait_seconds": 0}, &r)
		data, err := base64.StdEncoding.DecodeString(r.Stdout.Text)
		if err != nil || r.Stdout.Offset != off || len(data) == 0 || !bytes.Equal(data, yes(off, len(data))) || r.Stdout.End != gigabyte {
			t.Fatalf("at %d: %d bytes at %d of %d, %v", off, len(data), r.Stdout.Offset, r.Stdout.End, err)
		}
		if atEnd := r.Stdout.NextOffset == gigabyte; atEnd != r.Stdout.EOF {
			t.Errorf("at %d: end of file is %v", off, r.Stdout.EOF)
		}
	}
	for role, pid := range map[string]int{
		"front end": f.cmd.Process.Pid, "daemon": w.daemon().id.PID, "shim": w.find("shim", box.BoxID)[0].id.PID,
	} {
		if mib := peak(t, pid); mib > mostMemory || mib <= 0 {
			t.Errorf("the %s has had %d MiB resident, more than %d", role, mib, mostMemory)
		} else {
			t.Logf("the %s has had %d MiB resident", role, mib)
		}
	}
}

func TestAGigabyteThroughTheAPI(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ref := w.debian()
	rt := w.runtime()
	box, err := rt.Create(t.Context(), boxlite.BoxOptions{Image: ref, MemoryMiB: 128}, "")
	if err != nil {
		t.Fatal(err)
	}
	run, err := box.Run(t.Context(), boxlite.Shell("yes | head -c 1G"), nil)
	if err != nil {
		t.Fatal(err)
	}
	sum, want := sha256.New(), sha256.New()
	n, err := io.Copy(sum, run.Stdout())
	for range gigabyte / (1 << 20) {
		want.Write(yes(0, 1<<20))
	}
	if err != nil || n != gigabyte || !bytes.Equal(sum.Sum(nil), want.Sum(nil)) {
		t.Errorf("%d bytes of standard output, %v; the same: %v", n, err, bytes.Equal(sum.Sum(nil), want.Sum(nil)))
	}
	if res, err := run.Wait(t.Context()); err != nil || res.ExitCode != 0 || res.Truncated {
		t.Errorf("Wait = %+v, %v", res, err)
	}
	for range 50 {
		off := rand.Int64N(gigabyte)
		out, err := run.Output(t.Context(), boxlite.OutputRequest{StdoutOffset: off, MaxBytes: 1 << 16})
		if c := out.Stdout; err != nil || c.Offset != off || len(c.Data) == 0 || !bytes.Equal(c.Data, yes(off, len(c.Data))) {
			t.Fatalf("at %d: %d bytes at %d, %v", off, len(c.Data), c.Offset, err)
		}
	}
	if mib := peak(t, w.find("shim", "")[0].id.PID); mib > mostMemory {
		t.Errorf("the shim has had %d MiB resident, more than %d", mib, mostMemory)
	}
	if err := box.Stop(t.Context()); err != nil { // and removes it
		t.Error(err)
	}
}

// runtime opens the home in this process until the test ends.
func (w *world) runtime() *vmcore.Runtime {
	w.t.Helper()
	var registries []image.Registry
	for _, host := range w.registries {
		reg, err := image.ParseRegistry("http://" + host)
		if err != nil {
			w.t.Fatal(err)
		}
		registries = append(registries, reg)
	}
	opts := vmcore.Options{Home: w.home, Registries: registries, Programs: vmcore.Programs{
		Helper: filepath.Join(w.bin, "boxlite-mcp"), Sandbox: filepath.Join(w.bin, "boxlite-sandbox"),
		Jail: filepath.Join(w.bin, "boxlite-jail"), Agent: filepath.Join(w.bin, "boxlite-agent"),
	}}
	rt, err := vmcore.Open(context.Background(), opts)
	if err != nil {
		w.t.Fatal(err)
	}
	w.embedded = rt
	w.t.Cleanup(func() {
		if err := rt.Close(); err != nil {
			w.t.Error(err)
		}
	})
	return rt
}

// TestBinaryOutputIsIdentical sends bytes in, and has them back by two ways.
func TestBinaryOutputIsIdentical(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	f := w.front()
	f.create("bin", nil)
	data := make([]byte, 300_000)
	rand.NewChaCha8([32]byte{7}).Read(data)
	f.must("file_write", args{"box": "bin", "path": "/root/data", "content": base64.StdEncoding.EncodeToString(data), "encoding": "base64"}, nil)
	e := f.sh("bin", "cat /root/data; sha256sum /root/data >&2")
	got, _ := f.read(e.ExecID, 0)
	if !bytes.Equal(got, data) {
		t.Errorf("%d bytes came back of %d, and not the same", len(got), len(data))
	}
	if sum := sha256.Sum256(data); !strings.HasPrefix(e.Stderr.Text, hex.EncodeToString(sum[:])) {
		t.Errorf("in the box the file has %q", e.Stderr.Text)
	}
	cmd := w.command("exec", "-i", "bin", "--", "cat")
	cmd.Stdin = bytes.NewReader(data)
	if out, err := cmd.Output(); err != nil || !bytes.Equal(out, data) {
		t.Errorf("%d bytes came back through cat, %v", len(out), err)
	}
}

// TestADaemonThatHoldsStdoutHoldsNobodyUp compares with a plain command in the
// same run: what counts is the difference.
func TestADaemonThatHoldsStdoutHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	f := w.front()
	f.create("d", nil)
	fastest := func(line string) time.Duration {
		best := time.Hour
		for range 5 { // other tests run beside this one
			begun := time.Now()
			if e := f.sh("d", line); e.code() != 0 || e.Stdout.Text != "done\n" {
				t.Fatalf("%q: %+v", line, e)
			}
			best = min(best, time.Since(begun))
		}
		return best
	}
	plain := fastest("echo done")
	holding := fastest("(sleep 300; echo late) & echo done")
	session := fastest("setsid sh -c 'sleep 300; echo late' & echo done")
	t.Logf("plain %v, with a child that holds stdout %v, in a session of its own %v", plain, holding, session)
	for _, d := range []time.Duration{holding, session} {
		if d-plain > 300*time.Millisecond {
			t.Errorf("a command returned %v later for a child that holds its stdout", d-plain)
		}
	}
}

func TestATimeoutEndsAllDescendants(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	f := w.front()
	f.create("t", nil)
	var e execView
	f.must("box_exec", args{"box": "t", "timeout_seconds": 1, "command": "setsid sh -c 'trap \"\" TERM; echo $$ > /root/pid; while :; do sleep 1; done' & (trap '' TERM; sleep 777) & sleep 778"}, &e)
	if e.Status != "exited" || !e.TimedOut || e.code() >= 0 && e.code() != 143 {
		t.Errorf("the command that timed out is %+v", e)
	}
	if e := f.sh("t", "ps -o pid,args | grep -e 'sleep 77[78]' -e 'trap' | grep -v grep; kill -0 $(cat /root/pid) && echo alive"); strings.TrimSpace(e.Stdout.Text) != "" {
		t.Errorf("left of it: %s", e.Stdout.Text)
	}
}
