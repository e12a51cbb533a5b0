package image

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/image/remote"
)

// PullOptions belong to one call of Pull.
type PullOptions struct {
	// LocalRoots are the directories below which local references may read.
	// None: no local references. "/" allows all.
	LocalRoots []string
	// Registries are allowed for this call, beside the cache's own. With any,
	// a cache that was opened without does not fall back to docker.io.
	Registries []Registry
	// Permit says whether a qualified registry reference may be used, before its
	// registry is asked; of a name that may mean several, those are tried that
	// may be. nil: all.
	//
	// Errors: Denied.
	Permit func(Reference) error
	// Progress is called now and then, by one goroutine at a time, until Pull
	// returns. It must not block. nil: nobody watches.
	Progress func(boxlite.Progress)
}

// downloads is how many layers of an image are fetched at once.
const downloads = 4

// Pull returns the image that ref means once its flattened root is in the
// cache, downloading what is missing. A tag is checked against its registry
// first; where that cannot be reached, the image in the cache is returned as
// Stale. A local image is always read anew.
//
// Errors: InvalidArgument for ref; Denied if its registry is not configured or
// its path not allowed; Image if it is missing, damaged, hostile or for another
// platform; Network, Timeout, Canceled, Exhausted, Storage.
func (c *Cache) Pull(ctx context.Context, ref string, o PullOptions) (Image, error) {
	r, err := ParseReference(ref)
	if err != nil {
		return Image{}, err
	}
	if r.IsLocal() {
		img, err := c.pullLocal(ctx, r, o)
		if errors.Is(err, fs.ErrNotExist) {
			err = &boxlite.Error{Kind: boxlite.NotFound, Hint: "Check the path.", Err: err}
		}
		return img, c.fault("read image", r.String(), err)
	}
	candidates, allowed, err := c.permitted(r, o)
	if err != nil {
		return Image{}, err
	}
	var failures []error
	for _, r := range candidates {
		img, err := c.share(ctx, r.String(), o.Progress, func(ctx context.Context, report func(boxlite.Progress)) (Image, error) {
			return c.pullFrom(ctx, r, allowed, report)
		})
		if err == nil {
			return img, nil
		}
		failures = append(failures, c.fault("pull image", r.String(), err))
		if ctx.Err() != nil {
			break
		}
	}
	return Image{}, all(r, failures)
}

// Check says whether ref may be pulled as far as its name goes, and asks
// nobody.
//
// Errors: InvalidArgument, Denied.
func (c *Cache) Check(ref string, o PullOptions) error {
	r, err := ParseReference(ref)
	if err != nil || r.IsLocal() {
		return err
	}
	_, _, err = c.permitted(r, o)
	return err
}

// permitted returns the qualified references that r may mean and that may be
// used, and the registries of the call.
//
// Errors: Denied if there is none.
func (c *Cache) permitted(r Reference, o PullOptions) ([]Reference, registries, error) {
	allowed, err := c.allowed(o.Registries)
	if err != nil {
		return nil, nil, err
	}
	candidates, err := allowed.candidates(r)
	if err != nil || o.Permit == nil {
		return candidates, allowed, err
	}
	var may []Reference
	for _, r := range candidates {
		if refused := o.Permit(r); refused != nil {
			err = cmp.Or(err, refused)
			continue
		}
		may = append(may, r)
	}
	if len(may) > 0 {
		err = nil
	}
	return may, allowed, err
}

// all returns one error for those of every registry that was tried.
func all(r Reference, failures []error) error {
	if len(failures) == 1 {
		return failures[0]
	}
	last := failures[len(failures)-1]
	return &boxlite.Error{Op: "pull image", Kind: boxlite.KindOf(last), Ref: r.String(),
		Hint: "Write the registry before the name, as in docker.io/library/alpine, or see what each of them answered.",
		Err:  fmt.Errorf("no registry of the search list has it:\n%w", errors.Join(failures...))}
}

