package probe

import (
	"encoding/binary"
	"hash/crc32"
)

// EmptyBase returns an EROFS image with nothing but an empty root directory,
// after the format of Linux's fs/erofs/erofs_fs.h: a superblock at 1024 and, in
// the second block, an inode and its only data block.
func EmptyBase() []byte {
	const block = 4096
	img := make([]byte, 3*block)
	le := binary.LittleEndian
	sb := img[1024:]
	le.PutUint32(sb[0:], 0xE0F5E1E2) // magic
	sb[12] = 12                      // log2 of the block size
	le.PutUint16(sb[14:], 0)         // root inode number
	le.PutUint64(sb[16:], 1)         // inodes
	le.PutUint32(sb[36:], 3)         // blocks
	le.PutUint32(sb[40:], 1)         // block in which inodes begin

	inode := img[block:] // compact, flat plain
	le.PutUint16(inode[4:], 0o40755)
	le.PutUint16(inode[6:], 2)                        // links
	le.PutUint32(inode[8:], uint32(len(emptyRoot()))) // size
	le.PutUint32(inode[16:], 2)                       // block of the data
	le.PutUint32(inode[20:], 1)                       // number
	copy(img[2*block:], emptyRoot())

	le.PutUint32(sb[8:], 1) // the superblock has a checksum
	le.PutUint32(sb[4:], 0)
	le.PutUint32(sb[4:], ^crc32.Checksum(img[1024:block], crc32.MakeTable(crc32.Castagnoli)))
	return img
}

// emptyRoot returns a directory's entries "." and "..", both the root.
func emptyRoot() []byte {
	const entry = 12
	le := binary.LittleEndian
	dir := make([]byte, 2*entry, 2*entry+3)
	for i, at := range []uint16{2 * entry, 2*entry + 1} {
		le.PutUint16(dir[i*entry+8:], at) // where the name begins
		dir[i*entry+10] = 2               // a directory
	}
	return append(dir, "..."...)
}
