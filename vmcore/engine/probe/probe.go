// Package probe is how engines see whether they work on a host: a machine whose
// base is an empty file system, in which the agent takes up its stream.
package probe

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/engine"
)

// CheckPrograms reports which of the helpers that an engine was told of is not
// there.
func CheckPrograms(paths ...string) error {
	for _, path := range paths {
		if !filepath.IsAbs(path) {
			return fmt.Errorf("the path of a helper, %q, is not absolute", path)
		}
		if _, err := os.Stat(path); err != nil {
			return err
		}
	}
	return nil
}

// Spec makes, in a new temporary directory, what a small machine needs. The
// caller calls remove in the end.
func Spec(agent string) (spec engine.MachineSpec, remove func(), err error) {
	dir, err := os.MkdirTemp("", "boxlite-probe-")
	if err != nil {
		return spec, nil, err
	}
	spec = engine.MachineSpec{
		ID: boxlite.NewContainerID(), Dir: filepath.Join(dir, "machine"), Hostname: "probe", CPUs: 1, Memory: 64 * boxlite.MiB,
		Base: filepath.Join(dir, "base"), Layer: filepath.Join(dir, "layer"), DiskSize: boxlite.MiB,
		Agent: agent, Log: filepath.Join(dir, "log"),
	}
	err = errors.Join(os.Mkdir(spec.Dir, 0o700), os.Mkdir(spec.Layer, 0o700), os.WriteFile(spec.Base, EmptyBase(), 0o600))
	if err != nil {
		os.RemoveAll(dir)
		return spec, nil, err
	}
	return spec, func() { os.RemoveAll(dir) }, nil
}

// AwaitAgent waits for the agent's first bytes. It is an HTTP/2 server, and
// those speak when they are spoken to: with the client's preface and empty
// settings, here. If ctx ends first the machine is killed.
func AwaitAgent(ctx context.Context, m engine.Machine) error {
	stop := context.AfterFunc(ctx, m.Kill)
	defer stop()
	preface := "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + "\x00\x00\x00\x04\x00\x00\x00\x00\x00"
	_, err := m.Control().Write([]byte(preface))
	if err == nil {
		_, err = m.Control().Read(make([]byte, 1))
	}
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return fmt.Errorf("the agent does not answer: %w", err)
	}
	return nil
}
