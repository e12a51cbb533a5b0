package remote_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/boxlite-mcp/boxlite-mcp/vmcore/image/remote"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A world is a set of hosts that a client's Dial leads to.
type world struct {
	mu    sync.Mutex
	auths map[string][]string // by host: Authorization headers it was sent
	addrs map[string]string   // where a host:port really is
}

func newWorld() *world { return &world{auths: map[string][]string{}, addrs: map[string]string{}} }

// host adds a server under a name.
func (w *world) host(t *testing.T, name string, h http.HandlerFunc) {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.mu.Lock()
		w.auths[r.Host] = append(w.auths[r.Host], r.Header.Get("Authorization"))
		w.mu.Unlock()
		h(rw, r)
	}))
	t.Cleanup(s.Close)
	w.addrs[name] = s.Listener.Addr().String()
}

func (w *world) client(t *testing.T, o remote.Options) *remote.Client {
	t.Helper()
	o.HTTP = true
	o.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		real, ok := w.addrs[strings.TrimSuffix(address, ":80")]
		if !ok {
			return nil, fmt.Errorf("nobody is to go to %s", address)
		}
		return (&net.Dialer{}).DialContext(ctx, network, real)
	}
	c := remote.New(o)
	t.Cleanup(c.Close)
	return c
}

// sent returns the distinct Authorization headers that a host was sent.
func (w *world) sent(host string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	seen := map[string]bool{}
	var list []string
	for _, a := range w.auths[host] {
		if !seen[a] {
			seen[a] = true
			list = append(list, a)
		}
	}
	return strings.Join(list, ",")
}

var quiet = log.New(io.Discard, "", 0)

const basic = "Basic dTpw" // u:p

