package tools

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/mark3labs/mcp-go/mcp"
	"github.com/mark3labs/mcp-go/server"
)

// The second file that knows mcp-go: its HTTP transports, with the remedies that
// they need. Who may speak to them is for package listen.

const (
	sessionIdle  = time.Hour        // after which a session of /mcp is forgotten
	mostSessions = 1000             // of one principal, at once
	keepAlive    = 15 * time.Second // between signs of life on a stream
)

// principalKey is the context key of who a request is of.
type principalKey struct{}

// WithPrincipal returns a context for calls of a principal.
func WithPrincipal(ctx context.Context, principal string) context.Context {
	return context.WithValue(ctx, principalKey{}, principal)
}

// PrincipalOf returns whose call it is, "" if nobody said.
func PrincipalOf(ctx context.Context) string {
	p, _ := ctx.Value(principalKey{}).(string)
	return p
}

// An HTTP serves MCP over HTTP: Streamable HTTP at /mcp, in both of its eras, and
// HTTP with SSE at /sse and /message. The context of each request says whose it
// is ([WithPrincipal]); a session of another principal looks as if it did not
// exist.
type HTTP struct {
	stream *server.StreamableHTTPServer
	events *server.SSEServer
	mux    *http.ServeMux

	mu       sync.Mutex
	open     map[string]string           // guarded by mu; sessions of /sse: whose they are
	sessions map[string]*sessionRegistry // guarded by mu; of /mcp, by principal
}

// HTTP returns the server's HTTP transports. Close them when no request comes any
// more.
func (s *Server) HTTP() *HTTP {
	h := &HTTP{open: map[string]string{}, sessions: map[string]*sessionRegistry{}, mux: http.NewServeMux()}
	h.stream = server.NewStreamableHTTPServer(s.mcp.mcp,
		server.WithSessionIdManagerResolver(h), server.WithSessionIdleTTL(sessionIdle),
		server.WithHeartbeatInterval(keepAlive), server.WithDisableLocalhostProtection(true)) // the guard sees to it
	h.events = server.NewSSEServer(s.mcp.mcp,
		server.WithSessionIDGenerator(h.newEventSession), server.WithKeepAliveInterval(keepAlive),
		server.WithUseFullURLForMessageEndpoint(false), server.WithSSEDisableLocalhostProtection(true),
		server.WithSSECORS(server.WithCORSAllowedOrigins("those that the guard allows"))) // or mcp-go allows all
	h.mux.HandleFunc("/mcp", h.serveStream)
	h.mux.HandleFunc("GET /sse", h.serveEvents)
	h.mux.HandleFunc("POST /message", h.serveMessage)
	return h
}

// ServeHTTP implements [http.Handler].
func (h *HTTP) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Accel-Buffering", "no")
	h.mux.ServeHTTP(w, r)
}

// Close ends all streams.
func (h *HTTP) Close(ctx context.Context) {
	h.events.CloseSessions()
	h.stream.CloseSessions(ctx)
	_ = h.stream.Shutdown(ctx)
}

// serveStream serves /mcp. A notification of the era without sessions is taken
// and dropped: mcp-go would apply a cancellation to whichever client's request
// has that number. Such a client cancels by ending its stream.
func (h *HTTP) serveStream(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodPost {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			if _, large := errors.AsType[*http.MaxBytesError](err); large {
				http.Error(w, "the message is too long", http.StatusRequestEntityTooLarge)
			}
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		if isNotification(body) && (r.Header.Get(server.HeaderKeySessionID) == "" || isModern(r.Header, body)) {
			w.WriteHeader(http.StatusAccepted)
			return
		}
	}
	h.stream.ServeHTTP(w, r)
}

// isNotification reports whether mcp-go takes a message for a notification.
func isNotification(message []byte) bool {
	var m envelope
	return json.Unmarshal(message, &m) == nil && m.Method != "" && (len(m.ID) == 0 || string(m.ID) == "null")
}

// isModern reports whether mcp-go takes a message for one of the era without
// sessions, in which it looks at no session's id: where the header or the
// message says so.
func isModern(header http.Header, message []byte) bool {
	var m struct {
		Params struct {
			Meta *mcp.Meta `json:"_meta"`
		} `json:"params"`
	}
	return mcp.IsModernProtocol(header.Get(mcp.HeaderProtocolVersion)) ||
		json.Unmarshal(message, &m) == nil && mcp.IsModernProtocol(m.Params.Meta.ProtocolVersion())
}

