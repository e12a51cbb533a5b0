package gvisor_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/agent"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/engine"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/engine/gvisor"
)

// usable skips the test where the engine is not, and fails it in CI.
func usable(t testing.TB, e engine.Engine) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if r := e.Probe(ctx); !r.Usable {
		if os.Getenv("CI") == "true" {
			t.Fatalf("not usable: %s", r.Reason)
		}
		t.Skipf("not usable: %s", r.Reason)
	}
}

// newSpec returns a small machine in a fresh directory.
func newSpec(t testing.TB, dir string) engine.MachineSpec {
	t.Helper()
	spec := engine.MachineSpec{
		ID: boxlite.NewContainerID(), Dir: filepath.Join(dir, "machine"), Hostname: "gvisortest", CPUs: 1, Memory: 256 * boxlite.MiB,
		Base: os.Getenv(baseVar), Layer: filepath.Join(dir, "layer"), Agent: os.Getenv(agentVar), Log: filepath.Join(dir, "log"),
	}
	for _, d := range []string{spec.Dir, spec.Layer} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return spec
}

// start starts a machine, which ends with the test.
func start(t testing.TB, spec engine.MachineSpec) (engine.Machine, *agent.Client) {
	t.Helper()
	m, err := newEngine().Start(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	client, err := agent.NewClient(t.Context(), m.Control(), agent.Options{})
	if err != nil {
		m.Kill()
		<-m.Done()
		t.Fatalf("%v; %+v", err, m.Exit())
	}
	t.Cleanup(func() {
		m.Kill()
		<-m.Done()
		client.Close()
	})
	return m, client
}

// sh runs a script that must succeed.
func sh(t testing.TB, client *agent.Client, script string) string {
	t.Helper()
	var out bytes.Buffer
	x, err := client.Start(t.Context(), agent.ExecSpec{Args: []string{"/bin/sh", "-c", script}}, &out, &out)
	if err != nil {
		t.Fatal(err)
	}
	status, err := x.Wait(t.Context())
	if err != nil || status.Code != 0 {
		t.Fatalf("%s: %+v %v %s", script, status, err, out.Bytes())
	}
	<-x.Closed()
	return strings.TrimSpace(out.String())
}

func TestRefusesDamagedLayers(t *testing.T) {
	build(t)
	usable(t, newEngine())
	for name, damage := range map[string]func(dir string) error{
		"cut pages": func(dir string) error { return os.Truncate(filepath.Join(dir, "pages"), 4096) },
		"no tree":   func(dir string) error { return os.Remove(filepath.Join(dir, "tree")) },
		"no record": func(dir string) error { return os.Remove(filepath.Join(dir, "layer.json")) },
		"future": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "layer.json"), []byte(`{"format":2}`), 0o600)
		},
		"empty record":   func(dir string) error { return os.Truncate(filepath.Join(dir, "layer.json"), 0) },
		"other manifest": func(dir string) error { return scribble(filepath.Join(dir, "manifest")) },
		"other tree":     func(dir string) error { return scribble(filepath.Join(dir, "tree")) },
		"other pagemap":  func(dir string) error { return scribble(filepath.Join(dir, "pagemap")) },
	} {
		t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
			spec := newSpec(t, t.TempDir())
			m, client := start(t, spec)
			sh(t, client, "dd if=/dev/urandom of=/data bs=1M count=1 2>/dev/null")
			if err := m.Stop(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := damage(filepath.Join(spec.Layer, "000001")); err != nil {
				t.Fatal(err)
			}
			spec.ID = boxlite.NewContainerID()
			begin := time.Now()
			again, err := newEngine().Start(t.Context(), spec)
			if err == nil {
				again.Kill()
				<-again.Done()
				t.Fatal("it started")
			}
			if boxlite.KindOf(err) != boxlite.Engine || time.Since(begin) > 10*time.Second {
				t.Errorf("after %v: %v", time.Since(begin), err)
			}
			t.Log(err)
		})
	}
}

