package gvisor

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
)

// What a machine without a memory group can do between two looks of the
// watchdog: at most the rate at which a host hands out fresh pages.
const (
	growth      = 4 * boxlite.GiB // a second
	fastestLook = 5 * time.Millisecond
	slowestLook = 250 * time.Millisecond

	// watchdogOvershoot is what can be used past the limit before the watchdog
	// has looked, been scheduled and ended the machine.
	watchdogOvershoot = 128 * boxlite.MiB
)

// guardMemory ends the machine when it uses more than it may, until done is
// closed.
func (m *machine) guardMemory() {
	if oom, err := m.groups.watchOOM(); err == nil && oom != nil {
		m.onOOM(oom)
		return
	}
	if m.groups.memory == "" {
		m.watchMemory()
	}
}

// onOOM ends the machine when the kernel says that its group is out of memory:
// the kernel itself ends but one process, perhaps one without which gVisor
// hangs.
func (m *machine) onOOM(event *os.File) {
	go func() { // ends with the machine
		<-m.done
		event.Close()
	}()
	var count [8]byte
	if n, err := event.Read(count[:]); err == nil && n == len(count) {
		m.end(outOfMemory)
	}
}

// watchMemory looks the more often, the closer the machine is to its limit.
func (m *machine) watchMemory() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-m.done:
			return
		case <-timer.C:
		}
		used := m.memory()
		limit := m.spec.Memory + overhead
		if used > limit {
			m.log.Info("machine is out of memory", "bytes", int64(used), "limit", int64(limit))
			m.end(outOfMemory)
			return
		}
		timer.Reset(nextLook(limit - used))
	}
}

// nextLook returns how long a machine needs at least for half of that much
// memory.
func nextLook(room boxlite.Bytes) time.Duration {
	d := time.Duration(float64(room) / 2 / float64(growth) * float64(time.Second))
	return min(max(d, fastestLook), slowestLook)
}

// memory returns what the machine uses: the guest's pages, which lie in a file
// of the sandbox without a name, and the sandbox's own.
func (m *machine) memory() boxlite.Bytes {
	used := ownMemory(m.process.Pid)
	if info, err := m.guestMemory.Stat(); err == nil {
		used += boxlite.Bytes(info.Sys().(*syscall.Stat_t).Blocks * 512)
	}
	return used
}

// ownMemory returns the anonymous memory of a process.
func ownMemory(pid int) boxlite.Bytes {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, "RssAnon:"); ok {
			kib, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return boxlite.FromKiB(kib)
		}
	}
	return 0
}

// openGuestMemory gets the file that the guest's memory is in.
func (m *machine) openGuestMemory(ctx context.Context) error {
	a, err := m.control.call(ctx, "Usage.UsageFD", map[string]uint64{"Version": 1})
	if err != nil {
		return err
	}
	if len(a.files) != 2 {
		closeAll(a.files)
		return fmt.Errorf("the sandbox gave %d files for its memory", len(a.files))
	}
	a.files[0].Close()
	m.guestMemory = a.files[1]
	m.mu.Lock()
	m.closers = append(m.closers, m.guestMemory)
	m.mu.Unlock()
	return nil
}
