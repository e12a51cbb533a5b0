package image_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/boxlite-mcp/boxlite-mcp/vmcore/image"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/image/imagetest"
)

// open opens a cache in a new directory that may pull from hosts over HTTP.
func open(t testing.TB, hosts ...string) *image.Cache {
	t.Helper()
	return openIn(t, t.TempDir(), options(hosts...))
}

func options(hosts ...string) image.Options {
	var o image.Options
	for _, h := range hosts {
		o.Registries = append(o.Registries, image.Registry{Host: h, HTTP: true, Search: true})
	}
	return o
}

func openIn(t testing.TB, dir string, o image.Options) *image.Cache {
	t.Helper()
	c, err := image.Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func pull(t testing.TB, c *image.Cache, ref string) image.Image {
	t.Helper()
	img, err := c.Pull(t.Context(), ref, image.PullOptions{LocalRoots: []string{"/"}})
	if err != nil {
		t.Fatalf("pull %s: %v", ref, err)
	}
	return img
}

func TestPulledImageIsTheSameFromEverySource(t *testing.T) {
	host := imagetest.Registry(t)
	ref := imagetest.Push(t, imagetest.Busybox(), host+"/busybox:1")
	dir := t.TempDir()
	c := openIn(t, dir, options(host))
	img := pull(t, c, ref)
	if img.Reference != ref || img.Stale || len(img.Config.Cmd) != 1 || img.Info.Layers != 1 || img.Info.Created != imagetest.When.UTC() {
		t.Errorf("pulled %+v", img)
	}
	got, err := os.ReadFile(img.BasePath)
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(imagetest.BusyboxBase(t))
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("base differs from the flattened layer: %d bytes, %d; %v", len(got), len(want), err)
	}
	local := pull(t, open(t), "oci:"+imagetest.Layout(t, imagetest.Busybox(), "latest")+":latest")
	if got, err := os.ReadFile(local.BasePath); err != nil || !bytes.Equal(got, want) || local.Digest != img.Digest {
		t.Errorf("layout: digest %s, want %s; %d bytes, want %d; %v", local.Digest, img.Digest, len(got), len(want), err)
	}
	if left, _ := os.ReadDir(filepath.Join(dir, "tmp")); len(left) > 0 {
		t.Errorf("left in tmp: %v", left)
	}
}
