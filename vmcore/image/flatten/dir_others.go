//go:build !linux

package flatten

import (
	"context"
	"errors"
	"os"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
)

// AddDir is not possible here: the attributes of a Linux file cannot be kept on
// this system.
//
// Errors: Unsupported.
func (b *Builder) AddDir(context.Context, *os.File, Veto) error {
	return &boxlite.Error{Op: "read directory", Kind: boxlite.Unsupported, Hint: "Make an image of the directory on Linux.",
		Err: errors.New("root directories can be read on Linux only")}
}
