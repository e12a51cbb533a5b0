package cli // the checks are not exported; they are given other files to look at

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func fixture(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestCgroupCheck(t *testing.T) {
	for _, tt := range []struct {
		name  string
		files map[string]string
		ok    bool
		says  string
	}{
		{"none", nil, false, "no memory controller"},
		{"v1", map[string]string{"self": "9:memory:/me\n0::/\n", "memory/me/memory.limit_in_bytes": "1"}, true, "version 1"},
		{"v1-container", map[string]string{"self": "9:memory:/host/path\n", "memory/memory.limit_in_bytes": "1"}, true, "version 1"},
		{"v2", map[string]string{"self": "0::/me\n", "cgroup.controllers": "cpu", "me/cgroup.controllers": "cpuset cpu io memory pids\n", "me/cgroup.procs": ""}, true, "version 2"},
		{"v2-not-delegated", map[string]string{"self": "0::/me\n", "cgroup.controllers": "cpu", "me/cgroup.controllers": "pids\n", "me/cgroup.procs": ""}, false, "without cpu, memory"},
	} {
		dir := fixture(t, tt.files)
		c := cgroupCheck(dir, filepath.Join(dir, "self"))
		if c.OK != tt.ok || !c.Optional || !strings.Contains(c.Detail, tt.says) || c.Hint == "" {
			t.Errorf("%s: %+v; want ok %v and %q", tt.name, c, tt.ok, tt.says)
		}
	}
}

func TestKVMCheckWantsMoreThanAFile(t *testing.T) {
	dir := fixture(t, map[string]string{"kvm": "", "vmx": "flags\t: fpu vmx sse\n", "none": "flags\t: fpu sse\n", "arm": "Features\t: fp\n"})
	if c := kvmCheck(filepath.Join(dir, "absent"), "/proc/cpuinfo"); c.OK || !c.Optional || !strings.Contains(c.Detail, "application kernel") {
		t.Errorf("without a device: %+v", c)
	}
	if c := kvmCheck(filepath.Join(dir, "kvm"), "/proc/cpuinfo"); c.OK || !strings.Contains(c.Detail, "does not answer") {
		t.Errorf("with a plain file: %+v", c)
	}
	for name, want := range map[string]bool{"vmx": true, "none": false, "arm": true} {
		if got := hardwareVirtualisation(filepath.Join(dir, name)); got != want {
			t.Errorf("hardwareVirtualisation(%s) = %v, want %v", name, got, want)
		}
	}
}

func TestPtraceCheck(t *testing.T) {
	dir := fixture(t, map[string]string{"0": "0\n", "1": "1\n", "2": "2\n", "3": "3\n"})
	for _, tt := range []struct {
		scope string
		root  bool
		ok    bool
	}{{"absent", false, true}, {"0", false, true}, {"1", false, true}, {"2", false, false}, {"2", true, true}, {"3", true, false}} {
		if c := ptraceCheck(filepath.Join(dir, tt.scope), tt.root); c.OK != tt.ok || c.Detail == "" {
			t.Errorf("scope %s, root %v: %+v; want ok %v", tt.scope, tt.root, c, tt.ok)
		}
	}
}

func TestDoctorFailsOnlyForWhatBoxesNeed(t *testing.T) {
	if err := verdict([]Check{{OK: true}, {Optional: true}}); err != nil {
		t.Errorf("verdict with a note: %v", err)
	}
	if err := verdict([]Check{{OK: true}, {}}); err == nil {
		t.Error("verdict with a failure: nil")
	}
	if c := diskCheck("/proc"); c.OK {
		t.Errorf("no room in /proc: %+v", c)
	}
	if c := diskCheck(filepath.Join(t.TempDir(), "not", "there", "yet")); c.Detail == "" || strings.Contains(c.Detail, "no such file") {
		t.Errorf("a home that is not there yet: %+v", c)
	}
}
