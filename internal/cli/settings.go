package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/spf13/cobra"
)

// Settings are the operator's configuration of a home, as the command line knows
// it.
type Settings interface {
	// Path returns the file's path.
	Path() string
	// Template returns a file with every setting at its default.
	Template() string
	// Check returns what is wrong with a file. One that is not there is right.
	//
	// Errors: Storage.
	Check(path string) ([]Mistake, error)
	// Values returns every setting, with what counts, and what is wrong with the
	// file, in which case it is the file from before that counts.
	//
	// Errors: Storage; Config with a mistake and no file from before.
	Values() ([]Setting, []Mistake, error)
}

// A Mistake is what is wrong in one place of the configuration.
type Mistake struct {
	File    string `json:"file"`
	Line    int    `json:"line,omitempty"` // 0: of no single line
	Key     string `json:"key,omitempty"`
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`
	Text    string `json:"-"` // all but the hint, as FILE:LINE: KEY: MESSAGE
}

// A Setting is one setting and what counts for it.
type Setting struct {
	Key    string `json:"key"`
	Value  any    `json:"value"`
	Source string `json:"source"` // "default" or "file"
	Line   int    `json:"line,omitempty"`
	Text   string `json:"-"` // the value as the file has it
}

func (m *commander) configCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Write, check and show the operator's configuration",
		Long: `Write, check and show the operator's configuration: what MCP clients may do at most.
It is config.toml in the home, and is read again when it changes; a mistake keeps
what was before.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	for _, c := range []*cobra.Command{m.configInitCmd(), m.configCheckCmd(), m.configShowCmd()} {
		c.DisableFlagsInUseLine = true
		cmd.AddCommand(c)
	}
	return cmd
}

// settings makes a cobra function of one that takes the configuration.
func (m *commander) settings(fn func(c Config, s Settings, args []string) error) func(*cobra.Command, []string) error {
	return m.run(func(_ context.Context, c Config, args []string) error {
		if m.OpenSettings == nil {
			return &boxlite.Error{Op: "open configuration", Kind: boxlite.Unsupported}
		}
		return fn(c, m.OpenSettings(c), args)
	})
}

func (m *commander) configInitCmd() *cobra.Command {
	var force, stdout bool
	cmd := &cobra.Command{
		Use:   "init [flags]",
		Short: "Write a configuration with every setting, explained, at its default",
		Args:  noArgs,
	}
	cmd.Flags().BoolVar(&force, "force", false, "write it although there is one, which is kept as config.toml.old")
	cmd.Flags().BoolVar(&stdout, "stdout", false, "print it instead")
	cmd.MarkFlagsMutuallyExclusive("force", "stdout")
	cmd.RunE = m.settings(func(c Config, s Settings, _ []string) error {
		if stdout {
			return m.printf("%s", s.Template())
		}
		if err := ClaimHome(c.Home); err != nil {
			return err
		}
		if err := writeNew(s.Path(), s.Template(), force); err != nil {
			return err
		}
		return m.printf("%s\n", s.Path())
	})
	return cmd
}

// writeNew writes a file that was not there, or with force one in place of
// another.
func writeNew(path, text string, force bool) error {
	if force {
		if err := os.Rename(path, path+".old"); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return &boxlite.Error{Op: "keep configuration", Kind: boxlite.Storage, Ref: path, Err: err}
		}
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return &boxlite.Error{Op: "write configuration", Kind: boxlite.AlreadyExists, Ref: path,
			Hint: "Change it, or write another in its place with --force; config init --stdout shows every setting."}
	}
	if err == nil {
		_, err = f.WriteString(text)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		return &boxlite.Error{Op: "write configuration", Kind: boxlite.Storage, Ref: path, Err: err}
	}
	return nil
}