// scribble overwrites a file with as many other bytes.
func scribble(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	return os.WriteFile(path, bytes.Repeat([]byte{0xa5}, int(info.Size())), 0o600)
}

func TestInterruptedSavesAreForgotten(t *testing.T) {
	build(t)
	usable(t, newEngine())
	spec := newSpec(t, t.TempDir())
	m, client := start(t, spec)
	sh(t, client, "echo first > /file")
	for range 2 {
		if err := m.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	m.Kill()
	<-m.Done()
	half := filepath.Join(spec.Layer, "new-123") // a save that the host's death interrupted
	old := filepath.Join(spec.Layer, "000001")   // and one that it kept from tidying up
	for _, dir := range []string{half, old} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "manifest"), []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	spec.ID = boxlite.NewContainerID()
	_, client = start(t, spec)
	if got := sh(t, client, "cat /file"); got != "first" {
		t.Errorf("got %q", got)
	}
	entries, _ := os.ReadDir(spec.Layer)
	if len(entries) != 1 || entries[0].Name() != "000002" {
		t.Errorf("the layer holds %v", entries)
	}
}

func TestLongPaths(t *testing.T) {
	build(t)
	usable(t, newEngine())
	spec := newSpec(t, filepath.Join(t.TempDir(), strings.Repeat("a-long-name-of-a-home/", 12)))
	m, client := start(t, spec)
	if got := sh(t, client, "echo hi"); got != "hi" {
		t.Errorf("got %q", got)
	}
	if err := m.Stop(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestProbeSaysWhatIsMissing(t *testing.T) {
	build(t)
	private := filepath.Join(t.TempDir(), "boxlite-sandbox")
	if err := os.WriteFile(private, []byte("#!/bin/false\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, opts := range map[string]gvisor.Options{
		"no sandbox":             {Sandbox: "/nonexistent/boxlite-sandbox", Agent: os.Getenv(agentVar)},
		"no agent":               {Sandbox: os.Getenv(sandboxVar), Agent: "/nonexistent/agent"},
		"unset":                  {},
		"not executable":         {Sandbox: private, Agent: os.Getenv(agentVar)},
		"agent is none":          {Sandbox: os.Getenv(sandboxVar), Agent: "/bin/true"},
		"sandbox is another one": {Sandbox: "/bin/true", Agent: os.Getenv(agentVar)},
	} {
		begin := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		r := gvisor.New(opts).Probe(ctx)
		cancel()
		if r.Usable || r.Reason == "" || r.Hint == "" || strings.Contains(r.Reason, "\n") || time.Since(begin) > 10*time.Second {
			t.Errorf("%s: after %v: %+v", name, time.Since(begin), r)
		}
		t.Logf("%s: %s | %s", name, r.Reason, r.Hint)
	}
}

// TestProbeWithoutUserNamespaces runs a copy of the test program where none can
// be made.
func TestProbeWithoutUserNamespaces(t *testing.T) {
	build(t)
	usable(t, newEngine())
	cmd := exec.Command(os.Args[0], "-test.run=^TestProbeHere$", "-test.v")
	cmd.Env = append(os.Environ(), "GVISORTEST_CONFINED=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}},
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Logf("%s", out)
}

// TestProbeHere is the copy's part.
func TestProbeHere(t *testing.T) {
	if os.Getenv("GVISORTEST_CONFINED") == "" {
		return // this is no copy
	}
	if err := os.WriteFile("/proc/sys/user/max_user_namespaces", []byte("0"), 0); err != nil {
		t.Skip(err)
	}
	r := newEngine().Probe(t.Context())
	if r.Usable || !strings.Contains(r.Reason, "user namespaces") || !strings.Contains(r.Hint, "max_user_namespaces") {
		t.Errorf("%+v", r)
	}
}

// TestNICCarriesFrames has the guest ask for its gateway's address, and answers
// as the gateway.
func TestNICCarriesFrames(t *testing.T) {
	build(t)
	usable(t, newEngine())
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	host := os.NewFile(uintptr(fds[0]), "host")
	defer host.Close()
	wire, err := net.FilePacketConn(host)
	if err != nil {
		t.Fatal(err)
	}
	defer wire.Close()
	spec := newSpec(t, t.TempDir())
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	spec.NIC = &engine.NIC{
		Socket: os.NewFile(uintptr(fds[1]), "guest"), MAC: mac, MTU: 9000,
		Address: netip.MustParsePrefix("10.11.12.2/24"), Gateway: netip.MustParseAddr("10.11.12.1"),
	}
	_, client := start(t, spec)
	if got := sh(t, client, "tail -n +3 /proc/net/dev | awk -F: '{print $1}' | tr -d ' ' | sort"); got != "eth0\nlo" {
		t.Errorf("interfaces: %q", got)
	}
	sh(t, client, "nc -w 1 192.0.2.1 80 < /dev/null > /dev/null 2>&1 &") // makes the guest look for its gateway
	wire.SetReadDeadline(time.Now().Add(10 * time.Second))
	frame := make([]byte, 16<<10)
	for {
		n, _, err := wire.ReadFrom(frame)
		if err != nil {
			t.Fatalf("no ARP request from the guest: %v", err)
		}
		if n >= 42 && binary.BigEndian.Uint16(frame[12:]) == 0x0806 {
			break
		}
	}
	if got := fmt.Sprint(net.HardwareAddr(frame[6:12]), net.IP(frame[28:32]), net.IP(frame[38:42])); got != mac.String()+" 10.11.12.2 10.11.12.1" {
		t.Errorf("the guest asked %s", got)
	}
}

// TestWatchdogKeepsItsWord measures how far past its limit a machine gets.
func TestWatchdogKeepsItsWord(t *testing.T) {
	build(t)
	t.Setenv(noCgroupsVar, "1")
	e := newEngine()
	r := e.Probe(t.Context())
	if r.Overshoot == 0 || r.HardMemoryLimit {
		t.Skipf("no watchdog here: %+v", r)
	}
	spec := newSpec(t, t.TempDir())
	var words bytes.Buffer
	spec.Logger = slog.New(slog.NewJSONHandler(&words, nil))
	m, client := start(t, spec)
	if _, err := client.Start(t.Context(), agent.ExecSpec{Args: []string{"/bin/tool", "eat", "8000"}}, nil, nil); err != nil {
		t.Fatal(err)
	}
	select {
	case <-m.Done():
	case <-time.After(20 * time.Second):
		t.Fatal("a machine of 256 MiB uses 8 GiB")
	}
	var word struct{ Bytes, Limit boxlite.Bytes }
	if err := json.Unmarshal(words.Bytes(), &word); err != nil || !m.Exit().OOM {
		t.Fatalf("%v; %+v; %s", err, m.Exit(), words.Bytes())
	}
	t.Logf("ended at %v, with a limit of %v", word.Bytes, word.Limit)
	if word.Bytes > word.Limit+r.Overshoot {
		t.Errorf("%v past its limit, %v was promised", word.Bytes-word.Limit, r.Overshoot)
	}
}

func BenchmarkStart(b *testing.B) {
	build(b)
	usable(b, newEngine())
	dir := b.TempDir()
	for b.Loop() {
		spec := newSpec(b, dir)
		m, client := start(b, spec)
		if got := sh(b, client, "echo hi"); got != "hi" {
			b.Fatal(got)
		}
		b.StopTimer()
		m.Kill()
		<-m.Done()
		b.StartTimer()
	}
}

// BenchmarkSync saves a layer of 2,000 small files and 50 MB.
func BenchmarkSync(b *testing.B) {
	build(b)
	usable(b, newEngine())
	m, client := start(b, newSpec(b, b.TempDir()))
	sh(b, client, "mkdir /many; cd /many; for i in $(seq 2000); do echo $i > f$i; done; dd if=/dev/urandom of=/big bs=1M count=50 2>/dev/null")
	for b.Loop() {
		if err := m.Sync(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}
