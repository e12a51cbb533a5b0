package guest

import (
	"os"
	"strconv"
	"strings"
)

// kernelOOMKills returns how many processes the kernel has ended for want of
// memory since it was started, or 0 where it does not count them.
func kernelOOMKills(proc *os.File) uint64 {
	b, err := readAt(int(proc.Fd()), "vmstat")
	if err != nil {
		return 0
	}
	return field(b, "oom_kill ")
}

// memory returns the kernel's memory and what of it could be had, in bytes.
func memory(proc *os.File) (total, free int64) {
	b, err := readAt(int(proc.Fd()), "meminfo")
	if err != nil {
		return 0, 0
	}
	return int64(field(b, "MemTotal:") << 10), int64(field(b, "MemAvailable:") << 10)
}

// field returns the number after name at the beginning of a line, or 0.
func field(file []byte, name string) uint64 {
	for line := range strings.Lines(string(file)) {
		if rest, ok := strings.CutPrefix(line, name); ok {
			f := strings.Fields(rest)
			if len(f) == 0 {
				return 0
			}
			n, _ := strconv.ParseUint(f[0], 10, 64)
			return n
		}
	}
	return 0
}
