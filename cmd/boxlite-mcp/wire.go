package main

import (
	"context"
	"errors"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/internal/cli"
)

// wire connects the command line to the daemon, the MCP tools, the engines and
// the roles.
func wire(app *cli.App) {
	app.Connect = connect
}

// connect returns the Service of the home's daemon, for its operator.
func connect(_ context.Context, c cli.Config) (boxlite.Service, func() error, error) {
	if err := cli.ClaimHome(c.Home); err != nil {
		return nil, nil, err
	}
	return nil, nil, &boxlite.Error{Op: "connect to the daemon of", Kind: boxlite.RpcTransport, Ref: c.Home,
		Err: errors.New("this build has no daemon")}
}
