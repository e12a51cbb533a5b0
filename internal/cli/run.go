package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// cleanupTimeout is how long removing a box, or ending a command, may take
// after everything else has failed.
const cleanupTimeout = 30 * time.Second

// execFlags are the flags that run and exec share.
type execFlags struct {
	interactive, tty, detach, json bool
	env                            []string
	workingDir, user, progress     string
	timeout                        spanFlag
}

func (f *execFlags) add(fs *pflag.FlagSet) {
	fs.BoolVarP(&f.interactive, "interactive", "i", false, "pass standard input to the command")
	fs.BoolVarP(&f.tty, "tty", "t", false, "run the command on a terminal; with -i, Ctrl-] three times within a second detaches")
	fs.BoolVarP(&f.detach, "detach", "d", false, "leave the command running and print an id")
	fs.StringArrayVarP(&f.env, "env", "e", nil, "set a `variable`: NAME=value, or NAME for its value here; repeatable")
	fs.StringVarP(&f.workingDir, "workdir", "w", "", "absolute `directory` in the box to run in")
	fs.StringVarP(&f.user, "user", "u", "", "`user` to run as: name|uid[:group|gid]")
	fs.Var(&f.timeout, "timeout", "end the command, and all it started, after this long")
	fs.BoolVar(&f.json, "json", false, "with -d, print what was started as JSON")
	progressFlag(fs, &f.progress, "none")
	fs.SetInterspersed(false)
}

// command returns the command that the arguments and flags describe.
//
// Errors: InvalidArgument.
func (m *commander) command(f *execFlags, args []string) (boxlite.Command, error) {
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	if len(args) == 0 && f.tty {
		args = []string{"/bin/sh"}
	}
	if len(args) == 0 {
		return boxlite.Command{}, usage("command", "Name the command to run, or give -it for a shell.", errors.New("it is missing"))
	}
	if f.detach && f.interactive {
		return boxlite.Command{}, usage("-i", "Leave out -i or -d.", errors.New("a detached command has no input"))
	}
	if f.tty && f.interactive && !isTerminal(m.Stdin) {
		return boxlite.Command{}, usage("-t", "Leave out -t, or run it on a terminal.", errors.New("standard input is not a terminal"))
	}
	env, err := m.environment(f.env)
	if err != nil {
		return boxlite.Command{}, err
	}
	cmd := boxlite.Command{Args: args, Env: env, WorkingDir: f.workingDir, User: f.user,
		TTY: f.tty, Stdin: f.interactive, Timeout: time.Duration(f.timeout)}
	if f.tty {
		cmd.Rows, cmd.Cols = terminalSize(m.Stdout, m.Stdin)
		cmd.Env = m.withTerm(env)
	}
	return cmd, cmd.Check()
}

// environment reads -e flags.
func (m *commander) environment(flags []string) ([]boxlite.Env, error) {
	var env []boxlite.Env
	for _, s := range flags {
		if !strings.Contains(s, "=") && s != "" {
			v, ok := m.LookupEnv(s)
			if !ok {
				continue // as with docker: what is not set here is not set there
			}
			s += "=" + v
		}
		e, err := boxlite.ParseEnv(s)
		if err != nil {
			return nil, err
		}
		env = append(env, e)
	}
	return env, nil
}

// withTerm adds the type of our terminal, before what was asked for.
func (m *commander) withTerm(env []boxlite.Env) []boxlite.Env {
	term, ok := m.LookupEnv("TERM")
	if !ok || term == "" {
		term = "xterm"
	}
	return append([]boxlite.Env{{Name: "TERM", Value: term}}, env...)
}

// runFlags are the flags of run.
type runFlags struct {
	execFlags
	name              string
	keep, remove      bool
	cpus              int
	memory, disk      sizeFlag
	labels, secrets   []string
	network           netFlags
	idleTimeout, live spanFlag
}

const runHelp = `Create a box from an image and run a command in it.

The box is removed when the command ends, unless it has a --name, is detached
with -d, or --keep says so. Without a command, -t runs a shell.

IMAGE is a registry reference, or one of oci:DIR[:TAG], docker-archive:FILE,
oci-archive:FILE and dir:ROOT.

Ctrl-C goes to the command; a second one within a second kills it and all that
it started, a third gives up waiting.`

