package intercept_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/netip"
	"net/textproto"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/egress"
	"github.com/boxlite-mcp/boxlite-mcp/egress/gateway"
	"github.com/boxlite-mcp/boxlite-mcp/egress/gateway/guesttest"
	"github.com/boxlite-mcp/boxlite-mcp/egress/gateway/link"
	"github.com/boxlite-mcp/boxlite-mcp/egress/intercept"
	"github.com/boxlite-mcp/boxlite-mcp/egress/policy"
	"github.com/boxlite-mcp/boxlite-mcp/secrets"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	realValue = "sk-REAL-0123456789abcdef"
	ph        = "<BOXLITE_SECRET:key>"
)

// A world is a host with a certificate, a gateway that reads connections to it,
// and a guest that trusts the box's authority.
type world struct {
	*testing.T
	host  *httptest.Server
	gw    *gateway.Gateway
	i     *intercept.Interceptor
	guest *guesttest.Guest
	roots *x509.CertPool // of the box

	mu     sync.Mutex
	events map[uint64]boxlite.NetworkEvent // guarded by mu
	hosts  []string                        // guarded by mu; raw requests that the host got: "METHOD path host"
}

type setting struct {
	allow   []string
	secrets []boxlite.Secret
	h1      bool // the host speaks HTTP/1.1 only
	trust   bool // false: the host's certificate does not verify
	config  *tls.Config
}

func newWorld(t *testing.T, s setting, handler http.HandlerFunc) *world {
	t.Helper()
	w := &world{T: t, events: map[uint64]boxlite.NetworkEvent{}}
	w.host = httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.mu.Lock()
		w.hosts = append(w.hosts, r.Method+" "+r.RequestURI+" "+r.Host)
		w.mu.Unlock()
		handler(rw, r)
	}))
	w.host.EnableHTTP2 = !s.h1
	w.host.TLS = s.config
	w.host.StartTLS()
	t.Cleanup(w.host.Close)
	access, err := policy.ParseAccess(s.allow)
	if err != nil {
		t.Fatal(err)
	}
	set, err := secrets.NewSet(s.secrets)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := intercept.NewAuthority("boxlite-mcp test")
	if err != nil {
		t.Fatal(err)
	}
	hostRoots := x509.NewCertPool()
	if s.trust {
		hostRoots.AddCert(w.host.Certificate())
	}
	w.i = intercept.New(intercept.Config{Authority: ca, Secrets: set, RootCAs: hostRoots})
	to := netip.MustParseAddrPort(w.host.Listener.Addr().String())
	p, err := policy.New(policy.Config{Access: access, Own: func() ([]netip.Prefix, error) { return nil, nil }, BoxNets: []netip.Prefix{gateway.BoxNet},
		Static: []policy.Static{{Host: "example.com", To: to}, {Host: "other.test", To: to}}})
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs, err := link.Pair()
	if err != nil {
		t.Fatal(err)
	}
	w.gw, err = gateway.New(gateway.Config{Box: "box", Policy: p, Interceptor: w.i, Record: func(e boxlite.NetworkEvent) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.events[e.Seq] = e
	}}, ours)
	if err != nil {
		t.Fatal(err)
	}
	w.guest = guesttest.New(t, theirs)
	t.Cleanup(func() { w.gw.Close() })
	w.roots = x509.NewCertPool()
	w.roots.AppendCertsFromPEM(ca.PEM())
	return w
}

var key = boxlite.Secret{Name: "key", Hosts: []string{"example.com"}, Value: boxlite.NewSecretValue(realValue)}

// client is a program in the box. h2 says which protocol it prefers.
func (w *world) client(h2 bool) *http.Client {
	t := &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: w.roots}, ForceAttemptHTTP2: h2, DisableCompression: true,
		DialContext: func(_ context.Context, _, addr string) (net.Conn, error) {
			host, port, _ := net.SplitHostPort(addr)
			p := uint16(443)
			if port == "80" {
				p = 80
			}
			return w.guest.DialName(host, p)
		},
	}
	w.Cleanup(t.CloseIdleConnections)
	return &http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// An answer is the head of one, and its trailer.
type answer struct {
	StatusCode, ProtoMajor int
	Proto                  string
	Header, Trailer        http.Header
}

