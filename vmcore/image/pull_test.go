package image_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/image"
	it "github.com/boxlite-mcp/boxlite-mcp/vmcore/image/imagetest"
)

// small returns an image whose one file has the given contents.
func small(content string) v1.Image {
	return it.Image(v1.Config{}, it.Layer(types.OCILayer, it.File("file", 0o644, content)))
}

func TestSearchListIsTriedInOrder(t *testing.T) {
	first, second, third := serve(t, false), serve(t, false), serve(t, false)
	o := image.Options{Registries: []image.Registry{
		{Host: first.host + "/myorg", HTTP: true, Search: true},
		{Host: second.host, HTTP: true, Search: true},
		{Host: third.host, HTTP: true},
	}}
	it.Push(t, small("second"), second.host+"/library/alpine:1")
	it.Push(t, small("third"), third.host+"/library/alpine:1")
	c := openIn(t, t.TempDir(), o)
	for _, s := range []*server{first, second, third} {
		s.on(nil)
	}
	if img := pull(t, c, "alpine:1"); img.Reference != second.host+"/library/alpine:1" {
		t.Errorf("pulled %s", img.Reference)
	}
	if n := len(first.seen("GET", "/v2/myorg/alpine/manifests/1")); n != 1 {
		t.Errorf("the first was asked %d times, want once, with its prefix", n)
	}
	if img, err := c.Lookup("alpine:1"); err != nil || img.Reference != second.host+"/library/alpine:1" {
		t.Errorf("looked up %s, %v", img.Reference, err)
	}
	_, err := c.Pull(t.Context(), "team/none:1@"+digest64, image.PullOptions{})
	wantError(t, err, boxlite.Image, "404")
	for _, want := range []string{first.host + "/myorg/team/none:1@" + digest64, second.host + "/team/none:1@" + digest64} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not tell of %s", err, want)
		}
	}
	if n := len(third.seen("GET", "")); n != 0 {
		t.Errorf("a registry that is not searched was asked %d times", n)
	}
}

func TestOnlyConfiguredRegistriesAreAsked(t *testing.T) {
	other := serve(t, false)
	ref := it.Push(t, small("x"), other.host+"/x:1")
	other.on(nil)
	for _, c := range []*image.Cache{open(t), open(t, "registry.local:5000")} {
		_, err := c.Pull(t.Context(), ref, image.PullOptions{})
		wantError(t, err, boxlite.Denied, other.host)
		if !strings.Contains(boxlite.HintOf(err), "--registry "+other.host) {
			t.Errorf("hint %q does not say how to allow it", boxlite.HintOf(err))
		}
	}
	if n := len(other.seen("GET", "")); n != 0 {
		t.Errorf("it was asked %d times", n)
	}
	c := openIn(t, t.TempDir(), image.Options{Registries: []image.Registry{{Host: other.host, HTTP: true}}})
	_, err := c.Pull(t.Context(), "x:1", image.PullOptions{})
	wantError(t, err, boxlite.Denied, "search")
}

func TestTagsAreRevalidated(t *testing.T) {
	s := serve(t, false)
	ref := it.Push(t, small("one"), s.host+"/x:1")
	dir := t.TempDir()
	c := openIn(t, dir, options(s.host))
	one := pull(t, c, ref)
	s.on(nil)
	if again := pull(t, c, ref); again.Digest != one.Digest || len(s.seen("GET", "")) != 0 || len(s.seen("HEAD", "")) != 1 {
		t.Errorf("pulled %s after %d GET and %d HEAD; want the same with one HEAD", again.Digest, len(s.seen("GET", "")), len(s.seen("HEAD", "")))
	}
	it.Push(t, small("two"), ref)
	two := pull(t, c, ref)
	if two.Digest == one.Digest || two.Stale {
		t.Errorf("the moved tag still means %s", two.Digest)
	}
	byDigest := s.host + "/x@" + one.Digest
	if img := pull(t, c, byDigest); img.Digest != one.Digest || img.BasePath != one.BasePath {
		t.Errorf("by digest: %+v", img)
	}
	s.on(func(w http.ResponseWriter, r *http.Request) bool {
		w.WriteHeader(http.StatusServiceUnavailable)
		return true
	})
	if img := pull(t, c, ref); !img.Stale || img.Digest != two.Digest || !strings.Contains(img.Warning, "503") {
		t.Errorf("with the registry down: %+v", img)
	}
	if img := pull(t, c, byDigest); img.Stale {
		t.Errorf("an image by digest is never stale: %+v", img)
	}
	s.on(func(w http.ResponseWriter, r *http.Request) bool {
		w.WriteHeader(http.StatusNotFound)
		return true
	})
	_, err := c.Pull(t.Context(), ref, image.PullOptions{})
	wantError(t, err, boxlite.Image, "404") // gone is not unreachable
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}

	s.on(nil)
	o := options(s.host)
	o.Offline = true
	c = openIn(t, dir, o)
	if img := pull(t, c, ref); img.Digest != two.Digest {
		t.Errorf("offline: %+v", img)
	}
	_, err = c.Pull(t.Context(), s.host+"/y:1", image.PullOptions{})
	wantError(t, err, boxlite.NotFound, "network is off")
	if n := len(s.seen("GET", "")) + len(s.seen("HEAD", "")); n != 0 {
		t.Errorf("offline, and yet %d requests", n)
	}
}

