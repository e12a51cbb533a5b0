package main // the scripts run main itself, with a world in place of the daemon

import (
	"context"
	"fmt"
	"os"
	"testing"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/internal/cli"
	"github.com/boxlite-mcp/boxlite-mcp/internal/cli/clitest"
	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"boxlite-mcp": fakeMain})
}

// fakeMain is main with the world of $WORLD, a file, in place of the daemon.
func fakeMain() {
	world, err := clitest.Load(os.Getenv("WORLD"))
	if err != nil {
		fmt.Fprintln(os.Stderr, "load world:", err)
		os.Exit(99)
	}
	world.Progress = []boxlite.Progress{
		{Phase: "pulling image", Current: 1 << 20, Total: 4 << 20},
		{Phase: "pulling image", Current: 4 << 20, Total: 4 << 20},
		{Phase: "starting machine"},
	}
	app := newApp(os.Stdin, os.Stdout, os.Stderr)
	app.Connect = func(_ context.Context, c cli.Config) (boxlite.Service, func() error, error) {
		return world, world.Hangup, cli.ClaimHome(c.Home)
	}
	app.Serve = nil
	app.ProbeEngines = nil
	code := cli.Exit(os.Stderr, runApp(context.Background(), app, os.Args[1:]))
	if err := world.Save(os.Getenv("WORLD")); err != nil {
		fmt.Fprintln(os.Stderr, "save world:", err)
		os.Exit(99)
	}
	os.Exit(code)
}

func TestScript(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("WORLD", env.WorkDir+"/world.json")
			env.Setenv("HOME", env.WorkDir+"/user")
			return os.MkdirAll(env.WorkDir+"/user", 0o755)
		},
	})
}
