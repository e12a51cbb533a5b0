package image_test

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/boxlite-mcp/boxlite-mcp/internal/testimage"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/image"
)

// BenchmarkImport pulls Debian with Python from a local registry into an empty
// cache, and has skopeo and umoci do the same, by turns. "ratio" is our time
// over theirs, "MB/s" counts the uncompressed root.
//
// We sync what we write; they do not.
func BenchmarkImport(b *testing.B) {
	for _, tool := range []string{"skopeo", "umoci", "mmdebstrap"} {
		if _, err := exec.LookPath(tool); err != nil {
			b.Skip("needs ", tool)
		}
	}
	build, err := filepath.Abs("../../build")
	if err != nil {
		b.Fatal(err)
	}
	img, err := testimage.Debian(b.Context(), filepath.Join(build, "testimage"), io.Discard)
	if err != nil {
		b.Fatal(err)
	}
	reg, err := testimage.Serve(b.Context(), b.TempDir(), io.Discard)
	if err != nil {
		b.Fatal(err)
	}
	defer reg.Close()
	ref, err := reg.Push(b.Context(), img, "bench/python:3")
	if err != nil {
		b.Fatal(err)
	}
	var ours, theirs time.Duration
	var size int64
	for b.Loop() {
		took, n := importOurs(b, reg.Addr(), ref)
		ours, size = ours+took, size+n
		theirs += importTheirs(b, ref)
	}
	b.ReportMetric(ours.Seconds()/float64(b.N), "s/ours")
	b.ReportMetric(theirs.Seconds()/float64(b.N), "s/skopeo+umoci")
	b.ReportMetric(ours.Seconds()/theirs.Seconds(), "ratio")
	b.ReportMetric(float64(size)/1e6/ours.Seconds(), "MB/s")
	b.ReportMetric(0, "ns/op")
}

func importOurs(b *testing.B, host, ref string) (time.Duration, int64) {
	dir, err := os.MkdirTemp(b.TempDir(), "ours-") //nolint:usetesting // one for each run
	if err != nil {
		b.Fatal(err)
	}
	defer os.RemoveAll(dir)
	start := time.Now()
	c, err := image.Open(dir, options(host))
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	img, err := c.Pull(b.Context(), ref, image.PullOptions{})
	if err != nil {
		b.Fatal(err)
	}
	return time.Since(start), img.Info.Size.Bytes()
}

func importTheirs(b *testing.B, ref string) time.Duration {
	dir, err := os.MkdirTemp(b.TempDir(), "theirs-") //nolint:usetesting // one for each run
	if err != nil {
		b.Fatal(err)
	}
	defer os.RemoveAll(dir)
	layout, bundle := filepath.Join(dir, "oci"), filepath.Join(dir, "bundle")
	unpack := []string{"umoci", "unpack", "--image", layout + ":x", bundle}
	if os.Getuid() != 0 {
		unpack = []string{"umoci", "unpack", "--rootless", "--image", layout + ":x", bundle}
	}
	start := time.Now()
	for _, args := range [][]string{{"skopeo", "copy", "--quiet", "--src-tls-verify=false", "docker://" + ref, "oci:" + layout + ":x"}, unpack} {
		if out, err := exec.CommandContext(b.Context(), args[0], args[1:]...).CombinedOutput(); err != nil {
			b.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	return time.Since(start)
}
