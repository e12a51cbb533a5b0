package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/boxlite-mcp/boxlite-mcp/egress/gateway"
	"github.com/boxlite-mcp/boxlite-mcp/egress/gateway/guesttest"
	"github.com/boxlite-mcp/boxlite-mcp/egress/gateway/link"
	"github.com/boxlite-mcp/boxlite-mcp/internal/testcert"
)

// benchHost is the name of the host that guests connect to.
const benchHost = "host.bench.test"

// measureNetwork compares our gateway with gvisor-tap-vsock: each a process with
// one guest, which is a stack in this process, and a host on loopback. Then what
// reading a connection costs, against passing it on.
func measureNetwork(ctx context.Context, s *setting, r *report) (err error) {
	r.chapter("network", "gateways alone in a process each, a guest's stack in this one, a host on loopback; by turns")
	programs, err := buildGateways(ctx, s.dir)
	if err != nil {
		return err
	}
	host, err := newBenchHost()
	if err != nil {
		return err
	}
	defer host.Close()
	ours, err := startLink(ctx, programs.ours, guesttest.Address{MAC: gateway.BoxMAC(), Prefix: gateway.BoxAddress, Gateway: gateway.Address}, "-static", benchHost+"="+host.addr.String())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, ours.close()) }()
	addr, err := ours.guest.Lookup(benchHost)
	if err != nil {
		return fmt.Errorf("look up the host: %w", err)
	}
	ours.to = netip.AddrPortFrom(addr, 80)
	tap, err := startLink(ctx, programs.tap, guesttest.Address{
		MAC: net.HardwareAddr{0x5a, 0x94, 0xef, 0xe4, 0x0c, 0xee}, Prefix: netip.MustParsePrefix("192.168.127.2/24"), Gateway: netip.MustParseAddr("192.168.127.1"),
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, tap.close()) }()
	tap.to = netip.AddrPortFrom(netip.MustParseAddr("192.168.127.254"), host.addr.Port())
	if err := compareLinks(s, r, ours, tap); err != nil {
		return err
	}
	return measureReading(ctx, s, r, programs.ours)
}

type gatewayPrograms struct{ ours, tap string }

// buildGateways builds both gateways, as both are built: without cgo, stripped of
// nothing.
func buildGateways(ctx context.Context, dir string) (p gatewayPrograms, err error) {
	p = gatewayPrograms{filepath.Join(dir, "gateway"), filepath.Join(dir, "tapvsock")}
	root, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "github.com/boxlite-mcp/boxlite-mcp").Output()
	if err != nil {
		return p, fmt.Errorf("find the module: %w", err)
	}
	for _, b := range []struct{ dir, out string }{{"internal/bench/gateway", p.ours}, {"internal/bench/tapvsock", p.tap}} {
		cmd := exec.CommandContext(ctx, "go", "build", "-o", b.out, ".")
		cmd.Dir = filepath.Join(string(root[:len(root)-1]), b.dir)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return p, fmt.Errorf("build %s: %w: %s", b.dir, err, out)
		}
	}
	return p, nil
}

// A netLink is a gateway's process and the guest on it.
type netLink struct {
	cmd   *exec.Cmd
	stdin io.Closer
	guest *guesttest.Guest
	to    netip.AddrPort // the host, as the guest sees it
}

func startLink(ctx context.Context, program string, at guesttest.Address, args ...string) (*netLink, error) {
	theirs, ours, err := link.Pair()
	if err != nil {
		return nil, err
	}
	l := &netLink{cmd: exec.CommandContext(ctx, program, args...)}
	l.cmd.ExtraFiles, l.cmd.Stderr = []*os.File{theirs}, os.Stderr
	l.stdin, err = l.cmd.StdinPipe()
	if err == nil {
		err = l.cmd.Start()
	}
	theirs.Close()
	if err != nil {
		ours.Close()
		return nil, err
	}
	if l.guest, err = guesttest.Open(ours, at); err != nil {
		return nil, errors.Join(err, l.cmd.Process.Kill(), l.cmd.Wait())
	}
	return l, nil
}

func (l *netLink) close() error {
	l.guest.Close()
	l.stdin.Close()
	timer := time.AfterFunc(5*time.Second, func() { _ = l.cmd.Process.Kill() })
	defer timer.Stop()
	var exit *exec.ExitError
	if err := l.cmd.Wait(); err != nil && !errors.As(err, &exit) {
		return err
	}
	return nil
}

