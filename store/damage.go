package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/dgraph-io/badger/v4"

	"github.com/boxlite-mcp/boxlite-mcp"
)

// A damageError says in what way a database is not what was written.
type damageError string

func (e damageError) Error() string { return string(e) }

func damage(format string, args ...any) error { return damageError(fmt.Sprintf(format, args...)) }

const damageHint = "Move the database directory aside and start again: boxes that run go on, and are found by their directories."

// Quarantine moves a damaged database aside, to <dir>.damaged-<time>, and
// returns where it is. Nothing is deleted; dir is then free for a new one.
//
// Errors: [boxlite.NotFound], [boxlite.InvalidState] if a process has the
// database open, [boxlite.Storage].
func Quarantine(dir string) (moved string, err error) {
	if _, err := os.Stat(dir); err != nil {
		return "", classify("quarantine database", dir, err)
	}
	owner, err := lock(dir)
	if err != nil {
		return "", err
	}
	defer owner.Close()
	stamp := filepath.Clean(dir) + ".damaged-" + time.Now().UTC().Format("20060102T150405Z")
	moved = stamp
	for n := 2; exists(moved); n++ {
		moved = fmt.Sprintf("%s-%d", stamp, n)
	}
	err = os.Rename(dir, moved)
	if err == nil {
		err = syncDir(filepath.Dir(moved))
	}
	if err != nil {
		return "", classify("quarantine database", dir, err)
	}
	return moved, nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// guard calls fn, which calls Badger, and returns a panic, or the fault that a
// mapped file gives when it cannot be read, as damage. It is not for functions
// of callers, whose panics are their own.
func guard(fn func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = damage("badger: %v", r)
		}
	}()
	return fn()
}

// classify returns err as an error of the package: as it is if it has a
// meaning already, else with the kind that its cause has.
func classify(op, ref string, err error) error {
	if err == nil || errors.Is(err, badger.ErrConflict) {
		return err
	}
	if _, ok := errors.AsType[*boxlite.Error](err); ok {
		return err
	}
	kind, hint := kindOf(err)
	return &boxlite.Error{Op: op, Kind: kind, Ref: ref, Hint: hint, Err: err}
}

// also returns err, with that of cleaning up after it if there is one.
func also(err, cleanup error) error {
	if cleanup == nil {
		return err
	}
	return errors.Join(err, cleanup)
}

// kindOf returns what an error of Badger or of the system means. Badger wraps
// some by text only.
func kindOf(err error) (kind boxlite.Kind, hint string) {
	says := func(e error) bool { return errors.Is(err, e) || strings.Contains(err.Error(), e.Error()) }
	switch {
	case says(syscall.ENOSPC), says(syscall.EDQUOT):
		return boxlite.Exhausted, fullHint
	case says(syscall.EROFS), says(fs.ErrPermission), says(syscall.EACCES):
		return boxlite.Storage, "Make the home directory writable for this user, or name another one."
	case says(syscall.EISDIR), says(syscall.ENOTDIR):
		return boxlite.Database, damageHint
	case says(badger.ErrTxnTooBig):
		return boxlite.InvalidArgument, "Do the work in several smaller transactions."
	case says(badger.ErrDBClosed), says(badger.ErrBlockedWrites):
		return boxlite.InvalidState, ""
	case errors.Is(err, fs.ErrNotExist):
		return boxlite.NotFound, ""
	}
	if _, ok := errors.AsType[*fs.PathError](err); ok {
		return boxlite.Storage, ""
	}
	return boxlite.Database, damageHint
}
