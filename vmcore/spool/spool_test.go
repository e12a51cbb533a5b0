package spool_test

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/spool"
)

// pattern returns n bytes, each a function of its offset.
func pattern(off, n int) []byte {
	p := make([]byte, n)
	for i := range p {
		x := off + i
		p[i] = byte(x ^ x>>8 ^ x>>16)
	}
	return p
}

func readAll(t *testing.T, s *spool.Stream, from int64, step int) (data []byte, dropped int64) {
	t.Helper()
	for {
		c := s.Chunk(from, step)
		data, dropped, from = append(data, c.Data...), dropped+c.Dropped, c.Next()
		if len(c.Data) == 0 {
			return data, dropped
		}
	}
}

func TestEveryByteIsReadableByItsOffset(t *testing.T) {
	limits := spool.Limits{Memory: 100, Segment: 64, Disk: 1 << 20}
	s := spool.NewStream(t.TempDir(), "stdout", limits)
	defer s.Close()
	const total = 5000
	rng := rand.New(rand.NewPCG(1, 2))
	for at := 0; at < total; {
		n := min(rng.IntN(200), total-at)
		s.Write(pattern(at, n))
		at += n
	}
	want := pattern(0, total)
	for range 500 {
		off, n := rng.IntN(total), 1+rng.IntN(400)
		c := s.Chunk(int64(off), n)
		if end := min(off+n, total); c.Offset != int64(off) || !bytes.Equal(c.Data, want[off:end]) {
			t.Fatalf("Chunk(%d, %d) = offset %d and %d bytes, want the %d bytes there", off, n, c.Offset, len(c.Data), end-off)
		}
	}
	if c := s.Chunk(-10, 100); c.Offset != total-10 || !bytes.Equal(c.Data, want[total-10:]) {
		t.Errorf("Chunk(-10) starts at %d", c.Offset)
	}
	if c := s.Chunk(total+99, 100); c.Offset != total || len(c.Data) != 0 || c.EOF {
		t.Errorf("Chunk past the end = %+v, want nothing at the end of an open stream", c)
	}
}

func TestTheOldestBytesAreDroppedPastTheLimit(t *testing.T) {
	dir := t.TempDir()
	s := spool.NewStream(dir, "stdout", spool.Limits{Memory: 10, Segment: 100, Disk: 300})
	defer s.Close()
	const total = 2000
	s.Write(pattern(0, total))

	data, dropped := readAll(t, s, 0, 37)
	if int64(len(data))+dropped != total || dropped != s.Lost() || dropped == 0 {
		t.Fatalf("%d bytes read and %d dropped of %d, Lost() = %d", len(data), dropped, total, s.Lost())
	}
	want := append(pattern(0, 10), pattern(total-len(data)+10, len(data)-10)...)
	if !bytes.Equal(data, want) {
		t.Error("what is left is not the first bytes and the newest")
	}
	if n := s.OnDisk(); n > 300 {
		t.Errorf("%d bytes are on disk, more than 300", n)
	}
	if files, _ := os.ReadDir(dir); len(files) > 3 {
		t.Errorf("%d files are left, more than 3", len(files))
	}
}

func TestAFullDiskDropsOutputAndDoesNotStopTheWriter(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting a small tmpfs needs root")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Skip("mount:", err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	s := spool.NewStream(dir, "stdout", spool.Limits{Memory: 100, Segment: 1 << 20})
	defer s.Close()
	for i := range 100 {
		if n, err := s.Write(pattern(i*4096, 4096)); n != 4096 || err != nil {
			t.Fatalf("Write = %d, %v", n, err)
		}
	}
	data, dropped := readAll(t, s, 0, 4096)
	if end, _ := s.End(); end != 100*4096 || int64(len(data))+dropped != end || dropped == 0 {
		t.Errorf("end %d, %d read, %d dropped", end, len(data), dropped)
	}
	if !bytes.Equal(data[:100], pattern(0, 100)) || !bytes.HasSuffix(data, pattern(100*4096-4096, 4096)) {
		t.Error("what is left is not the first bytes and the newest")
	}
}

func newExecution(t *testing.T, dir string, limits spool.Limits) *spool.Execution {
	t.Helper()
	id := boxlite.NewExecutionID(boxlite.NewBoxID())
	e, err := spool.New(dir, boxlite.ExecInfo{ID: id, Args: []string{"true"}, Started: time.Now().UTC()}, limits)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return e
}

