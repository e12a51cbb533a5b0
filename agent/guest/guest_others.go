//go:build !linux

package guest

import (
	"context"
	"net"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
)

var errNotLinux = &boxlite.Error{Op: "serve box", Kind: boxlite.Unsupported, Hint: "The agent runs in boxes, which are Linux."}

// Main is the program.
func Main(context.Context, []string) error { return errNotLinux }

// Serve serves the host.
func Serve(context.Context, net.Conn, Options) error { return errNotLinux }
