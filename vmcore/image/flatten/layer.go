package flatten

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
)

// The names in a layer that stand for deletions (OCI image layer
// specification, "Whiteouts").
const (
	whiteoutPrefix = ".wh."
	opaqueName     = ".wh..wh..opq"
	auFSPrefix     = ".wh..wh." // left over by AUFS; without meaning
)

// AddLayer merges the layer of which r is the uncompressed tar stream, and
// reads r to its end.
//
// Errors: Image with a hint if the layer cannot be what it should be; the
// context's; r's; the output's.
func (b *Builder) AddLayer(ctx context.Context, r io.Reader) error {
	b.layer++
	m := &meter{ctx: ctx, r: r, b: b}
	in := bufio.NewReaderSize(m, bufferSize)
	tr := tar.NewReader(in)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return readError(err)
		}
		if err := b.add(h, tr); err != nil {
			return nameEntry(readError(err), h.Name)
		}
	}
	if (m.n-int64(in.Buffered()))%512 != 0 { // which archive/tar takes for the end
		return refuse(hintDamaged, "the layer is cut short")
	}
	_, err := io.Copy(io.Discard, in) // padding counts for the digest
	return readError(err)
}

// A meter counts what is read against the limit, and ends with its context.
type meter struct {
	ctx context.Context //nolint:containedctx // of one build
	r   io.Reader
	b   *Builder
	n   int64 // bytes read
}

func (m *meter) Read(p []byte) (int, error) {
	if err := m.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := m.r.Read(p)
	m.n += int64(n)
	if e := m.b.count(int64(n)); e != nil {
		return n, e
	}
	return n, err
}

// count adds n to the bytes that were unpacked.
func (b *Builder) count(n int64) error {
	if n > b.limits.Bytes-b.bytes {
		return refuse(hintTooBig, "the image unpacks to more than %s", boxlite.Bytes(b.limits.Bytes))
	}
	b.bytes += n
	return nil
}

// readError gives errors of the tar stream their meaning.
func readError(err error) error {
	switch {
	case errors.Is(err, tar.ErrHeader), errors.Is(err, tar.ErrFieldTooLong):
		return refuse(hintDamaged, "layer: %w", err)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return refuse(hintDamaged, "the layer is cut short")
	}
	return err
}

// nameEntry says which entry of a layer an error is about.
func nameEntry(err error, name string) error {
	if e, ok := errors.AsType[*boxlite.Error](err); ok && e.Kind == boxlite.Image {
		return &boxlite.Error{Op: e.Op, Kind: e.Kind, Hint: e.Hint, Err: fmt.Errorf("entry %.200q: %w", name, e.Err)}
	}
	return err
}

// add merges one entry.
func (b *Builder) add(h *tar.Header, content io.Reader) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	parts, err := split(h.Name)
	if err != nil {
		return err
	}
	if len(parts) == 0 {
		return b.addRoot(h)
	}
	name := parts[len(parts)-1]
	deletes := strings.HasPrefix(name, whiteoutPrefix)
	dir, err := b.walk(parts[:len(parts)-1], !deletes || name == opaqueName)
	switch {
	case err != nil:
		return err
	case deletes:
		return b.addWhiteout(dir, name)
	case h.Typeflag == tar.TypeLink:
		return b.addLink(dir, name, h.Linkname)
	}
	return b.addNode(dir, name, h, content)
}

// addRoot sets the attributes of the root directory.
func (b *Builder) addRoot(h *tar.Header) error {
	if h.Typeflag != tar.TypeDir {
		return refuse(hintHostile, "the root is to be replaced by something that is no directory")
	}
	return b.setAttributes(b.root, unix.S_IFDIR, h)
}

// addWhiteout carries out a deletion. dir is nil if it does not exist.
func (b *Builder) addWhiteout(dir *inode, name string) error {
	switch target := strings.TrimPrefix(name, whiteoutPrefix); {
	case target == "" || target == "." || target == "..":
		return refuse(hintHostile, "the deletion of %q would be one of its own directory", target)
	case dir == nil:
	case name == opaqueName:
		b.opaque(dir)
	case !strings.HasPrefix(name, auFSPrefix):
		b.whiteout(dir, target)
	}
	return nil
}