func TestUnreachableRegistryIsSaidSo(t *testing.T) {
	s := serve(t, false)
	s.Close()
	c := open(t, s.host)
	_, err := c.Pull(t.Context(), s.host+"/x:1", image.PullOptions{})
	wantError(t, err, boxlite.Network, "refused")
}

func TestManyCallersShareOneDownload(t *testing.T) {
	s := serve(t, false)
	ref := it.Push(t, small(strings.Repeat("shared", 1000)), s.host+"/x:1")
	release := make(chan struct{})
	started := make(chan struct{}, 100)
	s.on(func(w http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/blobs/") {
			started <- struct{}{}
			<-release
		}
		return false
	})
	c := open(t, s.host)
	ctx, cancel := context.WithCancel(t.Context())
	var first error
	var wg sync.WaitGroup
	wg.Go(func() { _, first = c.Pull(ctx, ref, image.PullOptions{}) })
	<-started
	var reports atomic.Int64
	for range 20 {
		wg.Go(func() {
			img, err := c.Pull(t.Context(), ref, image.PullOptions{Progress: func(boxlite.Progress) { reports.Add(1) }})
			if err != nil || img.Info.Layers != 1 {
				t.Errorf("pulled %+v, %v", img, err)
			}
		})
	}
	time.Sleep(50 * time.Millisecond) // let them join
	cancel()
	close(release)
	wg.Wait()
	if !errors.Is(first, boxlite.Canceled) {
		t.Errorf("the first caller gave up and got %v", first)
	}
	if n := len(s.seen("GET", "/blobs/")); n != 2 {
		t.Errorf("%d blobs were downloaded, want 2: configuration and layer", n)
	}
	if reports.Load() == 0 {
		t.Error("nobody saw progress")
	}
}

func TestLastCallerToGiveUpEndsTheDownload(t *testing.T) {
	s := serve(t, false)
	ref := it.Push(t, small("x"), s.host+"/x:1")
	ended := make(chan struct{})
	started := make(chan struct{})
	s.on(func(w http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/blobs/") {
			close(started)
			<-r.Context().Done()
			close(ended)
			return true
		}
		return false
	})
	dir := t.TempDir()
	c := openIn(t, dir, options(s.host))
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-started; cancel() }()
	start := time.Now()
	_, err := c.Pull(ctx, ref, image.PullOptions{})
	wantError(t, err, boxlite.Canceled, "")
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("giving up took %v", took)
	}
	select {
	case <-ended:
	case <-time.After(5 * time.Second):
		t.Error("the download goes on")
	}
	s.on(nil)
	pull(t, c, ref)
	wantClean(t, dir, 1, false)
}

// noise returns bytes that do not compress.
func noise(n int) string {
	b, x := make([]byte, n), uint64(88172645463325252)
	for i := range b {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		b[i] = byte(x)
	}
	return string(b)
}