// pullFrom pulls a qualified reference.
func (c *Cache) pullFrom(ctx context.Context, r Reference, allowed registries, report func(boxlite.Progress)) (Image, error) {
	have, cached := c.cachedRef(r)
	if cached && (r.Digest != "" || c.opts.Offline) {
		img, _ := c.cached(r)
		return img, nil
	}
	if c.opts.Offline {
		return Image{}, &boxlite.Error{Kind: boxlite.NotFound, Hint: "Pull it while online.", Err: errors.New("the image is not in the cache, and the network is off")}
	}
	e, err := allowed.find(r)
	if err != nil {
		return Image{}, err
	}
	p := &puller{cache: c, client: c.client(e), repo: r.Repository, track: &tracker{report: report}}
	if cached {
		if root, err := p.head(ctx, r); err == nil && root == have.Root {
			img, _ := c.cached(r)
			return img, nil
		}
	}
	img, err := p.pull(ctx, r)
	if err != nil && cached && remote.IsTransient(err) {
		img, _ = c.cached(r)
		img.Stale, img.Warning = true, fmt.Sprintf("%s could not be asked for news, so the image is as of %s: %v", r.Registry, have.Checked.Format(time.DateTime), err)
		return img, nil
	}
	return img, err
}

func (c *Cache) cachedRef(r Reference) (refRecord, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	ref, ok := c.refs[r.String()]
	return ref, ok
}

// allowed returns the registries of one call: the cache's and more.
//
// Errors: InvalidArgument.
func (c *Cache) allowed(more []Registry) (registries, error) {
	if len(more) == 0 {
		return c.registries, nil
	}
	all, err := parseRegistries(more)
	if err != nil || len(c.opts.Registries) == 0 {
		return all, err
	}
	return append(slices.Clip(c.registries), all...), nil
}

// client returns the client for an entry of the configuration.
func (c *Cache) client(e entry) *remote.Client {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.clients[e.Host] == nil {
		c.clients[e.Host] = remote.New(remote.Options{
			Host: e.host, HTTP: e.HTTP, SkipVerify: e.SkipVerify,
			Username: e.Auth.username, Password: e.Auth.password, Token: e.Auth.token,
			RootCAs: c.opts.RootCAs, Dial: c.opts.Dial, Idle: c.opts.IdleTimeout,
		})
	}
	return c.clients[e.Host]
}

// head asks for the digest of a tag.
func (p *puller) head(ctx context.Context, r Reference) (digest string, err error) {
	m, err := p.client.Head(ctx, p.repo, r.manifest())
	return m.Digest, err
}

// pull fetches the manifest that r means now, and what is missing of its image.
func (p *puller) pull(ctx context.Context, r Reference) (Image, error) {
	m, root, digest, err := p.resolve(ctx, r.manifest())
	if err != nil {
		return Image{}, err
	}
	c := p.cache
	defer c.pin(append(m.blobs(), root, digest)...)()
	unlock, err := c.keys.lock(ctx, "image "+digest)
	if err != nil {
		return Image{}, err
	}
	defer unlock()
	if _, err := c.ByDigest(digest); err != nil {
		err := p.make(ctx, m, digest, r)
		if errors.Is(err, boxlite.Image) { // is it the registry's fault, or our disk's?
			if damaged, e := p.discardDamaged(ctx); damaged || e != nil {
				if err = e; err == nil {
					err = p.make(ctx, m, digest, r)
				}
			}
		}
		if err != nil {
			return Image{}, err
		}
	}
	if err := c.setRef(refRecord{Reference: r.String(), Root: root, Digest: digest, Checked: time.Now().UTC()}); err != nil {
		return Image{}, err
	}
	img, _ := c.cached(r)
	return img, nil
}

