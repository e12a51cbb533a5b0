//go:build !linux

package image

import (
	"errors"
	"os"
)

var errLinuxOnly = errors.New("local images can be read on Linux only")

func realPath(*os.File) (string, error) { return "", errLinuxOnly }

func identity(string) (dev, ino uint64, err error) { return 0, 0, errLinuxOnly }

func openPlain(*os.File, string) (*os.File, error) { return nil, errLinuxOnly }