func TestBrokenDownloadsResume(t *testing.T) {
	s := serve(t, false)
	ref := it.Push(t, small(noise(2<<20)), s.host+"/x:1")
	for _, row := range []struct {
		name    string
		ranges  bool
		wantAll bool // the whole layer is sent in the last attempt
	}{{"with_range", true, false}, {"without_range", false, true}} {
		t.Run(row.name, func(t *testing.T) {
			breaks := 0
			var lastRange string
			s.on(func(w http.ResponseWriter, r *http.Request) bool {
				if !strings.Contains(r.URL.Path, "/blobs/") {
					return false
				}
				if !row.ranges {
					r.Header.Del("Range")
				}
				lastRange = r.Header.Get("Range")
				if breaks++; breaks == 2 || breaks == 3 { // after the configuration
					cut(w, s, r, 700<<10)
				}
				return false
			})
			dir := t.TempDir()
			img := pull(t, openIn(t, dir, options(s.host)), ref)
			if img.Info.Layers != 1 {
				t.Errorf("pulled %+v", img)
			}
			if row.ranges && (lastRange == "" || lastRange == "bytes=0-") {
				t.Errorf("the last attempt asked for %q, not for the rest", lastRange)
			}
			wantClean(t, dir, 1, false)
		})
	}
}

// cut makes a response break off after n bytes.
func cut(w http.ResponseWriter, s *server, r *http.Request, n int) {
	inner := &limited{ResponseWriter: w, left: n}
	r2 := r.Clone(r.Context())
	r2.Header.Set("X-Inner", "1")
	s.mu.Lock()
	intercept := s.intercept
	s.intercept = nil
	s.mu.Unlock()
	s.Config.Handler.ServeHTTP(inner, r2)
	s.mu.Lock()
	s.intercept = intercept
	s.mu.Unlock()
	panic(http.ErrAbortHandler)
}

type limited struct {
	http.ResponseWriter
	left int
}

func (l *limited) Write(p []byte) (int, error) {
	n := min(len(p), l.left)
	l.left -= n
	if _, err := l.ResponseWriter.Write(p[:n]); err != nil || n < len(p) {
		return n, errors.Join(err, errors.New("cut"))
	}
	return n, nil
}

func TestPartialBlobOfADeadProcessIsTakenUpOrThrownAway(t *testing.T) {
	s := serve(t, false)
	img := small(noise(1 << 20))
	ref := it.Push(t, img, s.host+"/x:1")
	layers, _ := img.Layers()
	d, _ := layers[0].Digest()
	rc, _ := layers[0].Compressed()
	var whole bytes.Buffer
	whole.ReadFrom(rc)
	for _, row := range []struct {
		name string
		part []byte
		from string
	}{
		{"good", whole.Bytes()[:500_000], "bytes=500000-"},
		{"damaged", bytes.Repeat([]byte("junk"), 1000), ""},
		{"complete", whole.Bytes(), "none"},
		{"too_long", append(bytes.Clone(whole.Bytes()), 1), ""},
		{"complete_and_damaged", bytes.Repeat([]byte("x"), whole.Len()), ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			s.on(nil)
			dir := t.TempDir()
			c := openIn(t, dir, options(s.host))
			if err := os.WriteFile(filepath.Join(dir, "partial", d.Hex), row.part, 0o600); err != nil {
				t.Fatal(err)
			}
			pull(t, c, ref)
			wantClean(t, dir, 1, false)
			got := "none"
			for _, r := range s.seen("GET", d.Hex) {
				got = r.Header.Get("Range")
			}
			if got != row.from && (row.name != "good" || !strings.HasPrefix(got, row.from)) {
				t.Errorf("asked for %q, want %q", got, row.from)
			}
		})
	}
}

func TestSilentRegistryTimesOut(t *testing.T) {
	s := serve(t, false)
	ref := it.Push(t, small(noise(1<<20)), s.host+"/x:1")
	quit := make(chan struct{})
	defer close(quit)
	for _, row := range []struct{ name, path string }{{"manifest", "/manifests/"}, {"blob", "/blobs/"}} {
		t.Run(row.name, func(t *testing.T) {
			s.on(func(w http.ResponseWriter, r *http.Request) bool {
				if !strings.Contains(r.URL.Path, row.path) {
					return false
				}
				w.Header().Set("Content-Length", "1000000")
				w.WriteHeader(http.StatusOK)
				w.(http.Flusher).Flush()
				select {
				case <-r.Context().Done():
				case <-quit:
				}
				return true
			})
			o := options(s.host)
			o.IdleTimeout = 100 * time.Millisecond
			dir := t.TempDir()
			c := openIn(t, dir, o)
			start := time.Now()
			_, err := c.Pull(t.Context(), ref, image.PullOptions{})
			wantError(t, err, boxlite.Timeout, "stopped sending")
			if took := time.Since(start); took > 30*time.Second {
				t.Errorf("it took %v", took)
			}
			wantClean(t, dir, 0, true)
		})
	}
}

