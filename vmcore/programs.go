package vmcore

import (
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/engine"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/engine/gvisor"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/engine/qemu"
)

// Programs are the absolute paths of the executables that boxes need.
type Programs struct {
	Helper  string `json:"helper"`  // boxlite-mcp; run as "boxlite-mcp shim"
	Sandbox string `json:"sandbox"` // boxlite-sandbox, for engine gvisor
	Jail    string `json:"jail"`    // boxlite-jail, for engines that boot virtual machines
	QEMU    string `json:"qemu"`    // QEMU for this host's architecture; "" where there is none
	Agent   string `json:"agent"`   // boxlite-agent, which runs in the boxes; static
}

// find fills in what is missing from beside this program, and from PATH.
//
// Errors: Config if one is nowhere.
func (p Programs) find() (Programs, error) {
	self, err := os.Executable()
	if err != nil {
		return p, &boxlite.Error{Op: "find programs", Kind: boxlite.Config, Err: err}
	}
	if self, err = filepath.EvalSymlinks(self); err != nil {
		return p, &boxlite.Error{Op: "find programs", Kind: boxlite.Config, Err: err}
	}
	for _, want := range []struct {
		path *string
		name string
	}{{&p.Helper, "boxlite-mcp"}, {&p.Sandbox, "boxlite-sandbox"}, {&p.Jail, "boxlite-jail"}, {&p.Agent, "boxlite-agent"}} {
		if *want.path != "" {
			continue
		}
		if *want.path, err = findProgram(filepath.Dir(self), want.name); err != nil {
			return p, err
		}
	}
	if p.QEMU == "" {
		p.QEMU = qemu.Find()
	}
	return p, nil
}

func findProgram(beside, name string) (string, error) {
	path := filepath.Join(beside, name)
	if st, err := os.Stat(path); err == nil && st.Mode().IsRegular() {
		return path, nil
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", &boxlite.Error{Op: "find programs", Kind: boxlite.Config, Ref: name,
			Err: fmt.Errorf("not in %s and not on PATH", beside), Hint: "Install " + name + " beside boxlite-mcp: make build makes all of them."}
	}
	return filepath.Abs(path)
}

// newEngines returns the engines there are, in the order in which they are
// preferred. What they boot is kept in the directory guest, "" for nowhere.
func newEngines(p Programs, guest string, log *slog.Logger) []engine.Engine {
	machines := func(accel qemu.Accel) engine.Engine {
		return qemu.New(qemu.Options{Accel: accel, Program: p.QEMU, Jail: p.Jail, Agent: p.Agent, Cache: guest, Logger: log})
	}
	return []engine.Engine{
		machines(qemu.KVM),
		gvisor.New(gvisor.Options{Sandbox: p.Sandbox, Agent: p.Agent, Logger: log}),
		machines(qemu.TCG),
	}
}

// EngineNames returns the names of the engines there are, the preferred first.
func EngineNames() []string { return []string{qemu.Name, gvisor.Name, qemu.EmulatedName} }

// EngineByName returns an engine, for a shim. What it boots is kept in the
// directory guest.
//
// Errors: UnsupportedEngine.
func EngineByName(name string, p Programs, guest string, log *slog.Logger) (engine.Engine, error) {
	for _, e := range newEngines(p, guest, log) {
		if e.Name() == name {
			return e, nil
		}
	}
	return nil, &boxlite.Error{Op: "choose engine", Kind: boxlite.UnsupportedEngine, Ref: fmt.Sprintf("%.40q", name)}
}

// shimCommand returns the command that runs the shim of the box in dir.
func (p Programs) shimCommand(dir string) *exec.Cmd {
	return exec.Command(p.Helper, "shim", dir) //nolint:noctx // it outlives us
}
