package cli

import (
	"log/slog"
	"slices"
	"strings"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Config is what all commands and roles share: the persistent flags. Each flag
// falls back to the environment variable BOXLITE_<FLAG>, with '_' for '-', and
// then to its default.
type Config struct {
	// Home is the absolute path of the directory that holds boxes and images.
	// The default is ~/.boxlite, or ~/.boxlite-mcp where the former belongs to
	// another program; see [FindHome].
	Home string

	// Principal is who the boxes of an MCP client belong to. The default is
	// "local". Other commands are the operator and see everyone's boxes.
	Principal string

	// Registries are where images may come from, in order of search:
	// "http://host:port", "host" or "host/prefix". None: docker.io.
	Registries []string

	// Engine names the engine of new boxes; "" is the best this host has.
	Engine string

	// Isolation is the least isolation that new boxes accept: "vm",
	// "hardware-vm", or "" for any.
	Isolation string

	// LogLevel is the least level that is logged, to standard error. The
	// default is warn.
	LogLevel slog.Level

	// LogJSON writes the log as lines of JSON.
	LogJSON bool

	// Secrets are keys from this program's environment that the boxes of an MCP
	// client may use, with their values and hosts.
	Secrets []boxlite.Secret

	// ReadOnly leaves out the MCP tools that change anything.
	ReadOnly bool

	// Toolsets are those of which there are tools. None: all that the operator's
	// configuration has.
	Toolsets []string
}

// knobs are the persistent flags before they are parsed.
type knobs struct {
	home, principal, engine, isolation, logLevel string
	registries, toolsets                         []string
	logJSON, readOnly                            bool
}

// envKey marks a flag that falls back to the environment.
const envKey = "env"

func (k *knobs) add(fs *pflag.FlagSet) {
	fs.StringVar(&k.home, "home", "", "`directory` of boxes and images (default ~/.boxlite)")
	fs.StringVar(&k.principal, "principal", "local", "`name` that an MCP client's boxes belong to")
	fs.StringArrayVar(&k.registries, "registry", nil, "`registry` to search for images: http://host:port or host[/prefix]; repeatable (default docker.io)")
	fs.StringVar(&k.engine, "engine", "", "`engine` of new boxes (default: the best this host has)")
	fs.StringVar(&k.isolation, "isolation", "", "least isolation of new boxes: vm or hardware-vm")
	fs.StringVar(&k.logLevel, "log-level", "warn", "least `level` to log to standard error: debug, info, warn or error")
	fs.BoolVar(&k.logJSON, "log-json", false, "log as lines of JSON")
	fs.BoolVar(&k.readOnly, "read-only", false, "serve only the MCP tools that change nothing")
	fs.StringSliceVar(&k.toolsets, "toolsets", nil, "serve only these `toolsets`: boxes, exec, files, images, network (default all)")
	fs.VisitAll(func(f *pflag.Flag) { fromEnv(fs, f.Name) })
}

// fromEnv lets the flag fall back to the environment.
func fromEnv(fs *pflag.FlagSet, names ...string) {
	for _, name := range names {
		f := fs.Lookup(name)
		v := "BOXLITE_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
		f.Usage += " [" + v + "]"
		_ = fs.SetAnnotation(name, envKey, []string{v}) // fails only for an unknown flag
	}
}

// applyEnv sets the flags that were not given from the environment.
//
// Errors: InvalidArgument for a value that its flag refuses.
func applyEnv(cmd *cobra.Command, lookup func(string) (string, bool)) error {
	var failed error
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		v := f.Annotations[envKey]
		if f.Changed || len(v) == 0 || failed != nil {
			return
		}
		value, ok := lookup(v[0])
		if !ok || value == "" {
			return
		}
		values := []string{value}
		if f.Value.Type() == "stringArray" {
			values = strings.FieldsFunc(value, func(r rune) bool { return r == ',' || r == ' ' })
		}
		for _, value := range values {
			if err := cmd.Flags().Set(f.Name, value); err != nil {
				failed = &boxlite.Error{Op: "read environment variable", Kind: boxlite.InvalidArgument, Ref: v[0], Err: err,
					Hint: "Correct or unset " + v[0] + "; it stands for --" + f.Name + "."}
				return
			}
		}
	})
	return failed
}

// config parses the knobs.
//
// Errors: InvalidArgument, and those of [FindHome].
func (k *knobs) config(a *App) (Config, error) {
	c := Config{Principal: k.principal, Registries: k.registries, Engine: k.engine, Isolation: k.isolation, LogJSON: k.logJSON, ReadOnly: k.readOnly, Toolsets: k.toolsets}
	if err := c.LogLevel.UnmarshalText([]byte(k.logLevel)); err != nil {
		return Config{}, usage("--log-level", "Use debug, info, warn or error.", err)
	}
	if k.engine == "auto" {
		c.Engine = ""
	}
	if !slices.Contains([]string{"", "vm", "hardware-vm"}, k.isolation) {
		return Config{}, usage("--isolation", "Use vm or hardware-vm, or leave it out.", nil)
	}
	if !validPrincipal(k.principal) {
		return Config{}, usage("--principal", "Use 1 to 63 letters, digits, '-', '_', '.' and '@'.", nil)
	}
	for _, r := range k.registries {
		if a.CheckRegistry == nil {
			break
		}
		if err := a.CheckRegistry(r); err != nil {
			return Config{}, err
		}
	}
	home, err := FindHome(k.home, a.UserHome)
	c.Home = home
	return c, err
}

func validPrincipal(s string) bool {
	return len(s) >= 1 && len(s) <= 63 && !strings.ContainsFunc(s, func(r rune) bool {
		return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("-_.@", r))
	})
}