// do makes a request and returns the answer with its body read.
func (w *world) do(c *http.Client, method, url, body string, headers ...string) (answer, string) {
	w.Helper()
	r, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		w.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	resp, err := c.Do(r)
	if err != nil {
		w.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		w.Fatal(err)
	}
	return answer{resp.StatusCode, resp.ProtoMajor, resp.Proto, resp.Header, resp.Trailer}, string(b)
}

// event returns the record that matches, once it is complete.
func (w *world) event(match func(boxlite.NetworkEvent) bool) boxlite.NetworkEvent {
	w.Helper()
	for began := time.Now(); time.Since(began) < 5*time.Second; time.Sleep(2 * time.Millisecond) {
		w.mu.Lock()
		for _, e := range w.events {
			if !e.Open && match(e) {
				w.mu.Unlock()
				return e
			}
		}
		w.mu.Unlock()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.Fatalf("no such record among %+v", w.events)
	return boxlite.NetworkEvent{}
}

// reached returns what the host was asked.
func (w *world) reached() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Join(w.hosts, "\n")
}

// never fails the test if the value is in what a box, a log or an agent sees.
func (w *world) never(texts ...string) {
	w.Helper()
	w.mu.Lock()
	texts = append(texts, fmt.Sprintf("%+v", w.events))
	w.mu.Unlock()
	for _, s := range texts {
		if strings.Contains(s, "REAL") {
			w.Errorf("the value is in %q", s)
		}
	}
}

func TestSecretGoesOutAndDoesNotComeBack(t *testing.T) {
	for _, box := range []bool{false, true} {
		for _, h1 := range []bool{false, true} {
			t.Run(fmt.Sprintf("box h2=%v, host h2=%v", box, !h1), func(t *testing.T) {
				w := newWorld(t, setting{allow: []string{"example.com"}, secrets: []boxlite.Secret{key}, h1: h1, trust: true}, func(rw http.ResponseWriter, r *http.Request) {
					rw.Header().Set("X-Echo", r.Header.Get("Authorization"))
					rw.Header().Set("Alt-Svc", `h3=":443"`)
					rw.Header().Set("Trailer", "X-Trailer")
					body, _ := io.ReadAll(r.Body)
					fmt.Fprintf(rw, "%s|%s|%s|%s|%s", r.Header.Get("Authorization"), base64.StdEncoding.EncodeToString([]byte("u:"+realValue)), body, r.URL.RawQuery, r.Header.Get("Accept-Encoding"))
					rw.Header().Set("X-Trailer", "t "+realValue)
				})
				resp, body := w.do(w.client(box), "POST", "https://example.com/v1?q="+ph, "body "+ph, "Authorization", "Bearer "+ph, "Accept-Encoding", "gzip")
				got := fmt.Sprint(resp.Header, resp.Trailer, body)
				if resp.StatusCode != 200 || !strings.HasPrefix(body, "Bearer "+ph+"|") || !strings.Contains(body, "|body "+ph+"|") || !strings.HasSuffix(body, "|identity") {
					t.Errorf("%d %q", resp.StatusCode, body)
				}
				if resp.Header.Get("X-Echo") != "Bearer "+ph || resp.Header.Get("Alt-Svc") != "" || resp.Trailer.Get("X-Trailer") != "t "+ph {
					t.Errorf("%v %v", resp.Header, resp.Trailer)
				}
				if (resp.ProtoMajor == 2) != box {
					t.Errorf("the box speaks %s", resp.Proto)
				}
				e := w.event(func(e boxlite.NetworkEvent) bool { return e.Kind == boxlite.NetRequest })
				if !e.Allowed || e.Method != "POST" || e.Path != "/v1" || e.Status != 200 || len(e.Secrets) != 1 || e.Secrets[0] != "key" || e.Sent == 0 || e.Received == 0 {
					t.Errorf("%+v", e)
				}
				w.never(got)
			})
		}
	}
}

