package flatten

import (
	"bufio"
	"encoding/binary"
	"hash/crc32"
	"io"
	"math"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// What the superblock and the inodes are made of (Linux,
// fs/erofs/erofs_fs.h).
const (
	superOffset = 1024
	superMagic  = 0xe0f5e1e2
	superSums   = 1 << 0 // compatible feature: the superblock has a checksum
	superTimes  = 1 << 1 // compatible feature: times are modification times

	inodeSize   = 64
	inodeSlot   = 32 // inodes are numbered in these
	formatPlain = 1 | 0<<1
	formatTail  = 1 | 2<<1 // the last, partial block of data follows the inode

	direntSize = 12
	maxBlocks  = math.MaxUint32
)

// A place is where an inode goes in the output.
type place struct {
	nid   uint64 // its number: its offset from the first metadata block, in slots
	xsize int    // bytes of extended attributes behind the inode
	first uint32 // block where the full blocks of a directory or link begin
	bulk  int    // bytes in those blocks
	tail  int    // bytes behind the inode
}

// A metadata is the part of the output that follows the contents of files.
type metadata struct {
	variant Variant
	inodes  []*inode // in the order of their numbers
	next    int64    // next free byte of the inode area
	block   int64    // next free block before the inode area
	start   int64    // first block of the inode area
}

// writeMetadata writes everything but the contents of regular files.
func (b *Builder) writeMetadata(f *os.File, v Variant) (Result, error) {
	// The first slots stay empty: zero is not a good inode number.
	m := &metadata{variant: v, next: inodeSize, block: b.data.off / blockSize}
	m.collect(b.root)
	for _, n := range m.inodes {
		m.put(n)
	}
	m.start = m.block
	blocks := m.start + roundUp(m.next, blockSize)/blockSize
	if blocks > maxBlocks {
		return Result{}, refuse(hintTooBig, "the image is bigger than EROFS holds")
	}
	w := bufio.NewWriterSize(io.NewOffsetWriter(f, b.data.off), bufferSize)
	m.writeBulk(w)
	m.writeInodes(w)
	if err := w.Flush(); err != nil {
		return Result{}, err
	}
	if _, err := f.WriteAt(m.super(blocks), 0); err != nil {
		return Result{}, err
	}
	r := Result{Size: blocks * blockSize, Inodes: len(m.inodes), Dropped: b.dropped}
	for _, n := range m.inodes {
		r.Xattrs = r.Xattrs || len(n.xattrs) > 0
	}
	return r, f.Truncate(r.Size)
}

// collect lists the inodes below n, each once, in an order that depends on
// their names only.
func (m *metadata) collect(n *inode) {
	n.place = place{nid: math.MaxUint64} // seen
	m.inodes = append(m.inodes, n)
	for _, name := range n.names() {
		if c := n.children[name]; c.is(unix.S_IFDIR) || c.links == 1 || !m.seen(c.inode) {
			m.collect(c.inode)
		}
	}
}

func (m *metadata) seen(n *inode) bool { return n.nid == math.MaxUint64 }

// names returns the names in a directory in the order that EROFS demands.
func (n *inode) names() []string {
	names := make([]string, 0, len(n.children))
	for name := range n.children {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// put finds a place for n, and for its data if it is no regular file.
func (m *metadata) put(n *inode) {
	n.place = place{}
	if m.variant == Full && len(n.xattrs) > 0 {
		n.xsize = xattrHeader
		for _, x := range n.xattrs {
			n.xsize += x.size()
		}
	}
	head, size := inodeSize+n.xsize, 0
	switch {
	case n.is(unix.S_IFDIR):
		size = n.direntsSize()
	case n.is(unix.S_IFLNK):
		size = len(n.target)
	}
	n.bulk = size
	if tail := size % blockSize; n.xsize == 0 && tail > 0 && tail+head <= blockSize {
		n.bulk, n.tail = size-tail, tail
	}
	// Neither an inode nor what follows it may cross a block; extended
	// attributes may.
	unbroken := int64(inodeSize + n.tail)
	if m.next%blockSize+unbroken > blockSize {
		m.next = roundUp(m.next, blockSize)
	}
	n.nid = uint64(m.next / inodeSlot)
	m.next = roundUp(m.next+int64(head+n.tail), inodeSlot)
	if n.bulk > 0 {
		n.first = uint32(m.block)
		m.block += roundUp(int64(n.bulk), blockSize) / blockSize
	}
}

// pages cuts the names of a directory, "." and ".." among them, into those
// that share a block.
func (n *inode) pages(yield func(names []string, size int) bool) {
	names := append(n.names(), ".", "..")
	slices.Sort(names)
	for start := 0; start < len(names); {
		end, size := start, 0
		for end < len(names) && size+direntSize+len(names[end]) <= blockSize {
			size += direntSize + len(names[end])
			end++
		}
		if !yield(names[start:end], size) {
			return
		}
		start = end
	}
}

// direntsSize returns the size of a directory's data: full blocks, then the
// last one as far as it is used.
func (n *inode) direntsSize() int {
	total := 0
	for _, size := range n.pages {
		total = roundUp(total, blockSize) + size
	}
	return total
}

// data returns a directory's or link's data.
func (n *inode) data() []byte {
	if n.is(unix.S_IFLNK) {
		return []byte(n.target)
	}
	out := make([]byte, 0, n.bulk+n.tail)
	for names := range n.pages {
		out = append(out, make([]byte, roundUp(len(out), blockSize)-len(out))...)
		at := direntSize * len(names)
		for _, name := range names {
			nid, typ := n.entry(name)
			out = binary.LittleEndian.AppendUint64(out, nid)
			out = binary.LittleEndian.AppendUint16(out, uint16(at))
			out = append(out, typ, 0)
			at += len(name)
		}
		for _, name := range names {
			out = append(out, name...)
		}
	}
	return out
}

// entry returns the inode number and the file type of a name.
func (n *inode) entry(name string) (nid uint64, typ uint8) {
	switch {
	case name == ".", name == ".." && n.parent == nil:
		return n.nid, fileTypes[unix.S_IFDIR]
	case name == "..":
		return n.parent.nid, fileTypes[unix.S_IFDIR]
	}
	c := n.children[name]
	return c.nid, fileTypes[c.mode&unix.S_IFMT]
}

var fileTypes = map[uint16]uint8{
	unix.S_IFREG: 1, unix.S_IFDIR: 2, unix.S_IFCHR: 3, unix.S_IFBLK: 4, unix.S_IFIFO: 5, unix.S_IFSOCK: 6, unix.S_IFLNK: 7,
}

// writeBulk writes the full blocks of directories and links. Errors stay in w.
func (m *metadata) writeBulk(w *bufio.Writer) {
	for _, n := range m.inodes {
		if n.bulk > 0 {
			_, _ = w.Write(n.data()[:n.bulk])
			_, _ = w.Write(zeros[:roundUp(n.bulk, blockSize)-n.bulk])
		}
	}
}

// writeInodes writes the inode area up to the end of its last block.
func (m *metadata) writeInodes(w *bufio.Writer) {
	at := int64(0)
	write := func(p []byte) {
		_, _ = w.Write(p)
		at += int64(len(p))
	}
	for _, n := range m.inodes {
		write(zeros[:int64(n.nid)*inodeSlot-at])
		write(n.encode())
		write(n.encodeXattrs())
		if n.tail > 0 {
			write(n.data()[n.bulk:])
		}
	}
	write(zeros[:roundUp(at, blockSize)-at])
}

// encode returns the extended form of n.
func (n *inode) encode() []byte {
	format, count, links, where := uint16(formatPlain), uint16(0), n.links, n.first
	size := n.size
	switch n.mode & unix.S_IFMT {
	case unix.S_IFDIR:
		links, size = 2, int64(n.bulk+n.tail)
		for _, c := range n.children {
			if c.is(unix.S_IFDIR) {
				links++
			}
		}
	case unix.S_IFLNK:
		size = int64(n.bulk + n.tail)
	case unix.S_IFREG:
		where = n.block
	default:
		where = n.rdev
	}
	if n.tail > 0 {
		format = formatTail
	}
	if n.xsize > 0 {
		count = uint16((n.xsize-xattrHeader)/4 + 1)
	}
	le, out := binary.LittleEndian, make([]byte, 0, inodeSize)
	out = le.AppendUint16(out, format)
	out = le.AppendUint16(out, count)
	out = le.AppendUint16(out, n.mode)
	out = le.AppendUint16(out, 0)
	out = le.AppendUint64(out, uint64(size))
	out = le.AppendUint32(out, where)
	out = le.AppendUint32(out, uint32(n.nid)) // for 32-bit systems
	out = le.AppendUint32(out, n.uid)
	out = le.AppendUint32(out, n.gid)
	out = le.AppendUint64(out, uint64(n.mtime))
	out = le.AppendUint32(out, n.mtimeNs)
	out = le.AppendUint32(out, links)
	return out[:inodeSize]
}

// encodeXattrs returns what follows the inode: a header and the attributes.
func (n *inode) encodeXattrs() []byte {
	if n.xsize == 0 {
		return nil
	}
	out := make([]byte, xattrHeader, n.xsize)
	for _, x := range n.xattrs {
		out = append(out, uint8(len(x.suffix)), x.index)
		out = binary.LittleEndian.AppendUint16(out, uint16(len(x.value)))
		out = append(append(out, x.suffix...), x.value...)
		out = append(out, zeros[:roundUp(len(out), 4)-len(out)]...)
	}
	return out
}

// super returns block 0. Build time and identifier are zero: the bytes depend
// on the layers only.
func (m *metadata) super(blocks int64) []byte {
	block := make([]byte, blockSize)
	le, sb := binary.LittleEndian, block[superOffset:]
	le.PutUint32(sb[0:], superMagic)
	le.PutUint32(sb[8:], superSums|superTimes)
	sb[12] = blockBits
	le.PutUint16(sb[14:], uint16(m.inodes[0].nid))
	le.PutUint64(sb[16:], uint64(len(m.inodes)))
	le.PutUint32(sb[36:], uint32(blocks))
	le.PutUint32(sb[40:], uint32(m.start))
	le.PutUint32(sb[4:], ^crc32.Checksum(sb, crc32.MakeTable(crc32.Castagnoli)))
	return block
}
