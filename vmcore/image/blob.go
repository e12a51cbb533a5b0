package image

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"hash"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"

	"github.com/boxlite-mcp/boxlite-mcp/vmcore/image/remote"
)

// A puller fetches the parts of one image from a registry.
type puller struct {
	cache  *Cache
	client *remote.Client
	repo   string
	track  *tracker

	mu     sync.Mutex
	reused []string // blobs that were in the cache; guarded by mu
}

const (
	attempts   = 5 // in a row without progress
	firstPause = 200 * time.Millisecond
	longPause  = 10 * time.Second
)

// retry calls try until it succeeds, fails for good, or has failed too often
// without progress. try reports whether there was some.
func retry(ctx context.Context, try func() (progress bool, err error)) error {
	pause := firstPause
	for n := 1; ; n++ {
		progress, err := try()
		if progress {
			n, pause = 1, firstPause
		}
		if err == nil || !remote.IsTransient(err) || n >= attempts {
			return err
		}
		wait := pause
		if s, ok := errors.AsType[*remote.StatusError](err); ok && s.After > 0 {
			wait = min(s.After, longPause)
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		pause = min(2*pause, longPause)
	}
}

// manifest fetches a manifest by tag or digest, or has it already.
func (p *puller) manifest(ctx context.Context, ref string) (b []byte, digest string, err error) {
	byDigest := digestPattern.MatchString(ref)
	if byDigest {
		if b, err := p.cache.readBlob(ref); err == nil {
			return b, ref, nil
		}
	}
	var m remote.Manifest
	err = retry(ctx, func() (bool, error) {
		var err error
		m, err = p.client.Manifest(ctx, p.repo, ref)
		return false, err
	})
	if err != nil {
		return nil, "", err
	}
	if byDigest && m.Digest != ref {
		return nil, "", mismatch("the manifest", ref, m.Digest)
	}
	return m.Bytes, m.Digest, p.cache.writeBlob(m.Digest, m.Bytes)
}

// small fetches a blob that fits into memory.
func (p *puller) small(ctx context.Context, d v1.Descriptor) ([]byte, error) {
	if d.Size > maxJSON {
		return nil, refuse(hintTooBig, "the image's configuration has %d bytes, more than %d", d.Size, maxJSON)
	}
	for attempt := 0; ; attempt++ {
		if err := p.blob(ctx, d, &tracker{}); err != nil {
			return nil, err
		}
		b, err := p.cache.readBlob(d.Digest.String())
		if err == nil || attempt > 0 {
			return b, err
		} // it was damaged in the cache, and is gone from there
	}
}

// discardDamaged removes the reused blobs that are no longer what they should
// be, and reports whether there were any.
func (p *puller) discardDamaged(ctx context.Context) (bool, error) {
	found := false
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, digest := range p.reused {
		path := p.cache.blobPath(digest)
		got, err := fileDigest(ctx, path)
		if err == nil && got != digest {
			found = true
			p.cache.log.Warn("removing damaged blob", "path", path)
			err = os.Remove(path)
		}
		if err != nil {
			return found, err
		}
	}
	p.reused = nil
	return found, nil
}

// blob sees to it that a blob is in the cache.
func (p *puller) blob(ctx context.Context, d v1.Descriptor, track *tracker) error {
	digest := d.Digest.String()
	unlock, err := p.cache.keys.lock(ctx, digest)
	if err != nil {
		return err
	}
	defer unlock()
	if info, err := os.Stat(p.cache.blobPath(digest)); err == nil && info.Size() == d.Size {
		track.fetch(d.Size)
		p.mu.Lock()
		defer p.mu.Unlock()
		p.reused = append(p.reused, digest)
		return nil
	}
	part, err := openPartial(filepath.Join(p.cache.dir, "partial", hexOf(digest)), d.Size, track)
	if err != nil {
		return err
	}
	defer part.file.Close()
	resumed := part.have > 0
	err = p.download(ctx, d, part)
	if errors.Is(err, errSum) && resumed { // what was left over was damaged
		if err = part.reset(); err == nil {
			err = p.download(ctx, d, part)
		}
	}
	if errors.Is(err, errSum) {
		return errors.Join(mismatch("a layer", digest, part.digest()), os.Remove(part.file.Name()))
	}
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) { // what is left over must not keep the disk full
		return errors.Join(err, part.discard())
	}
	if err != nil && part.have == 0 {
		return errors.Join(err, ignoreMissing(os.Remove(part.file.Name())))
	}
	if err != nil {
		return err
	}
	return os.Rename(part.file.Name(), p.cache.blobPath(digest))
}

