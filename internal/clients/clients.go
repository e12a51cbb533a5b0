// Package clients knows the MCP clients whose configuration names this server:
// where each keeps it, in which form, and how an entry is put into it and taken
// out again without changing anything else.
//
// It does not start servers, and does not know what their arguments mean.
//
//	c, ok := clients.Find("zed")
//	e := clients.Entry{Name: "boxlite", Command: "/usr/bin/boxlite-mcp", Args: []string{"serve"}}
//	fmt.Print(c.Snippet(e))
//	result, err := c.Install(c.Path(places), e, false)
//
// A file is edited as text, so that comments, order and layout stay, and then
// read again: an edit whose outcome is not exactly what was there and the entry
// is not written. Files are replaced by renaming, after a copy with the date in
// its name was put beside them. All functions may be called concurrently, also
// by several processes.
package clients

import (
	"os"
	"path/filepath"
	"strings"
)

// An Entry is what a client's configuration says of one server.
type Entry struct {
	Name    string // of the entry
	Command string // absolute path of the program
	Args    []string
}

// A Client is a program that starts MCP servers.
type Client struct {
	ID    string // what it is called on the command line
	Title string // what its makers call it
	Next  string // what a person does after an entry was put in, as a sentence

	form    format
	key     string              // of the table or list of servers in the file
	stdio   bool                // an entry has a type, which is stdio
	starter string              // what a file has to have beside servers; written into one that has nothing
	path    func(Places) string // of the file
}

// Places are where a system and a user keep configuration.
type Places struct {
	OS        string                         // runtime.GOOS
	Home      string                         // the user's directory
	LookupEnv func(string) (string, bool)    // the environment
	ReadFile  func(string) ([]byte, error)   // nil: [os.ReadFile]
	Exists    func(path string) (found bool) // nil: whether [os.Stat] finds it
}

var all = []Client{
	{
		ID: "claude-desktop", Title: "Claude Desktop", Next: "Quit Claude Desktop and start it again.",
		form: jsonFile{strict: true}, key: "mcpServers",
		path: func(p Places) string { return filepath.Join(p.applications(), "Claude", "claude_desktop_config.json") },
	},
	{
		ID: "claude-code", Title: "Claude Code", Next: "Start Claude Code again; /mcp shows the server.",
		form: jsonFile{strict: true}, key: "mcpServers", stdio: true,
		path: func(p Places) string { return filepath.Join(p.env("CLAUDE_CONFIG_DIR", p.Home), ".claude.json") },
	},
	{
		ID: "cursor", Title: "Cursor", Next: "Enable the server in Cursor's settings, under MCP.",
		form: jsonFile{}, key: "mcpServers", stdio: true,
		path: func(p Places) string { return filepath.Join(p.Home, ".cursor", "mcp.json") },
	},
	{
		ID: "vscode", Title: "Visual Studio Code", Next: "Run the command \"MCP: List Servers\" in Visual Studio Code to start it.",
		form: jsonFile{}, key: "servers", stdio: true,
		path: func(p Places) string { return filepath.Join(p.applications(), "Code", "User", "mcp.json") },
	},
	{
		ID: "zed", Title: "Zed", Next: "Zed starts the server by itself.",
		form: jsonFile{}, key: "context_servers",
		path: func(p Places) string { return filepath.Join(p.dotConfig(), "zed", "settings.json") },
	},
	{
		ID: "lm-studio", Title: "LM Studio", Next: "Switch the server on in LM Studio, under Program.",
		form: jsonFile{}, key: "mcpServers",
		path: func(p Places) string { return filepath.Join(p.lmStudio(), "mcp.json") },
	},
	{
		ID: "continue", Title: "Continue", Next: "Reload the window of the editor that Continue is in.",
		form: yamlFile{}, key: "mcpServers", stdio: true,
		starter: "name: Local Assistant\nversion: 1.0.0\nschema: v1\n",
		path: func(p Places) string {
			return filepath.Join(p.env("CONTINUE_GLOBAL_DIR", filepath.Join(p.Home, ".continue")), "config.yaml")
		},
	},
	{
		ID: "codex", Title: "Codex", Next: "Start Codex again; /mcp shows the server.",
		form: tomlFile{}, key: "mcp_servers",
		path: func(p Places) string {
			return filepath.Join(p.env("CODEX_HOME", filepath.Join(p.Home, ".codex")), "config.toml")
		},
	},
}

// All returns the clients that are known.
func All() []Client { return append([]Client(nil), all...) }

// Find returns the client with the given ID.
func Find(id string) (Client, bool) {
	for _, c := range all {
		if c.ID == id {
			return c, true
		}
	}
	return Client{}, false
}

// Path returns where the client keeps its configuration, whether it is there or
// not.
func (c Client) Path(p Places) string { return c.path(p) }

// Snippet returns a file of the client's that has the entry and nothing else.
func (c Client) Snippet(e Entry) string {
	text, err := c.form.put(nil, c.key, e.Name, c.fields(e))
	if err != nil {
		panic("clients: an empty file cannot be edited: " + err.Error())
	}
	return string(text)
}

// A field is a setting of an entry: a string or a list of strings.
type field struct {
	key   string
	value any
}

// fields returns what the client wants to know of a server, in its order.
func (c Client) fields(e Entry) []field {
	var fields []field
	if c.stdio {
		fields = append(fields, field{"type", "stdio"})
	}
	return append(fields, field{"command", e.Command}, field{"args", e.Args})
}

// applications returns where a system's graphical programs keep theirs.
func (p Places) applications() string {
	if p.OS == "darwin" {
		return filepath.Join(p.Home, "Library", "Application Support")
	}
	return p.dotConfig()
}

// dotConfig returns ~/.config, or what stands for it on Linux.
func (p Places) dotConfig() string {
	dir := filepath.Join(p.Home, ".config")
	if p.OS == "darwin" {
		return dir
	}
	return p.env("XDG_CONFIG_HOME", dir)
}

// lmStudio returns the directory of LM Studio as it finds it itself.
func (p Places) lmStudio() string {
	read, exists := p.ReadFile, p.Exists
	if read == nil {
		read = os.ReadFile
	}
	if exists == nil {
		exists = func(path string) bool { _, err := os.Stat(path); return err == nil }
	}
	pointer, err := read(filepath.Join(p.Home, ".lmstudio-home-pointer"))
	if dir := strings.TrimSpace(string(pointer)); err == nil && filepath.IsAbs(dir) {
		return dir
	}
	if old := filepath.Join(p.Home, ".cache", "lm-studio"); exists(old) {
		return old
	}
	return filepath.Join(p.Home, ".lmstudio")
}

// env returns the directory that a variable names, or other. What is not an
// absolute path is nobody's meaning.
func (p Places) env(name, other string) string {
	if dir, ok := p.LookupEnv(name); ok && filepath.IsAbs(dir) {
		return dir
	}
	return other
}
