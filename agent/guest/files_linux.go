package guest

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"os"
	"path"
	"slices"
	"strings"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/agent/agentpb"
	"golang.org/x/sys/unix"
)

// inBox runs f on the files thread, as the user that spec names. A failure is
// about the file called name.
func (s *server) inBox(ctx context.Context, op, name, spec string, f func(user) error) (err error) {
	if !path.IsAbs(name) || len(name) > maxPath || strings.ContainsRune(name, 0) {
		return &boxlite.Error{Op: op, Kind: boxlite.InvalidArgument, Ref: name, Hint: "Give an absolute path inside the box."}
	}
	doErr := s.box.files.do(ctx, func() {
		var u user
		if u, err = lookUpUser(spec); err == nil {
			err = as(u, func() error { return f(u) })
		}
	})
	return fileError(op, name, errors.Join(doErr, err))
}

// fileKinds says what system errors about a file mean.
var fileKinds = []struct {
	err  error
	kind boxlite.Kind
	hint string
}{
	{errNoUser, boxlite.InvalidArgument, "Name a user of the box's /etc/passwd, or a number."},
	{unix.ENOENT, boxlite.NotFound, "List the directory to see what is there."},
	{unix.ENOTDIR, boxlite.NotFound, "A part of the path is a file: list its directory."},
	{unix.EACCES, boxlite.Denied, "Choose another user or path."},
	{unix.EPERM, boxlite.Denied, "Choose another user or path."},
	{unix.EROFS, boxlite.Denied, "This part of the box is read-only."},
	{unix.ENOSPC, boxlite.Exhausted, "Remove something from the box's disk."},
	{unix.EDQUOT, boxlite.Exhausted, "Remove something from the box's disk."},
	{unix.EISDIR, boxlite.InvalidArgument, "Name a file, not a directory."},
	{unix.ELOOP, boxlite.InvalidArgument, "Its symbolic links lead in a circle."},
	{unix.ENAMETOOLONG, boxlite.InvalidArgument, "Use shorter names."},
	{unix.EEXIST, boxlite.AlreadyExists, "Something of that name is there, or a symbolic link in the path leads nowhere: list the directory."},
	{unix.ENOTEMPTY, boxlite.AlreadyExists, "The directory is not empty: list it."},
	{unix.EINVAL, boxlite.InvalidArgument, "The file or its file system cannot do that: choose another path."},
	{unix.EXDEV, boxlite.InvalidArgument, "The path crosses file systems: choose another."},
	{unix.EOPNOTSUPP, boxlite.InvalidArgument, "The file or its file system cannot do that: choose another path."},
	{unix.ENXIO, boxlite.InvalidArgument, "Name a regular file."},
	{unix.ENODEV, boxlite.InvalidArgument, "Name a regular file."},
	{unix.ESPIPE, boxlite.InvalidArgument, "Name a regular file."},
	{unix.EFBIG, boxlite.Exhausted, "Write less: a file cannot be that large."},
	{unix.EMFILE, boxlite.Exhausted, "Try again when other work in the box has ended."},
	{unix.ENFILE, boxlite.Exhausted, "Try again when other work in the box has ended."},
	{unix.ENOMEM, boxlite.Exhausted, "End something that runs in the box, or give the box more."},
	{unix.EMLINK, boxlite.Exhausted, "Choose another directory: this one cannot hold more."},
	{unix.EBUSY, boxlite.InvalidState, "The file is in use: end what uses it, or choose another path."},
	{unix.ETXTBSY, boxlite.InvalidState, "The program is running: end it first."},
	{unix.ESTALE, boxlite.InvalidState, "The file was replaced meanwhile: try again."},
	{unix.EIO, boxlite.InvalidState, "The box's disk fails: try again, or make a new box."},
	{errNotRegular, boxlite.InvalidArgument, "Name a regular file."},
}

var errNotRegular = errors.New("not a regular file")

func fileError(op, name string, err error) error {
	if _, ok := errors.AsType[*boxlite.Error](err); ok || err == nil {
		return err
	}
	for _, k := range fileKinds {
		if errors.Is(err, k.err) {
			return &boxlite.Error{Op: op, Kind: k.kind, Ref: name, Hint: k.hint, Err: bare(err)}
		}
	}
	kind := boxlite.KindOf(err)
	if _, ok := errors.AsType[unix.Errno](err); ok { // the box answers: the host must not take it for broken
		kind = boxlite.InvalidState
	}
	return &boxlite.Error{Op: op, Kind: kind, Ref: name, Err: bare(err)}
}

// ReadFile sends a regular file.
func (s *server) ReadFile(req *agentpb.ReadFileRequest, stream agentpb.Agent_ReadFileServer) error {
	const op = "read file"
	if req.Offset < 0 || req.Limit < 0 {
		return boxlite.Errorf(boxlite.InvalidArgument, op, string(req.Path), "negative offset or limit")
	}
	var f *os.File
	err := s.inBox(stream.Context(), op, string(req.Path), req.User, func(user) (err error) {
		f, err = openRegular(string(req.Path), os.O_RDONLY)
		return err
	})
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Seek(req.Offset, io.SeekStart); err != nil {
		return fileError(op, string(req.Path), err)
	}
	var r io.Reader = f
	if req.Limit > 0 {
		r = io.LimitReader(f, req.Limit)
	}
	buf := make([]byte, chunk)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			if err := stream.Send(&agentpb.FileChunk{Data: buf[:n]}); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fileError(op, string(req.Path), err)
		}
	}
}