func TestOutputWaitsForAByteForTheExitOrForTheDeadline(t *testing.T) {
	e := newExecution(t, t.TempDir(), spool.Limits{})
	ctx := t.Context()
	req := boxlite.OutputRequest{MaxBytes: 100, Wait: 30 * time.Millisecond}
	if out, err := e.Output(ctx, req); err != nil || !out.Exec.Running || len(out.Stdout.Data) != 0 {
		t.Fatalf("Output at the deadline = %+v, %v", out, err)
	}
	req.Wait = time.Minute
	var wg sync.WaitGroup
	wg.Go(func() { e.Stderr.Write([]byte("oops")) })
	if out, _ := e.Output(ctx, req); string(out.Stderr.Data) != "oops" {
		t.Errorf("Output returned %q before a byte came", out.Stderr.Data)
	}
	wg.Go(func() { e.Finish(boxlite.ExecResult{ExitCode: 3}) })
	req.Until, req.StderrOffset = boxlite.UntilExit, 4
	out, err := e.Output(ctx, req)
	if err != nil || out.Exec.Running || out.Exec.Result.ExitCode != 3 {
		t.Errorf("Output at the exit = %+v, %v", out, err)
	}
	wg.Wait()
}

func TestOutputReturnsWhatThereIsWhenTheCallerGivesUp(t *testing.T) {
	e := newExecution(t, t.TempDir(), spool.Limits{})
	e.Stdout.Write([]byte("so far"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	out, err := e.Output(ctx, boxlite.OutputRequest{MaxBytes: 100, Wait: time.Minute, Until: boxlite.UntilExit})
	if !errors.Is(err, context.Canceled) || string(out.Stdout.Data) != "so far" {
		t.Errorf("Output = %q, %v", out.Stdout.Data, err)
	}
}

func TestAFinishedExecutionIsReadBackFromDisk(t *testing.T) {
	dir, limits := t.TempDir(), spool.Limits{Memory: 50, Segment: 64}
	e := newExecution(t, dir, limits)
	e.Stdout.Write(pattern(0, 1000))
	e.Stderr.Write([]byte("short"))
	if err := e.Finish(boxlite.ExecResult{ExitCode: 7}); err != nil {
		t.Fatal(err)
	}
	e.Finish(boxlite.ExecResult{ExitCode: 8}) // too late
	e.Close()

	again, err := spool.Load(dir, limits)
	if err != nil || len(again) != 1 {
		t.Fatalf("Load = %d executions, %v", len(again), err)
	}
	defer again[0].Close()
	out, _ := again[0].Output(t.Context(), boxlite.OutputRequest{MaxBytes: 2000})
	if out.Exec.Result.ExitCode != 7 || !bytes.Equal(out.Stdout.Data, pattern(0, 1000)) || string(out.Stderr.Data) != "short" || !out.Stdout.EOF {
		t.Errorf("loaded: %+v, %d bytes, %q", out.Exec, len(out.Stdout.Data), out.Stderr.Data)
	}
	if err := again[0].Remove(); err != nil {
		t.Error(err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("%d entries left after Remove", len(left))
	}
}

func TestAnExecutionOfAKilledShimIsLostAndKeepsItsFiles(t *testing.T) {
	dir, limits := t.TempDir(), spool.Limits{Memory: 50, Segment: 64}
	e := newExecution(t, dir, limits)
	e.Stdout.Write(pattern(0, 1000))
	os.MkdirAll(filepath.Join(dir, "not-an-execution"), 0o700)
	again, err := spool.Load(dir, limits) // as after kill -9: nothing was finished
	if err != nil || len(again) != 1 {
		t.Fatalf("Load = %d executions, %v", len(again), err)
	}
	defer again[0].Close()
	out, _ := again[0].Output(t.Context(), boxlite.OutputRequest{MaxBytes: 2000})
	if out.Exec.Running || out.Exec.Result.Lost == "" {
		t.Errorf("an execution that cannot go on is %+v", out.Exec)
	}
	if out.Stdout.Dropped != 50 || !bytes.Equal(out.Stdout.Data, pattern(50, 950)) {
		t.Errorf("dropped %d, read %d bytes, want the 950 that were on disk", out.Stdout.Dropped, len(out.Stdout.Data))
	}
	if _, err := os.Stat(filepath.Join(dir, "not-an-execution")); err == nil {
		t.Error("what is not an execution is still there")
	}
}

func TestManyReadersAndOneWriter(t *testing.T) {
	e := newExecution(t, t.TempDir(), spool.Limits{Memory: 1000, Segment: 4096})
	const total = 200_000
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			var got []byte
			for {
				out, err := e.Output(t.Context(), boxlite.OutputRequest{StdoutOffset: int64(len(got)), MaxBytes: 3000, Wait: time.Minute})
				if err != nil {
					t.Error(err)
					return
				}
				got = append(got, out.Stdout.Data...)
				if out.Stdout.EOF {
					break
				}
			}
			if !bytes.Equal(got, pattern(0, total)) {
				t.Error("a reader got other bytes")
			}
		})
	}
	for at := 0; at < total; at += 500 {
		e.Stdout.Write(pattern(at, 500))
	}
	e.Stdout.CloseWrite()
	e.Stderr.CloseWrite()
	e.Finish(boxlite.ExecResult{})
	wg.Wait()
}

