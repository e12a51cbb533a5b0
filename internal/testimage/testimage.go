// Package testimage makes a real image and serves it from a real registry, for
// the demo, the benchmarks and tests that want more than busybox: Debian with
// Python, made from the packages of the distribution that this machine itself
// is installed from. For small made-up images see vmcore/image/imagetest.
//
// It is not for programs that are shipped. It needs the Debian packages
// mmdebstrap and docker-registry; "make setup" installs them.
//
//	img, err := testimage.Debian(ctx, "build/testimage", os.Stderr)
//	reg, err := testimage.Serve(ctx, "build/registry", os.Stderr)
//	defer reg.Close()
//	ref, err := reg.Push(ctx, img, "demo/python:3")
//
// Making the image takes half a minute and happens once: it is kept as an OCI
// layout under a name that says how it was made. All functions may be called
// concurrently, also from several processes.
package testimage

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// packages are what the image has beyond the distribution's minimum: an
// interpreter, certificates for HTTPS, and ps.
const packages = "python3,ca-certificates,procps"

// recipe is everything that decides what the image contains. Change it and the
// image is made again.
const recipe = "2 minbase " + packages

// when is the time of everything in the image, so that it is the same bytes
// wherever it is made of the same packages.
var when = time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)

// Debian returns the image, making it in dir if it is not there yet. What the
// tools print in the making goes to log.
func Debian(ctx context.Context, dir string, log io.Writer) (v1.Image, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	unlock, err := lock(filepath.Join(dir, "lock"))
	if err != nil {
		return nil, err
	}
	defer unlock()

	src, err := hostSources(ctx)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, "debian-"+src.key())
	if img, err := read(path); err == nil {
		return img, nil
	}
	if err := build(ctx, src, path, log); err != nil {
		return nil, fmt.Errorf("make the Debian image: %w", err)
	}
	return read(path)
}

// read returns the image of a layout directory.
func read(path string) (v1.Image, error) {
	index, err := layout.ImageIndexFromPath(path)
	if err != nil {
		return nil, err
	}
	list, err := index.IndexManifest()
	if err != nil {
		return nil, err
	}
	if len(list.Manifests) != 1 {
		return nil, fmt.Errorf("%s has %d images, want one", path, len(list.Manifests))
	}
	return index.Image(list.Manifests[0].Digest)
}

// build makes the image and puts it at path in one step.
func build(ctx context.Context, src sources, path string, log io.Writer) (err error) {
	tmp, err := os.MkdirTemp(filepath.Dir(path), "new-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()

	root := filepath.Join(tmp, "root.tar")
	if err := bootstrap(ctx, src, tmp, root, log); err != nil {
		return err
	}
	layers, err := split(root, tmp)
	if err != nil {
		return err
	}
	img, err := assemble(layers)
	if err != nil {
		return err
	}
	out := filepath.Join(tmp, "layout")
	l, err := layout.Write(out, empty.Index)
	if err != nil {
		return err
	}
	if err := l.AppendImage(img); err != nil {
		return err
	}
	if err := os.RemoveAll(path); err != nil { // what an interrupted run left
		return err
	}
	return os.Rename(out, path)
}

// bootstrap writes the root file system as a tar file.
func bootstrap(ctx context.Context, src sources, tmp, root string, log io.Writer) error {
	list, conf := filepath.Join(tmp, "sources.list"), filepath.Join(tmp, "apt.conf")
	if err := errors.Join(os.WriteFile(list, []byte(src.list), 0o644), os.WriteFile(conf, []byte(src.conf), 0o644)); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "mmdebstrap", "--mode=auto", "--variant=minbase", "--include="+packages,
		"--aptopt="+conf,
		"--dpkgopt=path-exclude=/usr/share/man/*",
		"--dpkgopt=path-exclude=/usr/share/locale/*",
		"--dpkgopt=path-exclude=/usr/share/doc/*",
		"--dpkgopt=path-include=/usr/share/doc/*/copyright",
		"--customize-hook=rm -f \"$1/etc/apt/apt.conf.d/99mmdebstrap\" \"$1/etc/hostname\" \"$1/etc/resolv.conf\"",
		src.suite, root, list)
	cmd.Env = append(os.Environ(), fmt.Sprint("SOURCE_DATE_EPOCH=", when.Unix()))
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("mmdebstrap: %w", err)
	}
	return nil
}

// split divides a root file system into two layers, as images in the world
// have several: the distribution, and Python on top of it.
func split(root, tmp string) (layers []string, err error) {
	in, err := os.Open(root)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	base, err := newLayer(filepath.Join(tmp, "base.tar.gz"))
	if err != nil {
		return nil, err
	}
	python, err := newLayer(filepath.Join(tmp, "python.tar.gz"))
	if err != nil {
		return nil, errors.Join(err, base.close())
	}
	err = distribute(tar.NewReader(in), func(name string) *layerFile {
		if strings.Contains(name, "/python3") {
			return python
		}
		return base
	})
	return []string{base.path, python.path}, errors.Join(err, base.close(), python.close())
}

