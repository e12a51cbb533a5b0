package gvisor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/internal/proc"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/engine"
)

// controllers are those a machine is limited by.
var controllers = []string{"memory", "cpu", "pids"}

// A hierarchy is a mounted cgroup file system, as this process sees it.
type hierarchy struct {
	mount       string
	own         string // the directory of this process's group in it
	controllers []string
	v2          bool
}

// hierarchies returns those that have controllers of interest. The result is
// empty where nothing is mounted.
func hierarchies(mountinfo, own string) []hierarchy {
	paths := ownGroups(own)
	var all []hierarchy
	for line := range strings.Lines(mountinfo) {
		before, after, ok := strings.Cut(strings.TrimSpace(line), " - ")
		fields, kind := strings.Fields(before), strings.Fields(after)
		if !ok || len(fields) < 5 || len(kind) < 3 {
			continue
		}
		h := hierarchy{mount: fields[4], v2: kind[0] == "cgroup2"}
		switch kind[0] {
		case "cgroup2":
			h.own = below(h.mount, fields[3], paths[""])
		case "cgroup":
			for option := range strings.SplitSeq(kind[2], ",") {
				if slices.Contains(controllers, option) {
					h.controllers = append(h.controllers, option)
					h.own = below(h.mount, fields[3], paths[option])
				}
			}
		}
		if h.own != "" {
			all = append(all, h)
		}
	}
	return all
}

// ownGroups returns the paths of /proc/self/cgroup by controller, that of
// version 2 by "".
func ownGroups(own string) map[string]string {
	paths := map[string]string{}
	for line := range strings.Lines(own) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) == 3 {
			for controller := range strings.SplitSeq(parts[1], ",") {
				paths[controller] = parts[2]
			}
		}
	}
	return paths
}

// below returns where group is seen under a mount that shows root and what is
// below it; a group elsewhere is taken for the mount's own.
func below(mount, root, group string) string {
	if group == "" {
		return ""
	}
	if rest, ok := strings.CutPrefix(group, strings.TrimSuffix(root, "/")); ok && (rest == "" || rest[0] == '/') && !strings.Contains(rest, "..") {
		return path.Join(mount, rest)
	}
	return mount
}

// hostHierarchies returns those of this process.
func hostHierarchies() []hierarchy {
	mountinfo, err1 := os.ReadFile("/proc/self/mountinfo")
	own, err2 := os.ReadFile("/proc/self/cgroup")
	if err1 != nil || err2 != nil {
		return nil
	}
	return hierarchies(string(mountinfo), string(own))
}

// groups are the control groups of one machine. The zero value has none.
type groups struct {
	dirs   []string // to put the machine into and to remove
	memory string   // the one with the memory limit; "": none
	v2     bool     // memory is of version 2
	cpu    string   // the one with the CPU limit; "": none
	pids   string   // the one with the limit of host threads; "": none
}

// newGroups makes as many groups with the limits of spec as the host lets us.
func newGroups(spec engine.MachineSpec) *groups {
	g := &groups{}
	name, err := groupName(string(spec.ID))
	if err != nil {
		return g
	}
	for _, h := range hostHierarchies() {
		for _, parent := range h.parents() {
			if g.add(h, filepath.Join(parent, name), spec) {
				break
			}
		}
	}
	return g
}

// parents returns the directories to try to make groups in.
func (h hierarchy) parents() []string {
	if !h.v2 {
		return []string{h.own}
	}
	// A group with processes cannot limit groups below it; ours usually is
	// one. Beside it, or at the top, may be a place.
	list := []string{h.own}
	if h.own != h.mount {
		list = append(list, filepath.Dir(h.own), h.mount)
	}
	return list
}

// add makes one group, and reports whether it limits anything.
func (g *groups) add(h hierarchy, dir string, spec engine.MachineSpec) bool {
	have := h.controllers
	if h.v2 {
		if have = enable(filepath.Dir(dir)); len(have) == 0 {
			return false
		}
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return false
	}
	limited := false
	for _, controller := range have {
		if g.limit(h, controller, dir, spec) == nil {
			limited = true
		}
	}
	if !limited || !writable(filepath.Join(dir, "cgroup.procs")) {
		os.Remove(dir)
		return false
	}
	g.dirs = append(g.dirs, dir)
	return true
}

// enable gives groups below dir the controllers that it can, and returns them.
func enable(dir string) []string {
	var have []string
	for _, controller := range controllers {
		_ = os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+controller), 0) // seen below
	}
	enabled, err := os.ReadFile(filepath.Join(dir, "cgroup.subtree_control"))
	if err != nil {
		return nil
	}
	for controller := range strings.FieldsSeq(string(enabled)) {
		if slices.Contains(controllers, controller) {
			have = append(have, controller)
		}
	}
	return have
}

