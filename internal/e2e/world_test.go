package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/internal/proc"
	"github.com/boxlite-mcp/boxlite-mcp/internal/testbin"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore"
)

// A world is one home and all that is done with it: front ends, a command
// line, and whatever processes come of that. When the test ends it removes the
// boxes, ends the daemon, and expects nothing to be left.
type world struct {
	t          testing.TB
	bin        string // directory of the programs
	home       string
	registries []string // host:port
	image      string   // reference of a small image in the first
	env        []string

	embedded *vmcore.Runtime // this process has the home; nil: a daemon has it

	mu      sync.Mutex
	qemus   map[proc.ID]string // guarded by mu; every QEMU that was seen, and its box
	owners  map[int]bool       // guarded by mu; pids that the engine may have named a control group after
	fronts  []*front           // guarded by mu
	unclean bool               // guarded by mu; nothing is audited: the test says why
}

// busyboxRegistry serves the small image to all tests of the process.
var busyboxRegistry = sync.OnceValue(func() *registry { return newRegistry() })

// newWorld returns a world with an empty home.
func newWorld(t testing.TB) *world {
	t.Helper()
	return newWorldAt(t, filepath.Join(tempDir(t), "home"))
}

func newWorldAt(t testing.TB, home string) *world {
	t.Helper()
	bin, reg := testbin.All(t), busyboxRegistry()
	w := &world{t: t, bin: bin, home: home, registries: []string{reg.host}, image: reg.image,
		owners: map[int]bool{}, qemus: map[proc.ID]string{}}
	w.env = []string{"PATH=/usr/bin:/bin", "HOME=" + filepath.Dir(home)}
	if engine := os.Getenv("BOXLITE_ENGINE"); engine != "" { // the same tests on another engine
		w.env = append(w.env, "BOXLITE_ENGINE="+engine)
	}
	t.Cleanup(w.close)
	return w
}

// tempDir is t.TempDir with a path that is the same for the kernel.
func tempDir(t testing.TB) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// close removes every box, ends every process, and audits what is left.
func (w *world) close() {
	w.mu.Lock()
	fronts, unclean := w.fronts, w.unclean
	w.mu.Unlock()
	for _, f := range fronts {
		f.close()
	}
	if !unclean && w.embedded == nil {
		if boxes, err := w.boxes(); err != nil {
			w.t.Error("list boxes at the end:", err)
		} else {
			for _, b := range boxes {
				if _, err := w.cli("rm", "-f", string(b.ID)); err != nil {
					w.t.Errorf("remove box %s at the end: %v", b.ID, err)
				}
			}
		}
	}
	if w.t.Failed() {
		w.showLogs()
	}
	w.endDaemon()
	if !unclean {
		w.audit(nil)
	}
	for _, p := range w.processes() { // whatever was found above, leave the host as it was
		if err := p.id.Kill(5 * time.Second); err != nil {
			w.t.Errorf("kill %v: %v", p.args, err)
		}
	}
}

// showLogs prints the ends of the logs in the home.
func (w *world) showLogs() {
	logs, _ := filepath.Glob(filepath.Join(w.home, "boxes", "*", "log", "*.log"))
	for _, path := range append(logs, filepath.Join(w.home, "daemon.log")) {
		data, err := os.ReadFile(path)
		if err == nil && len(data) > 0 {
			w.t.Logf("%s:\n%s", strings.TrimPrefix(path, w.home), data[max(0, len(data)-4000):])
		}
	}
}

// endDaemon asks the home's daemon to leave, if there is one, and waits.
func (w *world) endDaemon() {
	for _, p := range w.processes() {
		if p.role != "daemon" {
			continue
		}
		if err := syscall.Kill(p.id.PID, syscall.SIGTERM); err != nil {
			continue
		}
		if !eventually(15*time.Second, func() bool { return !p.id.Alive() }) {
			w.t.Errorf("the daemon, process %d, does not leave", p.id.PID)
		}
	}
}

// A process is one that serves the home: its arguments name it.
type process struct {
	id   proc.ID
	role string // "daemon", "shim", "sandbox" (whatever the machine is), or "client" for front ends and the command line
	box  string // of shims and sandboxes
	args []string
}

// processes returns the processes of the home.
func (w *world) processes() []process {
	var all []process
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		var pid int
		if _, err := fmt.Sscanf(e.Name(), "%d", &pid); err != nil || pid == os.Getpid() {
			continue
		}
		line, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if err != nil || !bytes.Contains(line, []byte(w.home)) {
			continue
		}
		id, err := proc.Of(pid)
		if err != nil {
			continue // it has just ended
		}
		p := process{id: id, args: strings.Split(strings.TrimSuffix(string(line), "\x00"), "\x00")}
		p.role, p.box = w.roleOf(p.args)
		if p.role != "" {
			all = append(all, p)
		}
	}
	w.note(all)
	return append(all, w.virtualMachines(all)...)
}

