// Package listen serves HTTP to clients that are not on this machine's terminal:
// it says who may speak, how much and how long, and hands what is left to a
// handler. It knows nothing of MCP or boxes.
//
//	err := listen.Serve(ctx, listener, listen.Options{Handler: mcp, Tokens: tokens, Identify: tools.WithPrincipal})
//
// # What it refuses
//
//	a Host that is not the listener's (DNS rebinding)        403
//	an Origin, unless it is on the list (web pages)          403
//	no token, or one that is not in the file                 401, with WWW-Authenticate
//	a POST that is not application/json                      415
//	a body of more than 8 MiB                                413
//	more requests of a principal at once than MaxRequests    429
//
// /healthz is open, and says "ok" and nothing more. So is the question of a browser
// whether a page may call.
package listen

import (
	"context"
	"errors"
	"log/slog"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
)

const (
	maxBody    = 8 << 20
	maxHeader  = 64 << 10
	headerTime = 10 * time.Second
	bodyTime   = 2 * time.Minute // more than an answer takes: the deadline is the connection's
	idleTime   = 2 * time.Minute
	leaveTime  = 5 * time.Second
)

// Options say what to serve to whom. Handler, Tokens and Identify are required.
type Options struct {
	Handler  http.Handler
	Tokens   *Tokens
	Identify func(ctx context.Context, principal string) context.Context // tells the handler whose request it is

	Hosts       []string // names by which clients may call the listener, beside its address and localhost
	Origins     []string // web origins that may call it, such as https://app.example.com
	CertFile    string   // TLS, with KeyFile; "": none, which is for loopback only
	KeyFile     string
	MaxRequests int // of one principal at once; 0: 256

	Log *slog.Logger // nil discards
}

// Check says whether to listen at an address by these options.
//
// Errors: Config, with what to do.
func (o Options) Check(addr string) error {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return &boxlite.Error{Op: "listen", Kind: boxlite.Config, Ref: addr, Err: err, Hint: "Write ADDRESS:PORT, such as 127.0.0.1:7777."}
	}
	if (o.CertFile == "") != (o.KeyFile == "") {
		return &boxlite.Error{Op: "listen", Kind: boxlite.Config, Ref: addr, Err: errors.New("a certificate needs its key"), Hint: "Give both --tls-cert and --tls-key."}
	}
	if o.CertFile == "" && !isLoopback(host) {
		return &boxlite.Error{Op: "listen", Kind: boxlite.Config, Ref: addr, Err: errors.New("beyond loopback tokens would travel in the clear"),
			Hint: "Give --tls-cert and --tls-key, or listen at 127.0.0.1."}
	}
	list, err := o.Tokens.List()
	if err != nil {
		return err
	}
	if len(list) == 0 {
		return &boxlite.Error{Op: "listen", Kind: boxlite.Config, Ref: addr, Err: errors.New("nobody could speak to it: there is no token"),
			Hint: "Make one: boxlite-mcp token add NAME."}
	}
	return nil
}

func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.IsLoopback()
}

// Serve answers on l until ctx ends, and then ends what is under way.
//
// Errors: those of the listener and of the certificate.
func Serve(ctx context.Context, l net.Listener, o Options) error {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.MaxRequests == 0 {
		o.MaxRequests = 256
	}
	g := &guard{Options: o, hosts: hostsOf(l.Addr(), o.Hosts), active: map[string]int{}}
	srv := &http.Server{
		Handler: g, ReadHeaderTimeout: headerTime, IdleTimeout: idleTime, MaxHeaderBytes: maxHeader,
		ErrorLog: slog.NewLogLogger(o.Log.Handler(), slog.LevelDebug),
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	done := make(chan struct{})
	defer close(done)
	wg.Go(func() {
		select {
		case <-ctx.Done():
		case <-done:
			return
		}
		leave, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveTime)
		defer cancel()
		if srv.Shutdown(leave) != nil { // streams that are open
			_ = srv.Close()
		}
	})
	var err error
	if o.CertFile != "" {
		err = srv.ServeTLS(l, o.CertFile, o.KeyFile)
	} else {
		err = srv.Serve(l)
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// hostsOf returns what may stand in Host, in lower case.
func hostsOf(addr net.Addr, more []string) []string {
	_, port, _ := net.SplitHostPort(addr.String())
	hosts := []string{strings.ToLower(addr.String())}
	for _, name := range append([]string{"localhost", "127.0.0.1", "[::1]"}, more...) {
		hosts = append(hosts, strings.ToLower(name)+":"+port, strings.ToLower(name))
	}
	return hosts
}

// A guard stands before the handler.
type guard struct {
	Options
	hosts []string

	mu     sync.Mutex
	active map[string]int // guarded by mu; requests of each principal
}

// ServeHTTP refuses, or hands on.
func (g *guard) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !slices.Contains(g.hosts, strings.ToLower(r.Host)) {
		http.Error(w, "this is not a name of this server", http.StatusForbidden)
		return
	}
	if o := r.Header.Get("Origin"); o != "" && !slices.Contains(g.Origins, o) {
		http.Error(w, "web pages of this origin may not call this server", http.StatusForbidden)
		return
	}
	if allowOrigin(w, r) {
		return
	}
	if r.URL.Path == "/healthz" {
		_, _ = w.Write([]byte("ok\n"))
		return
	}
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	principal, known := g.Tokens.Principal(token)
	if !strings.EqualFold(scheme, "Bearer") || !known {
		w.Header().Set("WWW-Authenticate", `Bearer realm="boxlite-mcp"`)
		http.Error(w, "a token is needed: Authorization: Bearer TOKEN", http.StatusUnauthorized)
		return
	}
	if r.Method == http.MethodPost {
		if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != "application/json" {
			http.Error(w, "messages are application/json", http.StatusUnsupportedMediaType)
			return
		}
		if r.ContentLength > maxBody {
			http.Error(w, "the message is too long", http.StatusRequestEntityTooLarge)
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTime)) // of the body; the answer may take longer
	}
	if !g.enter(principal) {
		w.Header().Set("Retry-After", "1")
		http.Error(w, "too many requests at once", http.StatusTooManyRequests)
		return
	}
	defer g.leave(principal)
	g.Handler.ServeHTTP(w, r.WithContext(g.Identify(r.Context(), principal)))
}

// allowOrigin tells a browser that the page, whose origin is on the list, may call
// and read the answer. It answers the browser's own question about that, which
// comes without the page's token, and reports whether it was one (Fetch §4.8).
func allowOrigin(w http.ResponseWriter, r *http.Request) (answered bool) {
	origin := r.Header.Get("Origin")
	if origin == "" {
		return false
	}
	h := w.Header()
	h.Set("Access-Control-Allow-Origin", origin)
	h.Set("Access-Control-Expose-Headers", "Mcp-Session-Id, Mcp-Protocol-Version, WWW-Authenticate")
	h.Set("Vary", "Origin")
	if r.Method != http.MethodOptions || r.Header.Get("Access-Control-Request-Method") == "" {
		return false
	}
	h.Set("Access-Control-Allow-Methods", "GET, POST, DELETE")
	h.Set("Access-Control-Allow-Headers", "Authorization, *") // the star means all others
	h.Set("Access-Control-Max-Age", "600")
	w.WriteHeader(http.StatusNoContent)
	return true
}

func (g *guard) enter(principal string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.active[principal] >= g.MaxRequests {
		return false
	}
	g.active[principal]++
	return true
}

func (g *guard) leave(principal string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.active[principal]--; g.active[principal] == 0 {
		delete(g.active, principal)
	}
}
