package image_test

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"
	"go.uber.org/goleak"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
)

func TestMain(m *testing.M) {
	if isChild() {
		child()
	}
	goleak.VerifyTestMain(m)
}

// A server is a registry that a test can interfere with.
type server struct {
	*httptest.Server
	host string

	mu        sync.Mutex
	intercept func(w http.ResponseWriter, r *http.Request) bool // true: answered
	requests  []*http.Request
}

// serve starts a registry over HTTP, or with tls over HTTPS.
func serve(t testing.TB, secure bool) *server {
	t.Helper()
	s := &server{}
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.requests = append(s.requests, r)
		intercept := s.intercept
		s.mu.Unlock()
		if intercept == nil || !intercept(w, r) {
			inner.ServeHTTP(w, r)
		}
	})
	if secure {
		s.Server = httptest.NewTLSServer(handler)
		s.Server.Config.ErrorLog = log.New(io.Discard, "", 0)
	} else {
		s.Server = httptest.NewServer(handler)
	}
	t.Cleanup(s.Close)
	_, s.host, _ = strings.Cut(s.URL, "://")
	return s
}

// on sets what interferes, nil for nothing, and forgets past requests.
func (s *server) on(f func(w http.ResponseWriter, r *http.Request) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.intercept, s.requests = f, nil
}

// seen returns the requests with a method and a part of a path since on.
func (s *server) seen(method, part string) []*http.Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	var found []*http.Request
	for _, r := range s.requests {
		if r.Method == method && strings.Contains(r.URL.Path, part) {
			found = append(found, r)
		}
	}
	return found
}

// wantError checks what an error means and says.
func wantError(t testing.TB, err error, kind boxlite.Kind, text string) {
	t.Helper()
	e, ok := errors.AsType[*boxlite.Error](err)
	if !ok || e.Kind != kind || !strings.Contains(err.Error(), text) {
		t.Errorf("got %v (%v), want %v with %q", err, boxlite.KindOf(err), kind, text)
		return
	}
	if boxlite.HintOf(err) == "" && kind != boxlite.Canceled {
		t.Errorf("%v has no hint", err)
	}
	if e.Op == "" || e.Ref == "" {
		t.Errorf("%v does not say what failed for which image", err)
	}
}

// wantClean checks that a cache's directory holds nothing but whole blobs, and
// partial ones if allowed, and count images.
func wantClean(t testing.TB, dir string, images int, partial bool) {
	t.Helper()
	found := map[string]int{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		parts := strings.Split(rel, string(filepath.Separator))
		found[parts[0]]++
		if parts[0] == "blobs" {
			b, err := os.ReadFile(path)
			sum := sha256.Sum256(b)
			if err != nil || hex.EncodeToString(sum[:]) != d.Name() {
				t.Errorf("%s is not what its name says, %v", rel, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	dirs, err := os.ReadDir(filepath.Join(dir, "images"))
	if err != nil || len(dirs) != images {
		t.Errorf("%d images, %v; want %d", len(dirs), err, images)
	}
	if found["tmp"] > 0 || !partial && found["partial"] > 0 {
		t.Errorf("left behind: %v", fmt.Sprint(found))
	}
}

const goarch = runtime.GOARCH