// openRegular opens a regular file; nothing else can make it wait or act.
func openRegular(name string, flags int) (*os.File, error) {
	fd, err := unix.Open(name, flags|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		if err == unix.ENXIO { // a socket, or a FIFO without a reader
			return nil, errNotRegular
		}
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		unix.Close(fd)
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			err = unix.EISDIR
		}
		if err == nil {
			err = errNotRegular
		}
		return nil, err
	}
	return blocking(fd, name), nil
}

// A target is a file being written.
type target struct {
	file *os.File // what gets the data
	temp string   // to be renamed to name; "": file is the file itself
	dir  *os.File // that both are in
	name string
	mode uint32 // that the file had; 0: it is new, or keeps it by itself
}

// WriteFile receives a file and puts it in place.
func (s *server) WriteFile(stream agentpb.Agent_WriteFileServer) error {
	const op = "write file"
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	req := first.GetStart()
	if req == nil {
		return boxlite.Errorf(boxlite.InvalidArgument, op, "", "the first message is not a start")
	}
	var t *target
	err = s.inBox(stream.Context(), op, string(req.Path), req.User, func(u user) (err error) {
		t, err = openTarget(req, u)
		return err
	})
	if err != nil {
		return err
	}
	n, err := receive(stream, t.file)
	if err == nil {
		err = t.commit(req.Mode)
	}
	if err != nil {
		t.discard()
		return fileError(op, string(req.Path), err)
	}
	return stream.SendAndClose(&agentpb.WriteFileResponse{Bytes: n})
}

// receive writes the stream's data to f until the host says that it is all.
func receive(stream agentpb.Agent_WriteFileServer, f *os.File) (n int64, err error) {
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err != nil {
			return n, err
		}
		k, err := f.Write(m.GetData())
		if n += int64(k); err != nil {
			return n, err
		}
	}
}

// openTarget prepares the writing of a file, on the files thread and as the
// user: beside the file where that can be, else into it.
func openTarget(req *agentpb.WriteFileStart, u user) (*target, error) {
	name, err := resolve(string(req.Path))
	if err != nil {
		return nil, err
	}
	if req.CreateParents {
		if err := os.MkdirAll(path.Dir(name), 0o755); err != nil {
			return nil, err
		}
	}
	var old unix.Stat_t
	exists := false
	switch err := unix.Lstat(name, &old); {
	case err == nil && old.Mode&unix.S_IFMT == unix.S_IFDIR:
		return nil, unix.EISDIR
	case err == nil && old.Mode&unix.S_IFMT != unix.S_IFREG:
		return nil, errNotRegular
	case err == nil:
		exists = true
	case err != unix.ENOENT:
		return nil, err
	}
	if req.Append {
		return openInPlace(name, exists, unix.O_APPEND)
	}
	if exists { // replacing takes no right to the file itself, but changing it should
		if err := unix.Faccessat(unix.AT_FDCWD, name, unix.W_OK, unix.AT_EACCESS); err != nil {
			return nil, err
		}
	}
	t, err := openBeside(name, exists, &old, u)
	if exists && (errors.Is(err, unix.EACCES) || errors.Is(err, unix.EROFS)) {
		return openInPlace(name, exists, unix.O_TRUNC)
	}
	return t, err
}

// resolve follows the symbolic links of name, also of a last element that
// leads to what is not there yet.
func resolve(name string) (string, error) {
	name = path.Clean(name)
	for range 40 {
		link, err := os.Readlink(name)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) { // no link, or nothing at all
			return name, nil
		}
		if err != nil {
			return "", err
		}
		if !path.IsAbs(link) {
			link = path.Join(path.Dir(name), link) // a ".." through a linked directory is taken for the text
		}
		name = path.Clean(link)
	}
	return "", unix.ELOOP
}

func openInPlace(name string, exists bool, flags int) (*target, error) {
	if !exists {
		flags |= unix.O_CREAT | unix.O_EXCL
	}
	f, err := os.OpenFile(name, os.O_WRONLY|flags|unix.O_NONBLOCK|unix.O_NOFOLLOW|unix.O_NOCTTY, 0o644)
	if err != nil {
		return nil, err
	}
	return &target{file: f}, nil
}