func TestProgressCountsBytes(t *testing.T) {
	s := serve(t, false)
	ref := it.Push(t, small(noise(4<<20)), s.host+"/x:1")
	s.on(func(w http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/blobs/") {
			time.Sleep(150 * time.Millisecond)
		}
		return false
	})
	var seen []boxlite.Progress
	c := open(t, s.host)
	if _, err := c.Pull(t.Context(), ref, image.PullOptions{Progress: func(p boxlite.Progress) { seen = append(seen, p) }}); err != nil {
		t.Fatal(err)
	}
	if len(seen) == 0 {
		t.Fatal("no progress")
	}
	for _, p := range seen {
		if p.Total < 4<<20 || p.Current > p.Total || !strings.HasSuffix(p.Phase, "image") {
			t.Errorf("progress %+v", p)
		}
	}
}

func TestCacheHasOneOwner(t *testing.T) {
	dir := t.TempDir()
	c := openIn(t, dir, image.Options{})
	_, err := image.Open(dir, image.Options{})
	wantError(t, err, boxlite.InvalidState, "another process")
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	openIn(t, dir, image.Options{})
}

func TestClosedCacheEndsPulls(t *testing.T) {
	s := serve(t, false)
	ref := it.Push(t, small("x"), s.host+"/x:1")
	started := make(chan struct{})
	var once sync.Once
	s.on(func(w http.ResponseWriter, r *http.Request) bool {
		once.Do(func() { close(started) })
		<-r.Context().Done()
		return true
	})
	c := open(t, s.host)
	done := make(chan error)
	go func() { _, err := c.Pull(t.Context(), ref, image.PullOptions{}); done <- err }()
	<-started
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	wantError(t, <-done, boxlite.Canceled, "")
	_, err := c.Pull(t.Context(), ref, image.PullOptions{})
	if !errors.Is(err, boxlite.Canceled) {
		t.Errorf("pull after close: %v", err)
	}
}

func TestRemoveAndCollect(t *testing.T) {
	s := serve(t, false)
	shared := it.Layer(types.OCILayer, it.File("shared", 0o644, "shared"))
	one := it.Image(v1.Config{}, shared, it.Layer(types.OCILayer, it.File("one", 0o644, "1")))
	two := it.Image(v1.Config{}, shared, it.Layer(types.OCILayer, it.File("two", 0o644, "2")))
	a, b := it.Push(t, one, s.host+"/a:1"), it.Push(t, two, s.host+"/b:1")
	a2 := it.Push(t, one, s.host+"/a:2")
	dir := t.TempDir()
	o := options(s.host)
	o.Grace = -1
	c := openIn(t, dir, o)
	img := pull(t, c, a)
	pull(t, c, a2)
	s.on(nil)
	other := pull(t, c, b)
	if d, _ := shared.Digest(); len(s.seen("GET", d.Hex)) != 0 {
		t.Error("the shared layer was downloaded twice")
	}
	if n := len(c.List()); n != 3 {
		t.Errorf("%d in the list, want 3 references", n)
	}
	used := func(d string) bool { return d == img.Digest }
	if err := c.Remove(a, used); err != nil {
		t.Errorf("remove one of two references of an image in use: %v", err)
	}
	wantError(t, c.Remove(a2, used), boxlite.InvalidState, "boxes need")
	it.Push(t, two, a2) // the tag moves, and the image in use loses its name
	pull(t, c, a2)
	if got, err := c.GC(used); err != nil || len(got.Images) != 0 {
		t.Errorf("collected %+v, %v; want nothing: in use", got, err)
	}
	if _, err := c.ByDigest(img.Digest); err != nil {
		t.Error(err)
	}
	got, err := c.GC(func(string) bool { return false })
	if err != nil || len(got.Images) != 1 || got.Images[0] != img.Digest || got.Blobs < 2 || got.Freed == 0 {
		t.Errorf("collected %+v, %v; want the nameless image", got, err)
	}
	wantClean(t, dir, 1, false)
	if err := c.Remove(other.Digest, nil); err != nil {
		t.Error(err)
	}
	if got, err := c.GC(nil); err != nil || got.Blobs == 0 || len(c.List()) != 0 {
		t.Errorf("collected %+v, %v", got, err)
	}
	if left, _ := os.ReadDir(filepath.Join(dir, "blobs", "sha256")); len(left) != 0 {
		t.Errorf("blobs left: %v", left)
	}
	if err := c.Remove("docker.io/none", nil); boxlite.KindOf(err) != boxlite.NotFound {
		t.Errorf("remove what is not there: %v", err)
	}
}

