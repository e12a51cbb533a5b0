package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/image/flatten"
)

// pullLocal reads an image from the host's files.
func (c *Cache) pullLocal(ctx context.Context, r Reference, o PullOptions) (Image, error) {
	if !filepath.IsAbs(r.Path) {
		return Image{}, &boxlite.Error{Kind: boxlite.InvalidArgument, Hint: "Write the absolute path.", Err: fmt.Errorf("path %s is relative", short(r.Path))}
	}
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return Image{}, errClosed
	}
	c.work.Add(1)
	c.mu.Unlock()
	defer c.work.Done()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(c.ctx, cancel)()

	track := &tracker{report: o.Progress}
	var digest string
	var err error
	if r.Transport == FromDirectory {
		digest, err = c.addDirectory(ctx, r, o)
	} else {
		digest, err = c.addStored(ctx, r, o, track)
	}
	if err != nil {
		return Image{}, err
	}
	if err := c.setRef(refRecord{Reference: r.String(), Root: digest, Digest: digest, Checked: time.Now().UTC()}); err != nil {
		return Image{}, err
	}
	img, _ := c.cached(r)
	return img, nil
}

// addDirectory flattens a prepared root directory. Its digest is that of the
// result.
func (c *Cache) addDirectory(ctx context.Context, r Reference, o PullOptions) (string, error) {
	dir, err := c.openBelow(r.Path, o.LocalRoots)
	if err != nil {
		return "", err
	}
	defer dir.Close()
	if info, err := dir.Stat(); err != nil || !info.IsDir() {
		return "", errors.Join(err, refuse("Give the path of a directory.", "%s is not a directory", short(r.Path)))
	}
	rec := &record{Reference: r.String(), Platform: c.platform, Pulled: time.Now().UTC(), Layers: 1}
	err = c.commit(rec, func(to string) error {
		err := c.flatten(ctx, to, rec, func(b *flatten.Builder) error { return b.AddDir(ctx, dir, c.guard()) })
		if err == nil {
			rec.Digest, err = fileDigest(ctx, filepath.Join(to, plainName))
		}
		if err == nil && rec.Xattrs {
			rec.Digest, err = fileDigest(ctx, filepath.Join(to, fullName))
		}
		return err
	})
	return rec.Digest, err
}

// guard refuses the protected directories wherever they appear.
func (c *Cache) guard() flatten.Veto {
	type id struct{ dev, ino uint64 }
	protected := map[id]string{}
	for _, path := range append([]string{c.dir}, c.opts.Protected...) {
		if dev, ino, err := identity(path); err == nil {
			protected[id{dev, ino}] = path
		}
	}
	return func(dev, ino uint64) error {
		if path, ok := protected[id{dev, ino}]; ok {
			return denied(path)
		}
		return nil
	}
}

func denied(path string) error {
	return &boxlite.Error{Kind: boxlite.Denied, Hint: "Use a directory that does not contain this program's own files.",
		Err: fmt.Errorf("%s is never read into an image", path)}
}

func fileDigest(ctx context.Context, path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	sum := sha256.New()
	buf := make([]byte, 1<<20)
	for {
		n, err := f.Read(buf)
		sum.Write(buf[:n])
		if errors.Is(err, io.EOF) {
			return "sha256:" + hex.EncodeToString(sum.Sum(nil)), nil
		}
		if err = errors.Join(err, ctx.Err()); err != nil {
			return "", err
		}
	}
}

// openBelow opens a file or directory below one of roots, without following a
// symbolic link out of it, and nothing that is protected.
//
// Errors: Denied.
func (c *Cache) openBelow(path string, roots []string) (*os.File, error) {
	for _, root := range roots {
		f, err := openIn(filepath.Clean(root), path)
		if f == nil && err == nil {
			continue
		}
		if err != nil {
			return nil, err
		}
		if err := c.checkPath(f); err != nil {
			return nil, errors.Join(err, f.Close())
		}
		return f, nil
	}
	return nil, &boxlite.Error{Kind: boxlite.Denied, Hint: "Use an image from a registry, or ask the operator to allow the directory.",
		Err: fmt.Errorf("%s is not below a directory that may be read", short(path))}
}

// openIn returns nil without an error if path is not below root.
func openIn(root, path string) (*os.File, error) {
	const flags = os.O_RDONLY | unix.O_NONBLOCK
	if root == "/" {
		return os.OpenFile(path, flags, 0)
	}
	rel, err := filepath.Rel(root, path)
	if err != nil || !filepath.IsLocal(rel) {
		return nil, nil
	}
	dir, err := os.OpenRoot(root)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	f, err := dir.OpenFile(rel, flags, 0)
	if err != nil && strings.Contains(err.Error(), "escapes") {
		return nil, &boxlite.Error{Kind: boxlite.Denied, Hint: "Use a path without symbolic links that lead out of the allowed directory.", Err: err}
	}
	return f, err
}

// checkPath refuses what turned out to be one of our own files.
func (c *Cache) checkPath(f *os.File) error {
	real, err := realPath(f)
	if err != nil {
		return err
	}
	for _, p := range append([]string{c.dir}, c.opts.Protected...) {
		if resolved, err := filepath.EvalSymlinks(p); err == nil {
			p = resolved
		}
		if rel, err := filepath.Rel(p, real); err == nil && filepath.IsLocal(rel) {
			return denied(p)
		}
	}
	return nil
}

// A verified is a stored blob that fails at its end if it is not what it
// should be.
type verified struct {
	io.ReadCloser
	want string
	left int64
	sum  hash.Hash
}

func verify(r io.ReadCloser, digest string, size int64) *verified {
	return &verified{r, digest, size, sha256.New()}
}

func (v *verified) Read(p []byte) (int, error) {
	n, err := v.ReadCloser.Read(p)
	v.sum.Write(p[:n])
	v.left -= int64(n)
	if v.left < 0 {
		return n, refuse(hintDamaged, "%s has more bytes than its manifest says", v.want)
	}
	if err == io.EOF {
		if got := "sha256:" + hex.EncodeToString(v.sum.Sum(nil)); got != v.want {
			return n, mismatch("a layer", v.want, got)
		}
	}
	return n, err
}
