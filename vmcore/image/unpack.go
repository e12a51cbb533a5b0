package image

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"sync"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/boxlite-mcp/boxlite-mcp/vmcore/image/flatten"
)

// A layer is one layer to unpack.
type layer struct {
	diffID string // digest of the uncompressed stream
	// open returns the stream as it is stored. It may block until that has
	// come. Read verifies what open cannot.
	open func(context.Context) (io.ReadCloser, error)
}

const (
	chunkSize   = 256 << 10 // what is passed between decompression and the tree
	chunksAhead = 32        // of each of layersAhead layers
	layersAhead = 3

	// A layer beyond ratioAfter bytes that is compressed to less than one
	// part in maxRatio is taken for a bomb.
	ratioAfter = 1 << 30
	maxRatio   = 250
)

// build flattens layers into a new directory below tmp, which the caller
// renames or removes, and fills in what it finds into rec.
func (c *Cache) build(ctx context.Context, dir string, layers []layer, track *tracker, rec *record) error {
	return c.flatten(ctx, dir, rec, func(b *flatten.Builder) error {
		ctx, cancel := context.WithCancel(ctx)
		var readers sync.WaitGroup
		defer readers.Wait()
		defer cancel()
		streams := c.decompressAll(ctx, &readers, layers, track)
		for i, l := range layers {
			if err := addLayer(ctx, b, streams[i], l.diffID); err != nil {
				return fmt.Errorf("layer %d of %d: %w", i+1, len(layers), err)
			}
		}
		return nil
	})
}

// flatten writes the files of an image; fill adds the contents.
func (c *Cache) flatten(ctx context.Context, dir string, rec *record, fill func(*flatten.Builder) error) error {
	out, err := os.OpenFile(filepath.Join(dir, plainName), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	b := flatten.New(out, flatten.Limits{Bytes: c.opts.Limits.Bytes, Entries: c.opts.Limits.Entries})
	if err := fill(b); err != nil {
		return err
	}
	res, err := b.Finish(flatten.Plain)
	if err != nil {
		return err
	}
	rec.Size, rec.Xattrs, rec.Format = res.Size, res.Xattrs, flatten.Version
	if res.Dropped > 0 {
		c.log.Debug("extended attributes dropped", "image", rec.Digest, "count", res.Dropped)
	}
	if res.Xattrs {
		if rec.Full, err = writeFull(ctx, b, filepath.Join(dir, fullName)); err != nil {
			return err
		}
	}
	if err := out.Chmod(0o400); err != nil {
		return err
	}
	return out.Sync()
}

func writeFull(ctx context.Context, b *flatten.Builder, path string) (int64, error) {
	out, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o400)
	if err != nil {
		return 0, err
	}
	defer out.Close()
	res, err := b.FinishCopy(ctx, out, flatten.Full)
	if err != nil {
		return 0, err
	}
	return res.Size, out.Sync()
}

// addLayer merges one stream and verifies it.
func addLayer(ctx context.Context, b *flatten.Builder, s *stream, diffID string) error {
	sum := sha256.New()
	err := b.AddLayer(ctx, &summed{s, sum})
	defer s.release()
	if err != nil {
		return err
	}
	if got := "sha256:" + hex.EncodeToString(sum.Sum(nil)); got != diffID {
		return mismatch("the uncompressed layer", diffID, got)
	}
	return nil
}

type summed struct {
	r   io.Reader
	sum hash.Hash
}

func (s *summed) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	s.sum.Write(p[:n])
	return n, err
}

// A stream is an uncompressed layer that another goroutine reads ahead.
type stream struct {
	chunks  chan []byte // closed at the end
	err     error       // valid once chunks is closed; nil is the end of the layer
	rest    []byte      // of whole, the chunk being read
	whole   []byte
	release func() // lets a later layer be read ahead

	ratioAfter int64
}

// Read returns the layer's bytes. The stream's context must end if it is not
// read to its end.
func (s *stream) Read(p []byte) (int, error) {
	for len(s.rest) == 0 {
		chunk, ok := <-s.chunks
		if !ok {
			if s.err != nil {
				return 0, s.err
			}
			return 0, io.EOF
		}
		s.rest, s.whole = chunk, chunk
	}
	n := copy(p, s.rest)
	if s.rest = s.rest[n:]; len(s.rest) == 0 {
		chunks.Put((*[chunkSize]byte)(s.whole[:chunkSize]))
	}
	return n, nil
}

