// Command boxlite-mcp gives an AI agent isolated Linux boxes over MCP, and a
// person the same boxes on the command line: run boxlite-mcp -h.
//
// This package wires the parts together and holds all that touches the process:
// the environment, the standard files, signals and the exit code. The commands
// are in internal/cli.
package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/boxlite-mcp/boxlite-mcp/internal/cli"
)

func main() {
	os.Exit(cli.Exit(os.Stderr, run(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr)))
}

// run is main without the exit: what it says and reads is in its arguments.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) error {
	if len(args) > 0 && args[0] == "shim" {
		return runShim(ctx, stdin, stdout, stderr)
	}
	return runApp(ctx, newApp(stdin, stdout, stderr), args)
}

// runApp runs one command line with the process's signals.
func runApp(ctx context.Context, app *cli.App, args []string) error {
	signals, release := catch()
	defer release()
	app.Signals, app.ReleaseSignals = signals, release
	return app.Run(ctx, args)
}

// newApp wires everything but signals.
func newApp(stdin io.Reader, stdout, stderr io.Writer) *cli.App {
	home, _ := os.UserHomeDir()      // without one, --home is required
	executable, _ := os.Executable() // without one, helpers are on the PATH
	app := &cli.App{
		Stdin: stdin, Stdout: stdout, Stderr: stderr,
		LookupEnv: os.LookupEnv, UserHome: home, Executable: executable,
	}
	wire(app)
	return app
}

// catch makes signals arrive on a channel until release, which lets them end
// the process again. SIGPIPE is among them, so that a reader who leaves is an
// error of the write and boxes are removed as they should be.
func catch() (signals <-chan os.Signal, release func()) {
	ch := make(chan os.Signal, 16) // so that a burst of resizes does not push out a Ctrl-C
	signal.Notify(ch, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT,
		syscall.SIGWINCH, syscall.SIGPIPE, syscall.SIGUSR1, syscall.SIGUSR2)
	return ch, func() { signal.Reset(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT) }
}
