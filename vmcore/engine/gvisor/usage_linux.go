package gvisor

import (
	"errors"
	"time"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/engine"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/engine/child"
)

// Usage implements [engine.Machine].
func (m *machine) Usage() (engine.Usage, error) {
	select {
	case <-m.done:
		return engine.Usage{}, &boxlite.Error{Op: "measure gvisor machine", Kind: boxlite.InvalidState, Ref: string(m.spec.ID), Err: errors.New("it has ended")}
	default:
	}
	cpu, err := m.cpu()
	if err != nil {
		return engine.Usage{}, &boxlite.Error{Op: "measure gvisor machine", Kind: boxlite.Engine, Ref: string(m.spec.ID), Err: err}
	}
	return engine.Usage{CPU: cpu, Memory: m.memory(), Disk: boxlite.Bytes(m.disk())}, nil
}

// cpu returns the time that the machine's processes have used: the sandbox's,
// its ended children's, and its living children's. Guests run in children.
func (m *machine) cpu() (time.Duration, error) {
	total, err := child.CPUTime(m.process.Pid, true)
	if err != nil {
		return 0, err
	}
	for _, pid := range child.Descendants(m.process.Pid) {
		if t, err := child.CPUTime(pid, true); err == nil { // it may have just ended
			total += t
		}
	}
	return total, nil
}
