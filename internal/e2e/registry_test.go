package e2e

import (
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	ggcr "github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/boxlite-mcp/boxlite-mcp/internal/testbin"
	"github.com/boxlite-mcp/boxlite-mcp/internal/testimage"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/image/imagetest"
)

// A registry serves the small image over HTTP, as slowly as asked for.
type registry struct {
	host  string // host:port
	image string // reference
	// perBlock is how long each 32 KiB of a layer take, in nanoseconds.
	perBlock atomic.Int64
	// layers counts the layers that have begun to travel.
	layers atomic.Int64
}

// newRegistry serves until the process ends.
func newRegistry() *registry {
	r := &registry{}
	inner := ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0)))
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.Method == http.MethodGet && strings.Contains(req.URL.Path, "/blobs/") {
			r.layers.Add(1)
			w = &slowWriter{w, time.Duration(r.perBlock.Load())}
		}
		inner.ServeHTTP(w, req)
	}))
	r.host = strings.TrimPrefix(s.URL, "http://")
	r.image = r.host + "/library/busybox:1"
	ref, err := name.ParseReference(r.image, name.Insecure)
	if err == nil {
		err = remote.Write(ref, imagetest.Busybox())
	}
	if err != nil {
		panic("push the test image: " + err.Error())
	}
	return r
}

// newSlowRegistry returns a registry of the test's own whose layers take the
// given time for each 32 KiB.
func newSlowRegistry(t testing.TB, perBlock time.Duration) *registry {
	t.Helper()
	r := newRegistry()
	r.perBlock.Store(int64(perBlock))
	return r
}

// debian serves the Debian image with Python from Debian's docker-registry, and
// returns the reference.
func (w *world) debian() string {
	w.t.Helper()
	root, err := testbin.ModuleRoot()
	if err != nil {
		w.t.Fatal(err)
	}
	img, err := testimage.Debian(w.t.Context(), filepath.Join(root, "build", "testimage"), w.t.Output())
	if err != nil {
		w.t.Fatal(err)
	}
	reg, err := testimage.Serve(w.t.Context(), tempDir(w.t), io.Discard)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		if err := reg.Close(); err != nil {
			w.t.Error(err)
		}
	})
	ref, err := reg.Push(w.t.Context(), img, "library/python:3")
	if err != nil {
		w.t.Fatal(err)
	}
	w.registries = append(w.registries, reg.Addr())
	return ref
}

type slowWriter struct {
	http.ResponseWriter
	perBlock time.Duration
}

func (w *slowWriter) Write(p []byte) (n int, err error) {
	const block = 32 << 10
	for len(p) > 0 && err == nil {
		var m int
		m, err = w.ResponseWriter.Write(p[:min(block, len(p))])
		n, p = n+m, p[m:]
		if w.perBlock > 0 {
			w.ResponseWriter.(http.Flusher).Flush()
			time.Sleep(w.perBlock)
		}
	}
	return n, err
}