// dial opens a connection to the host, which does what the first byte says.
func (l *netLink) dial(what byte) (net.Conn, error) {
	c, err := l.guest.Dial(l.to)
	if err != nil {
		return nil, err
	}
	_, err = c.Write([]byte{what})
	return c, err
}

// What a benchHost does with a connection.
const (
	sink  = 'S' // reads it to the end, and says so with one byte
	flood = 'F' // sends without an end
	echo  = 'E' // answers each byte with itself
)

type benchHostServer struct {
	net.Listener
	addr netip.AddrPort
}

func newBenchHost() (*benchHostServer, error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0") //nolint:noctx // it is closed
	if err != nil {
		return nil, err
	}
	h := &benchHostServer{l, netip.MustParseAddrPort(l.Addr().String())}
	go func() { // ends with the listener
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go h.serve(c)
		}
	}()
	return h, nil
}

func (h *benchHostServer) serve(c net.Conn) {
	defer c.Close()
	var what [1]byte
	if _, err := io.ReadFull(c, what[:]); err != nil {
		return
	}
	switch what[0] {
	case sink:
		_, _ = io.Copy(io.Discard, c)
		_, _ = c.Write(what[:])
	case flood:
		block := make([]byte, 1<<20)
		for {
			if _, err := c.Write(block); err != nil {
				return
			}
		}
	default:
		_, _ = io.Copy(c, c)
	}
}

// compareLinks measures both by turns.
func compareLinks(s *setting, r *report, ours, tap *netLink) error {
	bytes, turns := int64(256<<20), 7
	if s.quick {
		bytes, turns = 4<<20, 1
	}
	for _, m := range []struct {
		name, unit string
		run        func(*netLink) (float64, error)
		time       bool // less is better
	}{
		{"connect and close", "µs", func(l *netLink) (float64, error) { return connects(l, s.times(200)) }, true},
		{"a byte there and back", "µs", func(l *netLink) (float64, error) { return pingPong(l, s.times(2000)) }, true},
		{"from the box", "MB/s", func(l *netLink) (float64, error) { return upload(l, bytes) }, false},
		{"to the box", "MB/s", func(l *netLink) (float64, error) { return download(l, bytes) }, false},
	} {
		var a, b series
		for range turns {
			for _, side := range []struct {
				l   *netLink
				out *series
			}{{ours, &a}, {tap, &b}} {
				v, err := m.run(side.l)
				if err != nil {
					return fmt.Errorf("%s: %w", m.name, err)
				}
				*side.out = append(*side.out, v)
			}
		}
		r.add(result{name: m.name + ", ours", unit: m.unit, values: a})
		r.add(result{name: m.name + ", gvisor-tap-vsock", unit: m.unit, values: b})
		ratio := over(a, b)
		if !m.time {
			ratio = over(b, a)
		}
		r.add(result{name: m.name + ", our time / theirs", unit: "×", values: ratio, below: 1.05})
	}
	for _, side := range []struct {
		name string
		l    *netLink
	}{{"ours", ours}, {"gvisor-tap-vsock", tap}} {
		used, err := peak(side.l.cmd.Process.Pid)
		if err != nil {
			return err
		}
		r.add(result{name: "peak of memory, " + side.name, unit: "MB", values: series{mb(used)}})
	}
	return nil
}

func connects(l *netLink, n int) (float64, error) {
	begun := time.Now()
	for range n {
		c, err := l.guest.Dial(l.to)
		if err != nil {
			return 0, err
		}
		c.Close()
	}
	return float64(time.Since(begun).Microseconds()) / float64(n), nil
}

func pingPong(l *netLink, n int) (float64, error) {
	c, err := l.dial(echo)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	b := make([]byte, 1)
	begun := time.Now()
	for range n {
		if _, err := c.Write(b); err != nil {
			return 0, err
		}
		if _, err := io.ReadFull(c, b); err != nil {
			return 0, err
		}
	}
	return float64(time.Since(begun).Microseconds()) / float64(n), nil
}

