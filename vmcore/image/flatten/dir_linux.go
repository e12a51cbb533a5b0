package flatten

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A fileID tells files of a host apart.
type fileID struct{ dev, ino uint64 }

// A copier copies a directory of the host into the tree.
type copier struct {
	*Builder
	ctx     context.Context //nolint:containedctx // of this one copy
	dev     uint64          // of the root: other file systems are not entered
	refused Veto
	links   map[fileID]*inode // files that have more names
}

// AddDir merges a directory of the host, opened by the caller, without leaving
// it: symbolic links are copied, other file systems left out, and sockets too.
// refused may veto a file or directory by its status.
//
// Errors: refused's; the host's; Image for what no image can hold.
func (b *Builder) AddDir(ctx context.Context, dir *os.File, refused Veto) error {
	b.layer++
	var st unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &st); err != nil {
		return &os.PathError{Op: "stat", Path: dir.Name(), Err: err}
	}
	c := &copier{b, ctx, st.Dev, refused, map[fileID]*inode{}}
	if err := refused(st.Dev, st.Ino); err != nil {
		return err
	}
	if err := c.attributes(b.root, &st, procPath(dir, ".")); err != nil {
		return err
	}
	return c.copyDir(dir, b.root)
}

// procPath names an entry of an open directory, in a way that does not follow
// links to elsewhere.
func procPath(dir *os.File, name string) string {
	return "/proc/self/fd/" + strconv.Itoa(int(dir.Fd())) + "/" + name
}

func (c *copier) copyDir(dir *os.File, to *inode) error {
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return err
	}
	slices.Sort(names)
	for _, name := range names {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		if err := c.copyEntry(dir, name, to); err != nil {
			return fmt.Errorf("%.255q: %w", name, err)
		}
	}
	return nil
}

// copyEntry copies what is called name. Whatever it becomes meanwhile, it is
// opened without following links.
func (c *copier) copyEntry(dir *os.File, name string, to *inode) error {
	var st unix.Stat_t
	if err := unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &os.PathError{Op: "stat", Path: name, Err: err}
	}
	if err := c.refused(st.Dev, st.Ino); err != nil {
		return err
	}
	id := fileID{st.Dev, st.Ino}
	if n := c.links[id]; n != nil {
		return c.link(to, name, n)
	}
	n := &inode{}
	typ := st.Mode & unix.S_IFMT
	if typ == unix.S_IFSOCK || typ == unix.S_IFDIR && st.Dev != c.dev {
		return nil
	}
	if err := c.attributes(n, &st, procPath(dir, name)); err != nil {
		return err
	}
	if st.Nlink > 1 && typ != unix.S_IFDIR {
		c.links[id] = n
	}
	switch typ {
	case unix.S_IFDIR:
		n.children = map[string]*dentry{}
		if err := c.link(to, name, n); err != nil {
			return err
		}
		return c.opened(dir, name, unix.O_DIRECTORY, func(f *os.File) error { return c.copyDir(f, n) })
	case unix.S_IFREG:
		if err := c.opened(dir, name, 0, func(f *os.File) error { return c.copyFile(f, n) }); err != nil {
			return err
		}
	case unix.S_IFLNK:
		var err error
		if n.target, err = readLink(dir, name); err != nil {
			return err
		}
	case unix.S_IFCHR, unix.S_IFBLK:
		var err error
		if n.rdev, err = device(int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))); err != nil {
			return err
		}
	}
	return c.link(to, name, n)
}

// opened calls use with an entry of dir.
func (c *copier) opened(dir *os.File, name string, flags int, use func(*os.File) error) error {
	fd, err := unix.Openat(int(dir.Fd()), name, flags|unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: name, Err: err}
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	return use(f)
}

func (c *copier) copyFile(f *os.File, n *inode) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return errors.New("the file changed while it was read")
	}
	if err := c.count(info.Size()); err != nil || info.Size() == 0 {
		return err
	}
	n.size = info.Size()
	n.block, err = c.data.copyFrom(f, n.size)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("the file changed while it was read")
	}
	return err
}

func readLink(dir *os.File, name string) (string, error) {
	buf := make([]byte, maxPath)
	n, err := unix.Readlinkat(int(dir.Fd()), name, buf)
	if err != nil {
		return "", &os.PathError{Op: "readlink", Path: name, Err: err}
	}
	return linkTarget(string(buf[:n]))
}

// attributes gives n what the host says of a file.
func (c *copier) attributes(n *inode, st *unix.Stat_t, path string) error {
	n.mode = uint16(st.Mode)
	n.uid, n.gid = st.Uid, st.Gid
	n.setTime(time.Unix(st.Mtim.Unix()))
	attrs, err := hostXattrs(path)
	if err != nil {
		return err
	}
	return c.setXattrs(n, attrs)
}

// hostXattrs returns the extended attributes of a file, or none where the file
// system has none.
func hostXattrs(path string) (map[string]string, error) {
	list, err := xattrBytes(func(buf []byte) (int, error) { return unix.Llistxattr(path, buf) })
	if errors.Is(err, unix.EOPNOTSUPP) || len(list) == 0 && err == nil {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list extended attributes: %w", err)
	}
	attrs := map[string]string{}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(list), "\x00"), "\x00") {
		value, err := xattrBytes(func(buf []byte) (int, error) { return unix.Lgetxattr(path, name, buf) })
		if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.EOPNOTSUPP) {
			continue // gone, or not for us
		}
		if err != nil {
			return nil, fmt.Errorf("read extended attribute %q: %w", name, err)
		}
		attrs[name] = string(value)
	}
	return attrs, nil
}

// xattrBytes calls get with a buffer that is big enough.
func xattrBytes(get func([]byte) (int, error)) ([]byte, error) {
	buf := make([]byte, 1024)
	n, err := get(buf)
	if errors.Is(err, unix.ERANGE) {
		buf = make([]byte, maxXattr)
		n, err = get(buf)
	}
	return buf[:max(n, 0)], err
}
