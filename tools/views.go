package tools

import (
	"fmt"
	"maps"
	"sort"
	"strings"
	"time"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
)

// A boxView is a box as programs are told of it.
type boxView struct {
	BoxID      string            `json:"box_id"`
	Name       string            `json:"name,omitempty"`
	Status     string            `json:"status"`
	Phase      string            `json:"phase,omitempty"`
	Reason     string            `json:"reason,omitempty"`
	Image      string            `json:"image"`
	CPUs       int               `json:"cpus"`
	MemoryMiB  int               `json:"memory_mib"`
	DiskSizeGB int               `json:"disk_size_gb"`
	Isolation  string            `json:"isolation,omitempty"`
	Limits     string            `json:"limits,omitempty"`
	Network    string            `json:"network"`
	Secrets    []string          `json:"secrets,omitempty"`
	Labels     map[string]string `json:"labels,omitempty"`
	CreatedAt  time.Time         `json:"created_at"`
	ExpiresAt  *time.Time        `json:"expires_at,omitempty"`
}

func viewBox(b boxlite.BoxInfo) boxView {
	v := boxView{
		BoxID: string(b.ID), Name: oneLine(b.Name, 80), Status: string(b.Status),
		Phase: oneLine(b.Phase, 120), Reason: oneLine(b.Reason, 300),
		Image: oneLine(b.Image, 300), CPUs: b.CPUs, MemoryMiB: b.MemoryMiB, DiskSizeGB: b.DiskSizeGB,
		Isolation: b.Isolation, Limits: oneLine(b.Limits, 300),
		Network: viewNetwork(b.Network), Secrets: b.Secrets,
		CreatedAt: b.CreatedAt, ExpiresAt: b.ExpiresAt,
	}
	if len(b.Labels) > 0 {
		v.Labels = make(map[string]string, len(b.Labels))
		for k, val := range b.Labels {
			v.Labels[oneLine(k, 200)] = oneLine(val, 200)
		}
	}
	return v
}

// viewNetwork returns what a box may reach: "disabled", "public Internet", or
// the entries of its list.
func viewNetwork(n boxlite.NetworkSpec) string {
	switch {
	case !n.Enabled:
		return "disabled"
	case len(n.AllowNet) == 0:
		return "public Internet"
	}
	return oneLine(strings.Join(n.AllowNet, ", "), 500)
}

// brief returns the box as one of many in a list: with only its first labels,
// because a box may have 64 KiB of them.
func (v boxView) brief() boxView {
	const most = 8
	keys := sortedKeys(v.Labels)
	if len(keys) > most {
		v.Labels = maps.Clone(v.Labels)
		for _, k := range keys[most:] {
			delete(v.Labels, k)
		}
	}
	for k, val := range v.Labels {
		v.Labels[k] = oneLine(val, 80)
	}
	v.Reason, v.Limits, v.Network = oneLine(v.Reason, 100), "", oneLine(v.Network, 100)
	return v
}

// line returns a box on one line: id, name, status, image, size.
func (v boxView) line() string {
	var b strings.Builder
	b.WriteString(v.BoxID)
	if v.Name != "" {
		b.WriteString(" " + quoteText(v.Name, 80))
	}
	b.WriteString(" " + v.Status)
	if v.Phase != "" {
		b.WriteString(", " + v.Phase)
	}
	if v.Reason != "" {
		b.WriteString(", reason " + quoteText(v.Reason, 300))
	}
	fmt.Fprintf(&b, ", image %s, %d CPUs, %d MiB memory", quoteText(v.Image, 300), v.CPUs, v.MemoryMiB)
	if v.Isolation != "" {
		b.WriteString(", " + v.Isolation)
	}
	if v.Limits != "" {
		b.WriteString(", limits: " + v.Limits)
	}
	b.WriteString(", network: " + v.Network)
	if len(v.Secrets) > 0 {
		b.WriteString(", secrets: " + strings.Join(v.Secrets, ", "))
	}
	if v.ExpiresAt != nil {
		b.WriteString(", removed at " + v.ExpiresAt.UTC().Format(time.RFC3339))
	}
	for _, k := range sortedKeys(v.Labels) {
		b.WriteString(", " + quoteText(k+"="+v.Labels[k], 200))
	}
	return b.String()
}

// ref returns how the model had best refer to the box.
func (v boxView) ref() string {
	if v.Name != "" {
		return v.Name
	}
	return v.BoxID
}

func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}

// An execView is an execution as programs are told of it.
type execView struct {
	ExecID    string    `json:"exec_id"`
	Command   string    `json:"command"`
	Status    string    `json:"status"`
	ExitCode  *int      `json:"exit_code,omitempty"`
	StartedAt time.Time `json:"started_at"`
	StdoutEnd int64     `json:"stdout_end"`
	StderrEnd int64     `json:"stderr_end"`
}

func viewExec(e boxlite.ExecInfo) execView {
	v := execView{
		ExecID: string(e.ID), Command: oneLine(commandLine(e.Args), 200), Status: "running",
		StartedAt: e.Started, StdoutEnd: e.StdoutEnd, StderrEnd: e.StderrEnd,
	}
	if !e.Running && e.Result != nil {
		v.Status, v.ExitCode = "exited", &e.Result.ExitCode
	}
	return v
}

// commandLine returns what was run, as a person would write it.
func commandLine(args []string) string {
	if len(args) == 3 && args[0] == "/bin/sh" && args[1] == "-c" {
		return args[2]
	}
	return strings.Join(args, " ")
}

// outcome says how a command stands, after "the command": "is still running",
// "exited with code 0 after 0.12 s". The fields of [execResult] repeat it.
func outcome(e boxlite.ExecInfo) string {
	if e.Running || e.Result == nil {
		return "is still running"
	}
	r := *e.Result
	took := " after " + seconds(r.Duration)
	var s string
	switch {
	case r.Lost != "":
		s = "was lost" + took + ": " + oneLine(r.Lost, 300)
	case r.TimedOut:
		s = "timed out" + took + " and was ended with everything it had started"
	case r.OOM:
		s = "was ended" + took + " for want of memory"
	case r.Signal != 0:
		s = fmt.Sprintf("was ended by signal %d%s", r.Signal, took)
	default:
		return fmt.Sprintf("exited with code %d%s", r.ExitCode, took)
	}
	return fmt.Sprintf("%s (exit code %d)", s, r.ExitCode)
}

// seconds returns d as "0.12 s", "12 s" or "95 s".
func seconds(d time.Duration) string {
	if d < 10*time.Second {
		return fmt.Sprintf("%.2f s", d.Seconds())
	}
	return fmt.Sprintf("%.0f s", d.Seconds())
}
