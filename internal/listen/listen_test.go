package listen_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/internal/listen"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type principalKey struct{}

func identify(ctx context.Context, p string) context.Context {
	return context.WithValue(ctx, principalKey{}, p)
}

// serve listens until the test ends. The handler says whose request it was and
// what came with it.
func serve(t *testing.T, edit ...func(*listen.Options)) (addr string, tokens *listen.Tokens) {
	t.Helper()
	tokens = listen.NewTokens(filepath.Join(t.TempDir(), "tokens.json"))
	o := listen.Options{Tokens: tokens, Identify: identify, Origins: []string{"https://app.test"}, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusRequestEntityTooLarge)
			return
		}
		fmt.Fprintf(w, "%v %d", r.Context().Value(principalKey{}), len(body))
	})}
	for _, f := range edit {
		f(&o)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- listen.Serve(ctx, l, o) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error("Serve:", err)
		}
	})
	return l.Addr().String(), tokens
}

func TestGuard(t *testing.T) {
	addr, tokens := serve(t)
	token, err := tokens.Add("laptop", "alice")
	if err != nil {
		t.Fatal(err)
	}
	gone, err := tokens.Add("gone", "bob")
	if err != nil || tokens.Remove("gone") != nil {
		t.Fatal(err)
	}
	const jsonType = "Content-Type: application/json\r\n"
	auth := "Authorization: Bearer " + token + "\r\n"
	post := func(headers, body string) string {
		return fmt.Sprintf("POST /mcp HTTP/1.1\r\n%sContent-Length: %d\r\nConnection: close\r\n\r\n%s", headers, len(body), body)
	}
	ask := func(headers string) string {
		return "OPTIONS /mcp HTTP/1.1\r\n" + headers + "Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: authorization,content-type\r\nConnection: close\r\n\r\n"
	}
	host := "Host: " + addr + "\r\n"
	for _, c := range []struct{ name, send, status, body string }{
		{"right", post(host+auth+jsonType, "{}"), "200", "alice 2"},
		{"right, by another name", post("Host: localhost\r\n"+auth+"Content-Type: application/json; charset=utf-8\r\n", "{}"), "200", "alice 2"},
		{"an origin on the list", post(host+auth+jsonType+"Origin: https://app.test\r\n", "{}"), "200", ""},
		{"the scheme in other letters", post(host+jsonType+"Authorization: bearer "+token+"\r\n", "{}"), "200", "alice 2"},
		{"no scheme", post(host+jsonType+"Authorization: "+token+"\r\n", "{}"), "401", ""},
		{"an origin on the list, without a token", post(host+jsonType+"Origin: https://app.test\r\n", "{}"), "401", ""},
		{"a browser's question for an origin on the list", ask(host + "Origin: https://app.test\r\n"), "204", ""},
		{"a browser's question for a foreign origin", ask(host + "Origin: https://evil.test\r\n"), "403", ""},
		{"a browser's question by a foreign Host", ask("Host: evil.test\r\nOrigin: https://app.test\r\n"), "403", ""},
		{"OPTIONS that is no browser's question", "OPTIONS /mcp HTTP/1.1\r\n" + host + "Origin: https://app.test\r\nConnection: close\r\n\r\n", "401", ""},
		{"H1 foreign Host", post("Host: evil.test\r\n"+auth+jsonType, "{}"), "403", ""},
		{"H1 foreign Host with our port", post("Host: evil.test:"+strings.Split(addr, ":")[1]+"\r\n"+auth+jsonType, "{}"), "403", ""},
		{"H1 foreign Origin", post(host+auth+jsonType+"Origin: https://evil.test\r\n", "{}"), "403", ""},
		{"H1 null Origin", post(host+auth+jsonType+"Origin: null\r\n", "{}"), "403", ""},
		{"H2 no token", post(host+jsonType, "{}"), "401", ""},
		{"H2 another token", post(host+jsonType+"Authorization: Bearer boxlite_X\r\n", "{}"), "401", ""},
		{"H2 a revoked token", post(host+jsonType+"Authorization: Bearer "+gone+"\r\n", "{}"), "401", ""},
		{"H2 another scheme", post(host+jsonType+"Authorization: Basic "+token+"\r\n", "{}"), "401", ""},
		{"H2 token in the query", "GET /mcp?token=" + token + "&access_token=" + token + " HTTP/1.1\r\n" + host + "Connection: close\r\n\r\n", "401", ""},
		{"text", post(host+auth+"Content-Type: text/plain\r\n", "{}"), "415", ""},
		{"a form", post(host+auth+"Content-Type: application/x-www-form-urlencoded\r\n", "{}"), "415", ""},
		{"no type", post(host+auth, "{}"), "415", ""},
		{"too long", "POST /mcp HTTP/1.1\r\n" + host + auth + jsonType + "Content-Length: 9000000\r\n\r\n", "413", ""},
		{"health", "GET /healthz HTTP/1.1\r\n" + host + "Connection: close\r\n\r\n", "200", "ok\n"},
		{"health by a foreign Host", "GET /healthz HTTP/1.1\r\nHost: evil.test\r\nConnection: close\r\n\r\n", "403", ""},
		{"a long header", post(host+auth+jsonType+"X: "+strings.Repeat("y", 100<<10)+"\r\n", "{}"), "431", ""},
	} {
		status, body, header := exchange(t, addr, c.send)
		if status != c.status || c.body != "" && body != c.body || strings.Contains(body, token) {
			t.Errorf("%s: %s %q, want %s %q", c.name, status, body, c.status, c.body)
		}
		if (status == "401") != (header.Get("WWW-Authenticate") != "") {
			t.Errorf("%s: %v", c.name, header)
		}
		// Only a page whose origin is on the list may read the answer.
		listed := ""
		if status != "403" && strings.Contains(c.send, "Origin: https://app.test") {
			listed = "https://app.test"
		}
		if got := header.Get("Access-Control-Allow-Origin"); got != listed {
			t.Errorf("%s: Access-Control-Allow-Origin is %q, want %q", c.name, got, listed)
		}
	}
}