// That the host did get the value, and where it did not.
func TestWhatTheHostGets(t *testing.T) {
	got := make(chan string, 10)
	w := newWorld(t, setting{allow: []string{"example.com", "other.test"}, secrets: []boxlite.Secret{
		key, {Name: "deep", Hosts: []string{"example.com"}, InQuery: true, InBody: true, Value: boxlite.NewSecretValue("deep-REAL-value+/")},
	}, trust: true}, func(rw http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got <- fmt.Sprintf("%s %s %s %s %s", r.Header.Get("X-Key"), r.Header.Get("Cookie"), r.URL.Path, r.URL.RawQuery, body)
	})
	c := w.client(true)
	w.do(c, "POST", "https://example.com/"+ph+"?a="+ph+"&b=<BOXLITE_SECRET:deep>", "x "+ph+" <BOXLITE_SECRET:deep>", "X-Key", ph, "Cookie", "c="+ph)
	want := realValue + " c=" + ph + " /" + ph + " a=" + ph + "&b=deep-REAL-value%2B%2F x " + ph + " deep-REAL-value+/"
	if s := <-got; s != want {
		t.Errorf("%q, want %q", s, want)
	}
	w.never()
}

// Attacks on the authority of a request. The host is not asked.
func TestAttacksOnAuthority(t *testing.T) {
	w := newWorld(t, setting{allow: []string{"example.com", "other.test"}, secrets: []boxlite.Secret{key}, trust: true}, func(rw http.ResponseWriter, r *http.Request) { fmt.Fprint(rw, "reached") })
	for _, c := range []struct {
		name, send string
		status     string
	}{
		{"A2 another Host", "GET / HTTP/1.1\r\nHost: evil.test\r\nX: " + ph + "\r\n\r\n", "421"},
		{"another allowed Host", "GET / HTTP/1.1\r\nHost: other.test\r\n\r\n", "421"},
		{"another port", "GET / HTTP/1.1\r\nHost: example.com:8443\r\n\r\n", "421"},
		{"A7 absolute form for another host", "GET https://evil.test/ HTTP/1.1\r\nHost: example.com\r\n\r\n", "421"},
		{"A7 absolute form in plain text", "GET http://example.com/ HTTP/1.1\r\nHost: example.com\r\n\r\n", "400"},
		{"user information", "GET https://example.com@evil.test/ HTTP/1.1\r\nHost: example.com\r\n\r\n", "4"},
		{"A8 two Hosts", "GET / HTTP/1.1\r\nHost: example.com\r\nHost: evil.test\r\n\r\n", "400"},
		{"A10 no Host", "GET / HTTP/1.1\r\n\r\n", "400"},
		{"A22 SOCKS", "\x05\x01\x00GET / HTTP/1.1\r\nHost: example.com\r\n\r\n", "400"},
		{"A20 not HTTP", "SSH-2.0-OpenSSH_9.9\r\n\r\n", "400"},
		{"CONNECT", "CONNECT evil.test:443 HTTP/1.1\r\nHost: example.com\r\n\r\n", "4"},
		{"E8 expect, and denied", "POST / HTTP/1.1\r\nHost: evil.test\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n", "421"},
	} {
		conn, err := w.guest.DialName("example.com", 443)
		if err != nil {
			t.Fatal(err)
		}
		tc := tls.Client(conn, &tls.Config{RootCAs: w.roots, ServerName: "example.com"})
		fmt.Fprint(tc, c.send)
		tc.SetReadDeadline(time.Now().Add(5 * time.Second))
		line, err := bufio.NewReader(tc).ReadString('\n')
		if !strings.HasPrefix(line, "HTTP/1.1 "+c.status) {
			t.Errorf("%s: %q, %v", c.name, line, err)
		}
		conn.Close()
	}
	if s := w.reached(); s != "" {
		t.Errorf("the host was asked %q", s)
	}
	// A3, A30: HTTP/2 with another authority on the same connection.
	r, _ := http.NewRequest("GET", "https://example.com/", nil)
	r.Host = "other.test"
	resp, err := w.client(true).Do(r)
	if err != nil || resp.StatusCode != http.StatusMisdirectedRequest {
		t.Errorf("h2: %v, %v", resp, err)
	} else {
		resp.Body.Close()
	}
	if s := w.reached(); s != "" {
		t.Errorf("the host was asked %q", s)
	}
	if e := w.event(func(e boxlite.NetworkEvent) bool { return e.Code == "wrong_authority" }); e.Allowed || e.Reason == "" {
		t.Errorf("%+v", e)
	}
	// SNI for another name, and none.
	for _, sni := range []string{"other.test", ""} {
		conn, err := w.guest.DialName("example.com", 443)
		if err != nil {
			t.Fatal(err)
		}
		if err := tls.Client(conn, &tls.Config{ServerName: sni, InsecureSkipVerify: true}).Handshake(); err == nil {
			t.Errorf("SNI %q: a handshake", sni)
		}
		conn.Close()
	}
	w.event(func(e boxlite.NetworkEvent) bool { return e.Code == egress.CodeSNI })
	w.never()
}