// bearer answers with a challenge until the token is right.
func bearer(realm, token string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+token {
			w.Header().Set("WWW-Authenticate", `Bearer realm="`+realm+`",service="s, \"x\"",scope="repository:other:push"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		io.WriteString(w, `{}`)
	}
}

func TestPasswordGoesToTheRegistrysOwnDomainOnly(t *testing.T) {
	for _, row := range []struct{ name, registry, realm, want string }{
		{"same_host", "registry.example.com", "registry.example.com", "," + basic + ",Bearer t"},
		{"same_domain", "registry.example.com", "auth.example.com", basic},
		{"parent_domain", "registry.gitlab.example", "gitlab.example", basic},
		{"foreign_domain", "registry.example.com", "evil.com", ""},
		{"public_suffix_in_common", "alice.github.io", "mallory.github.io", ""},
		{"name_that_ends_alike", "example.com", "notexample.com", ""},
		{"address", "10.0.0.1", "10.0.0.2", ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := newWorld()
			token := func(rw http.ResponseWriter, r *http.Request) {
				if q := r.URL.Query(); q.Get("scope") != "repository:a/b:pull" || q.Get("service") != `s, "x"` {
					t.Errorf("asked for %v", q)
				}
				io.WriteString(rw, `{"access_token":"t"}`)
			}
			registry := bearer("http://"+row.realm+"/token", "t")
			w.host(t, row.registry, func(rw http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/token" {
					token(rw, r)
					return
				}
				registry(rw, r)
			})
			if row.realm != row.registry {
				w.host(t, row.realm, token)
			}
			c := w.client(t, remote.Options{Host: row.registry, Username: "u", Password: "p"})
			if _, err := c.Manifest(t.Context(), "a/b", "1"); err != nil {
				t.Error(err)
			}
			if got := w.sent(row.realm); got != row.want {
				t.Errorf("the token server was sent %q, want %q", got, row.want)
			}
		})
	}
}

func TestRedirectsDoNotTellWhoWeAre(t *testing.T) {
	w := newWorld()
	for _, other := range []string{"cdn.example.com", "sub.registry.example.com", "registry.example.com:8080"} {
		w.host(t, other, func(rw http.ResponseWriter, r *http.Request) { io.WriteString(rw, "blob") })
		w.host(t, "registry.example.com", func(rw http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") == "" {
				rw.Header().Set("WWW-Authenticate", `Basic realm="x"`)
				rw.WriteHeader(http.StatusUnauthorized)
				return
			}
			http.Redirect(rw, r, "http://"+other+"/storage", http.StatusTemporaryRedirect)
		})
		c := w.client(t, remote.Options{Host: "registry.example.com", Username: "u", Password: "p"})
		body, _, err := c.Blob(t.Context(), "a", "sha256:x", 0, 4)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(body)
		body.Close()
		if err != nil || string(b) != "blob" || w.sent(other) != "" {
			t.Errorf("%s: %q, %v; it was sent %q", other, b, err, w.sent(other))
		}
	}
	if got := w.sent("registry.example.com"); got != ","+basic {
		t.Errorf("the registry was sent %q", got)
	}
}

func TestAddressRulesCoverRedirectsAndTokenServers(t *testing.T) {
	w := newWorld()
	w.host(t, "a.example", func(rw http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "token") {
			bearer("http://169.254.169.254/token", "t")(rw, r)
			return
		}
		http.Redirect(rw, r, "http://169.254.169.254/latest", http.StatusFound)
	})
	c := w.client(t, remote.Options{Host: "a.example"})
	for _, tag := range []string{"redirect", "token"} {
		if _, err := c.Manifest(t.Context(), "x", tag); err == nil || !strings.Contains(err.Error(), "nobody is to go to 169.254.169.254:80") {
			t.Errorf("%s: %v, want Dial's error", tag, err)
		}
	}
}

func TestSecureRegistryDoesNotLeadToInsecureOnes(t *testing.T) {
	plain := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { t.Error("it was asked") }))
	defer plain.Close()
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "token") {
			bearer(plain.URL, "t")(w, r)
			return
		}
		http.Redirect(w, r, plain.URL, http.StatusFound)
	}))
	defer s.Close()
	c := remote.New(remote.Options{Host: s.Listener.Addr().String(), SkipVerify: true})
	defer c.Close()
	for _, tag := range []string{"redirect", "token"} {
		if _, err := c.Manifest(t.Context(), "x", tag); err == nil || !strings.Contains(err.Error(), "not https") {
			t.Errorf("%s: %v, want a refusal", tag, err)
		}
	}
}

func TestSkipVerifyEndsAtTheRegistry(t *testing.T) {
	other := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { t.Error("it was asked") }))
	other.Config.ErrorLog = quiet
	other.StartTLS()
	defer other.Close()
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, other.URL, http.StatusFound) }))
	defer s.Close()
	c := remote.New(remote.Options{Host: s.Listener.Addr().String(), SkipVerify: true})
	defer c.Close()
	if _, err := c.Manifest(t.Context(), "x", "1"); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("got %v, want a certificate error", err)
	}
}

func TestProxiesOfTheEnvironmentAreNotUsed(t *testing.T) {
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1")
	t.Setenv("ALL_PROXY", "http://127.0.0.1:1")
	w := newWorld()
	w.host(t, "a.example", func(rw http.ResponseWriter, r *http.Request) { io.WriteString(rw, "{}") })
	if _, err := w.client(t, remote.Options{Host: "a.example"}).Manifest(t.Context(), "x", "1"); err != nil {
		t.Error(err)
	}
}

func TestAnswersAreBounded(t *testing.T) {
	for _, row := range []struct {
		name string
		h    http.HandlerFunc
		want string
	}{
		{"manifest", func(w http.ResponseWriter, r *http.Request) { w.Write(make([]byte, remote.MaxManifest+1)) }, "too big"},
		{"error", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(500); w.Write(make([]byte, 1<<20)) }, "500"},
		{"control_characters", func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(400)
			io.WriteString(w, `{"errors":[{"code":"X","message":"a\u001b[31m\nb"}]}`)
		}, "X: a [31m b"},
		{"redirects", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/v2/again", http.StatusFound) }, "without end"},
		{"no_token", bearer("http://a.example/v2/token", "never"), "401"},
		{"no_realm", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("WWW-Authenticate", "Bearer")
			w.WriteHeader(401)
		}, "token server"},
		{"unknown_scheme", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("WWW-Authenticate", "Negotiate")
			w.WriteHeader(401)
		}, "wants a login"},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := newWorld()
			w.host(t, "a.example", row.h)
			_, err := w.client(t, remote.Options{Host: "a.example"}).Manifest(t.Context(), "x", "1")
			if err == nil || !strings.Contains(err.Error(), row.want) || len(err.Error()) > 1000 {
				t.Errorf("got %v, want %q", err, row.want)
			}
		})
	}
}

func TestWhatMayBeTriedAgain(t *testing.T) {
	for err, want := range map[error]bool{
		&remote.StatusError{Status: 503}: true, &remote.StatusError{Status: 429}: true, &remote.StatusError{Status: 404}: false, &remote.StatusError{Status: 401}: false,
		&remote.TransferError{Err: io.ErrUnexpectedEOF}: true, remote.ErrIdle: true, remote.ErrTooBig: false, context.Canceled: false, errors.New("other"): false,
		&net.OpError{Op: "write", Err: errors.New("x")}: false, // not of a request
	} {
		if got := remote.IsTransient(fmt.Errorf("wrapped: %w", err)); got != want {
			t.Errorf("IsTransient(%v) = %v, want %v", err, got, want)
		}
	}
}
