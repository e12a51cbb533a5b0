package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/pelletier/go-toml/v2"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/egress/policy"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore"
)

// ConfigFile returns the path of the operator's configuration of a home. It need
// not be there.
//
//	[network]
//	allow_net = ["*.example.com", "10.1.0.0/16:5432"]  # the most that agents may ask for; default: the public Internet
//	static = ["api.internal=10.1.2.3:443"]             # where names lead, in place of DNS
//	ca_file = "/etc/ssl/internal-ca.pem"               # verifies hosts beside the system's authorities
//
//	[secrets.openai]
//	hosts = ["api.openai.com"]
//	file = "/run/secrets/openai"                       # or: command = ["pass", "show", "openai"]
func ConfigFile(home string) string { return filepath.Join(home, "config.toml") }

// A config is what the file may say.
type config struct {
	Network struct {
		AllowNet *[]string `toml:"allow_net"`
		Static   []string  `toml:"static"`
		CAFile   string    `toml:"ca_file"`
	} `toml:"network"`

	Secrets map[string]secretConfig `toml:"secrets"`
}

// A secretConfig is a secret whose value is elsewhere.
type secretConfig struct {
	Hosts       []string `toml:"hosts"`
	Placeholder string   `toml:"placeholder"`
	InQuery     bool     `toml:"query"`
	InBody      bool     `toml:"body"`
	File        string   `toml:"file"`    // absolute; only its owner reads it
	Command     []string `toml:"command"` // prints it; the program's path is absolute
}

// readConfig reads the configuration of a home, and the values of its secrets.
//
// Errors: Config, with the place in the file.
func readConfig(ctx context.Context, home string) (opts vmcore.NetworkOptions, list []boxlite.Secret, err error) {
	path := ConfigFile(home)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return opts, nil, nil
	}
	var c config
	if err == nil {
		err = decode(data, &c)
	}
	if err == nil {
		opts, err = c.network()
	}
	if err == nil {
		list, err = c.secrets(ctx)
	}
	if err != nil {
		return opts, nil, &boxlite.Error{Op: "read configuration", Kind: boxlite.Config, Ref: path, Err: err, Hint: hint(err)}
	}
	return opts, list, nil
}

// hint returns what to do about a mistake in the file.
func hint(err error) string {
	if h := boxlite.HintOf(err); h != "" {
		return h
	}
	return "Correct the file, and try again; docs/configuration.md says what may be in it."
}

// decode reads the file strictly: what is misspelt would otherwise be what is
// not there.
func decode(data []byte, c *config) error {
	err := toml.NewDecoder(bytes.NewReader(data)).DisallowUnknownFields().Decode(c)
	if e, ok := errors.AsType[*toml.StrictMissingError](err); ok && len(e.Errors) > 0 {
		row, _ := e.Errors[0].Position()
		return fmt.Errorf("line %d: there is no setting %q", row, e.Errors[0].Key())
	}
	if e, ok := errors.AsType[*toml.DecodeError](err); ok {
		row, col := e.Position()
		return fmt.Errorf("line %d, column %d: %w", row, col, e)
	}
	return err
}

func (c config) network() (opts vmcore.NetworkOptions, err error) {
	if list := c.Network.AllowNet; list != nil {
		rules, err := policy.ParseRules(*list)
		if err != nil {
			return opts, err
		}
		opts.Ceiling = &policy.Access{Mode: policy.List, Rules: rules}
	}
	for _, s := range c.Network.Static {
		entry, err := policy.ParseStatic(s)
		if err != nil {
			return opts, err
		}
		opts.Static = append(opts.Static, entry)
	}
	if c.Network.CAFile != "" {
		opts.RootCAs, err = os.ReadFile(c.Network.CAFile)
	}
	return opts, err
}