// virtualMachines returns the processes that are virtual machines: children of
// the shims, which know no path of the home, and such as were seen before.
func (w *world) virtualMachines(all []process) []process {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range all {
		if p.role != "shim" {
			continue
		}
		for _, pid := range childrenOf(p.id.PID) {
			if id, err := proc.Of(pid); err == nil {
				w.qemus[id] = p.box
			}
		}
	}
	var found []process
	for id, box := range w.qemus {
		line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", id.PID))
		args := strings.Split(strings.TrimSuffix(string(line), "\x00"), "\x00")
		name := filepath.Base(args[0])
		if err == nil && id.Alive() && (name == "boxlite-jail" || strings.HasPrefix(name, "qemu-system-")) {
			found = append(found, process{id: id, role: "sandbox", box: box, args: args})
		}
	}
	return found
}

// childrenOf returns the processes that a process has started.
func childrenOf(pid int) []int {
	var all []int
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, list := range lists {
		data, _ := os.ReadFile(list)
		for field := range strings.FieldsSeq(string(data)) {
			if child, err := strconv.Atoi(field); err == nil {
				all = append(all, child)
			}
		}
	}
	return all
}

func (w *world) roleOf(args []string) (role, box string) {
	if len(args) < 2 {
		return "", ""
	}
	boxes := filepath.Join(w.home, "boxes") + "/"
	switch name := filepath.Base(args[0]); {
	case name == "boxlite-mcp" && args[1] == "shim":
		return "shim", strings.TrimPrefix(args[2], boxes)
	case name == "boxlite-mcp" && args[1] == "daemon":
		return "daemon", ""
	case name == "boxlite-mcp":
		return "client", ""
	case name == "boxlite-sandbox":
		for _, arg := range args {
			if _, dir, ok := strings.Cut(arg, boxes); ok {
				box, _, _ = strings.Cut(dir, "/")
			}
		}
		return "sandbox", box
	}
	return "", ""
}

// note remembers what may be left of the processes when they have ended. All
// that runs in a machine ends with its first process: the kernel sees to that.
func (w *world) note(all []process) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range all {
		w.owners[p.id.PID] = true
	}
}

// find returns the processes of a role, of one box unless that is "".
func (w *world) find(role, box string) []process {
	var found []process
	for _, p := range w.processes() {
		if p.role == role && (box == "" || p.box == box) {
			found = append(found, p)
		}
	}
	return found
}

// daemon returns the home's daemon; there is exactly one.
func (w *world) daemon() process {
	w.t.Helper()
	all := w.find("daemon", "")
	if len(all) != 1 {
		w.t.Fatalf("%d daemons: %v", len(all), all)
	}
	return all[0]
}

// kill ends a process as a crash would, and waits until it is gone.
func (w *world) kill(p process) {
	w.t.Helper()
	if err := p.id.Kill(10 * time.Second); err != nil {
		w.t.Fatalf("kill %v: %v", p.args, err)
	}
}

// audit expects that of all boxes only those in kept have anything on this
// host, and that what is in the home is somebody's. What is only on its way out
// gets a moment.
func (w *world) audit(kept []string) {
	w.t.Helper()
	var problems []string
	if !eventually(10*time.Second, func() bool {
		problems = w.leftovers(kept)
		return len(problems) == 0
	}) {
		w.t.Errorf("left over:\n\t%s", strings.Join(problems, "\n\t"))
	}
}

func (w *world) leftovers(kept []string) (problems []string) {
	seen := map[string]int{}
	for _, p := range w.processes() {
		if p.box != "" && !slices.Contains(kept, p.box) || p.role == "sandbox" && p.box == "" {
			problems = append(problems, fmt.Sprintf("process %d: %s", p.id.PID, strings.Join(p.args, " ")))
		}
		if p.role != "client" {
			seen[p.role+" "+p.box]++
		}
	}
	if n := seen["daemon "]; n > 1 {
		problems = append(problems, fmt.Sprintf("%d daemons", n))
	}
	for _, box := range kept {
		if n := seen["shim "+box]; n > 1 {
			problems = append(problems, fmt.Sprintf("%d shims of box %s", n, box))
		}
	}
	problems = append(problems, w.files(kept)...)
	problems = append(problems, w.mounts()...)
	return append(problems, w.groups(kept)...)
}

// files returns what is in the home and is nobody's.
func (w *world) files(kept []string) (problems []string) {
	for _, dir := range []string{"boxes", "images/tmp", "images/partial"} {
		entries, err := os.ReadDir(filepath.Join(w.home, dir))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			problems = append(problems, err.Error())
		}
		for _, e := range entries {
			if dir != "boxes" || !slices.Contains(kept, e.Name()) {
				problems = append(problems, filepath.Join(dir, e.Name()))
			}
		}
	}
	daemons := w.find("daemon", "")
	err := filepath.WalkDir(w.home, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Type()&fs.ModeSocket == 0 {
			return err
		}
		switch rel, _ := filepath.Rel(w.home, path); {
		case rel == "daemon.sock" && len(daemons) == 1:
		case filepath.Base(rel) == "shim.sock" && slices.Contains(kept, filepath.Base(filepath.Dir(rel))):
		default:
			problems = append(problems, "socket "+rel)
		}
		return nil
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		problems = append(problems, err.Error())
	}
	return problems
}