// decompressAll starts to read the layers in their order, a few at a time.
func (c *Cache) decompressAll(ctx context.Context, work *sync.WaitGroup, layers []layer, track *tracker) []*stream {
	slots := make(chan struct{}, layersAhead)
	streams := make([]*stream, len(layers))
	release := func() {
		select {
		case <-slots:
		default: // the context ended before the layer got one
		}
	}
	for i := range layers {
		streams[i] = &stream{chunks: make(chan []byte, chunksAhead), release: release, ratioAfter: c.opts.ratioAfter}
	}
	work.Go(func() {
		for i, l := range layers {
			select {
			case slots <- struct{}{}:
				work.Go(func() { streams[i].fill(ctx, l, track) })
			case <-ctx.Done():
				streams[i].err = context.Cause(ctx)
				close(streams[i].chunks)
			}
		}
	})
	return streams
}

// fill decompresses a layer into the channel.
func (s *stream) fill(ctx context.Context, l layer, track *tracker) {
	defer close(s.chunks)
	s.err = func() error {
		raw, err := l.open(ctx)
		if err != nil {
			return err
		}
		defer raw.Close()
		in := &counted{r: raw, track: track}
		r, done, err := decompress(in)
		if err != nil {
			return err
		}
		defer done()
		return s.copyFrom(ctx, r, in)
	}()
}

// copyFrom passes r on in chunks.
func (s *stream) copyFrom(ctx context.Context, r io.Reader, in *counted) error {
	total := int64(0)
	for {
		chunk, err := readChunk(r)
		if total += int64(len(chunk)); total > s.ratioAfter && total/maxRatio > in.n {
			return refuse(hintHostile, "a layer of %d bytes unpacks to more than %d", in.n, total)
		}
		if len(chunk) > 0 {
			select {
			case s.chunks <- chunk:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		switch {
		case in.err != nil:
			return in.err
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return compressionError(err)
		}
	}
}

// chunks are recycled between the layers of all images.
var chunks = sync.Pool{New: func() any { return new([chunkSize]byte) }}

// readChunk reads until a chunk is full, or to an error.
func readChunk(r io.Reader) ([]byte, error) {
	buf := chunks.Get().(*[chunkSize]byte)[:]
	for n := 0; n < len(buf); {
		got, err := r.Read(buf[n:])
		if n += got; err != nil {
			return buf[:n], err
		}
	}
	return buf, nil
}

// A counted is a stored layer that is being read.
type counted struct {
	r     io.Reader
	n     int64
	err   error // that the stored layer ended with, other than io.EOF
	track *tracker
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	c.track.unpack(int64(n))
	if err != nil && err != io.EOF {
		c.err = err
	}
	return n, err
}

// decompress tells how r is compressed from its first bytes.
func decompress(r io.Reader) (io.Reader, func(), error) {
	in := bufio.NewReaderSize(r, 1<<20)
	head, err := in.Peek(4)
	if err != nil && err != io.EOF {
		return nil, nil, err
	}
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(in)
		if err != nil {
			return nil, nil, compressionError(err)
		}
		return z, func() { z.Close() }, nil
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}), len(head) == 4 && head[0]&0xf0 == 0x50 && bytes.Equal(head[1:], []byte{0x2a, 0x4d, 0x18}):
		z, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(2), zstd.WithDecoderMaxMemory(256<<20), zstd.WithDecoderMaxWindow(128<<20))
		if err != nil {
			return nil, nil, compressionError(err)
		}
		return z, z.Close, nil
	}
	return in, func() {}, nil
}

// compressionError gives errors of a compressed stream their meaning; those of
// what it is read from stay.
func compressionError(err error) error {
	_, isCorrupt := errors.AsType[flate.CorruptInputError](err)
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
		return refuse(hintDamaged, "the layer is cut short")
	case isCorrupt, errors.Is(err, gzip.ErrHeader), errors.Is(err, gzip.ErrChecksum), errors.Is(err, zstd.ErrMagicMismatch),
		errors.Is(err, zstd.ErrCRCMismatch), errors.Is(err, zstd.ErrReservedBlockType), errors.Is(err, zstd.ErrWindowSizeTooSmall):
		return refuse(hintDamaged, "the layer is not compressed as it should be: %w", err)
	case errors.Is(err, zstd.ErrDecoderSizeExceeded), errors.Is(err, zstd.ErrWindowSizeExceeded):
		return refuse(hintTooBig, "the layer needs too much memory to unpack: %w", err)
	}
	return err
}
