package image

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
)

// files are those of a layout or archive, by name.
type files interface {
	// open returns a regular file and its size. The file is closed by the
	// caller, before Close.
	open(name string) (io.ReadCloser, int64, error)
	Close() error
}

// A stored is an image that was found in local files.
type stored struct {
	manifest manifest
	digest   string
	config   []byte
	layers   []string // file names
	verify   bool     // layers have digests of their own
}

// addStored flattens an image of a layout or archive.
func (c *Cache) addStored(ctx context.Context, r Reference, o PullOptions, track *tracker) (string, error) {
	src, err := c.openFiles(r, o.LocalRoots)
	if err != nil {
		return "", err
	}
	defer src.Close()
	find := findOCI
	if r.Transport == FromDockerArchive {
		find = findDocker
	}
	found, err := find(src, r.Tag, c.platform)
	if err != nil {
		return "", err
	}
	if err := found.manifest.checkLayers(c.opts.Limits); err != nil {
		return "", err
	}
	unlock, err := c.keys.lock(ctx, "image "+found.digest)
	if err != nil {
		return "", err
	}
	defer unlock()
	defer c.pin(found.digest)()
	if _, err := c.ByDigest(found.digest); err == nil {
		return found.digest, nil
	}
	return found.digest, c.makeStored(ctx, r, src, found, track)
}

// makeStored flattens an image. The lock of its digest is held.
func (c *Cache) makeStored(ctx context.Context, r Reference, src files, found stored, track *tracker) error {
	file, config, err := found.manifest.parseImageConfig(found.config, c.platform)
	if err != nil {
		return err
	}
	layers := make([]layer, len(found.layers))
	for i, name := range found.layers {
		d := found.manifest.Layers[i]
		track.total += d.Size
		layers[i] = layer{diffID: file.RootFS.DiffIDs[i].String(), open: func(context.Context) (io.ReadCloser, error) {
			f, size, err := src.open(name)
			if err != nil || !found.verify {
				return f, err
			}
			if size != d.Size {
				return nil, errors.Join(refuse(hintDamaged, "%s has %d bytes, not %d", name, size, d.Size), f.Close())
			}
			return verify(f, d.Digest.String(), d.Size), nil
		}}
	}
	track.fetched = track.total
	rec := &record{
		Digest: found.digest, Reference: r.String(), Platform: c.platform, Created: file.Created.UTC(), Pulled: time.Now().UTC(),
		Layers: len(layers), Config: config,
	}
	return c.commit(rec, func(dir string) error { return c.build(ctx, dir, layers, track, rec) })
}

// openFiles opens a layout or archive.
func (c *Cache) openFiles(r Reference, roots []string) (files, error) {
	f, err := c.openBelow(r.Path, roots)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	switch {
	case err != nil:
	case r.Transport == FromLayout && info.IsDir():
		return rootFiles{f}, nil
	case r.Transport == FromLayout:
		err = refuse("Write oci-archive: before an archive.", "%s is not a directory", short(r.Path))
	case !info.Mode().IsRegular():
		err = refuse("Write oci: before a directory.", "%s is not a file", short(r.Path))
	default:
		src, err := indexTar(f)
		if err == nil {
			return src, nil
		}
		return nil, errors.Join(err, f.Close())
	}
	return nil, errors.Join(err, f.Close())
}

// readSmall returns a whole file of at most maxJSON bytes.
func readSmall(src files, name string) ([]byte, error) {
	f, size, err := src.open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if size > maxJSON {
		return nil, refuse(hintTooBig, "%s has %d bytes, more than %d", name, size, maxJSON)
	}
	return io.ReadAll(io.LimitReader(f, maxJSON))
}

// rootFiles are the files of a directory. No symbolic link in it is followed.
type rootFiles struct{ dir *os.File }

func (r rootFiles) Close() error { return r.dir.Close() }

func (r rootFiles) open(name string) (io.ReadCloser, int64, error) {
	f, err := openPlain(r.dir, name)
	if err != nil {
		return nil, 0, missing(name, err)
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = refuse(hintHostile, "%s is not a regular file", name)
	}
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, info.Size(), nil
}

