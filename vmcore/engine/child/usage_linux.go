package child

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
)

// tick is the unit of times in /proc/PID/stat: USER_HZ, 100 on all of Linux
// that we run on.
const tick = time.Second / 100

// CPUTime returns user and system time of a process, with that of its waited
// for children.
func CPUTime(pid int, children bool) (time.Duration, error) {
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

// Descendants returns the processes below pid.
func Descendants(pid int) []int {
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
				all = append(all, Descendants(child)...)
			}
		}
	}
	return all
}

// Resident returns how much memory of its own a process has in RAM.
func Resident(pid int) (boxlite.Bytes, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0, err
	}
	var size, resident, shared int64
	if _, err := fmt.Sscan(string(data), &size, &resident, &shared); err != nil {
		return 0, fmt.Errorf("read memory of process %d: %w", pid, err)
	}
	return boxlite.Bytes((resident - shared) * int64(os.Getpagesize())), nil
}
