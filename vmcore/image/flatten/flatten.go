// Package flatten turns the layers of an image into one uncompressed, read-only
// EROFS file that a sandbox maps and a virtual machine attaches.
//
// It is not a tar extractor: no name in a layer ever becomes a path on the
// host. The tree is kept in memory, file contents go straight to their place
// in the output, and the metadata is written behind them.
//
//	b := flatten.New(out, flatten.Limits{})
//	for _, layer := range layers { // lowest first
//		err := b.AddLayer(ctx, layer) // an uncompressed tar stream
//	}
//	result, err := b.Finish(flatten.Plain)
//
// A Builder is used by one goroutine at a time. The same layers give the same
// bytes.
//
// Bytes on disk: EROFS with 4 KiB blocks and no incompatible features. Block 0
// holds the superblock; then come the contents of regular files, each
// contiguous and block aligned; then directories and links too big for their
// inode's block; then the inodes, 64 bytes each, root first. Regular files are
// never stored inline: gVisor maps them page by page. The contents of deleted
// files are holes. See docs/decisions/0020-erofs-writer.md.
package flatten

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
)

// Version is the version of the output for the same layers. It is part of the
// name of a cached file; raise it with any change to the bytes.
const Version = 1

// Limits bound what layers may ask for. Zero fields mean the default.
type Limits struct {
	Bytes   int64 // uncompressed bytes of all layers together, holes included; default 32 GiB
	Entries int   // files, directories and links ever made, deleted ones included; default 2,000,000
}

func (l Limits) withDefaults() Limits {
	if l.Bytes == 0 {
		l.Bytes = 32 << 30
	}
	if l.Entries == 0 {
		l.Entries = 2_000_000
	}
	return l
}

// A Variant says for whom the file is.
type Variant int

// The variants.
const (
	// Plain leaves out extended attributes: gVisor refuses an inode that has
	// one.
	Plain Variant = iota
	// Full has extended attributes, for a Linux kernel.
	Full
)

// A Result says what a finished file holds.
type Result struct {
	Size    int64 // of the file, in bytes
	Inodes  int   // files, directories and links, each counted once
	Xattrs  bool  // some inode has extended attributes, so that Plain and Full differ
	Dropped int   // extended attributes of kinds that are not kept
}

// A Builder merges layers into one tree and writes it.
type Builder struct {
	data    *appender
	limits  Limits
	bytes   int64 // counted against limits.Bytes
	entries int   // counted against limits.Entries
	layer   int   // number of the layer being added; the root is of layer 0
	root    *inode
	dead    []extent // contents that no name refers to any more
	dropped int
}

// New returns a Builder that writes to out, which is empty and is neither
// synced nor closed.
func New(out *os.File, limits Limits) *Builder {
	root := &inode{mode: unix.S_IFDIR | 0o755, children: map[string]*dentry{}}
	return &Builder{data: &appender{file: out, off: blockSize}, limits: limits.withDefaults(), root: root}
}

// Finish writes the metadata. The Builder may then only be used for
// [Builder.FinishCopy].
//
// Errors: Image if the tree is beyond what EROFS holds; those of the file.
func (b *Builder) Finish(v Variant) (Result, error) {
	if err := b.data.finish(); err != nil {
		return Result{}, err
	}
	for _, e := range b.dead {
		err := punchHole(b.data.file, e)
		if errors.Is(err, errNoHoles) {
			err = b.data.zero(e) // the bytes of an image do not depend on the file system
		}
		if err != nil {
			return Result{}, fmt.Errorf("discard deleted contents: %w", err)
		}
	}
	return b.writeMetadata(b.data.file, v)
}

// FinishCopy writes another variant to out, which is empty. File contents are
// shared with the first file where the file system can.
func (b *Builder) FinishCopy(ctx context.Context, out *os.File, v Variant) (Result, error) {
	if err := copyData(ctx, out, b.data.file, b.data.off); err != nil {
		return Result{}, fmt.Errorf("copy contents: %w", err)
	}
	return b.writeMetadata(out, v)
}

// A Veto returns an error for a file of the host that must not be read, by its
// device and inode numbers.
type Veto func(dev, ino uint64) error

// errNoHoles is of file systems that cannot make a hole afterwards.
var errNoHoles = errors.New("the file system makes no holes")

// refuse returns the error for a layer that cannot be what it should be.
func refuse(hint, format string, args ...any) error {
	return &boxlite.Error{Op: "read layer", Kind: boxlite.Image, Hint: hint, Err: fmt.Errorf(format, args...)}
}

// The hints of refused layers.
const (
	hintHostile = "Do not use this image: it is damaged, or made to attack the program that unpacks it."
	hintDamaged = "Pull the image again; if it stays damaged, rebuild it."
	hintTooBig  = "Use a smaller image, or raise the image limits in the configuration."
	hintFormat  = "Rebuild the image without this file."
)