// A write that the disk takes a part of is counted once.
func TestAWriteThatFitsInPartIsCountedOnce(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting a small tmpfs needs root")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=8k"); err != nil {
		t.Skip("mount:", err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	s := spool.NewStream(dir, "stdout", spool.Limits{Memory: 1, Segment: 1 << 20})
	defer s.Close()
	s.Write(pattern(0, 20_000))
	data, dropped := readAll(t, s, 0, 1000)
	if end, _ := s.End(); end != 20_000 || int64(len(data))+dropped != end {
		t.Errorf("end %d, %d read, %d dropped", end, len(data), dropped)
	}
	if !bytes.Equal(data, pattern(0, len(data))) {
		t.Error("what was kept is not the start")
	}
}

func TestARecordCanBeReadWhileItIsWritten(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	info := boxlite.ExecInfo{ID: "aaaaaaaaaaaa-bbbbbbbb", Args: []string{string(bytes.Repeat([]byte("x"), 1<<20))}}
	e, err := spool.New(dir, info, spool.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for range 50 {
				if err := e.Save(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for range 200 {
		got, err := spool.Open(dir, info.ID, spool.Limits{})
		if err != nil {
			t.Error("between two records there was none:", err)
			break
		}
		got.Close()
	}
	wg.Wait()
}

func TestOnlyTheOwnerDeletesAndOnlyWhatIsNoExecution(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	begun := filepath.Join(dir, "aaaaaaaaaaaa-bbbbbbbb")      // by another process, this moment
	unreadable := filepath.Join(dir, "aaaaaaaaaaaa-cccccccc") // with too many files open, say
	for _, d := range []string{begun, filepath.Join(unreadable, "record.json")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := spool.Read(dir, spool.Limits{}); err != nil || len(got) != 0 {
		t.Errorf("Read: %v, %v", got, err)
	}
	if _, err := os.Stat(begun); err != nil {
		t.Error("reading deletes:", err)
	}
	if got, err := spool.Load(dir, spool.Limits{}); err != nil || len(got) != 0 {
		t.Errorf("Load: %v, %v", got, err)
	}
	if _, err := os.Stat(begun); err == nil {
		t.Error("what is no execution is still there")
	}
	if _, err := os.Stat(unreadable); err != nil {
		t.Error("what cannot be opened now is deleted:", err)
	}
}

func TestStreamsShareAPool(t *testing.T) {
	pool := &spool.Pool{Limit: 1000}
	limits := spool.Limits{Memory: 1, Segment: 100, Pool: pool}
	one, two := newExecution(t, t.TempDir(), limits), newExecution(t, t.TempDir(), limits)
	one.Stdout.Write(pattern(0, 5000))
	two.Stdout.Write(pattern(0, 5000)) // has nothing to give up
	if n := one.Size() + two.Size(); n > 1100 {
		t.Errorf("%d bytes on disk, the pool has 1000", n)
	}
	for _, e := range []*spool.Execution{one, two} {
		data, dropped := readAll(t, e.Stdout, 0, 64)
		if end, _ := e.Stdout.End(); end != 5000 || int64(len(data))+dropped != end {
			t.Errorf("end %d, %d read, %d dropped", end, len(data), dropped)
		}
	}
	if err := one.Remove(); err != nil {
		t.Fatal(err)
	}
	two.Stdout.Write(pattern(5000, 300))
	if data, _ := readAll(t, two.Stdout, 5000, 64); !bytes.Equal(data, pattern(5000, 300)) {
		t.Errorf("after the other is gone %d of 300 bytes are kept", len(data))
	}
}
