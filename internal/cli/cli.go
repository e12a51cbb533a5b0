// Package cli is the command line of boxlite-mcp: commands, flags, tables,
// progress, and the streams and terminals of commands that run in boxes.
//
// It is not the program: it reads no environment, touches no standard file,
// installs no signal handler and never exits. All of that is in the fields of
// [App], which cmd/boxlite-mcp fills in. It does not know the daemon either:
// everything it does to boxes goes through a [boxlite.Service].
//
//	app := &cli.App{
//		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
//		LookupEnv: os.LookupEnv, Signals: signals,
//		Connect: connect, Serve: serve,
//	}
//	err := app.Run(ctx, os.Args[1:])
//	os.Exit(cli.Exit(os.Stderr, err))
//
// An App runs one command line at a time. On the wire are only the words of
// package boxlite, as JSON, where --json asks for them; other output is for
// people and may change.
package cli

import (
	"context"
	"io"
	"log/slog"
	"os"
	"sync"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
)

// Name is the program's name in messages and help.
const Name = "boxlite-mcp"

// An App is the world that one command line runs in. Stdin, Stdout, Stderr,
// LookupEnv and Connect are required.
type App struct {
	// Stdin is read only by commands that were asked to read it. An *os.File
	// is never read beyond what is asked for once the command is over; any
	// other reader that is an io.Closer is closed to end a pending Read.
	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer

	// LookupEnv is os.LookupEnv. It gives the flags' fallbacks, and the values
	// of -e NAME.
	LookupEnv func(name string) (value string, ok bool)

	// UserHome is the directory in which the default home lies; "": --home is
	// required.
	UserHome string

	// Executable is the absolute path of the program, beside which the helpers
	// lie; "" if it is not known.
	Executable string

	// Signals delivers the process's signals. Those that would end it cancel
	// the command, or go to the command in the box while one is attached; the
	// first that cancels calls ReleaseSignals, so that a second one can end a
	// command that hangs. nil: none.
	Signals        <-chan os.Signal
	ReleaseSignals func() // nil: nothing

	// Connect returns the home's Service as its operator sees it, starting the
	// daemon where that is needed, and what lets go of it. It is called again
	// after a connection was lost.
	//
	// Errors: RpcTransport, Config, Database.
	Connect func(ctx context.Context, c Config) (boxlite.Service, func() error, error)

	// Serve speaks MCP on in and out until in ends or ctx is done. nil: serve
	// is not supported.
	Serve func(ctx context.Context, c Config, in io.Reader, out io.Writer) error

	// Listen speaks MCP over HTTP until ctx is done. nil: not supported.
	//
	// Errors: Config for what must not be listened at.
	Listen func(ctx context.Context, c Config, l ListenConfig) error

	// OpenTokens returns the tokens of a home. nil: not supported.
	OpenTokens func(c Config) Tokens

	// OpenSettings returns the operator's configuration of a home. nil: not
	// supported.
	OpenSettings func(c Config) Settings

	// ProbeEngines returns what doctor says about the engines of this host. nil:
	// nothing.
	ProbeEngines func(ctx context.Context, c Config) []Check

	// ExplainNet says what would become of a box's connection. nil: explain-net
	// is not supported.
	//
	// Errors: Config for a rule or an entry.
	ExplainNet func(ctx context.Context, q NetQuestion) ([]NetStep, error)

	// Setups edit the configuration of MCP clients. nil: setup is not supported.
	Setups Setups

	// CheckRegistry says whether --registry may have a value. nil: any.
	//
	// Errors: InvalidArgument.
	CheckRegistry func(registry string) error

	// Repair moves a damaged database of a home aside and says where it is now.
	// nil: doctor --repair is not supported.
	Repair func(home string) (moved string, err error)

	// Roles are commands that the program starts of itself: the daemon, the
	// shim. They are hidden from help.
	Roles []Role

	intr interrupts
}

// A Role is a hidden command.
type Role struct {
	Name  string
	Short string
	Run   func(ctx context.Context, c Config, args []string) error
}

// Run runs one command line. The error says what to exit with: see [Exit].
func (a *App) Run(ctx context.Context, args []string) error {
	ctx, cancel := context.WithCancelCause(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { a.intr.run(ctx, a.Signals, cancel, a.ReleaseSignals) })
	defer wg.Wait()
	defer cancel(nil)

	root := newRoot(a)
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	err = withSignal(ctx, err)
	if name := cmd.Name(); name == "run" || name == "exec" {
		return ours(err)
	}
	return err
}

// Log returns the logger that the configuration asks for, writing to w.
func (c Config) Log(w io.Writer) *slog.Logger {
	opts := &slog.HandlerOptions{Level: c.LogLevel}
	if c.LogJSON {
		return slog.New(slog.NewJSONHandler(w, opts))
	}
	return slog.New(slog.NewTextHandler(w, opts))
}
