package image_test

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/types"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/boxlite-mcp/boxlite-mcp/vmcore/image"
	it "github.com/boxlite-mcp/boxlite-mcp/vmcore/image/imagetest"
)

// The environment of a child process that pulls and is killed.
const (
	childDir = "IMAGE_TEST_CHILD_DIR"
	childRef = "IMAGE_TEST_CHILD_REF"
)

func isChild() bool { return os.Getenv(childDir) != "" }

// child pulls an image for ever and ever.
func child() {
	ref := os.Getenv(childRef)
	c, err := image.Open(os.Getenv(childDir), options(strings.SplitN(ref, "/", 2)[0]))
	if err == nil {
		_, err = c.Pull(context.Background(), ref, image.PullOptions{})
	}
	fmt.Println("pulled", err)
	os.Exit(0)
}

// slowly answers blobs in pieces.
func slowly(s *server, pause time.Duration) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		time.Sleep(pause)
		return false
	}
}

// TestKilledPullLeavesNothingBehind kills a process at many moments of a pull.
// What it leaves is taken up by the next.
func TestKilledPullLeavesNothingBehind(t *testing.T) {
	s := serve(t, false)
	noise := make([]byte, 3<<20)
	for i := range noise {
		noise[i] = byte(i * i >> 7)
	}
	img := it.Image(v1.Config{}, it.Layer(types.OCILayer, it.File("a", 0o644, string(noise))), it.Layer(types.OCIUncompressedLayer, it.File("b", 0o644, string(noise))), it.Layer(types.OCILayer, it.File("c", 0o644, string(noise))))
	ref := it.Push(t, img, s.host+"/slow:1")
	s.on(slowly(s, 10*time.Millisecond))
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	moments := 24
	if testing.Short() {
		moments = 6
	}
	dir := t.TempDir()
	finished := 0
	for i := range moments {
		cmd := exec.Command(self)
		cmd.Env = append(os.Environ(), childDir+"="+dir, childRef+"="+ref)
		var out strings.Builder
		cmd.Stdout = &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(i) * 12 * time.Millisecond)
		if err := cmd.Process.Kill(); err != nil {
			t.Log(err)
		}
		cmd.Wait()
		c, err := image.Open(dir, options(s.host))
		if err != nil {
			t.Fatalf("open after kill %d: %v", i, err)
		}
		wantClean(t, dir, len(c.List()), true)
		if i%4 == 3 { // now and then let it succeed, and begin anew
			if got := pull(t, c, ref); got.Info.Layers != 3 {
				t.Errorf("pulled %+v", got)
			}
			wantClean(t, dir, 1, false)
			finished++
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		if i%4 == 3 {
			if err := os.RemoveAll(filepath.Join(dir)); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Logf("%d kills, %d pulls finished afterwards", moments, finished)
}
