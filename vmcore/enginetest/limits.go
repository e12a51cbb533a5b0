package enginetest

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/engine"
)

func (s *suite) layerSurvivesStop(t *testing.T) {
	spec := s.spec(t)
	b := s.start(t, spec)
	b.sh("mkdir /kinds && tool make /kinds")
	b.sh("tool check /kinds")
	b.stop(s.cfg.Patience)
	for range 2 { // twice: what is read back must be written again as it was
		b = s.start(t, spec)
		b.sh("tool check /kinds")
		b.stop(s.cfg.Patience)
	}
}

func (s *suite) layerSurvivesCrash(t *testing.T) {
	spec := s.spec(t)
	b := s.start(t, spec)
	b.sh("mkdir /kinds && tool make /kinds && dd if=/dev/urandom of=/data bs=1M count=8 2>/dev/null")
	sum := b.sh("md5sum /data")
	if err := b.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.sh("cp -a /base /more && dd if=/dev/urandom of=/later bs=1M count=8 2>/dev/null") // may be lost
	b.Kill()
	b.ended(2 * time.Second)
	b = s.start(t, spec)
	b.sh("tool check /kinds")
	if got := b.sh("md5sum /data"); got != sum {
		t.Errorf("the data are %q, were %q", got, sum)
	}
}

