package image

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// The names in an image's directory.
const (
	recordName = "image.json"
	plainName  = "base.erofs"
	fullName   = "full.erofs"
)

// A record is image.json. Add fields; never rename or retype them.
type record struct {
	Format    int       `json:"format"` // version of the files beside it
	Digest    string    `json:"digest"`
	Reference string    `json:"reference"` // it was first pulled by
	Platform  string    `json:"platform"`
	Created   time.Time `json:"created,omitzero"`
	Pulled    time.Time `json:"pulled"`
	Layers    int       `json:"layers"`
	Size      int64     `json:"size"`             // of base.erofs
	Full      int64     `json:"full,omitempty"`   // of full.erofs
	Xattrs    bool      `json:"xattrs,omitempty"` // full.erofs exists
	Blobs     []string  `json:"blobs,omitempty"`  // digests of what it was made of
	Config    Config    `json:"config"`
}

// A refRecord is a file in refs.
type refRecord struct {
	Reference string    `json:"reference"` // canonical
	Root      string    `json:"root"`      // digest that the registry has for it: of an index or a manifest
	Digest    string    `json:"digest"`    // of the image
	Checked   time.Time `json:"checked"`   // when the registry last said so
}

func (c *Cache) imageDir(digest string) string {
	return filepath.Join(c.dir, "images", hexOf(digest))
}

func (c *Cache) blobPath(digest string) string {
	return filepath.Join(c.dir, "blobs", "sha256", hexOf(digest))
}

func (c *Cache) refPath(reference string) string {
	sum := sha256.Sum256([]byte(reference))
	return filepath.Join(c.dir, "refs", hex.EncodeToString(sum[:])+".json")
}

// hexOf returns the digits of a digest. It panics if it is none: digests are
// checked where they are read.
func hexOf(digest string) string {
	if !digestPattern.MatchString(digest) {
		panic("image: unchecked digest")
	}
	return strings.TrimPrefix(digest, "sha256:")
}

// recover removes what is unfinished and reads what is there.
func (c *Cache) recover() error {
	tmp := filepath.Join(c.dir, "tmp")
	if err := os.RemoveAll(tmp); err != nil {
		return err
	}
	if err := os.Mkdir(tmp, 0o700); err != nil {
		return err
	}
	if err := c.readImages(); err != nil {
		return err
	}
	return c.readRefs()
}

func (c *Cache) readImages() error {
	dirs, err := os.ReadDir(filepath.Join(c.dir, "images"))
	for _, d := range dirs {
		dir := filepath.Join(c.dir, "images", d.Name())
		rec, err := readImage(dir)
		if err == nil && hexOf(rec.Digest) == d.Name() {
			c.images[rec.Digest] = rec
			continue
		}
		c.log.Warn("removing damaged image", "path", dir, "err", err)
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	return err
}

// readImage reads an image's record, and looks whether its files are there.
func readImage(dir string) (*record, error) {
	rec := &record{}
	if err := readJSON(filepath.Join(dir, recordName), rec); err != nil {
		return nil, err
	}
	if !digestPattern.MatchString(rec.Digest) {
		return nil, fmt.Errorf("digest %.80q", rec.Digest)
	}
	sizes := map[string]int64{plainName: rec.Size}
	if rec.Xattrs {
		sizes[fullName] = rec.Full
	}
	for name, size := range sizes {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			return nil, err
		}
		if info.Size() != size {
			return nil, fmt.Errorf("%s has %d bytes, not %d", name, info.Size(), size)
		}
	}
	return rec, nil
}

func (c *Cache) readRefs() error {
	files, err := os.ReadDir(filepath.Join(c.dir, "refs"))
	for _, f := range files {
		path := filepath.Join(c.dir, "refs", f.Name())
		var ref refRecord
		if err := readJSON(path, &ref); err == nil && c.images[ref.Digest] != nil && c.refPath(ref.Reference) == path {
			c.refs[ref.Reference] = ref
			continue
		}
		if err := os.Remove(path); err != nil {
			return err
		}
	}
	return err
}

// setRef makes a reference mean an image, on disk and in memory.
func (c *Cache) setRef(ref refRecord) error {
	if err := writeJSON(filepath.Join(c.dir, "tmp"), c.refPath(ref.Reference), ref); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.images[ref.Digest] == nil {
		return errors.New("the image was removed while it was pulled")
	}
	c.refs[ref.Reference] = ref
	return nil
}

func readJSON(path string, v any) error {
	b, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(b, v)
	}
	return err
}

// writeJSON replaces a file at once: what is at path is the old or the new
// one, even after a power failure.
func writeJSON(tmp, path string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(tmp, rand.Text()), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(append(b, '\n'))
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, ignoreMissing(os.Remove(f.Name())))
	}
	return syncDir(filepath.Dir(path))
}

// syncDir makes renames in a directory durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
