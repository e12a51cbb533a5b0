package vmcore

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
)

// lockHome takes the home for this process. The lock goes with the file, or
// with the process. The file names the process that has it.
//
// Errors: InvalidState if another process has it; Storage.
func lockHome(home string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(home, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, storage("lock home", home, err)
	}
	switch err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); {
	case errors.Is(err, unix.EWOULDBLOCK):
		holder, _ := os.ReadFile(f.Name())
		f.Close()
		return nil, &boxlite.Error{Op: "open home", Kind: boxlite.InvalidState, Ref: home,
			Err:  fmt.Errorf("process %s has it open", strings.TrimSpace(string(holder))),
			Hint: "Connect to that process (boxlite-mcp does so by itself), end it, or choose another home."}
	case err != nil:
		f.Close()
		return nil, storage("lock home", home, err)
	}
	_ = f.Truncate(0)
	fmt.Fprintln(f, os.Getpid())
	return f, nil
}

// Marker is the file that says that a directory is a home of this program, and
// not another's of the same name.
const Marker = ".boxlite-mcp-home"

// mark makes sure that the home has its marker.
func mark(home string) error {
	f, err := os.OpenFile(filepath.Join(home, Marker), os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return storage("mark home", home, err)
	}
	return f.Close()
}