func upload(l *netLink, n int64) (float64, error) {
	c, err := l.dial(sink)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	begun := time.Now()
	if _, err := io.CopyN(c, zeros{}, n); err != nil {
		return 0, err
	}
	if hc, ok := c.(interface{ CloseWrite() error }); ok {
		err = hc.CloseWrite()
	}
	if _, rerr := io.ReadFull(c, make([]byte, 1)); err != nil || rerr != nil {
		return 0, errors.Join(err, rerr)
	}
	return float64(n) / 1e6 / time.Since(begun).Seconds(), nil
}

func download(l *netLink, n int64) (float64, error) {
	c, err := l.dial(flood)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	begun := time.Now()
	_, err = io.CopyN(io.Discard, c, n)
	return float64(n) / 1e6 / time.Since(begun).Seconds(), err
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { return len(b), nil }

// measureReading compares requests that are read on their way with those that
// are passed on, TLS in both cases.
func measureReading(ctx context.Context, s *setting, r *report, program string) (err error) {
	cert, authority, err := testcert.New(benchHost)
	if err != nil {
		return err
	}
	size := int64(1 << 30)
	if s.quick {
		size = 4 << 20
	}
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/large" {
			_, _ = io.CopyN(w, zeros{}, size)
			return
		}
		fmt.Fprint(w, "small")
	}))
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}
	srv.StartTLS()
	defer srv.Close()
	roots, ca := filepath.Join(s.dir, "roots.pem"), filepath.Join(s.dir, "authority.pem")
	if err := os.WriteFile(roots, authority, 0o600); err != nil {
		return err
	}
	static := benchHost + "=" + srv.Listener.Addr().String()
	at := guesttest.Address{MAC: gateway.BoxMAC(), Prefix: gateway.BoxAddress, Gateway: gateway.Address}
	spliced, err := startLink(ctx, program, at, "-static", static)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, spliced.close()) }()
	read, err := startLink(ctx, program, at, "-static", static, "-roots", roots, "-authority", ca)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, read.close()) }()
	if _, err := read.guest.Lookup(benchHost); err != nil { // it is up, and has written its authority
		return err
	}
	readCA, err := os.ReadFile(ca)
	if err != nil {
		return err
	}
	clients := map[*netLink]*http.Client{spliced: client(spliced, authority), read: client(read, readCA)}
	defer clients[spliced].CloseIdleConnections()
	defer clients[read].CloseIdleConnections()
	var small, large [2]series
	for range s.times(5) {
		for i, l := range []*netLink{spliced, read} {
			v, err := requests(clients[l], s.times(300))
			if err != nil {
				return err
			}
			small[i] = append(small[i], v)
		}
	}
	for range s.times(3) {
		for i, l := range []*netLink{spliced, read} {
			begun := time.Now()
			n, err := get(clients[l], "/large")
			if err != nil || n != size {
				return fmt.Errorf("%d bytes of %d: %w", n, size, err)
			}
			large[i] = append(large[i], float64(n)/1e6/time.Since(begun).Seconds())
		}
	}
	r.add(result{name: "small request, passed on", unit: "µs", values: small[0]})
	r.add(result{name: "small request, read", unit: "µs", values: small[1]})
	r.add(result{name: "small request, read / passed on", unit: "×", values: over(small[1], small[0])})
	r.add(result{name: fmt.Sprintf("%d MiB, passed on", size>>20), unit: "MB/s", values: large[0]})
	r.add(result{name: fmt.Sprintf("%d MiB, read and searched", size>>20), unit: "MB/s", values: large[1]})
	r.add(result{name: "large body, time read / passed on", unit: "×", values: over(large[0], large[1])})
	return nil
}

func client(l *netLink, authority []byte) *http.Client {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(authority)
	return &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12},
		DialContext: func(context.Context, string, string) (net.Conn, error) {
			return l.guest.DialName(benchHost, 443)
		},
	}}
}

func requests(c *http.Client, n int) (float64, error) {
	begun := time.Now()
	for range n {
		if _, err := get(c, "/small"); err != nil {
			return 0, err
		}
	}
	return float64(time.Since(begun).Microseconds()) / float64(n), nil
}

func get(c *http.Client, path string) (int64, error) {
	resp, err := c.Get("https://" + benchHost + path) //nolint:noctx // it ends with its gateway
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	return io.Copy(io.Discard, bufio.NewReaderSize(resp.Body, 64<<10))
}
