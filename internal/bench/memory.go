package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
)

// measureMemory looks at boxes that have run a command and do nothing now.
//
// What a box was given is its guest's memory: the pages of the one file that
// gVisor keeps it in, whose programs are the box's own and the agent, and the
// page cache of its writable layer. Everything else of its processes is what
// the box costs beyond that: the shim, the sandbox and the processes that the
// sandbox runs guest code in.
func measureMemory(ctx context.Context, s *setting, r *report) (err error) {
	r.chapter("memory of an idle box", "PSS by mapping, four boxes. guest: the file that holds the guest's memory, the agent's included, and",
		"the writable layer, which is what the box was given. beyond: all else of the shim, the sandbox and its children")
	const many = 4
	var boxes []box
	defer func() {
		for _, b := range boxes {
			err = errors.Join(err, b.remove(ctx))
		}
	}()
	for range many {
		b, err := s.api.create(ctx)
		if err != nil {
			return err
		}
		boxes = append(boxes, b)
		if _, err := b.run(ctx, "/bin/true"); err != nil {
			return err
		}
	}
	if !s.quick {
		pause(ctx, 10*time.Second) // what is not needed any more is given back
	}
	var shim, sandbox, children, private, guest, beyond series
	for _, b := range boxes {
		u, err := usageOf(b.(apiBox).Info())
		if err != nil {
			return err
		}
		shim, sandbox = append(shim, mb(u.shim.pss)), append(sandbox, mb(u.sandbox.pss-u.sandbox.guest))
		children = append(children, mb(u.children.pss-u.children.guest))
		guest = append(guest, mb(u.sandbox.guest+u.children.guest))
		private = append(private, mb(u.shim.dirty+u.sandbox.dirty+u.children.dirty))
		beyond = append(beyond, mb(u.shim.pss+u.sandbox.pss-u.sandbox.guest+u.children.pss-u.children.guest))
	}
	r.add(result{name: "guest", unit: "MB", values: guest})
	r.add(result{name: "shim", unit: "MB", values: shim})
	r.add(result{name: "sandbox", unit: "MB", values: sandbox})
	r.add(result{name: "children of the sandbox", unit: "MB", values: children, signed: true})
	r.add(result{name: "private and dirty of the three, without guest", unit: "MB", values: private})
	r.add(result{name: "beyond what it was given", unit: "MB", values: beyond, below: 40})
	return addServers(s, r)
}

// addServers adds what the processes hold that all boxes share.
func addServers(s *setting, r *report) error {
	for _, p := range []struct {
		name string
		pid  int
	}{{"front end (one for each conversation)", s.mcp.front}, {"daemon (one for each home)", s.mcp.daemon.PID}} {
		m, err := memoryOf(p.pid)
		if err != nil {
			return err
		}
		r.add(result{name: p.name, unit: "MB", values: series{mb(m.pss)}})
	}
	return nil
}

func mb(bytes int64) float64 { return float64(bytes) / 1e6 }

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// A memory is what a process or several hold, in bytes.
type memory struct {
	pss   int64 // resident; what n processes share counts 1/n for each
	guest int64 // of pss: the guest's memory and its writable layer
	dirty int64 // private and dirty, without the guest
}

func (m *memory) add(o memory) {
	m.pss, m.guest, m.dirty = m.pss+o.pss, m.guest+o.guest, m.dirty+o.dirty
}

// A usage is the memory of the processes of one box.
type usage struct{ shim, sandbox, children memory }

// usageOf finds the processes by the machine's: its parent is the shim, its
// descendants are where guest code runs.
func usageOf(info boxlite.BoxInfo) (u usage, err error) {
	parents, err := parents()
	if err != nil {
		return u, err
	}
	shim := parents[info.PID]
	if cmd, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", shim)); err != nil || !strings.Contains(string(cmd), string(info.ID)) {
		return u, fmt.Errorf("the parent of the sandbox %d is not its shim but %q: %w", info.PID, cmd, err)
	}
	if u.shim, err = memoryOf(shim); err != nil {
		return u, err
	}
	if u.sandbox, err = memoryOf(info.PID); err != nil {
		return u, err
	}
	for pid := range parents {
		for up := parents[pid]; up != 0; up = parents[up] {
			if up == info.PID {
				m, err := memoryOf(pid)
				if err != nil {
					return u, err
				}
				u.children.add(m)
				break
			}
		}
	}
	if u.shim.guest != 0 || u.sandbox.guest == 0 {
		return u, fmt.Errorf("the guest's memory was not found: shim %+v, sandbox %+v", u.shim, u.sandbox)
	}
	return u, nil
}

// parents returns the parent of every process.
func parents() (map[int]int, error) {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	all := map[int]int{}
	for _, path := range stats {
		data, err := os.ReadFile(path)
		if err != nil {
			continue // it has just ended
		}
		var pid, ppid int
		var state string
		if _, err := fmt.Sscan(string(data), &pid); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		rest := data[strings.LastIndexByte(string(data), ')')+1:] // a name may contain anything
		if _, err := fmt.Sscan(string(rest), &state, &ppid); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		all[pid] = ppid
	}
	return all, nil
}

// memoryOf reads a process's mappings.
func memoryOf(pid int) (memory, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/smaps", pid))
	if err != nil {
		return memory{}, err
	}
	defer f.Close()
	var m memory
	guest := false
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) == 0 {
			continue
		}
		if !strings.HasSuffix(fields[0], ":") { // FROM-TO PERM OFFSET DEVICE INODE [PATH]
			guest = isGuest(strings.Join(fields[min(5, len(fields)):], " "))
			continue
		}
		var kib int64
		if len(fields) < 2 {
			continue
		}
		fmt.Sscan(fields[1], &kib) //nolint:errcheck // VmFlags is no number
		switch fields[0] {
		case "Pss:":
			m.pss += kib << 10
			if guest {
				m.guest += kib << 10
			}
		case "Private_Dirty:":
			if !guest {
				m.dirty += kib << 10
			}
		}
	}
	if err := lines.Err(); err != nil {
		return m, err
	}
	if m.pss == 0 {
		return m, fmt.Errorf("process %d has no memory", pid)
	}
	return m, nil
}

// isGuest reports whether a mapping of that path is of the guest's memory or
// its writable layer, which both are files without a name.
func isGuest(path string) bool {
	return strings.HasPrefix(path, "/memfd:runsc-memory") || strings.Contains(path, "/layer/#")
}

// peak returns the most that a process ever had resident, in bytes.
func peak(pid int) (int64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			var kib int64
			_, err := fmt.Sscan(rest, &kib)
			return kib << 10, err
		}
	}
	return 0, fmt.Errorf("process %d has no VmHWM", pid)
}
