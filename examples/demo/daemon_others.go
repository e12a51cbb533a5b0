//go:build !linux

package main

import "errors"

var errNotLinux = errors.New("the demo runs on Linux")

func daemonPID(string) (int, error) { return 0, errNotLinux }

func kill(int) error { return errNotLinux }

func alive(int) bool { return false }
