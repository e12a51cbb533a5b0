//go:build !linux

package vm

import (
	"context"
	"errors"
)

// Main fails: the machine's kernel is Linux.
func Main(context.Context) error {
	return errors.New("a virtual machine's first process runs on Linux only")
}