// resolve follows indexes to the manifest for our platform.
func (p *puller) resolve(ctx context.Context, ref string) (m manifest, root, digest string, err error) {
	const deepest = 3
	for range deepest {
		b, d, err := p.manifest(ctx, ref)
		if err != nil {
			return m, "", "", err
		}
		if root == "" {
			root = d
		}
		if m, err = parseManifest(b); err != nil {
			return m, "", "", err
		}
		if !m.isIndex() {
			return m, root, d, m.checkLayers(p.cache.opts.Limits)
		}
		next, err := m.choose(p.cache.platform)
		if err != nil {
			return m, "", "", err
		}
		ref = next.Digest.String()
	}
	return m, "", "", refuse(hintHostile, "indexes are nested more than %d deep", deepest)
}

// blobs lists what a manifest needs.
func (m manifest) blobs() []string {
	digests := []string{m.Config.Digest.String()}
	for _, l := range m.Layers {
		digests = append(digests, l.Digest.String())
	}
	return digests
}

// make downloads and flattens an image. The lock of its digest is held.
func (p *puller) make(ctx context.Context, m manifest, digest string, r Reference) error {
	c := p.cache
	raw, err := p.small(ctx, *m.Config)
	if err != nil {
		return err
	}
	file, config, err := m.parseImageConfig(raw, c.platform)
	if err != nil {
		return err
	}
	p.track.start(m)
	rec := &record{
		Digest: digest, Reference: r.String(), Platform: c.platform, Created: file.Created.UTC(), Pulled: time.Now().UTC(),
		Layers: len(m.Layers), Blobs: append(m.blobs(), digest), Config: config,
	}
	return c.commit(rec, func(dir string) error {
		fetching, ctx := errgroup.WithContext(ctx)
		layers := p.fetchAll(ctx, fetching, m, file.RootFS.DiffIDs)
		fetching.Go(func() error { return c.build(ctx, dir, layers, p.track, rec) })
		return fetching.Wait()
	})
}

// fetchAll starts to download the layers in their order, a few at a time.
func (p *puller) fetchAll(ctx context.Context, g *errgroup.Group, m manifest, diffIDs []v1.Hash) []layer {
	layers := make([]layer, len(m.Layers))
	ready := make([]chan struct{}, len(m.Layers))
	slots := make(chan struct{}, downloads)
	for i, d := range m.Layers {
		ready[i] = make(chan struct{})
		layers[i] = layer{diffID: diffIDs[i].String(), open: func(ctx context.Context) (io.ReadCloser, error) {
			select {
			case <-ready[i]:
				return os.Open(p.cache.blobPath(d.Digest.String()))
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			}
		}}
	}
	g.Go(func() error {
		for i, d := range m.Layers {
			select {
			case slots <- struct{}{}:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			g.Go(func() error {
				defer func() { <-slots }()
				err := p.blob(ctx, d, p.track)
				if err == nil {
					close(ready[i])
				}
				return err
			})
		}
		return nil
	})
	return layers
}

// commit lets fill make an image's directory, and enters it unless there is
// one with the same digest.
func (c *Cache) commit(rec *record, fill func(dir string) error) error {
	dir, err := os.MkdirTemp(filepath.Join(c.dir, "tmp"), "image-")
	if err != nil {
		return err
	}
	if err := fill(dir); err != nil {
		return errors.Join(err, os.RemoveAll(dir))
	}
	err = writeJSON(dir, filepath.Join(dir, recordName), rec)
	if err == nil {
		err = c.enter(rec, dir)
	}
	if err != nil {
		return errors.Join(err, os.RemoveAll(dir))
	}
	return syncDir(filepath.Join(c.dir, "images"))
}

// enter moves a finished directory to its place.
func (c *Cache) enter(rec *record, dir string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.images[rec.Digest] != nil {
		return os.RemoveAll(dir)
	}
	if err := os.Rename(dir, c.imageDir(rec.Digest)); err != nil {
		return err
	}
	c.images[rec.Digest] = rec
	c.used[rec.Digest] = time.Now()
	return nil
}

// pin keeps blobs and images from being collected until the result is called.
func (c *Cache) pin(digests ...string) (unpin func()) {
	count := func(by int) {
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, d := range digests {
			if c.pins[d] += by; c.pins[d] == 0 {
				delete(c.pins, d)
			}
		}
	}
	count(1)
	return func() { count(-1) }
}
