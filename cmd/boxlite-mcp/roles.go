package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/internal/cli"
	"github.com/boxlite-mcp/boxlite-mcp/internal/daemon"
	"github.com/boxlite-mcp/boxlite-mcp/internal/rpc"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/shim"
)

// roles are what the program is when it starts itself, the shim excepted.
func roles(app *cli.App) []cli.Role {
	return []cli.Role{
		{Name: "daemon", Short: "own a home (started on demand)", Run: func(ctx context.Context, c cli.Config, _ []string) error {
			return runDaemon(ctx, c, app)
		}},
	}
}

// reportVar names the descriptor on which a daemon tells whoever started it why
// it could not begin: a boxlite.Problem as JSON, or nothing.
const reportVar = "BOXLITE_DAEMON_REPORT"

// runDaemon is the daemon of a home.
func runDaemon(ctx context.Context, c cli.Config, app *cli.App) error {
	fd, reports := app.LookupEnv(reportVar)
	reports = reports && fd == "3"
	if reports {
		syscall.CloseOnExec(3) // it is not for the boxes' shims
	}
	err := ownHome(ctx, c, app)
	if reports && err != nil {
		report := os.NewFile(3, "report")
		defer report.Close()
		if werr := json.NewEncoder(report).Encode(boxlite.ProblemOf(err)); werr != nil && !errors.Is(werr, syscall.EPIPE) {
			return errors.Join(err, werr)
		}
	}
	return err
}

func ownHome(ctx context.Context, c cli.Config, app *cli.App) error {
	if err := cli.ClaimHome(c.Home); err != nil {
		return err
	}
	return daemon.Run(ctx, daemon.Options{
		Home: c.Home, Programs: programs(app),
		Version: cli.Version().String(), Log: c.Log(app.Stderr),
	})
}

// programs are this executable and those beside it.
func programs(app *cli.App) vmcore.Programs { return vmcore.Programs{Helper: app.Executable} }

// startDaemon starts a daemon that outlives this process. Its environment is
// clean: what is in ours is nobody's business there.
func startDaemon(executable string, c cli.Config) (<-chan error, error) {
	log, err := daemon.OpenLog(c.Home)
	if err != nil {
		return nil, &boxlite.Error{Op: "start daemon", Kind: boxlite.Storage, Ref: c.Home, Err: err}
	}
	defer log.Close()
	args := []string{"daemon", "--home", c.Home, "--log-level", "info"}
	cmd := exec.Command(executable, args...) //nolint:noctx // it outlives us
	cmd.Dir, cmd.Stderr = "/", log
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=" + filepath.Dir(c.Home), reportVar + "=3"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // signals to our terminal are not for it
	report, theirs, err := os.Pipe()
	if err == nil {
		cmd.ExtraFiles = []*os.File{theirs}
		err = cmd.Start()
		theirs.Close()
	}
	if err != nil {
		if report != nil {
			report.Close()
		}
		return nil, &boxlite.Error{Op: "start daemon", Kind: boxlite.Config, Ref: executable, Err: err}
	}
	exited := make(chan error, 1)
	go func() { exited <- errors.Join(readReport(report), cmd.Wait()) }() // ends with the daemon or with us
	return exited, nil
}

// readReport waits until a daemon has ended, and returns why it could not
// begin, if it said so.
func readReport(report *os.File) error {
	defer report.Close()
	var p *boxlite.Problem
	if json.NewDecoder(io.LimitReader(report, 1<<20)).Decode(&p) != nil {
		return nil // it was killed, or left in order
	}
	return p.Err()
}

// dialer returns how to reach the home's daemon, starting it on demand.
func dialer(app *cli.App, c cli.Config, principal string, operator bool) (*rpc.Client, error) {
	if err := cli.ClaimHome(c.Home); err != nil {
		return nil, err
	}
	version := cli.Version().String()
	p := &rpc.Presence{
		Home: c.Home, Version: version, Lock: daemon.LockFile(c.Home),
		Start: func(context.Context) (<-chan error, error) { return startDaemon(app.Executable, c) },
		Log:   c.Log(app.Stderr),
	}
	return rpc.New(rpc.Options{
		Socket: rpc.Socket(c.Home), Principal: principal, Operator: operator, Version: version,
		Registries: c.Registries, Secrets: c.Secrets, Connect: p.Ensure, Log: c.Log(app.Stderr),
	}), nil
}

// runShim is a box's shim. Its configuration comes on stdin: a list of processes
// shows only the one argument, the box's directory, which is for people. It
// needs neither flags nor an environment.
func runShim(ctx context.Context, stdin io.Reader, stdout, stderr io.Writer) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM)
	defer stop()
	in := bufio.NewReader(stdin)
	cfg, err := shim.ReadConfig(in)
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: slog.LevelInfo}))
	eng, err := vmcore.EngineByName(cfg.Engine,
		vmcore.Programs{Sandbox: cfg.Sandbox, Jail: cfg.Jail, QEMU: cfg.QEMU, Agent: cfg.Machine.Agent}, cfg.Guest, log)
	if err != nil {
		return err
	}
	ready, ok := stdout.(*os.File)
	if !ok {
		return boxlite.Errorf(boxlite.Internal, "start shim", "", "standard output is not a file")
	}
	return shim.Run(ctx, cfg, eng, in, ready, log)
}