// mounts returns the mounts of this namespace that are about the home.
func (w *world) mounts() (problems []string) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return []string{err.Error()}
	}
	escaped := strings.ReplaceAll(w.home, " ", `\040`)
	for line := range strings.Lines(string(data)) {
		if fields := strings.Fields(line); len(fields) > 4 && strings.HasPrefix(fields[4], escaped+"/") {
			problems = append(problems, "mount "+strings.TrimSpace(line))
		}
	}
	return problems
}

// groups returns control groups that were made for a machine of the home and
// are not needed.
func (w *world) groups(kept []string) (problems []string) {
	needed := map[string]bool{}
	for _, p := range w.find("shim", "") {
		if slices.Contains(kept, p.box) {
			needed[fmt.Sprint(p.id.PID)] = true
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, dir := range controlGroups() {
		parts := strings.Split(filepath.Base(dir), "-") // boxlite-NAMESPACE-PID-START-MACHINE
		if len(parts) != 5 || needed[parts[2]] {
			continue
		}
		for owner := range w.owners {
			if parts[2] == fmt.Sprint(owner) {
				problems = append(problems, "control group "+dir)
			}
		}
	}
	return problems
}

// controlGroups returns the directories of all machines' control groups, of
// whatever home.
func controlGroups() []string {
	var all []string
	for _, depth := range []string{"*", "*/*", "*/*/*", "*/*/*/*"} {
		found, _ := filepath.Glob("/sys/fs/cgroup/" + depth + "/boxlite-*")
		all = append(all, found...)
	}
	top, _ := filepath.Glob("/sys/fs/cgroup/boxlite-*")
	return append(all, top...)
}

// eventually reports whether fn becomes true within a time.
func eventually(limit time.Duration, fn func() bool) bool {
	for end, pause := time.Now().Add(limit), 2*time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		if fn() {
			return true
		}
		if time.Now().After(end) {
			return false
		}
		time.Sleep(pause)
	}
}

// command returns a command line of the program, as a person types it.
func (w *world) command(args ...string) *exec.Cmd {
	return w.commandOf(filepath.Join(w.bin, "boxlite-mcp"), args...)
}

func (w *world) commandOf(program string, args ...string) *exec.Cmd {
	line := []string{args[0], "--home", w.home}
	for _, host := range w.registries {
		line = append(line, "--registry", "http://"+host)
	}
	cmd := exec.Command(program, append(line, args[1:]...)...)
	cmd.Env = w.env
	return cmd
}

// A cliError is how a command line failed.
type cliError struct {
	code   int
	stderr string
}

func (e *cliError) Error() string { return fmt.Sprintf("exit code %d: %s", e.code, e.stderr) }

// cli runs the program and returns its standard output.
func (w *world) cli(args ...string) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd := w.command(args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	timer := time.AfterFunc(2*time.Minute, func() { _ = cmd.Process.Kill() })
	if err := cmd.Start(); err != nil {
		timer.Stop()
		return "", err
	}
	err := cmd.Wait()
	timer.Stop()
	if err != nil {
		return stdout.String(), &cliError{cmd.ProcessState.ExitCode(), stderr.String()}
	}
	return stdout.String(), nil
}

// must is cli where failure ends the test.
func (w *world) must(args ...string) string {
	w.t.Helper()
	out, err := w.cli(args...)
	if err != nil {
		w.t.Fatalf("boxlite-mcp %s: %v", strings.Join(args, " "), err)
	}
	return out
}

// boxes returns all boxes of the home, as the operator sees them.
func (w *world) boxes() ([]boxlite.BoxInfo, error) {
	var list []boxlite.BoxInfo
	out, err := w.cli("ps", "-a", "--json")
	if err == nil {
		err = json.Unmarshal([]byte(out), &list)
	}
	return list, err
}

// inspect returns a box as the operator sees it; ok is false if there is none.
func (w *world) inspect(ref string) (d boxlite.BoxDetails, ok bool) {
	w.t.Helper()
	out, err := w.cli("inspect", "--json", ref)
	var failed *cliError
	if errors.As(err, &failed) && failed.code == 3 {
		return d, false
	}
	if err == nil {
		err = json.Unmarshal([]byte(out), &d)
	}
	if err != nil {
		w.t.Fatalf("inspect %s: %v", ref, err)
	}
	return d, true
}

// box returns a box that must be there.
func (w *world) box(ref string) boxlite.BoxDetails {
	w.t.Helper()
	d, ok := w.inspect(ref)
	if !ok {
		w.t.Fatalf("box %s is not there", ref)
	}
	return d
}

// within returns a context for a step of a test.
func within(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}