func exchange(t *testing.T, addr, send string) (status, body string, header http.Header) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	fmt.Fprint(c, send)
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return fmt.Sprint(resp.StatusCode), string(b), resp.Header
}

// A client that sends slowly is cut off, and keeps nobody from being served.
func TestManyAtOnce(t *testing.T) {
	hold := make(chan struct{})
	addr, tokens := serve(t, func(o *listen.Options) {
		o.MaxRequests = 2
		o.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { <-hold })
	})
	alice, _ := tokens.Add("alice", "alice")
	bob, _ := tokens.Add("bob", "bob")
	get := func(token string) int {
		r, _ := http.NewRequest("GET", "http://"+addr+"/x", nil)
		r.Header.Set("Authorization", "Bearer "+token)
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		resp, err := client.Do(r)
		if err != nil {
			return -1
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	results := make(chan int, 4)
	for range 3 {
		go func() { results <- get(alice) }()
	}
	if got := <-results; got != http.StatusTooManyRequests {
		t.Errorf("the third at once: %d", got)
	}
	go func() { results <- get(bob) }()
	time.Sleep(50 * time.Millisecond)
	close(hold)
	for range 3 {
		if got := <-results; got != http.StatusOK {
			t.Errorf("%d", got)
		}
	}
}

func TestWhereNotToListen(t *testing.T) {
	tokens := listen.NewTokens(filepath.Join(t.TempDir(), "tokens.json"))
	o := listen.Options{Tokens: tokens}
	if err := o.Check("127.0.0.1:1"); boxlite.KindOf(err) != boxlite.Config || boxlite.HintOf(err) == "" {
		t.Errorf("without a token: %v", err)
	}
	if _, err := tokens.Add("x", "x"); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		addr, cert, key string
		ok              bool
	}{
		{"127.0.0.1:1", "", "", true}, {"localhost:1", "", "", true}, {"[::1]:1", "", "", true},
		{"0.0.0.0:1", "", "", false}, {":1", "", "", false}, {"192.168.1.1:1", "", "", false},
		{"0.0.0.0:1", "c", "k", true}, {"0.0.0.0:1", "c", "", false}, {"nonsense", "", "", false},
	} {
		o.CertFile, o.KeyFile = c.cert, c.key
		if err := o.Check(c.addr); (err == nil) != c.ok || err != nil && boxlite.HintOf(err) == "" {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

func TestTokens(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tokens.json")
	a, b := listen.NewTokens(path), listen.NewTokens(path) // two processes
	token, err := a.Add("laptop", "alice")
	if err != nil {
		t.Fatal(err)
	}
	if data, _ := os.ReadFile(path); strings.Contains(string(data), token) {
		t.Error("the file has the token")
	}
	if st, _ := os.Stat(path); st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", st.Mode())
	}
	if p, ok := b.Principal(token); !ok || p != "alice" {
		t.Errorf("%q, %v", p, ok)
	}
	if _, err := a.Add("laptop", "bob"); boxlite.KindOf(err) != boxlite.AlreadyExists {
		t.Errorf("%v", err)
	}
	if err := b.Remove("laptop"); err != nil {
		t.Fatal(err)
	}
	if _, ok := a.Principal(token); ok {
		t.Error("a revoked token is known")
	}
	if err := b.Remove("laptop"); boxlite.KindOf(err) != boxlite.NotFound {
		t.Errorf("%v", err)
	}
	os.Chmod(path, 0o644)
	if _, err := listen.NewTokens(path).List(); boxlite.KindOf(err) != boxlite.Config || boxlite.HintOf(err) == "" {
		t.Errorf("a file that others read: %v", err)
	}
}