func (m *commander) configCheckCmd() *cobra.Command {
	var json bool
	cmd := &cobra.Command{
		Use:   "check [flags] [FILE]",
		Short: "Say all that is wrong with the configuration, or with another file",
		Long: `Say all that is wrong with the configuration, or with another file that is to
become it. Files that it names are read; commands that print secrets are not run.
The exit code is 2 if there is a mistake.`,
		Args: cobra.MaximumNArgs(1),
	}
	cmd.Flags().BoolVar(&json, "json", false, "print the mistakes as JSON")
	cmd.RunE = m.settings(func(_ Config, s Settings, args []string) error {
		path := s.Path()
		if len(args) == 1 {
			path = args[0]
			if _, err := os.Stat(path); err != nil {
				return &boxlite.Error{Op: "check configuration", Kind: boxlite.NotFound, Ref: path, Err: err}
			}
		}
		mistakes, err := s.Check(path)
		switch {
		case err != nil:
			return err
		case json:
			err = m.printJSON(append([]Mistake{}, mistakes...))
		case len(mistakes) > 0:
			err = m.printMistakes(mistakes)
		default:
			err = m.printf("%s: no mistakes\n", path)
		}
		if len(mistakes) > 0 {
			err = errors.Join(err, &exitError{2, nil})
		}
		return err
	})
	return cmd
}

func (m *commander) printMistakes(list []Mistake) error {
	for _, x := range list {
		text := x.Text + "\n"
		if x.Hint != "" {
			text += "  hint: " + x.Hint + "\n"
		}
		if err := m.printf("%s", clean(text)); err != nil {
			return err
		}
	}
	return nil
}

func (m *commander) configShowCmd() *cobra.Command {
	var json bool
	cmd := &cobra.Command{
		Use:   "show [flags]",
		Short: "Show every setting, what counts for it, and where that comes from",
		Long: `Show every setting, what counts for it, and where that comes from. While there is a
mistake in the file, what the daemon took over last counts, and the exit code is 2.`,
		Args: noArgs,
	}
	cmd.Flags().BoolVar(&json, "json", false, "print it as JSON")
	cmd.RunE = m.settings(func(_ Config, s Settings, _ []string) error {
		values, mistakes, err := s.Values()
		if err != nil {
			return err
		}
		if json {
			err = m.printJSON(struct {
				File     string    `json:"file"`
				Mistakes []Mistake `json:"mistakes,omitempty"`
				Settings []Setting `json:"settings"`
			}{s.Path(), mistakes, values})
		} else {
			err = m.printSettings(s.Path(), values, mistakes)
		}
		if len(mistakes) > 0 {
			err = errors.Join(err, &exitError{2, nil})
		}
		return err
	})
	return cmd
}

func (m *commander) printSettings(path string, values []Setting, mistakes []Mistake) error {
	for _, x := range mistakes {
		fmt.Fprintln(m.Stderr, clean(x.Text))
	}
	if len(mistakes) > 0 {
		fmt.Fprintf(m.Stderr, "%s: because of this, what was before still counts:\n", Name)
	}
	rows := [][]string{{"SETTING", "VALUE", "FROM"}}
	for _, v := range values {
		from := v.Source
		if v.Line > 0 {
			from = fmt.Sprintf("line %d", v.Line)
		}
		rows = append(rows, []string{v.Key, cut(v.Text, 100), from})
	}
	if err := m.printf("# %s\n", path); err != nil {
		return err
	}
	return table(m.Stdout, rows)
}

// settingsCheck says whether the configuration is right, for doctor.
func (m *commander) settingsCheck(c Config) []Check {
	if m.OpenSettings == nil || c.Home == "" {
		return nil
	}
	s := m.OpenSettings(c)
	check := Check{Name: "configuration", OK: true, Detail: s.Path()}
	mistakes, err := s.Check(s.Path())
	switch _, gone := os.Stat(s.Path()); {
	case err != nil:
		check.OK, check.Detail, check.Hint = false, err.Error(), hintOf(err)
	case len(mistakes) > 0:
		check.OK, check.Detail = false, oneLine(mistakes[0].Text)
		if more := len(mistakes) - 1; more > 0 {
			check.Detail += fmt.Sprintf(" (and %d more)", more)
		}
		check.Hint = strings.TrimSpace(mistakes[0].Hint + " A daemon that runs keeps what was before, and another does not start: boxlite-mcp config check.")
	case gone != nil:
		check.Detail = "none, so the defaults count; boxlite-mcp config init writes one"
	}
	return []Check{check}
}
