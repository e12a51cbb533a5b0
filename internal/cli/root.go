package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/internal/spelling"
)

const rootHelp = `boxlite-mcp gives an AI agent isolated Linux boxes over MCP, and a person the
same boxes on the command line.

Without a command it speaks MCP on standard input and output, as "serve" does.
Every flag marked with a name in brackets falls back to that environment
variable.

Exit codes: of run and exec, the command's own, 128+n if signal n ended it, 124
if it ran out of time, 125 if boxlite-mcp failed, 126 if the command cannot be
run and 127 if there is no such command. Of the others, 2 for a wrong argument,
3 not found, 4 wrong state or name in use, 5 denied or a limit reached, 6 the
daemon does not answer, 7 not supported, 124 out of time, 1 anything else.`

// A commander makes the commands.
type commander struct {
	*App
	knobs knobs

	grants []string // of serve: secrets from the environment
}

func newRoot(a *App) *cobra.Command {
	m := &commander{App: a}
	root := &cobra.Command{
		Use:           Name,
		Short:         "Isolated Linux boxes for AI agents, over MCP",
		Long:          rootHelp,
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE:          m.run(m.serve),
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			return applyEnv(cmd, a.LookupEnv)
		},
	}
	m.secretFlag(root)
	root.Args = func(cmd *cobra.Command, args []string) error { return unknownCommand(root, args) }
	root.CompletionOptions.DisableDefaultCmd = true
	root.SuggestionsMinimumDistance = 2
	root.SetIn(a.Stdin)
	root.SetOut(output{a.Stdout})
	root.SetErr(output{a.Stderr})
	root.SetFlagErrorFunc(unknownFlag)
	m.knobs.add(root.PersistentFlags())
	root.AddGroup(&cobra.Group{ID: "boxes", Title: "Boxes and commands:"}, &cobra.Group{ID: "images", Title: "Images:"}, &cobra.Group{ID: "system", Title: "System:"})
	m.group(root, "boxes", m.runCmd(), m.execCmd(), m.psCmd(), m.startCmd(), m.stopCmd(), m.rmCmd(), m.logsCmd(), m.inspectCmd(), m.updateCmd(), m.netlogCmd())
	m.group(root, "images", m.imagesCmd(), m.pullCmd(), m.rmiCmd())
	m.group(root, "system", m.serveCmd(), m.setupCmd(), m.secretCmd(), m.tokenCmd(), m.configCmd(), m.explainNetCmd(), m.doctorCmd(), m.versionCmd(), m.completionCmd(root))
	for _, r := range a.Roles {
		root.AddCommand(m.roleCmd(r))
	}
	root.SetHelpCommandGroupID("system")
	return root
}

func (m *commander) group(root *cobra.Command, id string, cmds ...*cobra.Command) {
	for _, c := range cmds {
		c.GroupID = id
		c.DisableFlagsInUseLine = true
		root.AddCommand(c)
	}
}

// run makes a cobra function of one that takes the configuration.
func (m *commander) run(fn func(ctx context.Context, c Config, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		c, err := m.knobs.config(m.App)
		if err != nil {
			return err
		}
		return fn(cmd.Context(), c, args)
	}
}

// with makes a cobra function of one that takes a connection.
func (m *commander) with(fn func(ctx context.Context, l *link, args []string) error) func(*cobra.Command, []string) error {
	return m.run(func(ctx context.Context, c Config, args []string) error {
		l := m.newLink(c)
		defer l.Close()
		return fn(ctx, l, args)
	})
}

// secretFlag adds the flag for keys of the environment that a client's boxes may
// use.
func (m *commander) secretFlag(cmd *cobra.Command) {
	cmd.Flags().StringArrayVar(&m.grants, "secret", nil,
		"`NAME@host[,host]`: let the client's boxes use the value of this variable here, as a secret that goes to these hosts only; repeatable")
}

// serve ends without an error when its input ends or a signal asks it to.
func (m *commander) serve(ctx context.Context, c Config, _ []string) error {
	if m.Serve == nil {
		return &boxlite.Error{Op: "serve", Kind: boxlite.Unsupported}
	}
	if isTerminal(m.Stdin) {
		fmt.Fprintf(m.Stderr, "%s: speaking MCP on standard input and output; press Ctrl-D to end, or run %s -h\n", Name, Name)
	}
	var err error
	if c.Secrets, err = m.secretsFromEnv(); err != nil {
		return err
	}
	err = m.Serve(ctx, c, m.Stdin, m.Stdout)
	if ctx.Err() != nil && errors.Is(err, boxlite.Canceled) || errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

func (m *commander) roleCmd(r Role) *cobra.Command {
	return &cobra.Command{
		Use:    r.Name,
		Short:  r.Short,
		Hidden: true,
		RunE:   m.run(r.Run),
	}
}

// printJSON writes v as indented JSON, as the words of package boxlite say.
func (m *commander) printJSON(v any) error {
	enc := json.NewEncoder(output{m.Stdout})
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// printf writes to standard output.
func (m *commander) printf(format string, args ...any) error {
	_, err := fmt.Fprintf(output{m.Stdout}, format, args...)
	return err
}

// each calls fn for every argument, and goes on after errors.
func each(args []string, fn func(arg string) error) error {
	var errs []error
	for _, arg := range args {
		if err := fn(arg); err != nil {
			errs = append(errs, err)
		}
	}
	if len(errs) == 1 {
		return errs[0]
	}
	return errors.Join(errs...)
}

// noArgs refuses arguments.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usage(fmt.Sprintf("%q", args[0]), "Run "+cmd.CommandPath()+" -h.", errors.New("the command takes no arguments"))
	}
	return nil
}

// needs returns a check that there are at least, and at most, so many
// arguments; most < 0 is no limit.
func needs(least, most int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		hint := "Usage: " + cmd.UseLine()
		switch {
		case len(args) < least:
			return usage(what, hint, errors.New("it is missing"))
		case most >= 0 && len(args) > most:
			return usage(fmt.Sprintf("%q", args[most]), hint, errors.New("there are too many arguments"))
		}
		return nil
	}
}

func unknownCommand(root *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	hint := "Run " + Name + " -h for the list of commands."
	if near := root.SuggestionsFor(args[0]); len(near) > 0 {
		hint = fmt.Sprintf("Did you mean %s? %s", strings.Join(near, " or "), hint)
	}
	return usage(fmt.Sprintf("%q", args[0]), hint, errors.New("there is no such command"))
}

// unknownFlag gives cobra's errors about flags a hint.
func unknownFlag(cmd *cobra.Command, err error) error {
	hint := "Run " + cmd.CommandPath() + " -h for the list of flags."
	if unknown, ok := errors.AsType[*pflag.NotExistError](err); ok {
		if near := nearest(cmd.Flags(), unknown.GetSpecifiedName()); near != "" {
			hint = "Did you mean --" + near + "? " + hint
		}
	}
	return usage(cmd.CommandPath(), hint, err)
}

// nearest returns the flag whose name is most like name, or "".
func nearest(fs *pflag.FlagSet, name string) string {
	best, least := "", 3
	fs.VisitAll(func(f *pflag.Flag) {
		d := spelling.Distance(name, f.Name)
		if len(name) >= 3 && strings.HasPrefix(f.Name, name) {
			d = 1
		}
		if d < least && d < len(name) {
			best, least = f.Name, d
		}
	})
	return best
}
