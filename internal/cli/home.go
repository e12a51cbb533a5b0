package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
)

// HomeMarker is the file that says that a directory is a home of this program.
const HomeMarker = ".boxlite-mcp-home"

const markerText = "This directory belongs to boxlite-mcp: boxes, images and the sockets of its daemon.\n"

// FindHome returns the absolute path of the home directory, which need not
// exist. An empty dir means the default: .boxlite in userHome, or .boxlite-mcp
// there where the former belongs to another program.
//
// Errors: Config if the directory belongs to another program, or there is
// neither dir nor userHome; Storage if it cannot be read.
func FindHome(dir, userHome string) (string, error) {
	if dir != "" {
		abs, err := filepath.Abs(dir)
		if err != nil {
			return "", &boxlite.Error{Op: "find home", Kind: boxlite.Storage, Ref: dir, Err: err}
		}
		return abs, checkHome(abs)
	}
	if userHome == "" {
		return "", &boxlite.Error{Op: "find home", Kind: boxlite.Config, Err: errors.New("the user has no home directory"),
			Hint: "Name a directory with --home or BOXLITE_HOME."}
	}
	first := filepath.Join(userHome, ".boxlite")
	err := checkHome(first)
	if boxlite.KindOf(err) != boxlite.Config || err == nil {
		return first, err
	}
	second := filepath.Join(userHome, ".boxlite-mcp")
	return second, checkHome(second)
}

// ClaimHome makes the directory, for its owner alone, and marks it.
//
// Errors: Config if it belongs to another program, Storage.
func ClaimHome(dir string) error {
	if err := checkHome(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return &boxlite.Error{Op: "make home", Kind: boxlite.Storage, Ref: dir, Err: err,
			Hint: "Name a directory that you may write with --home or BOXLITE_HOME."}
	}
	f, err := os.OpenFile(filepath.Join(dir, HomeMarker), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err == nil {
		_, werr := f.WriteString(markerText)
		err = errors.Join(werr, f.Close())
	}
	if err != nil {
		return &boxlite.Error{Op: "mark home", Kind: boxlite.Storage, Ref: dir, Err: err}
	}
	return nil
}

// checkHome reports whether dir may be a home: it is absent, empty but for the
// operator's configuration, or marked.
func checkHome(dir string) error {
	entries, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return &boxlite.Error{Op: "read home", Kind: boxlite.Storage, Ref: dir, Err: err,
			Hint: "Name a directory of your own with --home or BOXLITE_HOME."}
	case len(entries) == 0, len(entries) == 1 && entries[0].Name() == "config.toml":
		return nil
	}
	if _, err := os.Lstat(filepath.Join(dir, HomeMarker)); err == nil {
		return nil
	}
	return &boxlite.Error{Op: "use home", Kind: boxlite.Config, Ref: dir,
		Err:  fmt.Errorf("it is not empty and has no %s: it belongs to another program", HomeMarker),
		Hint: "Name an empty or new directory with --home or BOXLITE_HOME."}
}
