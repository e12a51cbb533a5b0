package engine

import (
	"context"
	"errors"
	"path/filepath"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
)

// What a machine gets whose MachineSpec leaves it open.
const (
	DefaultProcesses = 4096
	DefaultDisk      = 10 * boxlite.GiB
)

// Checked returns the spec with its defaults, for an engine whose machines need
// at least so much memory. op names what is being done, in the error.
//
// Errors: InvalidArgument.
func (s MachineSpec) Checked(op string, least boxlite.Bytes) (MachineSpec, error) {
	invalid := func(format string, args ...any) (MachineSpec, error) {
		return s, boxlite.Errorf(boxlite.InvalidArgument, op, string(s.ID), format, args...)
	}
	for name, path := range map[string]string{"Dir": s.Dir, "Base": s.Base, "Layer": s.Layer, "Agent": s.Agent, "Log": s.Log} {
		if !filepath.IsAbs(path) {
			return invalid("%s %q is not an absolute path", name, path)
		}
	}
	switch {
	case s.ID == "":
		return invalid("no ID")
	case s.CPUs < 1:
		return invalid("%d CPUs", s.CPUs)
	case s.Memory < least:
		return invalid("%d bytes of memory are less than %s", s.Memory, least)
	case len(s.Hostname) > 63:
		return invalid("hostname of %d bytes", len(s.Hostname))
	case s.DiskSize < 0 || s.Processes < 0:
		return invalid("negative limit")
	}
	if s.DiskSize == 0 {
		s.DiskSize = DefaultDisk
	}
	if s.Processes == 0 {
		s.Processes = DefaultProcesses
	}
	return s, nil
}

// Failed gives what failed with a machine its kind: Canceled and Timeout where a
// context ended, Engine else. An error that has a kind keeps it.
func Failed(op string, id boxlite.ContainerID, err error) error {
	if already, ok := errors.AsType[*boxlite.Error](err); ok {
		return already
	}
	kind := boxlite.Engine
	switch {
	case errors.Is(err, context.Canceled):
		kind = boxlite.Canceled
	case errors.Is(err, context.DeadlineExceeded):
		kind = boxlite.Timeout
	}
	return &boxlite.Error{Op: op, Kind: kind, Ref: string(id), Err: err}
}