// E11: path rules judge the path in one form, and that form is sent on.
func TestHTTPRules(t *testing.T) {
	w := newWorld(t, setting{allow: []string{"GET,HEAD https://example.com/public/**", "POST https://example.com/v1/chat", "GET http://other.test/plain"}, trust: true},
		func(rw http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(rw, "%s %s %s", r.Method, r.RequestURI, r.Header.Get("X-Http-Method-Override"))
		})
	for _, c := range []struct{ method, url, want string }{
		{"GET", "https://example.com/public/a?x=1", "200 GET /public/a?x=1 "},
		{"GET", "https://example.com/public/a%2Fb", ""},
		{"GET", "https://example.com/public/%61", "200 GET /public/a "},
		{"POST", "https://example.com/v1/chat", "200 POST /v1/chat "},
		{"GET", "https://example.com/v1/chat", "403"},
		{"DELETE", "https://example.com/public/a", "403"},
		{"GET", "https://example.com/public/../private", "403"},
		{"GET", "https://example.com/public/%2e%2e/private", "403"},
		{"GET", "https://example.com/publicity", "403"},
		{"GET", "https://example.com/", "403"},
	} {
		resp, body := w.do(w.client(false), c.method, c.url, "", "X-HTTP-Method-Override", "DELETE")
		got := fmt.Sprintf("%d %s", resp.StatusCode, body)
		if c.want == "403" {
			if resp.StatusCode != 403 || !strings.Contains(body, "boxlite-mcp") || resp.Header.Get("X-Boxlite-Denied") == "" {
				t.Errorf("%s %s: %s", c.method, c.url, got)
			}
		} else if c.want != "" && got != c.want {
			t.Errorf("%s %s: %q, want %q", c.method, c.url, got, c.want)
		}
	}
	if s := w.reached(); strings.Contains(s, "private") || strings.Contains(s, "DELETE") || strings.Contains(s, "publicity") {
		t.Errorf("the host was asked %q", s)
	}
}

// F12, E20: values go to the host that the certificate says, or nowhere.
func TestHostThatDoesNotVerify(t *testing.T) {
	for name, s := range map[string]setting{
		"an unknown authority": {},
		"TLS 1.1":              {trust: true, config: &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}},
		"a client certificate": {trust: true, config: &tls.Config{ClientAuth: tls.RequireAnyClientCert}},
	} {
		s.allow, s.secrets = []string{"example.com"}, []boxlite.Secret{key}
		w := newWorld(t, s, func(rw http.ResponseWriter, r *http.Request) { fmt.Fprint(rw, "reached") })
		resp, body := w.do(w.client(false), "GET", "https://example.com/", "", "X-Key", ph)
		if resp.StatusCode != 502 || !strings.Contains(body, "not reached") {
			t.Errorf("%s: %d %q", name, resp.StatusCode, body)
		}
		if s := w.reached(); s != "" {
			t.Errorf("%s: the host was asked %q", name, s)
		}
		w.never(body)
	}
	// And for another name than the certificate's.
	w := newWorld(t, setting{allow: []string{"other.test"}, trust: true, secrets: []boxlite.Secret{{Name: "key", Hosts: []string{"other.test"}, Value: boxlite.NewSecretValue(realValue)}}},
		func(rw http.ResponseWriter, r *http.Request) { fmt.Fprint(rw, "reached") })
	if resp, body := w.do(w.client(true), "GET", "https://other.test/", "", "X-Key", ph); resp.StatusCode != 502 || w.reached() != "" {
		t.Errorf("%d %q", resp.StatusCode, body)
	}
}

