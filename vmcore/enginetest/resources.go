package enginetest

import (
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// resources are what this process holds of the system's.
type resources struct {
	files      int
	goroutines int
	children   []int
}

func resourcesNow() resources {
	files, _ := os.ReadDir("/proc/self/fd")
	return resources{len(files), runtime.NumGoroutine(), children(os.Getpid())}
}

// checkReturned sees that the process holds no more than before. What ends by
// itself is given a moment.
func (before resources) checkReturned(t *testing.T) {
	t.Helper()
	var now resources
	for range 100 {
		now = resourcesNow()
		if now.files <= before.files && now.goroutines <= before.goroutines && len(now.children) <= len(before.children) {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	stacks := make([]byte, 64<<10)
	stacks = stacks[:runtime.Stack(stacks, true)]
	t.Errorf("left behind: before %+v, now %+v\n%s\n%s", before, now, openFiles(), stacks)
}

func openFiles() string {
	var b strings.Builder
	links, _ := filepath.Glob("/proc/self/fd/*")
	for _, l := range links {
		target, _ := os.Readlink(l)
		b.WriteString(filepath.Base(l) + " " + target + "\n")
	}
	return b.String()
}

// children returns the processes whose parent is pid.
func children(pid int) []int {
	var all []int
	for _, p := range processes() {
		if parent(p) == pid {
			all = append(all, p)
		}
	}
	return all
}

// processes returns all processes of the host that this one sees.
func processes() []int {
	var all []int
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			all = append(all, pid)
		}
	}
	return all
}

// parent returns the parent of a process, 0 if it is gone or a zombie's.
func parent(pid int) int {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(data)[strings.LastIndexByte(string(data), ')')+1:])
	if len(fields) < 2 || fields[0] == "Z" {
		return 0
	}
	ppid, _ := strconv.Atoi(fields[1])
	return ppid
}

// tree returns pid and all processes below it.
func tree(pid int) []int {
	all := []int{pid}
	for _, c := range children(pid) {
		all = append(all, tree(c)...)
	}
	return all
}

// mentioning returns the processes with text in their command line.
func mentioning(text string) []int {
	var all []int
	for _, pid := range processes() {
		line, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline")
		if err == nil && pid != os.Getpid() && strings.Contains(string(line), text) {
			all = append(all, pid)
		}
	}
	return all
}

// waitGone waits until none of the processes is left, zombies of other parents
// excepted.
func waitGone(t *testing.T, pids []int, patience time.Duration) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		left := slices.DeleteFunc(slices.Clone(pids), func(pid int) bool { return !runs(pid) })
		if len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("processes %v are still there after %v", left, patience)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// runs reports whether a process is there and no zombie.
func runs(pid int) bool {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return false
	}
	fields := strings.Fields(string(data)[strings.LastIndexByte(string(data), ')')+1:])
	return len(fields) > 0 && fields[0] != "Z" && fields[0] != "X"
}