func (m *commander) runCmd() *cobra.Command {
	var f runFlags
	cmd := &cobra.Command{
		Use:     "run [flags] IMAGE [--] COMMAND [ARG...]",
		Short:   "Create a box and run a command in it",
		Long:    runHelp,
		Example: "  boxlite-mcp run python:3.12 python3 -c 'print(6*7)'\n  boxlite-mcp run -it --name dev debian:stable bash",
		Args:    needs(1, -1, "image"),
	}
	fs := cmd.Flags()
	f.execFlags.add(fs)
	fs.StringVar(&f.name, "name", "", "`name` of the box, which is then kept")
	fs.BoolVar(&f.keep, "keep", false, "keep the box when the command ends")
	fs.BoolVar(&f.remove, "rm", false, "remove the box when the command ends, whatever else is asked for; with -d, when it stops")
	fs.IntVar(&f.cpus, "cpus", 0, "`number` of CPUs (default 2)")
	fs.Var(&f.memory, "memory", "memory limit, such as 512m or 1g (default 512m)")
	fs.Var(&f.disk, "disk", "most that the box may write, in whole gigabytes, such as 10g (default 10g)")
	f.network.add(fs)
	fs.StringArrayVar(&f.secrets, "secret", nil, "`secret` that the box may use: NAME, or NAME@HOST to narrow it; repeatable")
	fs.StringArrayVar(&f.labels, "label", nil, "`label` of the box: NAME=value; repeatable")
	fs.Var(&f.idleTimeout, "idle-timeout", "stop the box after this long without use; 0 is never (default 30m)")
	fs.Var(&f.live, "ttl", "remove the box this long after its creation (default never)")
	fromEnv(fs, "cpus", "memory", "disk", "idle-timeout")
	cmd.MarkFlagsMutuallyExclusive("keep", "rm")
	cmd.RunE = m.run(func(ctx context.Context, c Config, args []string) error {
		req, err := m.createRequest(c, &f, args[0], fs.Changed("idle-timeout"))
		if err != nil {
			return err
		}
		l := m.newLink(c)
		defer l.Close()
		return m.runBox(ctx, l, &f, req, args[1:])
	})
	cmd.ValidArgsFunction = m.completeFirst(m.imageRefs)
	return cmd
}

// removes reports whether the box goes when the command ends.
func (f *runFlags) removes() bool { return f.remove || f.name == "" && !f.detach && !f.keep }

func (m *commander) createRequest(c Config, f *runFlags, image string, idle bool) (boxlite.CreateRequest, error) {
	labels, err := parseLabels(f.labels)
	if err != nil {
		return boxlite.CreateRequest{}, err
	}
	env, err := m.environment(f.env)
	if err != nil {
		return boxlite.CreateRequest{}, err
	}
	network, err := f.network.spec()
	if err != nil {
		return boxlite.CreateRequest{}, err
	}
	ref, err := absoluteImage(image)
	req := boxlite.CreateRequest{Name: f.name, NoStart: true, TTL: f.live.seconds(), Options: boxlite.BoxOptions{
		Image: ref, CPUs: f.cpus, MemoryMiB: f.memory.in(boxlite.MiB), DiskSizeGB: f.disk.in(boxlite.GiB),
		WorkingDir: f.workingDir, Env: env, Engine: c.Engine, Isolation: c.Isolation, Labels: labels,
		Network: network, Secrets: boxlite.RefSecrets(f.secrets),
		AutoRemove: new(f.removes()), Detach: f.detach && !f.removes(),
	}}
	if idle {
		req.IdleTimeout = new(f.idleTimeout.seconds())
	}
	if err == nil {
		_, err = req.Options.WithDefaults()
	}
	if err == nil && f.name != "" {
		_, err = boxlite.ParseBoxName(f.name)
	}
	return req, err
}

