// Package image is the image cache of a home directory: it pulls images from
// registries and local files, verifies every digest, and keeps one flattened
// root file system per image, as package flatten makes it.
//
// It does not run anything, knows no boxes, and extracts nothing to the host's
// file system. It reads neither the environment nor anybody's credentials.
//
//	cache, err := image.Open(filepath.Join(home, "images"), image.Options{})
//	defer cache.Close()
//	img, err := cache.Pull(ctx, "python:3.12", image.PullOptions{})
//	spec.Base = img.BasePath
//
// A Cache may be used concurrently; one process owns the directory. Calls for
// the same image share one download, which goes on while anyone waits for it.
//
// On disk, below the directory:
//
//	lock                      held by the owner
//	blobs/sha256/<hex>        manifests, configurations and layers, verified
//	partial/<hex>             a blob as far as it has come; resumed
//	images/<hex>/             one image, by the digest of its manifest:
//	    image.json            what is known of it
//	    base.erofs            its root, for every engine
//	    full.erofs            the same with extended attributes, if it has any
//	refs/<sha256 of the reference>.json   which image a reference means
//	tmp/                      emptied when the cache is opened
//
// An image's directory and a reference's file appear by rename, complete and
// synced. See docs/decisions/0021-image-cache.md.
package image

import (
	"context"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/image/remote"
)

// Options say what a cache may do. The zero value pulls from docker.io.
type Options struct {
	// Registries are the registries that images may come from. None: docker.io
	// over HTTPS.
	Registries []Registry
	// Offline never uses the network.
	Offline bool
	// Limits bound an image. Zero fields mean the default.
	Limits Limits
	// RootCAs verify registries. nil: the host's.
	RootCAs *x509.CertPool
	// Dial connects to a registry, and to where it redirects: the place for
	// address rules. nil: a net.Dialer.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// IdleTimeout is how long a registry may be silent. 0: 30 seconds.
	IdleTimeout time.Duration
	// Protected are directories that no local reference reads from, such as
	// our own home. The cache's directory always is.
	Protected []string
	// Grace keeps what was pulled or looked up this recently from GC, for boxes
	// that are about to use it. 0: 10 minutes; negative: none.
	Grace time.Duration
	// Log is for what repairs itself. nil discards.
	Log *slog.Logger

	arch       string // architecture of images
	ratioAfter int64  // see the constant; tests set it
}

// Limits bound an image. Zero fields mean the default.
type Limits struct {
	Bytes   int64 // uncompressed, of all layers together; default 32 GiB
	Entries int   // files in all layers together; default 2,000,000
	Layers  int   // default 512
}

// An Image is an image in the cache.
type Image struct {
	Reference string // canonical
	Digest    string // of the platform's manifest: sha256:…

	// BasePath is the read-only EROFS file of the root. Every engine can mount
	// it. It is as the image is, but for extended attributes.
	BasePath string
	// FullBasePath is the same with extended attributes, for engines with a
	// Linux kernel; it is BasePath if there are none.
	FullBasePath string

	Config Config
	Info   boxlite.ImageInfo // InUse is not filled in

	// Stale is set by Pull if the registry could not be asked whether the tag
	// has moved; Warning says why.
	Stale   bool
	Warning string
}

// A Cache is the images of a home directory.
type Cache struct {
	dir        string
	opts       Options
	registries registries
	lock       *os.File
	log        *slog.Logger
	platform   string // linux/amd64

	ctx    context.Context //nolint:containedctx // ends the work of flights when the cache closes
	cancel context.CancelFunc
	work   sync.WaitGroup

	keys keyedMutex // blobs and images being made

	mu      sync.Mutex // guards the rest
	closed  bool
	images  map[string]*record        // by digest
	refs    map[string]refRecord      // by canonical reference
	used    map[string]time.Time      // images, by digest: last returned
	pins    map[string]int            // blobs and images that work under way needs
	flights map[string]*flight        // by canonical reference
	clients map[string]*remote.Client // by host and prefix of the entry
}

