package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/internal/cli"
	mcpclients "github.com/boxlite-mcp/boxlite-mcp/internal/clients" // clients are those of serve --listen here
)

// setups are MCP clients as the command line knows them.
type setups struct{ app *cli.App }

// Clients implements cli.Setups.
func (s setups) Clients() []string {
	var ids []string
	for _, c := range mcpclients.All() {
		ids = append(ids, c.ID)
	}
	return ids
}

// Show implements cli.Setups.
func (s setups) Show(r cli.SetupRequest) (cli.SetupResult, error) {
	c, file, e, err := s.find(r)
	if err != nil {
		return cli.SetupResult{}, err
	}
	return cli.SetupResult{File: file, Text: c.Snippet(e)}, nil
}

// Install implements cli.Setups.
func (s setups) Install(r cli.SetupRequest) (cli.SetupResult, error) {
	c, file, e, err := s.find(r)
	if err != nil {
		return cli.SetupResult{}, err
	}
	return result(c, func() (mcpclients.Result, error) { return c.Install(file, e, r.Force) })
}

// Uninstall implements cli.Setups.
func (s setups) Uninstall(r cli.SetupRequest) (cli.SetupResult, error) {
	c, file, _, err := s.find(r)
	if err != nil {
		return cli.SetupResult{}, err
	}
	return result(c, func() (mcpclients.Result, error) { return c.Uninstall(file, r.Name, r.Force) })
}

func result(c mcpclients.Client, do func() (mcpclients.Result, error)) (cli.SetupResult, error) {
	r, err := do()
	return cli.SetupResult{File: r.File, Backup: r.Backup, Changed: r.Changed, Next: c.Next}, err
}

// find returns the client, its file and its entry.
func (s setups) find(r cli.SetupRequest) (mcpclients.Client, string, mcpclients.Entry, error) {
	c, ok := mcpclients.Find(r.Client)
	if !ok {
		return c, "", mcpclients.Entry{}, boxlite.Errorf(boxlite.InvalidArgument, "set up", r.Client, "the client is not known")
	}
	command := commandPath(os.Args[0], s.app.Executable)
	if command == "" {
		return c, "", mcpclients.Entry{}, &boxlite.Error{Op: "set up", Kind: boxlite.Config, Ref: r.Client,
			Hint: "Run the program by its whole path."}
	}
	file := r.File
	if file == "" {
		if s.app.UserHome == "" {
			return c, "", mcpclients.Entry{}, &boxlite.Error{Op: "set up", Kind: boxlite.Config, Ref: r.Client,
				Hint: "Name the client's configuration with --config: the user has no home directory."}
		}
		file = c.Path(mcpclients.Places{OS: runtime.GOOS, Home: s.app.UserHome, LookupEnv: s.app.LookupEnv})
	}
	return c, file, mcpclients.Entry{Name: r.Name, Command: command, Args: r.Args}, nil
}

// commandPath returns the absolute path by which a client should start this
// program, or "" if it is not known: the one that the person used, if that
// leads to this program, so that a symbolic link which follows updates stays
// one; otherwise the program's own.
func commandPath(typed, executable string) string {
	path, err := exec.LookPath(typed)
	if err == nil {
		path, err = filepath.Abs(path)
	}
	if err != nil {
		return executable
	}
	a, err := os.Stat(path)
	if err != nil {
		return executable
	}
	if b, err := os.Stat(executable); err != nil || !os.SameFile(a, b) {
		return executable
	}
	return path
}
