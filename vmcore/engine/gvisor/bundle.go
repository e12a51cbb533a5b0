package gvisor

import (
	"fmt"

	"github.com/boxlite-mcp/boxlite-mcp/vmcore/engine"
)

// controlFD is the descriptor of the control stream in the agent.
const controlFD = 3

// bundle is the part of an OCI runtime configuration that a machine needs.
type bundle struct {
	Version  string        `json:"ociVersion"`
	Process  bundleProcess `json:"process"`
	Root     bundleRoot    `json:"root"`
	Hostname string        `json:"hostname,omitempty"`
	Mounts   []bundleMount `json:"mounts"`
	Linux    struct{}      `json:"linux"`
}

type bundleProcess struct {
	User         struct{}            `json:"user"` // root
	Args         []string            `json:"args"`
	Env          []string            `json:"env"`
	Cwd          string              `json:"cwd"`
	Capabilities map[string][]string `json:"capabilities"`
	Rlimits      []bundleRlimit      `json:"rlimits"`
}

type bundleRoot struct {
	Path string `json:"path"`
}

type bundleMount struct {
	Destination string   `json:"destination"`
	Type        string   `json:"type"`
	Source      string   `json:"source"`
	Options     []string `json:"options,omitempty"`
}

type bundleRlimit struct {
	Type string `json:"type"`
	Hard uint64 `json:"hard"`
	Soft uint64 `json:"soft"`
}

// newBundle returns the configuration whose init is the agent.
func newBundle(spec engine.MachineSpec) bundle {
	caps := map[string][]string{}
	for _, set := range []string{"bounding", "effective", "inheritable", "permitted"} {
		caps[set] = allCapabilities
	}
	return bundle{
		Version: "1.0.2",
		Process: bundleProcess{
			Args:         []string{"boxlite-agent", "serve", "--fd", fmt.Sprint(controlFD)},
			Env:          []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
			Cwd:          "/",
			Capabilities: caps,
			Rlimits:      []bundleRlimit{{Type: "RLIMIT_NOFILE", Hard: 1 << 20, Soft: 1 << 16}},
		},
		Root:     bundleRoot{Path: "/nonexistent"}, // the root is a descriptor
		Hostname: spec.Hostname,
		Mounts: []bundleMount{
			{"/proc", "proc", "proc", nil},
			{"/dev", "tmpfs", "tmpfs", []string{"nosuid", "mode=755"}},
			{"/dev/pts", "devpts", "devpts", []string{"nosuid", "noexec"}},
			{"/dev/shm", "tmpfs", "shm", []string{"nosuid", "nodev", "mode=1777", fmt.Sprintf("size=%d", max(spec.Memory/2, 1<<20))}},
			{"/sys", "sysfs", "sysfs", []string{"nosuid", "noexec", "nodev", "ro"}},
			{"/sys/fs/cgroup", "cgroup", "cgroup", []string{"nosuid", "noexec", "nodev"}},
		},
	}
}

// allCapabilities are those of the agent. What runs for the box has fewer: that
// is the agent's work. All of them end at gVisor's kernel.
var allCapabilities = []string{
	"CAP_AUDIT_CONTROL", "CAP_AUDIT_READ", "CAP_AUDIT_WRITE", "CAP_BLOCK_SUSPEND", "CAP_CHOWN", "CAP_DAC_OVERRIDE",
	"CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_KILL", "CAP_LEASE",
	"CAP_LINUX_IMMUTABLE", "CAP_MAC_ADMIN", "CAP_MAC_OVERRIDE", "CAP_MKNOD", "CAP_NET_ADMIN", "CAP_NET_BIND_SERVICE",
	"CAP_NET_BROADCAST", "CAP_NET_RAW", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYSLOG",
	"CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_CHROOT", "CAP_SYS_MODULE", "CAP_SYS_NICE", "CAP_SYS_PACCT",
	"CAP_SYS_PTRACE", "CAP_SYS_RAWIO", "CAP_SYS_RESOURCE", "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_WAKE_ALARM",
}
