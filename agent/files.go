package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/agent/agentpb"
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
func (c *Client) ReadFile(ctx context.Context, name string, opts ReadOptions, w io.Writer) (n int64, err error) {
	const op = "read file"
	if err := checkPath(op, name); err != nil {
		return 0, err
	}
	ctx, cancel := c.bind(ctx)
	defer cancel()
	stream, err := c.rpc.ReadFile(ctx, &agentpb.ReadFileRequest{Path: []byte(name), Offset: opts.Offset, Limit: opts.Limit, User: opts.User})
	if err != nil {
		return 0, c.fail(ctx, op, clipRef(name), err)
	}
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err != nil {
			return n, c.fail(ctx, op, clipRef(name), err)
		}
		if opts.Limit > 0 && n+int64(len(m.Data)) > opts.Limit {
			return n, boxlite.Errorf(boxlite.Portal, op, clipRef(name), "the agent sent more than was asked for")
		}
		k, err := w.Write(m.Data)
		if n += int64(k); err != nil {
			return n, err
		}
	}
}

// WriteFile writes r to a file of the box and returns the bytes written. An
// existing file keeps its owner and, unless opts.Mode is set, its mode; a
// symbolic link's target is written. Without Append a reader sees the file as
// before or wholly new, whenever the write is interrupted, except where the
// directory cannot be written or something is mounted on the file. It is not
// durable before the machine is synced.
//
// Errors: as ReadFile, and Exhausted if there is no room; r's own error as it is.
func (c *Client) WriteFile(ctx context.Context, name string, r io.Reader, opts WriteOptions) (int64, error) {
	const op = "write file"
	if err := checkPath(op, name); err != nil {
		return 0, err
	}
	ctx, cancel := c.bind(ctx)
	defer cancel() // the agent discards what was not wholly sent
	stream, err := c.rpc.WriteFile(ctx)
	if err != nil {
		return 0, c.fail(ctx, op, clipRef(name), err)
	}
	start := &agentpb.WriteFileStart{Path: []byte(name), Mode: unixMode(opts.Mode), User: opts.User, Append: opts.Append, CreateParents: opts.CreateParents}
	err = stream.Send(&agentpb.WriteFileRequest{Request: &agentpb.WriteFileRequest_Start{Start: start}})
	sent, readErr := int64(0), error(nil)
	for buf := make([]byte, chunk); err == nil && readErr == nil; {
		var k int
		if k, readErr = r.Read(buf); k > 0 {
			err = stream.Send(&agentpb.WriteFileRequest{Request: &agentpb.WriteFileRequest_Data{Data: buf[:k]}})
			sent += int64(k)
		}
	}
	if readErr != nil && !errors.Is(readErr, io.EOF) {
		return 0, readErr
	}
	reply, err := stream.CloseAndRecv() // says why Send has failed
	if err != nil {
		return 0, c.fail(ctx, op, clipRef(name), err)
	}
	if reply.Bytes != sent {
		return 0, boxlite.Errorf(boxlite.Portal, op, clipRef(name), "the agent wrote %d bytes of %d", reply.Bytes, sent)
	}
	return sent, nil
}

// Stat describes a file of the box; a symbolic link is followed unless it
// leads nowhere.
//
// Errors: as ReadFile.
func (c *Client) Stat(ctx context.Context, name, user string) (FileInfo, error) {
	const op = "stat file"
	if err := checkPath(op, name); err != nil {
		return FileInfo{}, err
	}
	ctx, cancel := c.bind(ctx)
	defer cancel()
	r, err := c.rpc.Stat(ctx, &agentpb.StatRequest{Path: []byte(name), User: user})
	if err != nil {
		return FileInfo{}, c.fail(ctx, op, clipRef(name), err)
	}
	info := fileInfo(r)
	info.Name = path.Base(name)
	return info, checkInfo(op, name, info)
}

