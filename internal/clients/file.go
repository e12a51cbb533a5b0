package clients

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
)

const (
	maxFile  = 64 << 20 // bytes of a client's configuration
	attempts = 5        // to replace a file that somebody else writes at the same time
)

// errMoved is why a file is not replaced: it is not what it was when it was read.
var errMoved = errors.New("another program keeps changing it")

// rewrite replaces the file by what change makes of it, atomically, and keeps a
// copy of how it was. A file that is not there is made if create says so. If
// change fails or changes nothing, nothing happens.
//
// A lock on the directory keeps others out that do the same, and a file that
// its client wrote in between is read again.
//
// Errors: those of change, Storage.
func rewrite(file string, create bool, change func([]byte) ([]byte, error)) (Result, error) {
	real, err := resolve(file)
	if err != nil {
		return Result{}, storage(file, err)
	}
	dir := filepath.Dir(real)
	if create {
		err = os.MkdirAll(dir, 0o700)
	}
	if err != nil {
		return Result{}, storage(file, err)
	}
	lock, err := os.Open(dir)
	if errors.Is(err, fs.ErrNotExist) && !create {
		return Result{File: real}, nil
	}
	if err != nil {
		return Result{}, storage(file, err)
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return Result{}, storage(file, fmt.Errorf("lock directory: %w", err))
	}
	for range attempts {
		r, err := rewriteOnce(real, create, change)
		if errors.Is(err, errMoved) {
			continue
		}
		if err != nil && boxlite.KindOf(err) == boxlite.Internal {
			err = storage(file, err)
		}
		if r.Changed && err == nil {
			err = lock.Sync()
		}
		return r, err
	}
	return Result{}, &boxlite.Error{Op: "edit configuration", Kind: boxlite.Storage, Ref: file, Err: errMoved,
		Hint: "Quit the client, and do it again."}
}

func storage(file string, err error) error {
	return &boxlite.Error{Op: "edit configuration", Kind: boxlite.Storage, Ref: file, Err: err,
		Hint: "Make the file and its directory writable, or name another file with --config."}
}

// resolve follows symbolic links, so that a file which is kept elsewhere is
// changed there, and the link stays.
func resolve(file string) (string, error) {
	abs, err := filepath.Abs(file)
	if err != nil {
		return "", err
	}
	real, err := filepath.EvalSymlinks(abs)
	if errors.Is(err, fs.ErrNotExist) {
		if _, lerr := os.Lstat(abs); lerr == nil {
			return "", fmt.Errorf("it is a symbolic link that leads nowhere: %w", err)
		}
		return abs, nil
	}
	return real, err
}

func rewriteOnce(file string, create bool, change func([]byte) ([]byte, error)) (Result, error) {
	old, info, err := read(file)
	if err != nil || info == nil && !create {
		return Result{File: file}, err
	}
	text, err := change(old)
	if err != nil || info != nil && bytes.Equal(old, text) {
		return Result{File: file}, err
	}
	temp, err := write(filepath.Dir(file), "."+filepath.Base(file)+".*.tmp", text, info)
	if err != nil {
		return Result{}, err
	}
	defer os.Remove(temp) // unless it was renamed
	backup := ""
	if len(old) > 0 {
		if backup, err = keep(file, old, info); err != nil {
			return Result{}, err
		}
	}
	if err := replace(temp, file, old, info); err != nil {
		if backup != "" {
			os.Remove(backup)
		}
		return Result{}, err
	}
	return Result{File: file, Backup: backup, Changed: true}, nil
}

// read returns the file, and nil and nil if there is none.
func read(file string) ([]byte, fs.FileInfo, error) {
	f, err := os.OpenFile(file, os.O_RDONLY|syscall.O_NONBLOCK, 0) // not waiting for a pipe's writer
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, nil, err
	case !info.Mode().IsRegular():
		return nil, nil, errors.New("it is not a regular file")
	case info.Size() > maxFile:
		return nil, nil, fmt.Errorf("it has more than %d bytes", maxFile)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	return text, info, err
}

// write makes a file of the pattern with the mode and owner of another, or for
// its owner alone, and returns its name. Its contents are on the disk.
func write(dir, pattern string, text []byte, like fs.FileInfo) (name string, err error) {
	f, err := os.CreateTemp(dir, pattern)
	if err != nil {
		return "", err
	}
	err = fill(f, text, like)
	if err != nil {
		os.Remove(f.Name())
	}
	return f.Name(), err
}

func fill(f *os.File, text []byte, like fs.FileInfo) error {
	_, err := f.Write(text)
	if err == nil && like != nil {
		err = errors.Join(own(f, like), f.Chmod(like.Mode().Perm()))
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// own gives a file the owner and group of another.
func own(f *os.File, like fs.FileInfo) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	is, ok := info.Sys().(*syscall.Stat_t)
	want, ok2 := like.Sys().(*syscall.Stat_t)
	if !ok || !ok2 || is.Uid == want.Uid && is.Gid == want.Gid {
		return nil
	}
	return f.Chown(int(want.Uid), int(want.Gid))
}

// keep writes a copy beside the file, whose name says when.
func keep(file string, text []byte, like fs.FileInfo) (string, error) {
	stamp := file + ".backup-" + time.Now().Format("2006-01-02T15-04-05")
	for n := 1; ; n++ {
		name := stamp
		if n > 1 {
			name = fmt.Sprintf("%s.%d", stamp, n)
		}
		f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if errors.Is(err, fs.ErrExist) && n < 1000 {
			continue
		}
		if err != nil {
			return "", fmt.Errorf("keep a copy: %w", err)
		}
		if err := fill(f, text, like); err != nil {
			os.Remove(name)
			return "", fmt.Errorf("keep a copy: %w", err)
		}
		return name, nil
	}
}

// replace renames temp to file if the file is still what it was.
func replace(temp, file string, old []byte, info fs.FileInfo) error {
	now, nowInfo, err := read(file)
	if err != nil {
		return err
	}
	if (info == nil) != (nowInfo == nil) || !bytes.Equal(now, old) {
		return errMoved
	}
	return os.Rename(temp, file)
}
