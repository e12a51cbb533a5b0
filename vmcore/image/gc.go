package image

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
)

// List returns what every reference means, sorted by reference, and then the
// images that have none any more.
func (c *Cache) List() []Image {
	c.mu.Lock()
	defer c.mu.Unlock()
	used := map[string]time.Time{}
	named := map[string]bool{}
	var list, bare []Image
	add := func(to *[]Image, digest, ref string) {
		used[digest] = c.used[digest]
		*to = append(*to, c.image(c.images[digest], ref))
		c.used[digest] = used[digest] // to be listed is not to be used
	}
	for _, ref := range c.refs {
		named[ref.Digest] = true
		add(&list, ref.Digest, ref.Reference)
	}
	for digest := range c.images {
		if !named[digest] {
			add(&bare, digest, "")
		}
	}
	slices.SortFunc(list, func(a, b Image) int { return strings.Compare(a.Reference, b.Reference) })
	slices.SortFunc(bare, func(a, b Image) int { return strings.Compare(a.Digest, b.Digest) })
	return append(list, bare...)
}

// Remove forgets a reference, or all that an image's digest has. The image goes
// with its last reference.
//
// Errors: NotFound; InvalidState if the image would go and inUse reports that
// boxes need it; Storage.
func (c *Cache) Remove(refOrDigest string, inUse func(digest string) bool) error {
	digest, names := refOrDigest, []string(nil)
	if !digestPattern.MatchString(refOrDigest) {
		img, err := c.Lookup(refOrDigest)
		if err != nil {
			return err
		}
		digest, names = img.Digest, []string{img.Reference}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.images[digest] == nil {
		return &boxlite.Error{Op: "remove image", Kind: boxlite.NotFound, Ref: short(refOrDigest), Hint: "List the images to see what there is."}
	}
	all := c.names(digest)
	if names == nil {
		names = all
	}
	last := len(names) == len(all)
	if last && inUse != nil && inUse(digest) {
		return &boxlite.Error{Op: "remove image", Kind: boxlite.InvalidState, Ref: short(refOrDigest),
			Hint: "Remove the boxes that were made of it first.", Err: errors.New("boxes need the image")}
	}
	for _, name := range names {
		if err := c.dropRef(name); err != nil {
			return c.fault("remove image", name, err)
		}
	}
	if last {
		return c.fault("remove image", refOrDigest, c.dropImage(digest))
	}
	return nil
}

// names returns the references of an image. c.mu is held, as below.
func (c *Cache) names(digest string) []string {
	var names []string
	for name, ref := range c.refs {
		if ref.Digest == digest {
			names = append(names, name)
		}
	}
	return names
}

func (c *Cache) dropRef(name string) error {
	if err := ignoreMissing(os.Remove(c.refPath(name))); err != nil {
		return err
	}
	delete(c.refs, name)
	return nil
}

// dropImage removes an image in one step: what is left of it after a crash is
// in tmp.
func (c *Cache) dropImage(digest string) error {
	gone, err := os.MkdirTemp(filepath.Join(c.dir, "tmp"), "removed-")
	if err != nil {
		return err
	}
	if err := os.Rename(c.imageDir(digest), filepath.Join(gone, "image")); err != nil {
		return err
	}
	delete(c.images, digest)
	delete(c.used, digest)
	return os.RemoveAll(gone)
}

// A Collected says what GC removed.
type Collected struct {
	Images []string      // digests
	Blobs  int           // manifests, configurations and layers
	Freed  boxlite.Bytes // by both
}

// stale is how long the start of a download is kept that nobody resumes.
const stale = 7 * 24 * time.Hour

// GC removes images that have no reference, that inUse does not report and
// that were not used lately, then what no image was made of. Work under way
// keeps what it needs.
//
// Errors: Storage.
func (c *Cache) GC(inUse func(digest string) bool) (Collected, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var done Collected
	for digest, rec := range c.images {
		recent := c.opts.Grace > 0 && time.Since(c.used[digest]) < c.opts.Grace
		if len(c.names(digest)) > 0 || c.pins[digest] > 0 || recent || inUse != nil && inUse(digest) {
			continue
		}
		if err := c.dropImage(digest); err != nil {
			return done, c.fault("collect images", digest, err)
		}
		done.Images = append(done.Images, digest)
		done.Freed += boxlite.Bytes(rec.Size + rec.Full)
	}
	slices.Sort(done.Images)
	return done, c.fault("collect images", "", errors.Join(c.dropBlobs(&done), c.dropPartials(&done)))
}

// dropBlobs removes the blobs that no image was made of.
func (c *Cache) dropBlobs(done *Collected) error {
	needed := map[string]bool{}
	for _, rec := range c.images {
		for _, d := range rec.Blobs {
			needed[d] = true
		}
	}
	for _, ref := range c.refs {
		needed[ref.Root] = true
	}
	return c.sweep("blobs/sha256", done, func(name string, _ time.Time) bool {
		return !needed["sha256:"+name] && c.pins["sha256:"+name] == 0
	})
}

func (c *Cache) dropPartials(done *Collected) error {
	return c.sweep("partial", done, func(name string, changed time.Time) bool {
		return c.pins["sha256:"+name] == 0 && time.Since(changed) > stale
	})
}

// sweep removes the files of a directory that drop names.
func (c *Cache) sweep(dir string, done *Collected, drop func(name string, changed time.Time) bool) error {
	entries, err := os.ReadDir(filepath.Join(c.dir, dir))
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || !drop(e.Name(), info.ModTime()) {
			continue
		}
		if err := os.Remove(filepath.Join(c.dir, dir, e.Name())); err != nil {
			return err
		}
		done.Blobs++
		done.Freed += boxlite.Bytes(info.Size())
	}
	return err
}
