package vmcore

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"strings"
	"sync"
	"time"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/internal/proc"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/engine"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/engine/qemu"
)

// probeTime is how long an engine may take to show that it works.
const probeTime = 30 * time.Second

// engines knows what the engines can do on this host. What it found it keeps in
// a file, until the host or a program changes.
type engines struct {
	list []engine.Engine
	file string
	key  string // of the host and the programs
	log  *slog.Logger

	mu      sync.Mutex               // held while probing: one probe at a time
	reports map[string]engine.Report // guarded by mu; nil: not read yet
}

func openEngines(p Programs, guest, file string, log *slog.Logger) *engines {
	return &engines{list: newEngines(p, guest, log), file: file, key: hostKey(p), log: log}
}

// hostKey changes when an earlier probe says nothing any more: another boot,
// user or program.
func hostKey(p Programs) string {
	boot, _ := proc.BootID()
	h := sha256.New()
	fmt.Fprintln(h, "1", boot, os.Geteuid(), runtime.GOARCH)
	for _, path := range append([]string{p.Sandbox, p.Jail, p.QEMU, p.Agent}, qemu.Parts(p.Jail)...) {
		if st, err := os.Stat(path); err == nil {
			fmt.Fprintln(h, path, st.Size(), st.ModTime().UnixNano())
		}
	}
	return hex.EncodeToString(h.Sum(nil))
}

// An EngineReport is what one engine can do on this host.
type EngineReport struct {
	Name string `json:"name"`
	engine.Report
}

// Engines returns what each engine can do on this host, the preferred first. It
// probes those that have not been probed on this boot of the host.
func (rt *Runtime) Engines(ctx context.Context) []EngineReport {
	var out []EngineReport
	for _, e := range rt.engines.list {
		out = append(out, EngineReport{e.Name(), rt.engines.report(ctx, e)})
	}
	return out
}

// ProbeEngines probes every engine afresh, without a home.
//
// Errors: Config if a program is missing.
func ProbeEngines(ctx context.Context, p Programs) ([]EngineReport, error) {
	p, err := p.find()
	if err != nil {
		return nil, err
	}
	var out []EngineReport
	for _, e := range newEngines(p, "", nil) {
		bound, cancel := context.WithTimeout(ctx, probeTime)
		out = append(out, EngineReport{e.Name(), e.Probe(bound)})
		cancel()
	}
	return out, nil
}

// choose returns the best engine for a box.
//
// Errors: UnsupportedEngine, with every engine's reason.
func (es *engines) choose(ctx context.Context, name, isolation string) (engine.Engine, engine.Report, error) {
	var reasons []string
	hint, known := "Run boxlite-mcp doctor to see what this host lacks.", false
	for _, e := range es.list {
		if name != "" && name != "auto" && !covers(name, e.Name()) {
			continue
		}
		known = true
		rep := es.report(ctx, e)
		switch {
		case !rep.Usable:
			reasons = append(reasons, e.Name()+": "+rep.Reason)
			if rep.Hint != "" {
				hint = rep.Hint
			}
		case !satisfies(rep.Isolation, isolation):
			reasons = append(reasons, fmt.Sprintf("%s: its isolation is %s, not %s", e.Name(), rep.Isolation, isolation))
		default:
			return e, rep, nil
		}
	}
	if !known {
		reasons, hint = []string{"there is no engine " + name}, "Choose auto, or one of: "+es.names()+"."
	}
	return nil, engine.Report{}, &boxlite.Error{Op: "choose engine", Kind: boxlite.UnsupportedEngine, Hint: hint,
		Err: fmt.Errorf("%s", strings.Join(reasons, "; "))}
}

// covers reports whether a name that somebody gave stands for an engine: its
// own name, or that of its family, as qemu does for qemu-tcg.
func covers(name, engine string) bool {
	return engine == name || strings.HasPrefix(engine, name+"-")
}

// family returns the name of all engines that read the same writable layers.
func family(engine string) string {
	name, _, _ := strings.Cut(engine, "-")
	return name
}

func (es *engines) names() string {
	var names []string
	for _, e := range es.list {
		names = append(names, e.Name())
	}
	return strings.Join(names, ", ")
}

func satisfies(have engine.Isolation, want string) bool {
	switch want {
	case "vm":
		return have == engine.HardwareVM || have == engine.EmulatedVM
	case "hardware-vm":
		return have == engine.HardwareVM
	}
	return true
}

// report returns what an engine can do, from the file or by a probe.
func (es *engines) report(ctx context.Context, e engine.Engine) engine.Report {
	es.mu.Lock()
	defer es.mu.Unlock()
	if es.reports == nil {
		es.reports = es.read()
	}
	if rep, ok := es.reports[e.Name()]; ok {
		return rep
	}
	bound, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	rep := e.Probe(bound)
	es.log.Info("engine probed", "engine", e.Name(), "usable", rep.Usable, "reason", rep.Reason, "dur", rep.Start)
	if !rep.Usable { // perhaps only now: the host was busy, or something is being installed
		return rep
	}
	es.reports[e.Name()] = rep
	es.write()
	return rep
}

// sweep removes what machines have left whose shims were killed.
func (es *engines) sweep() {
	for _, e := range es.list {
		if s, ok := e.(engine.Sweeper); ok {
			s.Sweep()
		}
	}
}

// probes is the file: reports by engine, of one host.
type probes struct {
	Key     string                   `json:"key"`
	Reports map[string]engine.Report `json:"reports"`
}

func (es *engines) read() map[string]engine.Report {
	var p probes
	data, err := os.ReadFile(es.file)
	if err != nil || json.Unmarshal(data, &p) != nil || p.Key != es.key || p.Reports == nil {
		return map[string]engine.Report{}
	}
	return p.Reports
}

func (es *engines) write() {
	data, err := json.Marshal(probes{es.key, es.reports})
	if err == nil {
		err = os.WriteFile(es.file+".new", data, 0o600)
	}
	if err == nil {
		err = os.Rename(es.file+".new", es.file)
	}
	if err != nil {
		es.log.Warn("what the engines can do was not saved", "err", err)
	}
}

// Limits says how the engine's limits are weaker than asked for, "" if they are
// not.
func (r EngineReport) Limits() string { return limits(r.Report) }

// limits says how an engine's limits are weaker, or its machines slower, than a
// caller may expect, "" if not.
func limits(rep engine.Report) string {
	var weak []string
	if !rep.HardMemoryLimit {
		weak = append(weak, fmt.Sprintf("memory by a watchdog (overshoot up to %s)", rep.Overshoot))
	}
	if !rep.HardCPULimit {
		weak = append(weak, "CPU not limited")
	}
	if rep.Isolation == engine.EmulatedVM {
		weak = append(weak, fmt.Sprintf("emulated: what computes takes about %.0f times as long as on the host", max(2, rep.CPUFactor)))
	}
	return strings.Join(weak, "; ")
}