func missing(name string, err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.EXDEV) {
		return refuse("Check the path, and that the image was written completely.", "file %.200s is missing, or a link to elsewhere", name)
	}
	return err
}

// tarFiles are the files of an archive.
type tarFiles struct {
	file  *os.File
	index map[string]member
}

// A member is a file of an archive.
type member struct {
	off, size int64
	link      string // another member, if not empty
}

func (t tarFiles) Close() error { return t.file.Close() }

const maxMembers = 100_000

// indexTar reads where the members of an archive are.
func indexTar(f *os.File) (tarFiles, error) {
	t := tarFiles{f, map[string]member{}}
	tr := tar.NewReader(f)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return t, nil
		}
		if err != nil {
			return t, refuse("Give an uncompressed archive, as docker save and skopeo write it.", "the file is not a tar archive: %w", err)
		}
		off, err := f.Seek(0, io.SeekCurrent)
		if err != nil {
			return t, err
		}
		if len(t.index) >= maxMembers {
			return t, refuse(hintHostile, "the archive has more than %d files", maxMembers)
		}
		switch name := path.Clean(h.Name); h.Typeflag {
		case tar.TypeReg:
			t.index[name] = member{off: off, size: h.Size}
		case tar.TypeSymlink:
			t.index[name] = member{link: path.Join(path.Dir(name), h.Linkname)}
		case tar.TypeLink:
			t.index[name] = member{link: path.Clean(h.Linkname)}
		}
	}
}

func (t tarFiles) open(name string) (io.ReadCloser, int64, error) {
	name = path.Clean(name)
	for range 8 { // docker save links layers that images share
		m, ok := t.index[name]
		if !ok {
			break
		}
		if m.link == "" {
			return io.NopCloser(io.NewSectionReader(t.file, m.off, m.size)), m.size, nil
		}
		name = m.link
	}
	return nil, 0, missing(name, fs.ErrNotExist)
}

// findOCI finds an image in an OCI layout.
func findOCI(src files, tag, platform string) (stored, error) {
	b, err := readSmall(src, "index.json")
	if err != nil {
		return stored{}, err
	}
	index, err := parseManifest(b)
	if err != nil {
		return stored{}, err
	}
	d, err := index.tagged(tag, platform)
	if err != nil {
		return stored{}, err
	}
	const deepest = 3
	for range deepest {
		if b, err = readDigest(src, d); err != nil {
			return stored{}, err
		}
		m, err := parseManifest(b)
		if err != nil {
			return stored{}, err
		}
		if !m.isIndex() {
			return storedOCI(src, m, d.Digest.String())
		}
		if d, err = m.choose(platform); err != nil {
			return stored{}, err
		}
	}
	return stored{}, refuse(hintHostile, "indexes are nested more than %d deep", deepest)
}

func storedOCI(src files, m manifest, digest string) (stored, error) {
	config, err := readDigest(src, *m.Config)
	s := stored{manifest: m, digest: digest, config: config, verify: true}
	for _, l := range m.Layers {
		s.layers = append(s.layers, blobName(l.Digest.String()))
	}
	return s, err
}

func blobName(digest string) string { return "blobs/sha256/" + hexOf(digest) }

// readDigest returns a small blob of a layout, verified.
func readDigest(src files, d v1.Descriptor) ([]byte, error) {
	b, err := readSmall(src, blobName(d.Digest.String()))
	if err == nil {
		if got := digestOf(b); got != d.Digest.String() {
			err = mismatch("a file of the layout", d.Digest.String(), got)
		}
	}
	return b, err
}