func TestDamagedCacheRepairsItself(t *testing.T) {
	s := serve(t, false)
	ref := it.Push(t, small("x"), s.host+"/x:1")
	for name, damage := range map[string]func(dir string, img image.Image) error{
		"record_is_garbage": func(_ string, img image.Image) error {
			return os.WriteFile(filepath.Join(filepath.Dir(img.BasePath), "image.json"), []byte("{"), 0o600)
		},
		"base_is_short": func(_ string, img image.Image) error {
			return errors.Join(os.Chmod(img.BasePath, 0o600), os.Truncate(img.BasePath, 10))
		},
		"base_is_gone":   func(_ string, img image.Image) error { return os.Remove(img.BasePath) },
		"blobs_are_gone": func(dir string, _ image.Image) error { return os.RemoveAll(filepath.Join(dir, "blobs")) },
		"refs_are_garbage": func(dir string, _ image.Image) error {
			return os.WriteFile(filepath.Join(dir, "refs", "junk.json"), []byte("junk"), 0o600)
		},
		"tmp_is_full": func(dir string, _ image.Image) error {
			return os.MkdirAll(filepath.Join(dir, "tmp", "image-1", "x"), 0o700)
		},
		"blob_is_damaged": func(dir string, img image.Image) error {
			blobs, err := os.ReadDir(filepath.Join(dir, "blobs", "sha256"))
			for _, b := range blobs {
				path := filepath.Join(dir, "blobs", "sha256", b.Name())
				data, _ := os.ReadFile(path)
				data[len(data)/2] ^= 1
				err = errors.Join(err, os.WriteFile(path, data, 0o600))
			}
			return errors.Join(err, os.Remove(img.BasePath))
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			c := openIn(t, dir, options(s.host))
			img := pull(t, c, ref)
			want, err := os.ReadFile(img.BasePath)
			if err := errors.Join(err, c.Close(), damage(dir, img)); err != nil {
				t.Fatal(err)
			}
			c = openIn(t, dir, options(s.host))
			img = pull(t, c, ref)
			if got, err := os.ReadFile(img.BasePath); err != nil || !bytes.Equal(got, want) {
				t.Errorf("the base is not as it was: %v", err)
			}
			wantClean(t, dir, 1, false)
		})
	}
}

func TestPullOfManyDifferentImagesAtOnce(t *testing.T) {
	s := serve(t, false)
	c := open(t, s.host)
	shared := it.Layer(types.OCILayer, it.File("shared", 0o644, noise(200_000)))
	var wg sync.WaitGroup
	for i := range 12 {
		ref := it.Push(t, it.Image(v1.Config{}, shared, it.Layer(types.OCILayer, it.File("own", 0o644, fmt.Sprint(i)))), fmt.Sprintf("%s/x:%d", s.host, i))
		wg.Go(func() {
			if _, err := c.Pull(t.Context(), ref, image.PullOptions{}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := len(c.List()); n != 12 {
		t.Errorf("%d images", n)
	}
}

func TestFailedDownloadEndsThePullWhateverWaits(t *testing.T) {
	s := serve(t, false)
	var layers []v1.Layer
	for i := range 12 {
		layers = append(layers, it.Layer(types.OCILayer, it.File(fmt.Sprint("f", i), 0o644, noise(10_000+i))))
	}
	ref := it.Push(t, it.Image(v1.Config{}, layers...), s.host+"/x:1")
	for i, l := range layers {
		d, err := l.Digest()
		if err != nil {
			t.Fatal(err)
		}
		s.on(func(w http.ResponseWriter, r *http.Request) bool {
			if strings.HasSuffix(r.URL.Path, d.Hex) {
				w.WriteHeader(http.StatusNotFound)
				return true
			}
			return false
		})
		dir := t.TempDir()
		c := openIn(t, dir, options(s.host))
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		_, err = c.Pull(ctx, ref, image.PullOptions{})
		cancel()
		wantError(t, err, boxlite.Image, "404")
		wantClean(t, dir, 0, true)
		if t.Failed() {
			t.Fatalf("layer %d was missing", i)
		}
	}
}