// runBox creates the box, runs the command and removes the box. The box is
// created first and started by the command, so that its id is known whatever
// happens on the way.
func (m *commander) runBox(ctx context.Context, l *link, f *runFlags, req boxlite.CreateRequest, args []string) (err error) {
	cmd, err := m.command(&f.execFlags, args)
	if err != nil {
		return err
	}
	if _, err := l.service(ctx); err != nil {
		return err
	}
	var box boxlite.BoxInfo
	err = l.once(ctx, func(s boxlite.Service) (err error) {
		// Not cancelled: a box that was made must be known to be removed.
		create, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
		defer cancel()
		box, err = s.CreateBox(create, req, nil)
		return err
	})
	if err != nil {
		return err
	}
	started := false
	defer func() {
		if f.removes() && !(started && f.detach) && !errors.Is(err, errDetached) {
			err = m.removeAfter(ctx, l, box, err)
		} else if err != nil && !started && req.Name == "" {
			err = m.removeAfter(ctx, l, box, err) // nobody knows it, and its command never ran
		}
	}()
	return m.runIn(ctx, l, &f.execFlags, string(box.ID), cmd, func(info boxlite.ExecInfo) error {
		started = true
		if !f.detach {
			return nil
		}
		if f.json {
			return m.printJSON(struct {
				Box  boxlite.BoxInfo  `json:"box"`
				Exec boxlite.ExecInfo `json:"exec"`
			}{box, info})
		}
		return m.printf("%s\n", box.ID)
	})
}

// removeAfter removes the box after the command ended with err, and returns
// what to tell.
func (m *commander) removeAfter(ctx context.Context, l *link, box boxlite.BoxInfo, err error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	defer cancel()
	rmErr := l.again(ctx, func(s boxlite.Service) error {
		_, err := s.RemoveBox(ctx, string(box.ID), true)
		if errors.Is(err, boxlite.NotFound) { // it removed itself
			return nil
		}
		return err
	})
	if rmErr == nil {
		return err
	}
	if err != nil {
		m.note(false)("box %s could not be removed: %v", box.ID, rmErr)
		return err
	}
	return rmErr
}

func (m *commander) execCmd() *cobra.Command {
	var f execFlags
	cmd := &cobra.Command{
		Use:     "exec [flags] BOX [--] COMMAND [ARG...]",
		Short:   "Run a command in a box",
		Long:    "Run a command in a box, starting the box where that is needed.\n\nBOX is an id, a name, or the beginning of an id. Signals are passed on as run does.",
		Example: "  boxlite-mcp exec dev ls -l /\n  tar c . | boxlite-mcp exec -i dev tar x -C /src",
		Args:    needs(1, -1, "box"),
	}
	f.add(cmd.Flags())
	cmd.RunE = m.with(func(ctx context.Context, l *link, args []string) error {
		c, err := m.command(&f, args[1:])
		if err != nil {
			return err
		}
		return m.runIn(ctx, l, &f, args[0], c, func(info boxlite.ExecInfo) error {
			switch {
			case f.detach && f.json:
				return m.printJSON(info)
			case f.detach:
				return m.printf("%s\n", info.ID)
			}
			return nil
		})
	})
	cmd.ValidArgsFunction = m.completeFirst(m.boxNames(boxlite.BoxStatus.CanRun))
	return cmd
}

// runIn runs a command in a box and attaches to it unless it is detached.
func (m *commander) runIn(ctx context.Context, l *link, f *execFlags, box string, cmd boxlite.Command, started func(boxlite.ExecInfo) error) error {
	p, err := m.newProgress(f.progress, "none")
	if err != nil {
		return err
	}
	cmd.Key = boxlite.NewExecutionKey() // so that it can be asked for again
	var info boxlite.ExecInfo
	err = l.again(ctx, func(s boxlite.Service) (err error) {
		info, err = s.Run(ctx, box, cmd, p.report)
		return err
	})
	p.end()
	if err != nil {
		if id, perr := boxlite.ParseBoxID(box); perr == nil && ctx.Err() != nil {
			m.abandon(ctx, l, cmd.ExecutionID(id)) // it may run already
		}
		return err
	}
	if err := started(info); err != nil || f.detach {
		return err
	}
	info, err = m.attach(ctx, l, cmd, info.ID)
	if err != nil {
		return err
	}
	return m.outcome(info, cmd)
}