// Over plain text nothing is put in.
func TestNoSecretInPlainText(t *testing.T) {
	got := make(chan string, 1)
	plain := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { got <- r.Header.Get("X-Key") }))
	defer plain.Close()
	w := newWorld(t, setting{allow: []string{"example.com"}, secrets: []boxlite.Secret{key}, trust: true}, func(http.ResponseWriter, *http.Request) {})
	to := netip.MustParseAddrPort(plain.Listener.Addr().String())
	access, _ := policy.ParseAccess([]string{"example.com"})
	p, err := policy.New(policy.Config{Access: access, Own: func() ([]netip.Prefix, error) { return nil, nil }, BoxNets: []netip.Prefix{gateway.BoxNet}, Static: []policy.Static{{Host: "example.com", To: to}}})
	if err != nil {
		t.Fatal(err)
	}
	w.gw.SetPolicy(p)
	if resp, _ := w.do(w.client(false), "GET", "http://example.com/", "", "X-Key", ph); resp.StatusCode != 200 {
		t.Errorf("status %d", resp.StatusCode)
	}
	if s := <-got; s != ph {
		t.Errorf("the host got %q", s)
	}
}

// F15: a rotated value is used from the next request on, and a removed one not
// at all, on the same connection.
func TestRotation(t *testing.T) {
	got := make(chan string, 3)
	w := newWorld(t, setting{allow: []string{"example.com"}, secrets: []boxlite.Secret{key}, trust: true}, func(rw http.ResponseWriter, r *http.Request) { got <- r.Header.Get("X-Key") })
	c := w.client(true)
	for _, value := range []string{realValue, "rotated-REAL-value", ""} {
		var list []boxlite.Secret
		want := ph
		if value != "" {
			s := key
			s.Value = boxlite.NewSecretValue(value)
			list, want = []boxlite.Secret{s}, value
		}
		set, err := secrets.NewSet(list)
		if err != nil {
			t.Fatal(err)
		}
		w.i.SetSecrets(set)
		w.do(c, "GET", "https://example.com/", "", "X-Key", ph)
		if s := <-got; s != want {
			t.Errorf("the host got %q, want %q", s, want)
		}
	}
}

// F17: an answer whose coding hides what is in it is not passed on.
func TestCodedAnswerIsRefused(t *testing.T) {
	w := newWorld(t, setting{allow: []string{"example.com"}, secrets: []boxlite.Secret{key}, trust: true}, func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Content-Encoding", "gzip")
		fmt.Fprint(rw, "\x1f\x8b...")
	})
	if resp, body := w.do(w.client(false), "GET", "https://example.com/", "", "X-Key", ph); resp.StatusCode != 502 || !strings.Contains(body, "gzip") {
		t.Errorf("%d %q", resp.StatusCode, body)
	}
}

// What streams, streams, both ways: each line is answered before the next is
// sent, with trailers at the end, as gRPC does it.
func TestStreaming(t *testing.T) {
	w := newWorld(t, setting{allow: []string{"example.com"}, secrets: []boxlite.Secret{key}, trust: true}, func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Trailer", "Grpc-Status")
		rw.WriteHeader(200)
		rw.(http.Flusher).Flush()
		lines := bufio.NewScanner(r.Body)
		for lines.Scan() {
			fmt.Fprintf(rw, "echo %s %s\n", lines.Text(), r.Header.Get("Authorization"))
			rw.(http.Flusher).Flush()
		}
		rw.Header().Set("Grpc-Status", "0")
	})
	body, send := io.Pipe()
	r, err := http.NewRequest("POST", "https://example.com/stream", body)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", ph)
	r.Header.Set("Te", "trailers")
	resp, err := w.client(true).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answers := bufio.NewReader(resp.Body)
	for i := range 3 {
		fmt.Fprintf(send, "line %d\n", i)
		if line, err := answers.ReadString('\n'); line != fmt.Sprintf("echo line %d %s\n", i, ph) {
			t.Fatalf("%q, %v", line, err)
		}
	}
	send.Close()
	if _, err := io.ReadAll(answers); err != nil || resp.Trailer.Get("Grpc-Status") != "0" {
		t.Errorf("trailer %v, %v", resp.Trailer, err)
	}
}