// eventSessionKey is the context key of where the id of a session of /sse is
// put.
type eventSessionKey struct{}

// newEventSession names a session of /sse.
func (h *HTTP) newEventSession(ctx context.Context, r *http.Request) (string, error) {
	id := rand.Text()
	if at, ok := r.Context().Value(eventSessionKey{}).(*string); ok {
		*at = id
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.open[id] = PrincipalOf(r.Context())
	return id, nil
}

func (h *HTTP) serveEvents(w http.ResponseWriter, r *http.Request) {
	var id string
	h.events.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), eventSessionKey{}, &id)))
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.open, id)
}

// serveMessage takes a message for a session of the same principal.
func (h *HTTP) serveMessage(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	principal, ok := h.open[r.URL.Query().Get("sessionId")]
	h.mu.Unlock()
	if !ok || principal != PrincipalOf(r.Context()) {
		http.Error(w, "there is no such session; open one at /sse", http.StatusNotFound)
		return
	}
	h.events.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), eventStreamKey{}, true)))
}

// ResolveSessionIdManager returns the sessions of a request's principal. Without
// a request mcp-go wants to end a session, of whomever: one that has been idle, or
// all when it closes.
func (h *HTTP) ResolveSessionIdManager(r *http.Request) server.SessionIdManager {
	if r == nil {
		return everybody{h}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	p := PrincipalOf(r.Context())
	if h.sessions[p] == nil {
		h.sessions[p] = &sessionRegistry{used: map[string]time.Time{}}
	}
	return h.sessions[p]
}

// everybody is the sessions of all principals, to end them. Nobody is served by
// it: it opens none, and finds none.
type everybody struct{ h *HTTP }

func (everybody) Generate() string { return "" }

func (everybody) Validate(string) (terminated bool, err error) { return true, nil }

// Terminate forgets the session, whosever it is.
func (e everybody) Terminate(id string) (notAllowed bool, err error) {
	e.h.mu.Lock()
	defer e.h.mu.Unlock()
	for _, s := range e.h.sessions {
		_, _ = s.Terminate(id) // never fails
	}
	return false, nil
}

// A sessionRegistry is the sessions that a principal has at /mcp.
type sessionRegistry struct {
	mu   sync.Mutex
	used map[string]time.Time // guarded by mu; when each was used last
}

// Generate names a new session. Of too many, the one that was used longest ago
// is forgotten.
func (s *sessionRegistry) Generate() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	now, oldest := time.Now(), ""
	for id, at := range s.used {
		if now.Sub(at) > sessionIdle {
			delete(s.used, id)
		} else if oldest == "" || at.Before(s.used[oldest]) {
			oldest = id
		}
	}
	if len(s.used) >= mostSessions {
		delete(s.used, oldest)
	}
	id := rand.Text()
	s.used[id] = now
	return id
}

// Validate says whether there is the session.
func (s *sessionRegistry) Validate(id string) (terminated bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.used[id]; !ok {
		return true, nil // 404: the client opens another
	}
	s.used[id] = time.Now()
	return false, nil
}

// Terminate forgets the session.
func (s *sessionRegistry) Terminate(id string) (notAllowed bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.used, id)
	return false, nil
}

// refuseModernOnSSE makes clients that probe for the era without sessions fall
// back: mcp-go cannot serve it over SSE.
func refuseModernOnSSE(ctx context.Context, _ any, message any) error {
	if _, ok := ctx.Value(eventStreamKey{}).(bool); !ok {
		return nil
	}
	raw, ok := message.(json.RawMessage)
	if !ok {
		return nil
	}
	var m struct {
		Params struct {
			Meta map[string]json.RawMessage `json:"_meta"`
		} `json:"params"`
	}
	if json.Unmarshal(raw, &m) == nil {
		if _, modern := m.Params.Meta["io.modelcontextprotocol/protocolVersion"]; modern {
			return errors.New("this revision is not served over SSE; initialize, or use /mcp")
		}
	}
	return nil
}

// eventStreamKey is the context key that marks messages of /message.
type eventStreamKey struct{}
