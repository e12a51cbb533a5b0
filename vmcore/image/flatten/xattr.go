package flatten

import (
	"cmp"
	"slices"
	"strings"
)

// An xattr is an extended attribute as EROFS stores it.
type xattr struct {
	index  uint8  // of the name's prefix
	suffix string // of the name
	value  string
}

// xattrPrefixes are the prefixes that EROFS has numbers for. Those that end in
// a dot are followed by more.
var xattrPrefixes = []struct {
	index  uint8
	prefix string
}{
	{1, "user."},
	{2, "system.posix_acl_access"},
	{3, "system.posix_acl_default"},
	{4, "trusted."},
	{6, "security."},
}

const (
	xattrHeader = 12 // before the entries of an inode
	xattrEntry  = 4  // before name and value
	maxXattr    = 64 << 10
)

// parseXattr returns the attribute, and false for one of a kind that is not
// kept: those of other systems, and overlayfs's own, with which a layer could
// reach into the layers that a box is made of.
func parseXattr(name, value string) (xattr, bool) {
	if strings.HasPrefix(name, "trusted.overlay.") || strings.HasPrefix(name, "user.overlay.") {
		return xattr{}, false
	}
	for _, p := range xattrPrefixes {
		suffix, ok := strings.CutPrefix(name, p.prefix)
		if ok && strings.HasSuffix(p.prefix, ".") == (suffix != "") {
			return xattr{p.index, suffix, value}, true
		}
	}
	return xattr{}, false
}

// setXattrs gives n the attributes and nothing else.
//
// Errors: Image if they are beyond what Linux allows.
func (b *Builder) setXattrs(n *inode, attrs map[string]string) error {
	n.xattrs = nil
	size := 0
	for name, value := range attrs {
		x, ok := parseXattr(name, value)
		if !ok {
			b.dropped++
			continue
		}
		if len(name) > maxName || strings.IndexByte(name, 0) >= 0 {
			return refuse(hintFormat, "extended attribute %.80q has a name that Linux does not allow", name)
		}
		n.xattrs = append(n.xattrs, x)
		if size += x.size(); len(value) >= maxXattr || size > maxXattr {
			return refuse(hintFormat, "the extended attributes of a file take more than %d bytes", maxXattr)
		}
	}
	slices.SortFunc(n.xattrs, func(a, b xattr) int {
		return cmp.Or(cmp.Compare(a.index, b.index), strings.Compare(a.suffix, b.suffix))
	})
	return nil
}

// size returns the bytes that x takes on disk.
func (x xattr) size() int { return roundUp(xattrEntry+len(x.suffix)+len(x.value), 4) }