// attach connects our streams to the command until it ends. The terminal is as
// it was when attach returns.
func (m *commander) attach(ctx context.Context, l *link, cmd boxlite.Command, id boxlite.ExecutionID) (boxlite.ExecInfo, error) {
	a := &attachment{link: l, id: id, stdout: m.Stdout, stderr: m.Stderr, intr: &m.intr, note: m.note(false)}
	if cmd.TTY {
		a.resize = func() (rows, cols uint16) { return terminalSize(m.Stdout, m.Stdin) }
	}
	if cmd.Stdin {
		a.stdin = m.Stdin
	}
	restore := func() error { return nil }
	if f := asFile(m.Stdin); cmd.TTY && cmd.Stdin && f != nil {
		var err error
		if restore, err = makeRaw(f); err != nil {
			m.abandon(ctx, l, id)
			return boxlite.ExecInfo{}, err
		}
		a.keys, a.note = true, m.note(true)
	}
	defer func() { _ = restore() }() // for a panic; the error counts below
	info, err := a.run(ctx)
	err = errors.Join(err, restore())
	switch {
	case err == nil:
		return info, nil
	case errors.Is(err, errDetached):
		m.note(false)("detached; the command goes on, and %s logs --follow %s shows it", Name, id)
		return info, errDetached
	case errors.Is(err, errGaveUp):
		return info, &boxlite.Error{Op: "wait for", Kind: boxlite.Canceled, Ref: string(id), Err: err,
			Hint: fmt.Sprintf("The command may still run: %s logs %s shows its output.", Name, id)}
	}
	m.abandon(ctx, l, id)
	return info, err
}

// abandon ends a command whose streams we can no longer carry. It says nothing:
// what made us abandon it is what matters.
func (m *commander) abandon(ctx context.Context, l *link, id boxlite.ExecutionID) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
	defer cancel()
	_ = l.once(ctx, func(s boxlite.Service) error {
		_, err := s.StopExec(ctx, id, 2*time.Second)
		return err
	})
}

// outcome turns the command's end into ours.
func (m *commander) outcome(info boxlite.ExecInfo, cmd boxlite.Command) error {
	r := info.Result
	if r == nil {
		return &boxlite.Error{Op: "run", Kind: boxlite.Internal, Ref: string(info.ID), Err: errors.New("the command ended without a result")}
	}
	code := r.Code()
	switch {
	case r.TimedOut:
		m.note(false)("the command was ended after its timeout of %s", cmd.Timeout)
		code = exitTimeout
	case r.OOM:
		m.note(false)("the command was ended for want of memory")
	case r.Lost != "":
		m.note(false)("the box went away under the command: %s", oneLine(r.Lost))
	}
	if code == 0 {
		return nil
	}
	return &exitError{code, nil}
}

// note returns a function that tells the person something on standard error;
// raw says that the terminal is in raw mode.
func (m *commander) note(raw bool) func(format string, args ...any) {
	end := "\n"
	if raw {
		end = "\r\n"
	}
	return func(format string, args ...any) {
		_, _ = io.WriteString(m.Stderr, Name+": "+clean(fmt.Sprintf(format, args...))+end)
	}
}

// parseLabels reads NAME=value flags.
func parseLabels(flags []string) (map[string]string, error) {
	labels := make(map[string]string, len(flags))
	for _, s := range flags {
		k, v, ok := strings.Cut(s, "=")
		if !ok || k == "" {
			return nil, usage(fmt.Sprintf("--label %q", s), "Write NAME=value.", nil)
		}
		labels[k] = v
	}
	return labels, nil
}

// absoluteImage makes the path in a reference to a local image absolute: the
// daemon has another working directory.
func absoluteImage(ref string) (string, error) {
	kind, path, _ := strings.Cut(ref, ":")
	tag := ""
	switch kind {
	case "oci", "docker-archive", "oci-archive":
		if i := strings.IndexByte(path, ':'); i >= 0 {
			path, tag = path[:i], path[i:]
		}
	case "dir":
	default:
		return ref, nil
	}
	// "dir:8" and "oci:1.2" are paths here, never repositories with a tag.
	if path == "" {
		return "", usage(ref, "Write "+kind+":PATH.", errors.New("the path is missing"))
	}
	abs, err := filepath.Abs(path)
	return kind + ":" + abs + tag, err
}