// tagged returns what a layout's index has for a tag, or its only image.
func (m manifest) tagged(tag, platform string) (v1.Descriptor, error) {
	var found []v1.Descriptor
	var tags []string
	for _, d := range m.Manifests {
		name, full := d.Annotations["org.opencontainers.image.ref.name"], d.Annotations["io.containerd.image.name"]
		if tag == "" || tag == name || tag == full {
			found = append(found, d)
		}
		if name != "" && len(tags) < 20 {
			tags = append(tags, fmt.Sprintf("%.60q", name))
		}
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) == 0:
		return v1.Descriptor{}, refuse("Write one of its tags after the path, or none if there is one image only.",
			"the layout has no image %s, but %s", short(tag), strings.Join(tags, ", "))
	}
	d, err := manifest{Manifests: found}.choose(platform)
	if err != nil {
		return d, refuse("Write one of its tags after the path.", "the layout has several images: %s", strings.Join(tags, ", "))
	}
	return d, nil
}

// findDocker finds an image in an archive of docker save.
func findDocker(src files, tag, _ string) (stored, error) {
	b, err := readSmall(src, "manifest.json")
	if err != nil {
		return stored{}, err
	}
	var list []dockerImage
	if err := json.Unmarshal(b, &list); err != nil {
		return stored{}, refuse(hintDamaged, "the archive's list of images: %w", err)
	}
	img, err := pickDocker(list, tag)
	if err != nil {
		return stored{}, err
	}
	config, err := readSmall(src, img.Config)
	if err != nil {
		return stored{}, err
	}
	return storedDocker(src, img, config)
}

type dockerImage struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// pickDocker returns the image that has a tag or name, or the only one.
func pickDocker(list []dockerImage, tag string) (dockerImage, error) {
	if tag == "" && len(list) == 1 {
		return list[0], nil
	}
	var names []string
	for _, img := range list {
		for _, name := range img.RepoTags {
			if sameName(name, tag) {
				return img, nil
			}
			if len(names) < 20 {
				names = append(names, fmt.Sprintf("%.80q", name))
			}
		}
	}
	return dockerImage{}, refuse("Write one of its names after the path.", "the archive has %s, and not %s alone", strings.Join(names, ", "), short(tag))
}

// sameName compares a name in an archive with one that was asked for, or with
// its tag alone.
func sameName(name, want string) bool {
	if name == want {
		return true
	}
	a, errA := ParseReference(name)
	if errA == nil && a.Tag == want {
		return true
	}
	b, errB := ParseReference(want)
	strip := func(r Reference) string {
		return strings.TrimPrefix(strings.TrimPrefix(r.String(), dockerHub+"/"), "library/")
	}
	return errA == nil && errB == nil && strip(a) == strip(b)
}

// storedDocker makes the manifest that the archive lacks. The layers' digests
// are those of their uncompressed streams.
func storedDocker(src files, img dockerImage, config []byte) (stored, error) {
	file := struct {
		RootFS struct {
			DiffIDs []v1.Hash `json:"diff_ids"`
		} `json:"rootfs"`
	}{}
	if err := json.Unmarshal(config, &file); err != nil {
		return stored{}, refuse(hintDamaged, "the image's configuration: %w", err)
	}
	if len(file.RootFS.DiffIDs) != len(img.Layers) {
		return stored{}, refuse(hintDamaged, "the image has %d layers, and digests for %d", len(img.Layers), len(file.RootFS.DiffIDs))
	}
	hash, err := v1.NewHash(digestOf(config))
	if err != nil {
		return stored{}, err
	}
	m := v1.Manifest{SchemaVersion: 2, MediaType: "application/vnd.docker.distribution.manifest.v2+json",
		Config: v1.Descriptor{MediaType: "application/vnd.docker.container.image.v1+json", Size: int64(len(config)), Digest: hash}}
	for i, name := range img.Layers {
		f, size, err := src.open(name)
		if err != nil {
			return stored{}, err
		}
		f.Close()
		m.Layers = append(m.Layers, v1.Descriptor{MediaType: "application/vnd.docker.image.rootfs.diff.tar", Size: size, Digest: file.RootFS.DiffIDs[i]})
	}
	b, err := json.Marshal(m)
	if err != nil {
		return stored{}, &boxlite.Error{Kind: boxlite.Internal, Err: err}
	}
	parsed, err := parseManifest(b)
	return stored{manifest: parsed, digest: digestOf(b), config: config, layers: img.Layers}, err
}