// addLink enters a further name of an existing file.
func (b *Builder) addLink(dir *inode, name, target string) error {
	parts, err := split(target)
	if err != nil {
		return err
	}
	if len(parts) == 0 {
		return refuse(hintHostile, "a hard link to the root directory")
	}
	from, err := b.walk(parts[:len(parts)-1], false)
	if err != nil {
		return err
	}
	var d *dentry
	if from != nil {
		d = from.children[parts[len(parts)-1]]
	}
	if d == nil {
		return refuse(hintDamaged, "a hard link to %.200q, which the image does not have", target)
	}
	if d.is(unix.S_IFDIR) {
		return refuse(hintHostile, "a hard link to the directory %.200q", target)
	}
	if d.links == math.MaxUint32 {
		return refuse(hintFormat, "too many hard links to one file")
	}
	return b.link(dir, name, d.inode)
}

// addNode enters a file, directory, link or device.
func (b *Builder) addNode(dir *inode, name string, h *tar.Header, content io.Reader) error {
	n := &inode{}
	typ, ok := types[h.Typeflag]
	if !ok {
		return refuse(hintFormat, "entries of type %q are not known", h.Typeflag)
	}
	if old := dir.children[name]; old != nil && typ == unix.S_IFDIR && old.is(typ) {
		old.layer = b.layer
		return b.setAttributes(old.inode, typ, h)
	}
	if err := b.setAttributes(n, typ, h); err != nil {
		return err
	}
	var err error
	switch typ {
	case unix.S_IFDIR:
		n.children = map[string]*dentry{}
	case unix.S_IFLNK:
		n.target, err = linkTarget(h.Linkname)
	case unix.S_IFCHR, unix.S_IFBLK:
		n.rdev, err = device(h.Devmajor, h.Devminor)
	case unix.S_IFREG:
		err = b.addContent(n, h, content)
	}
	if err != nil {
		return err
	}
	return b.link(dir, name, n)
}

// types are the entries of a layer that make an inode.
var types = map[byte]uint16{
	tar.TypeReg: unix.S_IFREG, tar.TypeCont: unix.S_IFREG, tar.TypeGNUSparse: unix.S_IFREG, '\x00': unix.S_IFREG,
	tar.TypeDir: unix.S_IFDIR, tar.TypeSymlink: unix.S_IFLNK, tar.TypeFifo: unix.S_IFIFO,
	tar.TypeChar: unix.S_IFCHR, tar.TypeBlock: unix.S_IFBLK,
}

// addContent stores the contents of a regular file.
func (b *Builder) addContent(n *inode, h *tar.Header, content io.Reader) error {
	if h.Size == 0 {
		return nil
	}
	if h.Size < 0 {
		return refuse(hintHostile, "a file of %d bytes", h.Size)
	}
	if isSparse(h) { // what is read may be much less than what is stored
		if err := b.count(h.Size); err != nil {
			return err
		}
	} else if h.Size > b.limits.Bytes-b.bytes+bufferSize {
		return b.count(h.Size)
	}
	var err error
	n.size = h.Size
	n.block, err = b.data.copyFrom(content, h.Size)
	return err
}

func isSparse(h *tar.Header) bool {
	if h.Typeflag == tar.TypeGNUSparse {
		return true
	}
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return true
		}
	}
	return false
}

func linkTarget(target string) (string, error) {
	if target == "" || len(target) >= maxPath || strings.IndexByte(target, 0) >= 0 {
		return "", refuse(hintFormat, "a symbolic link to %.80q is none that Linux allows", target)
	}
	return target, nil
}

// device returns a device number as Linux encodes it on disk.
func device(major, minor int64) (uint32, error) {
	if major < 0 || major >= 1<<12 || minor < 0 || minor >= 1<<20 {
		return 0, refuse(hintFormat, "device %d:%d is none that Linux has", major, minor)
	}
	return uint32(minor&0xff | major<<8 | (minor&^0xff)<<12), nil
}

// setAttributes gives n the type, owner, permissions, time and extended
// attributes of h.
func (b *Builder) setAttributes(n *inode, typ uint16, h *tar.Header) error {
	if h.Uid < 0 || h.Gid < 0 || int64(h.Uid) >= math.MaxUint32 || int64(h.Gid) >= math.MaxUint32 {
		return refuse(hintFormat, "owner %d:%d is none that Linux has", h.Uid, h.Gid)
	}
	n.mode = typ | uint16(h.Mode&0o7777)
	n.uid, n.gid = uint32(h.Uid), uint32(h.Gid)
	n.setTime(h.ModTime)
	attrs := map[string]string{}
	for key, value := range h.PAXRecords {
		if name, ok := strings.CutPrefix(key, "SCHILY.xattr."); ok {
			attrs[name] = value
		}
	}
	return b.setXattrs(n, attrs)
}

func (n *inode) setTime(t time.Time) {
	n.mtime, n.mtimeNs = t.Unix(), uint32(t.Nanosecond())
}
