package gvisor

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/engine"
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

// tick is the unit of times in /proc/PID/stat: USER_HZ, 100 on all of Linux
// that we run on.
const tick = time.Second / 100

// cpu returns the time that the machine's processes have used: the sandbox's,
// its ended children's, and its living children's. Guests run in children.
func (m *machine) cpu() (time.Duration, error) {
	total, err := cpuTime(m.process.Pid, true)
	if err != nil {
		return 0, err
	}
	for _, child := range descendants(m.process.Pid) {
		if t, err := cpuTime(child, true); err == nil { // it may have just ended
			total += t
		}
	}
	return total, nil
}

// cpuTime returns user and system time of a process, with that of its waited
// for children.
func cpuTime(pid int, children bool) (time.Duration, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	rest := string(data)[strings.LastIndexByte(string(data), ')')+1:]
	fields := strings.Fields(rest) // from field 3 on
	if len(fields) < 15 {
		return 0, fmt.Errorf("read CPU time of process %d: unexpected form", pid)
	}
	last := 12
	if children {
		last = 14
	}
	var ticks int64
	for _, f := range fields[11 : last+1] {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("read CPU time of process %d: %w", pid, err)
		}
		ticks += n
	}
	return time.Duration(ticks) * tick, nil
}

// descendants returns the processes below pid.
func descendants(pid int) []int {
	var all []int
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		return nil
	}
	for _, list := range lists {
		data, err := os.ReadFile(list)
		if err != nil {
			continue
		}
		for field := range strings.FieldsSeq(string(data)) {
			if child, err := strconv.Atoi(field); err == nil {
				all = append(all, child)
				all = append(all, descendants(child)...)
			}
		}
	}
	return all
}