// E7: a body without an end does not fill memory: what the box does not read,
// the host is not asked for.
func TestBackpressure(t *testing.T) {
	sent := new(atomic.Int64)
	w := newWorld(t, setting{allow: []string{"example.com"}, secrets: []boxlite.Secret{key}, trust: true}, func(rw http.ResponseWriter, r *http.Request) {
		block := make([]byte, 64<<10)
		for r.Context().Err() == nil {
			n, err := rw.Write(block)
			if sent.Add(int64(n)); err != nil {
				return
			}
		}
	})
	resp, err := w.client(false).Get("https://example.com/")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var last int64
	for began := time.Now(); time.Since(began) < 5*time.Second; {
		time.Sleep(300 * time.Millisecond)
		if now := sent.Load(); now == last && now > 0 {
			break
		} else {
			last = now
		}
	}
	if last > 32<<20 || last != sent.Load() {
		t.Errorf("the host has sent %d bytes to a box that reads none", sent.Load())
	}
}

// A4: HTTP/2 with a host field that differs from :authority.
func TestHTTP2HostAndAuthority(t *testing.T) {
	w := newWorld(t, setting{allow: []string{"example.com"}, secrets: []boxlite.Secret{key}, trust: true}, func(rw http.ResponseWriter, r *http.Request) {})
	conn, err := w.guest.DialName("example.com", 443)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	tc := tls.Client(conn, &tls.Config{RootCAs: w.roots, ServerName: "example.com", NextProtos: []string{"h2"}})
	fmt.Fprint(tc, http2.ClientPreface)
	f := http2.NewFramer(tc, tc)
	f.WriteSettings()
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for _, h := range [][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", "example.com"}, {":path", "/"}, {"host", "evil.test"}} {
		enc.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]})
	}
	f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndStream: true, EndHeaders: true})
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	tc.SetReadDeadline(time.Now().Add(5 * time.Second))
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		if h, ok := frame.(*http2.MetaHeadersFrame); ok {
			if status := h.PseudoValue("status"); status != "421" && status != "400" {
				t.Errorf("status %s", status)
			}
			break
		}
		if _, ok := frame.(*http2.RSTStreamFrame); ok {
			break
		}
	}
	if s := w.reached(); s != "" {
		t.Errorf("the host was asked %q", s)
	}
}

// A WebSocket is judged by its handshake, which may have a secret, and is opaque
// afterwards.
func TestWebSocket(t *testing.T) {
	w := newWorld(t, setting{allow: []string{"example.com"}, secrets: []boxlite.Secret{key}, trust: true}, func(rw http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Key") != realValue {
			http.Error(rw, "no key", http.StatusUnauthorized)
			return
		}
		conn, buf, _ := http.NewResponseController(rw).Hijack()
		defer conn.Close()
		fmt.Fprint(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nX-Echo: "+realValue+"\r\n\r\n")
		line, _ := buf.ReadString('\n')
		fmt.Fprintf(conn, "echo %s", line)
	})
	conn, err := w.guest.DialName("example.com", 443)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	tc := tls.Client(conn, &tls.Config{RootCAs: w.roots, ServerName: "example.com"})
	fmt.Fprintf(tc, "GET /ws HTTP/1.1\r\nHost: example.com\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nX-Key: %s\r\n\r\n%s\n", ph, ph)
	tc.SetReadDeadline(time.Now().Add(5 * time.Second))
	got, _ := io.ReadAll(tc)
	if s := string(got); !strings.HasPrefix(s, "HTTP/1.1 101 ") || !strings.HasSuffix(s, "\r\n\r\necho "+ph+"\n") || !strings.Contains(s, "X-Echo: "+ph) {
		t.Errorf("%q", s)
	}
	w.never(string(got))
}

