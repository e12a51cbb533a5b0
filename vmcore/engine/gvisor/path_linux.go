package gvisor

import (
	"fmt"
	"os"
	"path/filepath"
)

// atShortPath calls f with another path of the same file, which fits into a
// socket address however long the path of its directory is.
func atShortPath(path string, f func(short string) error) error {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	return f(fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(path)))
}