// limit writes the limit of one controller.
func (g *groups) limit(h hierarchy, controller, dir string, spec engine.MachineSpec) error {
	set := func(name, value string) error {
		return os.WriteFile(filepath.Join(dir, name), []byte(value), 0)
	}
	const period = 100_000 // µs
	memory := strconv.FormatInt(int64(spec.Memory+overhead), 10)
	quota := strconv.Itoa(spec.CPUs * period)
	threads := strconv.Itoa(4*spec.Processes + 1024) // of the host; the guest's processes are limited by gVisor
	var err error
	switch {
	case controller == "memory" && h.v2:
		if err = errors.Join(set("memory.max", memory), set("memory.oom.group", "1")); err == nil {
			_ = set("memory.swap.max", "0") // not where the host has no swap
			g.memory, g.v2 = dir, true
		}
	case controller == "memory":
		if err = set("memory.limit_in_bytes", memory); err == nil {
			_ = set("memory.memsw.limit_in_bytes", memory) // not where the kernel does not count swap
			g.memory = dir
		}
	case controller == "cpu" && h.v2:
		if err = set("cpu.max", quota+" "+strconv.Itoa(period)); err == nil {
			g.cpu = dir
		}
	case controller == "cpu":
		if err = errors.Join(set("cpu.cfs_period_us", strconv.Itoa(period)), set("cpu.cfs_quota_us", quota)); err == nil {
			g.cpu = dir
		}
	case controller == "pids":
		if err = set("pids.max", threads); err == nil {
			g.pids = dir
		}
	}
	return err
}

// put moves a process into the groups.
func (g *groups) put(pid int) error {
	for _, dir := range g.dirs {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0); err != nil {
			return err
		}
	}
	return nil
}

// ooms returns how often the kernel has ended a process for the memory limit.
func (g *groups) ooms() int {
	if g.memory == "" {
		return 0
	}
	name, key := "memory.oom_control", "oom_kill"
	if g.v2 {
		name = "memory.events"
	}
	return keyed(filepath.Join(g.memory, name), key)
}

// keyed returns the number after key in a file of lines "key number".
func keyed(path, key string) int {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(data)) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok && name == key {
			n, _ := strconv.Atoi(value)
			return n
		}
	}
	return 0
}

// watchOOM returns a file that can be read from when the kernel has run out of
// the group's memory, nil where the kernel ends the whole group by itself.
func (g *groups) watchOOM() (*os.File, error) {
	if g.memory == "" || g.v2 {
		return nil, nil
	}
	control, err := os.Open(filepath.Join(g.memory, "memory.oom_control"))
	if err != nil {
		return nil, err
	}
	defer control.Close()
	event, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(event), "oom")
	order := fmt.Sprintf("%d %d", event, control.Fd())
	if err := os.WriteFile(filepath.Join(g.memory, "cgroup.event_control"), []byte(order), 0); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// remove removes the groups, whose processes are gone or about to be.
func (g *groups) remove() {
	for _, dir := range g.dirs {
		for range 100 { // the kernel lets go of dead processes in its own time
			if err := os.Remove(dir); err == nil || errors.Is(err, fs.ErrNotExist) {
				break
			}
			time.Sleep(5 * time.Millisecond) //nolint:forbidigo // nothing tells when
		}
	}
	g.dirs = nil
}

func writable(path string) bool { return unix.Access(path, unix.W_OK) == nil }

// groupPrefix begins the names of our groups:
// boxlite-<pid namespace>-<pid>-<start time>-<machine>.
const groupPrefix = "boxlite-"

// groupName returns a name that says who owns the group.
func groupName(machine string) (string, error) {
	owner, err := groupOwner(os.Getpid())
	if err != nil {
		return "", err
	}
	return groupPrefix + owner + "-" + machine[:min(12, len(machine))], nil
}

// groupOwner returns the part of a name that is about a process of this PID
// namespace.
func groupOwner(pid int) (string, error) {
	id, err := proc.Of(pid)
	if err != nil {
		return "", err
	}
	var ns unix.Stat_t
	if err := unix.Stat("/proc/self/ns/pid", &ns); err != nil {
		return "", err
	}
	return fmt.Sprintf("%d-%d-%s", ns.Ino, pid, id.Start), nil
}

// Sweep removes the control groups of machines whose owners died without
// removing them; everything else of such machines is gone by itself.
func (e *Engine) Sweep() {
	if e.opts.NoCgroups {
		return
	}
	for _, h := range hostHierarchies() {
		for _, parent := range h.parents() {
			entries, err := os.ReadDir(parent)
			if err != nil {
				continue
			}
			for _, entry := range entries {
				if entry.IsDir() && orphaned(entry.Name()) {
					os.Remove(filepath.Join(parent, entry.Name())) // fails while processes are in it
				}
			}
		}
	}
}

// orphaned reports whether a group of that name is ours and its owner, a
// process of this PID namespace, is gone.
func orphaned(name string) bool {
	parts := strings.Split(name, "-")
	if len(parts) != 5 || parts[0]+"-" != groupPrefix {
		return false
	}
	pid, err := strconv.Atoi(parts[2])
	if err != nil {
		return false
	}
	self, err := groupOwner(os.Getpid())
	if err != nil || !strings.HasPrefix(self, parts[1]+"-") {
		return false
	}
	owner, err := groupOwner(pid)
	return err != nil || owner != strings.Join(parts[1:4], "-")
}

// hostLimits says which limits a machine would get.
func hostLimits() (memory, cpu bool) {
	g := newGroups(engine.MachineSpec{ID: "probe", CPUs: 1, Memory: 64 * boxlite.MiB, Processes: 64})
	defer g.remove()
	return g.memory != "", g.cpu != ""
}