var errSum = errors.New("wrong digest")

// download completes part.
func (p *puller) download(ctx context.Context, d v1.Descriptor, part *partial) error {
	err := retry(ctx, func() (bool, error) {
		before := part.have
		if before == d.Size {
			return false, nil
		}
		err := p.transfer(ctx, d, part)
		return part.have > before, err
	})
	if err == nil && part.digest() != d.Digest.String() {
		return errSum
	}
	return err
}

// transfer asks for what is missing of part, once.
func (p *puller) transfer(ctx context.Context, d v1.Descriptor, part *partial) error {
	body, from, err := p.client.Blob(ctx, p.repo, d.Digest.String(), part.have, d.Size)
	if err != nil {
		return err
	}
	defer body.Close()
	if from != part.have {
		if err := part.reset(); err != nil {
			return err
		}
	}
	if err := part.readFrom(body); err != nil {
		return err
	}
	if part.have < d.Size {
		return &remote.TransferError{Err: io.ErrUnexpectedEOF}
	}
	if n, _ := body.Read(make([]byte, 1)); n > 0 {
		return errors.Join(refuse(hintDamaged, "a layer has more than the %d bytes that the manifest says", d.Size), part.discard())
	}
	return nil
}

// A partial is a blob on its way.
type partial struct {
	file  *os.File
	have  int64
	size  int64
	sum   hash.Hash // of what is there
	track *tracker
}

// openPartial opens or makes a partial blob, and reads what is there of it.
func openPartial(path string, size int64, track *tracker) (*partial, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	p := &partial{file: f, size: size, sum: sha256.New(), track: track}
	info, err := f.Stat()
	switch {
	case err == nil && info.Size() > size:
		err = f.Truncate(0)
	case err == nil && info.Size() > 0:
		p.have, err = io.Copy(p.sum, f)
		track.fetch(p.have)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return p, nil
}

// readFrom appends at most what is missing. A body that ends early is no
// error; what came is kept.
func (p *partial) readFrom(body io.Reader) error {
	buf := make([]byte, 256<<10)
	for p.have < p.size {
		n, err := body.Read(buf[:min(int64(len(buf)), p.size-p.have)])
		if n > 0 {
			if _, err := p.file.WriteAt(buf[:n], p.have); err != nil {
				return errors.Join(err, p.file.Truncate(p.have))
			}
			p.sum.Write(buf[:n])
			p.have += int64(n)
			p.track.fetch(int64(n))
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (p *partial) digest() string { return "sha256:" + hex.EncodeToString(p.sum.Sum(nil)) }

// reset starts over.
func (p *partial) reset() error {
	p.track.fetch(-p.have)
	p.have = 0
	p.sum.Reset()
	return p.file.Truncate(0)
}

// discard removes the file.
func (p *partial) discard() error {
	return errors.Join(p.reset(), os.Remove(p.file.Name()))
}

// readBlob returns a small blob, verified.
func (c *Cache) readBlob(digest string) ([]byte, error) {
	f, err := os.Open(c.blobPath(digest))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxJSON+1))
	if err != nil {
		return nil, err
	}
	if got := digestOf(b); got != digest {
		return nil, errors.Join(mismatch("a cached file", digest, got), os.Remove(f.Name()))
	}
	return b, nil
}

// writeBlob stores a small blob.
func (c *Cache) writeBlob(digest string, b []byte) error {
	f, err := os.CreateTemp(filepath.Join(c.dir, "tmp"), "blob-")
	if err != nil {
		return err
	}
	_, err = io.Copy(f, bytes.NewReader(b))
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), c.blobPath(digest))
	}
	if err != nil {
		return errors.Join(err, ignoreMissing(os.Remove(f.Name())))
	}
	return nil
}
