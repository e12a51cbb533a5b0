//go:build !linux

package testimage

import "syscall"

// withParent does nothing here: the test image is made on Debian.
func withParent() *syscall.SysProcAttr { return nil }
