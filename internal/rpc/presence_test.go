package rpc_test

import (
	"context"
	"errors"
	"os/exec"
	"testing"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/internal/rpc"
)

// What the daemon says of itself reaches whoever started it as it is, unless
// that may be different at the next try.
func TestADaemonThatCannotBeginSaysWhy(t *testing.T) {
	for kind, want := range map[boxlite.Kind]boxlite.Kind{
		boxlite.Database: boxlite.Database, boxlite.Exhausted: boxlite.Exhausted, boxlite.Config: boxlite.Config,
		boxlite.InvalidState: boxlite.RpcTransport, boxlite.Internal: boxlite.RpcTransport,
	} {
		said := &boxlite.Error{Op: "open home", Kind: kind, Hint: "Do this."}
		p := &rpc.Presence{Home: t.TempDir(), Version: "v1.0.0", Start: func(context.Context) (<-chan error, error) {
			exited := make(chan error, 1)
			exited <- errors.Join(said, &exec.ExitError{})
			return exited, nil
		}}
		err := p.Ensure(t.Context())
		if boxlite.KindOf(err) != want || want == kind && boxlite.HintOf(err) != said.Hint {
			t.Errorf("a daemon that ended with %v: %v", said, err)
		}
	}
}
