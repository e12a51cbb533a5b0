package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/spf13/cobra"
)

// A Check is one thing that doctor looked at.
type Check struct {
	Name     string `json:"name"`
	OK       bool   `json:"ok"`
	Optional bool   `json:"optional,omitempty"` // boxes work without it
	Detail   string `json:"detail"`             // what was found; one line
	Hint     string `json:"hint,omitempty"`     // what to do about it; one imperative sentence
}

// mark returns the check's verdict in a word.
func (c Check) mark() string {
	switch {
	case c.OK:
		return "ok"
	case c.Optional:
		return "note"
	}
	return "FAIL"
}

func (m *commander) doctorCmd() *cobra.Command {
	var json, repair bool
	cmd := &cobra.Command{
		Use:   "doctor [flags]",
		Short: "Say what this host can do, and what to do about what is missing",
		Long:  "Say which engine boxes get on this host and why, and what to do about what is missing.\nThe exit code is 1 if boxes cannot work as things are.",
		Args:  noArgs,
	}
	cmd.Flags().BoolVar(&json, "json", false, "print the checks as JSON")
	cmd.Flags().BoolVar(&repair, "repair", false, "move the database aside; the next start restores the boxes from the copies in their directories")
	cmd.MarkFlagsMutuallyExclusive("json", "repair")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := m.knobs.config(m.App)
		if boxlite.KindOf(err) == boxlite.InvalidArgument && err != nil {
			return err
		}
		if repair {
			return errors.Join(err, m.repair(c))
		}
		checks := append([]Check{homeCheck(c.Home, m.knobs.home, err)}, hostChecks(cmd.Context(), c.Home)...)
		checks = append(checks, m.settingsCheck(c)...)
		checks = append(checks, m.helperCheck("boxlite-sandbox"), m.helperCheck("boxlite-jail"), m.helperCheck("boxlite-agent"))
		if m.ProbeEngines != nil && err == nil {
			checks = append(checks, m.ProbeEngines(cmd.Context(), c)...)
		}
		for i, c := range checks {
			if c.OK {
				checks[i].Hint = ""
			}
		}
		if json {
			err = m.printJSON(checks)
		} else {
			err = m.printChecks(checks)
		}
		return errors.Join(err, verdict(checks))
	}
	return cmd
}

// repair moves the database aside.
func (m *commander) repair(c Config) error {
	if c.Home == "" {
		return nil // the configuration's error says why
	}
	if m.Repair == nil {
		return &boxlite.Error{Op: "repair home", Kind: boxlite.Unsupported, Ref: c.Home}
	}
	moved, err := m.Repair(c.Home)
	switch {
	case err != nil:
		return err
	case moved == "":
		return m.printf("there is no database\n")
	}
	return m.printf("the database is now at %s; the next start restores the boxes\n", moved)
}

// verdict is a silent error if a check that is not optional failed.
func verdict(checks []Check) error {
	for _, c := range checks {
		if !c.OK && !c.Optional {
			return &exitError{1, nil}
		}
	}
	return nil
}

func (m *commander) printChecks(checks []Check) error {
	rows := [][]string{{"RESULT", "CHECK", "FOUND"}}
	for _, c := range checks {
		rows = append(rows, []string{c.mark(), c.Name, c.Detail})
	}
	if err := table(m.Stdout, rows); err != nil {
		return err
	}
	for _, c := range checks {
		if c.Hint == "" {
			continue
		}
		if err := m.printf("hint: %s: %s\n", c.Name, oneLine(c.Hint)); err != nil {
			return err
		}
	}
	return nil
}

// homeCheck says where the home is; given is what --home said, and err why it
// cannot be used.
func homeCheck(home, given string, err error) Check {
	c := Check{Name: "home", OK: true, Detail: home}
	_, marker := os.Lstat(filepath.Join(home, HomeMarker))
	switch {
	case err != nil:
		c.OK, c.Detail, c.Hint = false, err.Error(), hintOf(err)
	case marker != nil:
		c.Detail += ", made when it is first used"
	}
	if err == nil && given == "" && filepath.Base(home) == ".boxlite-mcp" {
		c.Detail += "; ~/.boxlite belongs to another program"
	}
	return c
}

// helperCheck looks for a helper beside the program, then on the PATH.
func (m *commander) helperCheck(name string) Check {
	c := Check{Name: name, OK: true}
	if m.Executable != "" {
		c.Detail = filepath.Join(filepath.Dir(m.Executable), name)
		if isExecutable(c.Detail) {
			return c
		}
	}
	path, _ := m.LookupEnv("PATH")
	for _, dir := range filepath.SplitList(path) {
		if c.Detail = filepath.Join(dir, name); filepath.IsAbs(dir) && isExecutable(c.Detail) {
			return c
		}
	}
	c.OK, c.Detail = false, "neither beside the program nor on the PATH"
	c.Hint = "Run make build, and keep what it puts into bin together."
	return c
}

func isExecutable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

// hostChecks looks at the host. It changes nothing.
func hostChecks(ctx context.Context, home string) []Check {
	return append([]Check{diskCheck(home)}, platformChecks(ctx)...)
}

// diskCheck wants room for an image and a box.
func diskCheck(home string) Check {
	const least, comfortable = 1 * boxlite.GiB, 10 * boxlite.GiB
	c := Check{Name: "disk space", Hint: "Free space, or name a directory on another disk with --home."}
	dir := home
	for dir != "" && dir != "/" {
		if _, err := os.Stat(dir); err == nil {
			break
		}
		dir = filepath.Dir(dir)
	}
	if dir == "" {
		dir = "/"
	}
	free, err := freeSpace(dir)
	switch {
	case err != nil:
		c.Detail = err.Error()
	default:
		c.OK = free >= comfortable
		c.Optional = free >= least
		c.Detail = fmt.Sprintf("%s free in %s", free, dir)
	}
	return c
}

// firstLine returns the first line of a small file, or "".
func firstLine(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(b), "\n")
	return strings.TrimSpace(line)
}

// runQuiet runs a command for whether it works; the error has its last words.
func runQuiet(cmd *exec.Cmd) error {
	out, err := cmd.CombinedOutput()
	if words := strings.TrimSpace(string(out)); err != nil && words != "" {
		return fmt.Errorf("%w: %s", err, words)
	}
	return err
}