func openBeside(name string, exists bool, old *unix.Stat_t, u user) (*target, error) {
	dir, err := os.OpenFile(path.Dir(name), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	t := &target{dir: dir, name: path.Base(name), temp: ".boxlite-" + rand.Text()}
	fd, err := unix.Openat(int(dir.Fd()), t.temp, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o644)
	if err != nil {
		dir.Close()
		return nil, err
	}
	t.file = os.NewFile(uintptr(fd), name)
	if exists {
		_ = unix.Fchown(fd, int(old.Uid), int(old.Gid)) // root keeps the owner; others become it
		t.mode = old.Mode & 0o7777
		err = unix.Fchmod(fd, t.mode&0o777)
	}
	if err != nil {
		t.discard()
		return nil, err
	}
	return t, nil
}

// commit makes what was written the file. It needs no thread of the box: there
// is no path left to resolve.
func (t *target) commit(mode uint32) error {
	if mode == 0 {
		mode = t.mode
	}
	if mode != 0 { // last: writing takes set-user-ID away
		if err := unix.Fchmod(int(t.file.Fd()), mode&0o7777); err != nil {
			return err
		}
	}
	if t.temp == "" {
		return t.file.Close()
	}
	dir := int(t.dir.Fd())
	err := unix.Renameat(dir, t.temp, dir, t.name)
	if errors.Is(err, unix.EBUSY) { // something is mounted there: /etc/hosts often is
		if err = t.copyOver(); err == nil {
			err = unix.Unlinkat(dir, t.temp, 0)
		}
	}
	if err != nil {
		return err
	}
	return errors.Join(t.file.Close(), t.dir.Close())
}

// copyOver writes the temporary file's content into the file.
func (t *target) copyOver() error {
	dir := int(t.dir.Fd())
	from, err := unix.Openat(dir, t.temp, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	src := os.NewFile(uintptr(from), t.temp)
	defer src.Close()
	to, err := unix.Openat(dir, t.name, unix.O_WRONLY|unix.O_TRUNC|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	dst := os.NewFile(uintptr(to), t.name)
	_, err = io.Copy(dst, src)
	return errors.Join(err, dst.Close())
}

// discard leaves the file as it was, as far as it was replaced.
func (t *target) discard() {
	t.file.Close()
	if t.temp != "" {
		_ = unix.Unlinkat(int(t.dir.Fd()), t.temp, 0)
		t.dir.Close()
	}
}

// Stat describes a file.
func (s *server) Stat(ctx context.Context, req *agentpb.StatRequest) (info *agentpb.FileInfo, err error) {
	err = s.inBox(ctx, "stat file", string(req.Path), req.User, func(user) error {
		var st unix.Stat_t
		if err := unix.Lstat(string(req.Path), &st); err != nil {
			return err
		}
		link := ""
		if st.Mode&unix.S_IFMT == unix.S_IFLNK {
			link, _ = os.Readlink(string(req.Path))
			var followed unix.Stat_t
			if unix.Stat(string(req.Path), &followed) == nil {
				st = followed
			}
		}
		info = fileInfo(path.Base(string(req.Path)), link, &st)
		return nil
	})
	return info, err
}

func fileInfo(name, link string, st *unix.Stat_t) *agentpb.FileInfo {
	return &agentpb.FileInfo{Name: []byte(name), Size: st.Size, Mode: st.Mode, MtimeUnixNano: st.Mtim.Nano(),
		Uid: st.Uid, Gid: st.Gid, Link: []byte(link)}
}

// ReadDir lists a directory.
func (s *server) ReadDir(req *agentpb.ReadDirRequest, stream agentpb.Agent_ReadDirServer) error {
	const op = "read directory"
	limit := int(req.Limit)
	if limit <= 0 || limit > maxEntries {
		limit = maxEntries
	}
	var dir *os.File
	err := s.inBox(stream.Context(), op, string(req.Path), req.User, func(user) (err error) {
		dir, err = os.OpenFile(string(req.Path), os.O_RDONLY|unix.O_DIRECTORY|unix.O_NONBLOCK, 0)
		return err
	})
	if err != nil {
		return err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(maxEntries + 1)
	if err != nil && !errors.Is(err, io.EOF) {
		return fileError(op, string(req.Path), err)
	}
	slices.Sort(names)
	more := len(names) > limit
	return sendEntries(stream, int(dir.Fd()), names[:min(len(names), limit)], more)
}

// sendEntries describes files in batches that are well below a message's limit.
func sendEntries(stream agentpb.Agent_ReadDirServer, dir int, names []string, more bool) error {
	const batch = 512 // names have up to 255 bytes, links 4095; see below
	for part := range slices.Chunk(names, batch) {
		m := &agentpb.ReadDirResponse{}
		size := 0
		for _, name := range part {
			var st unix.Stat_t
			if unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW) != nil {
				continue // removed meanwhile
			}
			link := readlinkAt(dir, name, &st)
			m.Entries = append(m.Entries, fileInfo(name, link, &st))
			if size += len(name) + len(link) + 64; size > maxMessage/4 {
				if err := stream.Send(m); err != nil {
					return err
				}
				m, size = &agentpb.ReadDirResponse{}, 0
			}
		}
		if err := stream.Send(m); err != nil {
			return err
		}
	}
	return stream.Send(&agentpb.ReadDirResponse{More: more})
}

func readlinkAt(dir int, name string, st *unix.Stat_t) string {
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		return ""
	}
	buf := make([]byte, maxPath)
	n, err := unix.Readlinkat(dir, name, buf)
	if err != nil {
		return ""
	}
	return string(buf[:n])
}
