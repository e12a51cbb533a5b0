package main

import (
	"log/slog"
	"os"
	"sync"
	"time"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/internal/cli"
	"github.com/boxlite-mcp/boxlite-mcp/internal/config"
	"github.com/boxlite-mcp/boxlite-mcp/internal/daemon"
	"github.com/boxlite-mcp/boxlite-mcp/tools"
)

// settings are the operator's configuration of a home, for the command line.
type settings struct{ home string }

func (s settings) Path() string     { return config.Path(s.home) }
func (s settings) Template() string { return config.Template() }

// Check implements cli.Settings.
func (s settings) Check(path string) ([]cli.Mistake, error) {
	f, err := config.Open(path)
	if err == nil {
		err = f.CheckFiles()
	}
	list := mistakes(err)
	if len(list) > 0 {
		return list, nil
	}
	return nil, err
}

// Values implements cli.Settings.
func (s settings) Values() ([]cli.Setting, []cli.Mistake, error) {
	f, wrong, err := inForce(s.home)
	if err != nil {
		return nil, nil, err
	}
	var list []cli.Setting
	for _, v := range f.Values() {
		list = append(list, cli.Setting{Key: v.Key, Value: v.Value, Source: v.Source, Line: v.Line, Text: v.Text})
	}
	return list, mistakes(wrong), nil
}

// inForce returns the configuration that counts: the file, or while there is a
// mistake in it, which is wrong, what the daemon took over last.
//
// Errors: that of the file, if there is none from before.
func inForce(home string) (f *config.File, wrong, err error) {
	f, err = config.Open(config.Path(home))
	if err == nil || len(config.ProblemsOf(err)) == 0 {
		return f, nil, err
	}
	before := daemon.InForceFile(home)
	if _, gone := os.Stat(before); gone != nil {
		return nil, nil, err
	}
	old, failed := config.Open(before)
	if failed != nil { // another version wrote it, perhaps
		return nil, nil, err
	}
	return old, err, nil
}

func mistakes(err error) (list []cli.Mistake) {
	for _, p := range config.ProblemsOf(err) {
		list = append(list, cli.Mistake{File: p.File, Line: p.Line, Key: p.Key, Message: p.Message, Hint: p.Hint, Text: p.String()})
	}
	return list
}

// toolOptions returns what an MCP server offers: what the flags say, and of that
// what the operator's configuration leaves.
//
// Errors: Config for a mistake in the configuration, if there is none from before.
func toolOptions(c cli.Config, log *slog.Logger) (tools.Options, error) {
	e := &enabledTools{follow: config.Follow(config.Path(c.Home)), log: log}
	f, wrong, err := inForce(c.Home)
	if err != nil {
		return tools.Options{}, err
	}
	e.now = enabledBy(f)
	if wrong != nil {
		e.keep(wrong)
	}
	o := tools.Options{Version: cli.Version().String(), Log: log, ReadOnly: c.ReadOnly, Enabled: e.get}
	if len(c.Toolsets) > 0 {
		o.Toolsets = c.Toolsets
	}
	return o, nil
}

// enabledTools follows the operator's configuration, for a front end. A mistake
// keeps what was before.
type enabledTools struct {
	follow *config.Follower
	log    *slog.Logger

	mu  sync.Mutex
	now tools.Enabled // guarded by mu
}

// followEvery is how often a front end looks at the file, when it is asked
// something.
const followEvery = time.Second

func (e *enabledTools) get() tools.Enabled {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.follow.Changed(followEvery) {
		return e.now
	}
	f, err := config.Open(e.follow.Path())
	if err != nil {
		e.keep(err)
		return e.now
	}
	e.now = enabledBy(f)
	return e.now
}

// keep says that what is in force stays, because of a mistake, to the log and to
// clients.
func (e *enabledTools) keep(err error) {
	e.now.Note = "there is a mistake in the operator's configuration, and what counted before still does. The operator sees more with boxlite-mcp config check."
	e.log.Error("the configuration has a mistake, and what was before still counts", "kind", boxlite.KindOf(err), "err", err)
}

func enabledBy(f *config.File) tools.Enabled {
	t := f.Tools()
	return tools.Enabled{ReadOnly: t.ReadOnly, Toolsets: t.Toolsets}
}