// A host that changes to another protocol unasked is refused.
func TestUnsolicited101(t *testing.T) {
	w := newWorld(t, setting{allow: []string{"example.com"}, secrets: []boxlite.Secret{key}, trust: true, h1: true}, func(rw http.ResponseWriter, r *http.Request) {
		conn, _, _ := http.NewResponseController(rw).Hijack()
		defer conn.Close()
		fmt.Fprint(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"+realValue)
	})
	resp, body := w.do(w.client(false), "GET", "https://example.com/", "")
	if resp.StatusCode != 502 {
		t.Errorf("%d %q", resp.StatusCode, body)
	}
	w.never(body)
}

// F9: a head that grows too long by what is put into it is refused, not cut.
func TestHeadThatGrowsTooLong(t *testing.T) {
	long := boxlite.Secret{Name: "key", Hosts: []string{"example.com"}, Value: boxlite.NewSecretValue(strings.Repeat("R", 8000))}
	w := newWorld(t, setting{allow: []string{"example.com"}, secrets: []boxlite.Secret{long}, trust: true}, func(http.ResponseWriter, *http.Request) {})
	resp, body := w.do(w.client(false), "GET", "https://example.com/", "", "X-Key", strings.Repeat(ph, 20))
	if resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge || w.reached() != "" {
		t.Errorf("%d %.100q; the host was asked %q", resp.StatusCode, body, w.reached())
	}
}

// F18: what a host says before its answer, and where it sends the box, has no
// value in it; A28: the box goes there by itself, and is judged anew.
func TestEarlyHintsAndRedirects(t *testing.T) {
	w := newWorld(t, setting{allow: []string{"example.com"}, secrets: []boxlite.Secret{key}, trust: true}, func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Link", "</"+r.Header.Get("X-Key")+">")
		rw.WriteHeader(http.StatusEarlyHints)
		rw.Header().Set("Location", "https://evil.test/?k="+r.Header.Get("X-Key"))
		rw.WriteHeader(http.StatusFound)
	})
	var hints string
	ctx := httptrace.WithClientTrace(context.Background(), &httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
		hints += fmt.Sprint(code, h)
		return nil
	}})
	r, _ := http.NewRequestWithContext(ctx, "GET", "https://example.com/", nil)
	r.Header.Set("X-Key", ph)
	resp, err := w.client(true).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusFound || !strings.Contains(hints, "103") || !strings.Contains(hints, ph) || !strings.Contains(resp.Header.Get("Location"), ph) {
		t.Errorf("%d %v, hints %s", resp.StatusCode, resp.Header, hints)
	}
	w.never(hints, fmt.Sprint(resp.Header))
	if c, err := w.guest.DialName("evil.test", 443); err == nil {
		c.Close()
		t.Error("the box may follow")
	}
}

// Ordinary traffic that is easily got wrong: answers without bodies, a HEAD, a
// body that the box announces and waits with.
func TestOrdinaryTraffic(t *testing.T) {
	w := newWorld(t, setting{allow: []string{"example.com"}, secrets: []boxlite.Secret{key}, trust: true}, func(rw http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/204":
			rw.WriteHeader(http.StatusNoContent)
		case "/304":
			rw.Header().Set("Etag", `"x"`)
			rw.WriteHeader(http.StatusNotModified)
		case "/length":
			rw.Header().Set("Content-Length", "5")
			fmt.Fprint(rw, "hello")
		default:
			n, err := io.Copy(io.Discard, r.Body)
			fmt.Fprintf(rw, "%d %v %d %q", n, err, r.ContentLength, r.TransferEncoding)
		}
	})
	for _, h2 := range []bool{false, true} {
		c := w.client(h2)
		if resp, body := w.do(c, "GET", "https://example.com/204", ""); resp.StatusCode != 204 || body != "" {
			t.Errorf("204: %d %q", resp.StatusCode, body)
		}
		if resp, body := w.do(c, "GET", "https://example.com/304", ""); resp.StatusCode != 304 || body != "" || resp.Header.Get("Etag") != `"x"` {
			t.Errorf("304: %d %q", resp.StatusCode, body)
		}
		if resp, body := w.do(c, "HEAD", "https://example.com/length", ""); resp.StatusCode != 200 || body != "" || resp.Header.Get("Content-Length") != "5" {
			t.Errorf("HEAD: %d %q %v", resp.StatusCode, body, resp.Header)
		}
		if _, body := w.do(c, "GET", "https://example.com/length", ""); body != "hello" {
			t.Errorf("GET: %q", body)
		}
		if _, body := w.do(c, "GET", "https://example.com/none", ""); body != "0 <nil> 0 []" {
			t.Errorf("a GET without a body: %q", body)
		}
		large := strings.Repeat("x", 3<<20)
		if _, body := w.do(c, "PUT", "https://example.com/up", large, "Expect", "100-continue"); !strings.HasPrefix(body, fmt.Sprint(len(large), " <nil> ", len(large))) {
			t.Errorf("PUT: %q", body)
		}
	}
}
