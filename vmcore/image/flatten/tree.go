package flatten

import (
	"strings"

	"golang.org/x/sys/unix"
)

// An inode is a file, directory, link or device of the image.
type inode struct {
	mode     uint16 // type and permissions as in stat(2)
	uid, gid uint32
	mtime    int64 // seconds since 1970
	mtimeNs  uint32
	links    uint32 // names that refer to it; not kept for directories
	rdev     uint32 // of devices, as Linux encodes it
	size     int64  // of regular files
	block    uint32 // where a regular file's contents begin, if size is not 0
	target   string // of symbolic links
	xattrs   []xattr

	children map[string]*dentry // of directories
	parent   *inode             // of directories; nil for the root
	depth    int                // of directories: components from the root

	place // where it goes in the output
}

// A dentry is a name in a directory.
type dentry struct {
	*inode
	layer int // the last layer that made it or put something below it
}

func (n *inode) is(typ uint16) bool { return n.mode&unix.S_IFMT == typ }

// The bounds of a name and a path, as in Linux. A path of one-letter names has
// half as many components as bytes.
const (
	maxName  = 255
	maxPath  = 4096
	maxDepth = maxPath / 2
	maxHops  = 40 // symbolic links followed for one path
)

// split returns the components of a path in a layer. The root has none.
func split(name string) ([]string, error) {
	if len(name) > maxPath {
		return nil, refuse(hintFormat, "a path of %d bytes is longer than %d", len(name), maxPath)
	}
	if strings.IndexByte(name, 0) >= 0 {
		return nil, refuse(hintHostile, "path %q has a NUL byte", name)
	}
	var parts []string
	for part := range strings.SplitSeq(name, "/") {
		switch {
		case part == "" || part == ".":
			continue
		case part == "..":
			return nil, refuse(hintHostile, "path %q climbs out of its directory", name)
		case len(part) > maxName:
			return nil, refuse(hintFormat, "a name of %d bytes is longer than %d", len(part), maxName)
		}
		parts = append(parts, part)
	}
	return parts, nil
}

// walk returns the directory that parts name, following symbolic links inside
// the image only, as chroot(2) would. Missing directories are made if create is
// set; else the result is nil.
func (b *Builder) walk(parts []string, create bool) (*inode, error) {
	dir, hops := b.root, 0
	for len(parts) > 0 {
		name := parts[0]
		parts = parts[1:]
		if name == ".." { // from a symbolic link; the root's parent is the root
			if dir.parent != nil {
				dir = dir.parent
			}
			continue
		}
		d := dir.children[name]
		switch {
		case d == nil && !create:
			return nil, nil
		case d == nil:
			n := &inode{mode: unix.S_IFDIR | 0o755, children: map[string]*dentry{}}
			if err := b.link(dir, name, n); err != nil {
				return nil, err
			}
			dir = n
		case d.is(unix.S_IFDIR):
			if create {
				d.layer = b.layer
			}
			dir = d.inode
		case d.is(unix.S_IFLNK):
			if hops++; hops > maxHops {
				return nil, refuse(hintHostile, "more than %d symbolic links lead to %q", maxHops, name)
			}
			if strings.HasPrefix(d.target, "/") {
				dir = b.root
			}
			parts = append(components(d.target), parts...)
		case create:
			return nil, refuse(hintDamaged, "the parent %q of a path is not a directory", name)
		default:
			return nil, nil
		}
	}
	return dir, nil
}

// components returns the components of a symbolic link's target, ".." among
// them.
func components(target string) []string {
	var parts []string
	for part := range strings.SplitSeq(target, "/") {
		if part != "" && part != "." {
			parts = append(parts, part)
		}
	}
	return parts
}

// link enters n in dir, replacing what has the name.
func (b *Builder) link(dir *inode, name string, n *inode) error {
	if b.entries++; b.entries > b.limits.Entries {
		return refuse(hintTooBig, "the image has more than %d files", b.limits.Entries)
	}
	if n.is(unix.S_IFDIR) {
		if n.parent, n.depth = dir, dir.depth+1; n.depth > maxDepth {
			return refuse(hintHostile, "directories are nested more than %d deep", maxDepth)
		}
	}
	n.links++ // first, so that a link over itself keeps its contents
	if old := dir.children[name]; old != nil {
		b.drop(old.inode)
	}
	dir.children[name] = &dentry{n, b.layer}
	return nil
}

// drop forgets a name of n, and everything below it.
func (b *Builder) drop(n *inode) {
	for _, d := range n.children {
		b.drop(d.inode)
	}
	if n.links--; n.links == 0 && n.is(unix.S_IFREG) && n.size > 0 {
		b.dead = append(b.dead, extent{int64(n.block) * blockSize, roundUp(n.size, blockSize)})
	}
}

// whiteout removes what layers below the current one put at the name. What the
// current layer put there or below it stays, whatever the order in the layer.
func (b *Builder) whiteout(dir *inode, name string) {
	d := dir.children[name]
	switch {
	case d == nil:
	case d.layer < b.layer:
		b.drop(d.inode)
		delete(dir.children, name)
	default:
		b.opaque(d.inode)
	}
}

// opaque removes what layers below the current one put into n.
func (b *Builder) opaque(n *inode) {
	for name := range n.children {
		b.whiteout(n, name)
	}
}