// ReadDir lists a directory of the box in the order of names, at most limit
// entries (0: [MaxDirectory]); more tells whether there are others. Links are
// not followed.
//
// Errors: as ReadFile.
func (c *Client) ReadDir(ctx context.Context, name, user string, limit int) (entries []FileInfo, more bool, err error) {
	const op = "read directory"
	if err := checkPath(op, name); err != nil {
		return nil, false, err
	}
	if limit <= 0 || limit > MaxDirectory {
		limit = MaxDirectory
	}
	ctx, cancel := c.bind(ctx)
	defer cancel()
	stream, err := c.rpc.ReadDir(ctx, &agentpb.ReadDirRequest{Path: []byte(name), User: user, Limit: int64(limit)})
	for messages := 0; err == nil; messages++ {
		var m *agentpb.ReadDirResponse
		if m, err = stream.Recv(); err != nil {
			break
		}
		more = more || m.More
		for _, e := range m.Entries {
			info := fileInfo(e)
			if err := checkInfo(op, name, info); err != nil {
				return nil, false, err
			}
			entries = append(entries, info)
		}
		if len(entries) > limit || messages > MaxDirectory {
			return nil, false, boxlite.Errorf(boxlite.Portal, op, clipRef(name), "the agent sent more than was asked for")
		}
	}
	if !errors.Is(err, io.EOF) {
		return nil, false, c.fail(ctx, op, clipRef(name), err)
	}
	slices.SortFunc(entries, func(a, b FileInfo) int { return strings.Compare(a.Name, b.Name) })
	return entries, more, nil
}

func checkPath(op, name string) error {
	if !path.IsAbs(name) || len(name) > MaxPath || strings.ContainsRune(name, 0) {
		return &boxlite.Error{Op: op, Kind: boxlite.InvalidArgument, Ref: clipRef(name), Hint: "Give an absolute path inside the box."}
	}
	return nil
}

// checkInfo refuses names that are none: whoever joins them to a path would be
// led elsewhere.
func checkInfo(op, name string, i FileInfo) error {
	n := i.Name
	root := n == "/" && path.Clean(name) == "/"
	if !root && (n == "" || n == "." || n == ".." || strings.ContainsAny(n, "/\x00")) || len(n) > 255 || len(i.Link) > MaxPath || i.Size < 0 {
		return boxlite.Errorf(boxlite.Portal, op, clipRef(name), "%w", errBadEntry)
	}
	return nil
}

var errBadEntry = fmt.Errorf("the agent described a file that cannot be")

func fileInfo(f *agentpb.FileInfo) FileInfo {
	return FileInfo{Name: string(f.Name), Size: f.Size, Mode: goMode(f.Mode), ModTime: time.Unix(0, f.MtimeUnixNano),
		UID: f.Uid, GID: f.Gid, Link: string(f.Link)}
}

// The file types and bits of stat(2), which every Linux has.
const (
	modeType   = 0o170000
	modeSetuid = 0o4000
	modeSetgid = 0o2000
	modeSticky = 0o1000
)

var fileTypes = map[uint32]fs.FileMode{
	0o040000: fs.ModeDir, 0o120000: fs.ModeSymlink, 0o010000: fs.ModeNamedPipe, 0o140000: fs.ModeSocket,
	0o060000: fs.ModeDevice, 0o020000: fs.ModeDevice | fs.ModeCharDevice, 0o100000: 0,
}

func goMode(m uint32) fs.FileMode {
	t, ok := fileTypes[m&modeType]
	if !ok {
		t = fs.ModeIrregular
	}
	mode := t | fs.FileMode(m&0o777)
	for bit, b := range map[uint32]fs.FileMode{modeSetuid: fs.ModeSetuid, modeSetgid: fs.ModeSetgid, modeSticky: fs.ModeSticky} {
		if m&bit != 0 {
			mode |= b
		}
	}
	return mode
}

func unixMode(m fs.FileMode) uint32 {
	mode := uint32(m.Perm())
	for bit, b := range map[uint32]fs.FileMode{modeSetuid: fs.ModeSetuid, modeSetgid: fs.ModeSetgid, modeSticky: fs.ModeSticky} {
		if m&b != 0 {
			mode |= bit
		}
	}
	return mode
}