func (s *suite) syncsUnderLoad(t *testing.T) {
	spec := s.spec(t)
	b := s.start(t, spec)
	b.sh("(while true; do i=$((i+1)); echo $i > /counter.new; mv /counter.new /counter; done) > /dev/null 2>&1 & until test -f /counter; do sleep 0.02; done")
	for range 5 {
		if err := b.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	live := b.sh("cat /counter")
	b.Kill()
	b.ended(2 * time.Second)
	b = s.start(t, spec)
	synced, err := strconv.Atoi(b.sh("cat /counter"))
	if now, _ := strconv.Atoi(live); err != nil || synced < 1 || synced > now {
		t.Errorf("the counter was synced as %d, seen as %q (%v)", synced, live, err)
	}
}

func (s *suite) diskIsLimited(t *testing.T) {
	spec := s.spec(t)
	spec.DiskSize = 64 * boxlite.MiB
	b := s.start(t, spec)
	out, status, err := b.run(t.Context(), "dd if=/dev/zero of=/fill bs=1M count=200 && echo full")
	if err != nil || status.Code == 0 || !strings.Contains(out, "No space left on device") {
		t.Errorf("filling the disk: %q %+v %v", out, status, err)
	}
	b.sh("ls -l /fill; rm /fill; dd if=/dev/zero of=/fits bs=1M count=30 2>/dev/null; echo ok")
	usage, err := b.Usage()
	if err != nil || usage.Disk > spec.DiskSize+16*boxlite.MiB {
		t.Errorf("usage: %+v (%v)", usage, err)
	}
	b.sh("dd if=/dev/zero of=/fill bs=1M count=200 2>/dev/null || true") // full to the brim
	b.stop(s.cfg.Patience)
	b = s.start(t, spec)
	b.sh("rm /fill && echo fits > /again")
}

// diskIsNotMemory writes a file larger than the machine's memory, saves it and
// reads it back in another life.
func (s *suite) diskIsNotMemory(t *testing.T) {
	spec := s.spec(t)
	spec.Memory = 128 * boxlite.MiB
	b := s.start(t, spec)
	b.sh("dd if=/dev/zero bs=1M count=300 2>/dev/null | tr '\\0' 'x' > /large")
	if err := b.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.stop(s.cfg.Patience)
	b = s.start(t, spec)
	if got := b.sh("tr -d 'x' < /large | wc -c; wc -c < /large"); got != "0\n314572800" {
		t.Errorf("other bytes, and bytes: %q", got)
	}
}

func (s *suite) memoryIsLimited(t *testing.T) {
	spec := s.spec(t)
	spec.Memory = 128 * boxlite.MiB
	b := s.start(t, spec)
	b.sh("tool eat 64")
	begin := time.Now()
	out, status, err := b.run(t.Context(), "tool eat 4000")
	if strings.Contains(out, "full") {
		t.Fatalf("a machine of %d bytes had 4000 MiB", spec.Memory)
	}
	t.Logf("after %v: %q %+v %v", time.Since(begin), out, status, err)
	if err == nil { // a kernel of its own ends the program
		b.sh("echo alive")
		return
	}
	b.ended(5 * time.Second)
	if exit := b.Exit(); !exit.OOM || exit.Clean || exit.Reason != "out of memory" {
		t.Errorf("exit: %+v", exit)
	}
	b.leftNothing()
	s.start(t, spec).sh("echo again")
}

func (s *suite) processesAreLimited(t *testing.T) {
	spec := s.spec(t)
	spec.Processes = 64
	b := s.start(t, spec)
	out, status, err := b.run(t.Context(), "tool fork 200")
	if err != nil || status.Code == 0 || strings.Contains(out, "forked") {
		t.Errorf("200 processes where 64 may be: %q %+v %v", out, status, err)
	}
	b.sh("tool fork 20")
}

func (s *suite) guestSeesItsSize(t *testing.T) {
	spec := s.spec(t)
	spec.CPUs, spec.Memory = 2, 300*boxlite.MiB
	b := s.start(t, spec)
	if got := b.sh("nproc"); got != "2" {
		t.Errorf("nproc: %s", got)
	}
	kib, err := strconv.Atoi(b.sh("awk '/MemTotal/ {print $2}' /proc/meminfo"))
	if want := int(spec.Memory / boxlite.KiB); err != nil || kib > want || kib < want*3/4 {
		t.Errorf("MemTotal: %d KiB, want about %d (%v)", kib, want, err)
	}
	disk, err := strconv.Atoi(b.sh("df -k / | tail -1 | awk '{print $2}'"))
	if want := int(spec.DiskSize / boxlite.KiB); err != nil || disk > want*11/10 || disk < want*8/10 {
		t.Errorf("disk: %d KiB, want about %d (%v)", disk, want, err)
	}
}

func (s *suite) hasNoNetwork(t *testing.T) {
	listener, err := net.Listen("tcp", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	b := s.start(t, s.spec(t))
	if got := b.sh("tail -n +3 /proc/net/dev | awk -F: '{print $1}' | tr -d ' '"); got != "lo" {
		t.Errorf("interfaces: %q", got)
	}
	addresses := []string{"127.0.0.1", "192.0.2.1", "169.254.169.254"}
	if all, err := net.InterfaceAddrs(); err == nil {
		for _, a := range all {
			if ip, ok := a.(*net.IPNet); ok && ip.IP.To4() != nil {
				addresses = append(addresses, ip.IP.String())
			}
		}
	}
	for _, a := range addresses {
		if out, _, err := b.run(t.Context(), "tool dial "+net.JoinHostPort(a, port)); err != nil || strings.Contains(out, "connected") {
			t.Errorf("dial %s: %q (%v)", a, out, err)
		}
	}
	b.sh("nc -l -p 7 < /dev/null & sleep 0.3; tool dial 127.0.0.1:7") // the loopback works
}

func (s *suite) isIsolated(t *testing.T) {
	marker := filepath.Join(t.TempDir(), "of-the-host")
	if err := os.WriteFile(marker, []byte("secret"), 0o644); err != nil {
		t.Fatal(err)
	}
	b := s.start(t, s.spec(t))
	attempts := []string{
		"cat " + marker,
		"cat /proc/1/root" + marker,
		"ls " + b.spec.Dir,
		"ls " + b.spec.Layer,
		fmt.Sprintf("test -d /proc/%d && grep -q . /proc/%d/cmdline", os.Getpid(), os.Getpid()),
	}
	if s.report.RealKernel { // gVisor lets root end the init of its PID namespace, and with it the machine
		attempts = append(attempts, "kill -9 1; sleep 0.1; false",
			"mknod /memory c 1 1 && dd if=/memory bs=1 count=1", "mknod /disk b 254 16 && dd if=/disk bs=1 count=1", "mknod /dev/memory c 1 1")
	}
	for _, script := range attempts {
		if out, status, err := b.run(t.Context(), script); err != nil || status.Code == 0 {
			t.Errorf("%s: %q %+v (%v)", script, out, status, err)
		}
	}
	if n, err := strconv.Atoi(b.sh("ls /proc | grep -c '^[0-9]'")); err != nil || n > 10 {
		t.Errorf("%d processes seen (%v)", n, err)
	}
	host, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if guest, _, _ := b.run(t.Context(), "cat /proc/sys/kernel/random/boot_id"); strings.TrimSpace(guest) == strings.TrimSpace(string(host)) {
		t.Errorf("the guest sees the host's boot id")
	}
	for _, pid := range tree(b.PID()) {
		checkJailed(t, pid)
	}
}

// checkJailed sees that a process of the machine can gain nothing on the host.
func checkJailed(t *testing.T, pid int) {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return // it has ended
	}
	for line := range strings.Lines(string(status)) {
		if name, value, _ := strings.Cut(strings.TrimSpace(line), ":"); name == "NoNewPrivs" && strings.TrimSpace(value) != "1" {
			t.Errorf("process %d: %s", pid, line)
		}
	}
}

func (s *suite) measuresUsage(t *testing.T) {
	b := s.start(t, s.spec(t))
	before := b.usage()
	b.sh("tool burn 1s; dd if=/dev/urandom of=/data bs=1M count=32 2>/dev/null; sync")
	after := b.usage()
	t.Logf("before %+v, after %+v", before, after)
	if used := after.CPU - before.CPU; used < 500*time.Millisecond || used > 30*time.Second {
		t.Errorf("CPU: %v for a second of work", used)
	}
	if before.Memory < boxlite.MiB || before.Memory > b.spec.Memory {
		t.Errorf("memory at rest: %d", before.Memory)
	}
	if grown := after.Disk - before.Disk; grown < 31*boxlite.MiB || grown > 100*boxlite.MiB {
		t.Errorf("disk: %d for 32 MiB written", grown)
	}
}

func (b *box) usage() engine.Usage {
	b.t.Helper()
	u, err := b.Usage()
	if err != nil {
		b.t.Fatal(err)
	}
	return u
}

func (s *suite) pausesAndResumes(t *testing.T) {
	b := s.start(t, s.spec(t))
	p, ok := b.Machine.(engine.Pauser)
	if !ok {
		t.Skip("the engine cannot pause")
	}
	b.sh("(while true; do date +%s%N > /clock.new; mv /clock.new /clock; done) > /dev/null 2>&1 &")
	if err := p.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	answer := make(chan string, 1)
	go func() { // ends with the command, which resuming lets go on
		out, _, err := b.run(t.Context(), "echo awake")
		answer <- fmt.Sprint(out, err)
	}()
	before := b.usage().CPU
	select {
	case got := <-answer:
		t.Errorf("a paused machine answers %q", got)
	case <-time.After(500 * time.Millisecond):
	}
	if used := b.usage().CPU - before; used > 200*time.Millisecond {
		t.Errorf("a paused machine used %v", used)
	}
	if err := b.Sync(t.Context()); err != nil {
		t.Errorf("sync while paused: %v", err)
	}
	if err := p.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	select {
	case got := <-answer:
		if got != "awake\n<nil>" {
			t.Errorf("got %q", got)
		}
	case <-time.After(s.cfg.Patience):
		t.Error("the machine sleeps on")
	}
	if err := p.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.stop(s.cfg.Patience) // from a pause
}
