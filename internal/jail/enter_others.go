//go:build !linux

package jail

import "errors"

// Enter fails: jails are made of Linux's namespaces.
func Enter(string) error { return errors.New("jails are for Linux") }
