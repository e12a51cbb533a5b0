package cli

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// A SetupRequest is about the entry for this server in an MCP client's
// configuration.
type SetupRequest struct {
	Client string   // one of App.SetupClients
	Name   string   // of the entry
	Args   []string // of this program, as the client is to start it
	File   string   // the configuration; "": the client's own
	Force  bool     // also where an entry of that name is another's, or differs
}

// A SetupResult is what there is to say about an entry.
type SetupResult struct {
	File    string // the configuration
	Text    string // the configuration with the entry alone
	Backup  string // the copy of how the file was, if one was made
	Changed bool
	Next    string // what a person does after it was put in, as a sentence
}

// Setups edit the configuration of MCP clients.
type Setups interface {
	Clients() []string // as SetupRequest names them
	Show(SetupRequest) (SetupResult, error)

	// Install puts the entry in.
	//
	// Errors: AlreadyExists, Config, Storage.
	Install(SetupRequest) (SetupResult, error)

	// Uninstall takes the entry out.
	//
	// Errors: InvalidState, Config, Storage.
	Uninstall(SetupRequest) (SetupResult, error)
}

const setupHelp = `Print what an MCP client's configuration has to say for the client to start this
server; with --install, put it into the client's own file.

What is in the file stays as it is, comments and order included, and a copy of
the file with the date in its name is kept beside it. What follows -- goes to
"serve" when the client starts it; without --principal there, the client's
boxes belong to a principal that is named like it.

Clients: `

func (m *commander) setupCmd() *cobra.Command {
	var clients []string
	if m.Setups != nil {
		clients = m.Setups.Clients()
	}
	var r SetupRequest
	var install, uninstall bool
	cmd := &cobra.Command{
		Use:   "setup [flags] CLIENT [-- SERVE-FLAG...]",
		Short: "Connect an MCP client to this server: print its configuration, or edit it",
		Long:  setupHelp + strings.Join(clients, ", ") + ".",
		Example: "  boxlite-mcp setup claude-desktop\n  boxlite-mcp setup cursor --install\n" +
			"  boxlite-mcp setup zed --install -- --home /srv/boxes --principal zed\n  boxlite-mcp setup cursor --uninstall",
		ValidArgs: clients,
	}
	fs := cmd.Flags()
	fs.BoolVar(&install, "install", false, "put the entry into the client's configuration")
	fs.BoolVar(&uninstall, "uninstall", false, "take the entry out of the client's configuration")
	fs.BoolVar(&r.Force, "force", false, "replace an entry of the same name that differs; remove one that starts another program")
	fs.StringVar(&r.Name, "name", "boxlite", "`name` of the entry")
	fs.StringVar(&r.File, "config", "", "`file` of the configuration (default: where the client keeps its own)")
	cmd.Args = func(cmd *cobra.Command, args []string) error { return setupArgs(cmd, args, clients) }
	cmd.RunE = m.run(func(_ context.Context, _ Config, args []string) error {
		if m.Setups == nil {
			return &boxlite.Error{Op: "set up", Kind: boxlite.Unsupported}
		}
		if install && uninstall {
			return usage("--uninstall", "Give one of the two.", errors.New("it excludes --install"))
		}
		if !validPrincipal(r.Name) {
			return usage("--name", "Use 1 to 63 letters, digits, '-', '_', '.' and '@'.", nil)
		}
		r.Client = args[0]
		var err error
		if r.Args, err = m.serveArgs(r.Client, args[1:]); err != nil {
			return err
		}
		switch {
		case install:
			return m.install(r)
		case uninstall:
			return m.uninstall(r)
		}
		return m.showSetup(r)
	})
	return cmd
}

// setupArgs checks that there is one client, and that what is for serve comes
// after "--".
func setupArgs(cmd *cobra.Command, args []string, clients []string) error {
	own := len(args)
	if dash := cmd.ArgsLenAtDash(); dash >= 0 {
		own = dash
	}
	if err := needs(1, 1, "client")(cmd, args[:own]); err != nil {
		return err
	}
	if !slices.Contains(clients, args[0]) {
		return usage(fmt.Sprintf("%q", args[0]), "Use one of "+strings.Join(clients, ", ")+".", errors.New("the client is not known"))
	}
	var err error
	cmd.InheritedFlags().VisitAll(func(f *pflag.Flag) {
		if f.Changed && err == nil {
			err = usage("--"+f.Name, "Write it after --, as in: "+Name+" setup "+args[0]+" -- --"+f.Name+" …", errors.New("it is for serve"))
		}
	})
	return err
}

// serveArgs returns the arguments with which the client starts this program.
//
// Errors: InvalidArgument for what serve would not take.
func (m *commander) serveArgs(client string, flags []string) ([]string, error) {
	other := &commander{App: m.App}
	serve := other.serveCmd()
	other.knobs.add(serve.Flags())
	root := &cobra.Command{Use: Name}
	root.AddCommand(serve)
	if err := serve.ParseFlags(flags); err != nil {
		return nil, unknownFlag(serve, err)
	}
	if err := noArgs(serve, serve.Flags().Args()); err != nil {
		return nil, err
	}
	if _, err := other.knobs.config(m.App); err != nil {
		return nil, err
	}
	if home := other.knobs.home; home != "" && !filepath.IsAbs(home) {
		return nil, usage("--home", "Give its absolute path.", errors.New("the client starts the server in a directory of its own"))
	}
	if serve.Flags().Changed("listen") {
		return nil, usage("--listen", "Start "+Name+" serve --listen yourself, and give the client its address.", errors.New("the client starts a server on standard input and output"))
	}
	for _, s := range boxlite.RefSecrets(other.grants) {
		if len(s.Hosts) == 0 {
			return nil, usage("--secret "+s.Name, "Write NAME@host, such as --secret OPENAI_API_KEY@api.openai.com.", errors.New("it names no host"))
		}
	}
	args := []string{"serve"}
	if !serve.Flags().Changed("principal") {
		args = append(args, "--principal", client)
	}
	return append(args, flags...), nil
}

// showSetup prints the configuration alone to standard output.
func (m *commander) showSetup(r SetupRequest) error {
	s, err := m.Setups.Show(r)
	if err != nil {
		return err
	}
	fmt.Fprintf(m.Stderr, "This goes into %s; --install puts it there.\n", clean(s.File))
	return m.printf("%s", s.Text)
}

func (m *commander) install(r SetupRequest) error {
	s, err := m.Setups.Install(r)
	switch {
	case err != nil:
		return err
	case !s.Changed:
		return m.printf("%s: %s is there already; nothing changed\n", clean(s.File), r.Name)
	}
	err = m.told(s, "%s: %s is there now\n", r)
	if err == nil {
		err = m.printf("%s\n", s.Next)
	}
	return err
}

func (m *commander) uninstall(r SetupRequest) error {
	s, err := m.Setups.Uninstall(r)
	switch {
	case err != nil:
		return err
	case !s.Changed:
		return m.printf("%s: there is no %s; nothing changed\n", clean(s.File), r.Name)
	}
	return m.told(s, "%s: %s is gone\n", r)
}

// told says what was done.
func (m *commander) told(s SetupResult, format string, r SetupRequest) error {
	err := m.printf(format, clean(s.File), r.Name)
	if err == nil && s.Backup != "" {
		err = m.printf("%s: the file as it was\n", clean(s.Backup))
	}
	return err
}
