package agent

import (
	"context"
	"io"
	"io/fs"
	"time"
)

// WriteOptions say how [Client.WriteFile] writes.
type WriteOptions struct {
	Mode fs.FileMode // permissions of a new file; 0: 0644

	// User names who writes, name|uid[:group|gid] as in the box; files and
	// directories made are theirs. "": root.
	User string

	Append        bool // add to the file, in place; else it is replaced as a whole, atomically
	CreateParents bool // make missing directories, mode 0755
}

// ReadOptions say how [Client.ReadFile] reads.
type ReadOptions struct {
	Offset int64  // first byte
	Limit  int64  // most bytes; 0: all
	User   string // who reads; "": root
}

// A FileInfo describes a file in the box. It comes from the box.
type FileInfo struct {
	Name    string // last element
	Size    int64
	Mode    fs.FileMode
	ModTime time.Time
	UID     uint32
	GID     uint32
	Link    string // where a symbolic link points
}

// ReadFile copies a regular file of the box to w and returns the bytes copied.
// Symbolic links lead where they lead inside the box.
//
// Errors: NotFound, InvalidArgument if it is not a regular file or the path is
// relative, Denied by the file's permissions, Portal, RpcTransport, Timeout,
// Canceled; w's own error as it is.
func (c *Client) ReadFile(ctx context.Context, path string, opts ReadOptions, w io.Writer) (int64, error) {
	panic("agent: being written")
}

// WriteFile writes r to a file of the box and returns the bytes written. An
// existing file keeps its owner and mode unless opts.Mode is set; a symbolic link's target is
// written. Without Append the file is as before or wholly new, whenever the
// write is interrupted.
//
// Errors: as ReadFile, and Exhausted if there is no room; r's own error as it is.
func (c *Client) WriteFile(ctx context.Context, path string, r io.Reader, opts WriteOptions) (int64, error) {
	panic("agent: being written")
}

// Stat describes a file of the box; a symbolic link is followed unless it
// leads nowhere.
//
// Errors: as ReadFile.
func (c *Client) Stat(ctx context.Context, path, user string) (FileInfo, error) {
	panic("agent: being written")
}

// ReadDir lists a directory of the box in the order of names, at most limit
// entries (0: [MaxDirectory]); more tells whether there are others. Links are
// not followed.
//
// Errors: as ReadFile.
func (c *Client) ReadDir(ctx context.Context, path, user string, limit int) (entries []FileInfo, more bool, err error) {
	panic("agent: being written")
}
