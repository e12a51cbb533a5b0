package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/boxlite-mcp/boxlite-mcp/vmcore/image"
)

// measureImport times the way of an image from the registry to where a box can
// be made of it, against what other tools need to unpack it.
func measureImport(ctx context.Context, s *setting, r *report) error {
	for _, tool := range []string{"skopeo", "umoci"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("%w; install it: scripts/setup bench", err)
		}
	}
	r.chapter("image import", "Debian with Python from the registry; ours is verified, flattened and synced to disk, theirs not synced")
	var ours, theirs series
	var size int64
	for range s.times(3) {
		d, n, err := importOurs(ctx, s)
		if err != nil {
			return err
		}
		ours.add(d)
		size = n
		if d, err = importTheirs(ctx, s); err != nil {
			return err
		}
		theirs.add(d)
	}
	r.add(result{name: "ours", unit: "ms", values: ours})
	r.add(result{name: "skopeo copy + umoci unpack", unit: "ms", values: theirs})
	r.add(result{name: "size of the flattened image", unit: "MB", values: series{float64(size) / 1e6}})
	r.add(result{name: "ours / skopeo + umoci", unit: "×", values: over(ours, theirs), below: 1})
	return nil
}

func importOurs(ctx context.Context, s *setting) (took time.Duration, size int64, err error) {
	dir, err := os.MkdirTemp(s.dir, "ours-")
	if err != nil {
		return 0, 0, err
	}
	defer os.RemoveAll(dir)
	begun := time.Now()
	c, err := image.Open(dir, image.Options{Registries: s.registries()})
	if err != nil {
		return 0, 0, err
	}
	img, err := c.Pull(ctx, s.image, image.PullOptions{})
	took = time.Since(begun)
	return took, img.Info.Size.Bytes(), errors.Join(err, c.Close())
}

func importTheirs(ctx context.Context, s *setting) (time.Duration, error) {
	dir, err := os.MkdirTemp(s.dir, "theirs-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	layout := filepath.Join(dir, "oci") + ":x"
	unpack := []string{"umoci", "unpack", "--image", layout, filepath.Join(dir, "bundle")}
	if os.Getuid() != 0 {
		unpack = append(unpack, "--rootless")
	}
	begun := time.Now()
	for _, line := range [][]string{{"skopeo", "copy", "--quiet", "--src-tls-verify=false", "docker://" + s.image, "oci:" + layout}, unpack} {
		if out, err := exec.CommandContext(ctx, line[0], line[1:]...).CombinedOutput(); err != nil {
			return 0, fmt.Errorf("%q: %w\n%s", line, err, out)
		}
	}
	return time.Since(begun), nil
}