// distribute copies every entry to the layer that choose names. A hard link
// goes where its target went, or it would point across layers.
func distribute(in *tar.Reader, choose func(name string) *layerFile) error {
	for {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		name := h.Name
		if h.Typeflag == tar.TypeLink {
			name = h.Linkname
		}
		out := choose(name)
		if err := out.tar.WriteHeader(h); err != nil {
			return fmt.Errorf("%s: %w", h.Name, err)
		}
		if _, err := io.Copy(out.tar, in); err != nil {
			return fmt.Errorf("%s: %w", h.Name, err)
		}
	}
}

// A layerFile is a compressed tar stream on its way to a file.
type layerFile struct {
	path string
	file *os.File
	zip  *gzip.Writer
	tar  *tar.Writer
}

func newLayer(path string) (*layerFile, error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	z, err := gzip.NewWriterLevel(f, gzip.BestSpeed)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &layerFile{path, f, z, tar.NewWriter(z)}, nil
}

func (l *layerFile) close() error {
	return errors.Join(l.tar.Close(), l.zip.Close(), l.file.Close())
}

// assemble returns the image of compressed layers, lowest first.
func assemble(layers []string) (v1.Image, error) {
	img := mutate.MediaType(empty.Image, types.OCIManifestSchema1)
	img = mutate.ConfigMediaType(img, types.OCIConfigJSON)
	for _, path := range layers {
		layer, err := tarball.LayerFromFile(path, tarball.WithMediaType(types.OCILayer))
		if err != nil {
			return nil, err
		}
		if img, err = mutate.AppendLayers(img, layer); err != nil {
			return nil, err
		}
	}
	conf, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	conf = conf.DeepCopy()
	conf.OS, conf.Architecture, conf.Created = "linux", runtime.GOARCH, v1.Time{Time: when}
	conf.Config = v1.Config{
		Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"},
		Cmd: []string{"python3"},
	}
	return mutate.ConfigFile(img, conf)
}

// sources is where this machine's packages come from.
type sources struct {
	suite string // of the release: bookworm
	list  string // a sources.list with its archives, all components in use
	conf  string // apt.conf of what concerns fetching: proxies, checks
}

// key names what would be made: recipe, release and machine. Packages that
// were updated since do not count, or the image would be made every day.
func (s sources) key() string {
	sum := sha256.Sum256([]byte(recipe + "\x00" + s.suite + "\x00" + runtime.GOARCH))
	return s.suite + "-" + runtime.GOARCH + "-" + hex.EncodeToString(sum[:6])
}

// hostSources asks apt. Archives of third parties are left out: a source
// counts if its Release file names the distribution of /etc/os-release.
func hostSources(ctx context.Context) (sources, error) {
	release, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return sources{}, err
	}
	id, suite := shellValue(release, "ID"), shellValue(release, "VERSION_CODENAME")
	if suite == "" {
		return sources{}, errors.New("/etc/os-release names no VERSION_CODENAME; the test image is made on Debian and its derivatives")
	}
	targets, err := exec.CommandContext(ctx, "apt-get", "indextargets", "--format",
		"$(ORIGIN)|deb $(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages").Output()
	if err != nil {
		return sources{}, fmt.Errorf("apt-get indextargets: %w", err)
	}
	conf, err := exec.CommandContext(ctx, "apt-config", "dump", "--format", "%f \"%v\";%n", "Acquire").Output()
	if err != nil {
		return sources{}, fmt.Errorf("apt-config dump: %w", err)
	}
	s := sources{suite: suite, list: pickSources(string(targets), id), conf: pickAcquire(string(conf))}
	if s.list == "" {
		return sources{}, fmt.Errorf("apt knows no archive of %s; run apt-get update", id)
	}
	return s, nil
}

// pickSources returns the lines of the given origin, each once.
func pickSources(targets, origin string) string {
	var b strings.Builder
	seen := map[string]bool{}
	for line := range strings.Lines(targets) {
		from, entry, ok := strings.Cut(strings.TrimSpace(line), "|")
		if ok && strings.EqualFold(from, origin) && !seen[entry] {
			seen[entry] = true
			b.WriteString(entry + "\n")
		}
	}
	return b.String()
}

// pickAcquire returns the settings that say how to reach an archive.
func pickAcquire(conf string) string {
	var b strings.Builder
	for line := range strings.Lines(conf) {
		for _, prefix := range []string{"Acquire::Check-", "Acquire::http", "Acquire::https", "Acquire::Retries", "Acquire::Force"} {
			if strings.HasPrefix(line, prefix) && !strings.Contains(line, ` "";`) {
				b.WriteString(line)
				break
			}
		}
	}
	return b.String()
}

// shellValue returns the value of name in a file of NAME=value lines.
func shellValue(file []byte, name string) string {
	for line := range bytes.Lines(file) {
		if value, ok := bytes.CutPrefix(line, []byte(name+"=")); ok {
			return strings.Trim(strings.TrimSpace(string(value)), `"'`)
		}
	}
	return ""
}

// lock takes an exclusive lock on the file at path, which it makes.
func lock(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() { f.Close() }, nil
}
