//go:build unix && !linux

package cli

import (
	"context"
	"os"
	"runtime"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"golang.org/x/sys/unix"
)

// freeSpace returns what an ordinary user may still write below dir.
func freeSpace(dir string) (boxlite.Bytes, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	return boxlite.Bytes(st.Bavail) * boxlite.Bytes(st.Bsize), nil
}

func platformChecks(context.Context) []Check {
	return []Check{{Name: "platform", Detail: runtime.GOOS + "/" + runtime.GOARCH + " has no engine yet",
		Hint: "Use Linux on amd64 or arm64."}}
}