// Open opens the cache in dir, which is made if it does not exist, and removes
// what a process that died left unfinished.
//
// Errors: InvalidState if another process has it open; InvalidArgument for
// registries; Storage.
func Open(dir string, opts Options) (*Cache, error) {
	list, err := parseRegistries(opts.Registries)
	if err != nil {
		return nil, err
	}
	c := &Cache{
		opts: opts.withDefaults(), registries: list,
		images: map[string]*record{}, refs: map[string]refRecord{}, used: map[string]time.Time{},
		pins: map[string]int{}, flights: map[string]*flight{}, clients: map[string]*remote.Client{},
	}
	c.log, c.platform = c.opts.Log, "linux/"+c.opts.arch
	if c.dir, err = filepath.Abs(dir); err == nil {
		err = c.makeDirs()
	}
	if err != nil {
		return nil, c.fault("open image cache", dir, err)
	}
	if c.lock, err = lockDir(c.dir); err != nil {
		return nil, err
	}
	if err := c.recover(); err != nil {
		c.lock.Close()
		return nil, c.fault("open image cache", dir, err)
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	return c, nil
}

func (o Options) withDefaults() Options {
	if o.arch == "" {
		o.arch = runtime.GOARCH
	}
	if o.ratioAfter == 0 {
		o.ratioAfter = ratioAfter
	}
	if o.Grace == 0 {
		o.Grace = 10 * time.Minute
	}
	if o.Limits.Layers == 0 {
		o.Limits.Layers = 512
	}
	if o.Limits.Bytes == 0 {
		o.Limits.Bytes = 32 << 30
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

func (c *Cache) makeDirs() error {
	for _, sub := range []string{"blobs/sha256", "partial", "images", "refs"} {
		if err := os.MkdirAll(filepath.Join(c.dir, sub), 0o700); err != nil {
			return err
		}
	}
	return nil
}

// lockDir makes this process the owner of dir, until the file is closed or the
// process dies.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, boxlite.Errorf(boxlite.Storage, "open image cache", dir, "open lock: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, &boxlite.Error{Op: "open image cache", Kind: boxlite.InvalidState, Ref: dir,
			Hint: "Stop the other daemon of this home, or wait until it has left.", Err: errors.New("another process has it open")}
	}
	return f, nil
}

// Close ends pulls under way and waits for them.
func (c *Cache) Close() error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil
	}
	c.closed = true
	c.mu.Unlock()
	c.cancel()
	c.work.Wait()
	for _, client := range c.clients {
		client.Close()
	}
	return c.lock.Close()
}

// Lookup returns what a reference means in the cache. It uses neither the
// network nor files outside the cache, and checks no permission.
//
// Errors: NotFound, InvalidArgument; Denied for an unqualified name that
// nothing is configured for.
func (c *Cache) Lookup(ref string) (Image, error) {
	r, err := ParseReference(ref)
	if err != nil {
		return Image{}, err
	}
	names := []Reference{r}
	if !r.IsLocal() && r.Registry == "" {
		if names, err = c.registries.candidates(r); err != nil {
			return Image{}, err
		}
	}
	for _, name := range names {
		if img, ok := c.cached(name); ok {
			return img, nil
		}
	}
	return Image{}, &boxlite.Error{Op: "look up image", Kind: boxlite.NotFound, Ref: r.String(), Hint: "Pull it first."}
}

// ByDigest returns the image whose manifest has the digest.
//
// Errors: NotFound.
func (c *Cache) ByDigest(digest string) (Image, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	rec := c.images[digest]
	if rec == nil {
		return Image{}, &boxlite.Error{Op: "look up image", Kind: boxlite.NotFound, Ref: short(digest), Hint: "Pull the image again."}
	}
	return c.image(rec, rec.Reference), nil
}

// cached returns the image that a qualified reference means in the cache.
func (c *Cache) cached(r Reference) (Image, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	ref, ok := c.refs[r.String()]
	if !ok {
		return Image{}, false
	}
	return c.image(c.images[ref.Digest], ref.Reference), true
}

// image returns rec as callers see it, and notes that it was used. c.mu is
// held.
func (c *Cache) image(rec *record, reference string) Image {
	c.used[rec.Digest] = time.Now()
	dir := c.imageDir(rec.Digest)
	img := Image{
		Reference: reference, Digest: rec.Digest, Config: rec.Config,
		BasePath: filepath.Join(dir, plainName), FullBasePath: filepath.Join(dir, plainName),
		Info: boxlite.ImageInfo{
			Reference: reference, Digest: rec.Digest, Size: boxlite.Bytes(rec.Size), Created: rec.Created,
			Pulled: rec.Pulled, Layers: rec.Layers, Platform: rec.Platform,
		},
	}
	if rec.Xattrs {
		img.FullBasePath = filepath.Join(dir, fullName)
	}
	return img
}
