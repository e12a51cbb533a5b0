package gvisor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/boxlite-mcp/boxlite-mcp/vmcore/engine"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/engine/probe"
)

// Probe implements [engine.Engine]. Its program is the agent, in a machine
// whose base is an empty file system: that the agent takes up its stream shows
// that a sandbox boots and runs what it is given.
func (e *Engine) Probe(ctx context.Context) engine.Report {
	r := engine.Report{Isolation: engine.UserKernel, Rootless: os.Geteuid() != 0, DiskSnapshot: false, CrashLoss: crashLoss}
	r.Version = e.version(ctx)
	begin := time.Now()
	if err := e.tryOut(ctx); err != nil {
		r.Reason, r.Hint = explain(err)
		return r
	}
	r.Usable, r.Start = true, time.Since(begin)
	if !e.opts.NoCgroups {
		e.Sweep()
		r.HardMemoryLimit, r.HardCPULimit = hostLimits()
	}
	if !r.HardMemoryLimit {
		r.Overshoot = watchdogOvershoot
		r.Reason = "no control group can be made here: a watchdog holds the memory limit"
		r.Hint = "Run as root, or in a systemd unit with Delegate=yes, for hard limits."
	}
	return r
}

// version asks the helper for the version of the gVisor in it.
func (e *Engine) version(ctx context.Context) string {
	out, err := exec.CommandContext(ctx, e.opts.Sandbox, "version").Output()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(out))
}

// tryOut boots a machine and sees that its agent answers.
func (e *Engine) tryOut(ctx context.Context) (err error) {
	if err := probe.CheckPrograms(e.opts.Sandbox, e.opts.Agent); err != nil {
		return err
	}
	spec, remove, err := probe.Spec(e.opts.Agent)
	if err != nil {
		return err
	}
	defer remove()
	m, err := e.start(ctx, spec)
	if err != nil {
		return err
	}
	defer func() {
		m.Kill()
		<-m.Done()
	}()
	if err := probe.AwaitAgent(ctx, m); err != nil {
		return orContext(ctx, fmt.Errorf("%w\n%s", err, m.console.Lines(5)))
	}
	return nil
}

// explain returns why the engine is not usable and what to do about it.
func explain(err error) (reason, hint string) {
	reason = oneLine(err.Error())
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return reason, "Install boxlite-sandbox and boxlite-agent beside boxlite-mcp, or build them with make build."
	case errors.Is(err, syscall.EACCES):
		return reason, "Let everybody read and execute boxlite-sandbox (chmod 755): it runs as nobody."
	case errors.Is(err, syscall.EPERM), errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EUSERS), errors.Is(err, syscall.EINVAL):
		return "user namespaces are not allowed here: " + reason, userNamespaceHint()
	case errors.Is(err, context.DeadlineExceeded):
		return "a trial machine did not answer in time", "Try again on a less busy host, or look into its log."
	case strings.Contains(reason, "ptrace"):
		return reason, "Allow ptrace: sysctl kernel.yama.ptrace_scope must be less than 3."
	}
	return reason, "Start a box with debug logs to see more."
}

// userNamespaceHint names the setting that forbids user namespaces.
func userNamespaceHint() string {
	read := func(path string) string {
		data, err := os.ReadFile(path)
		if err != nil {
			return ""
		}
		return strings.TrimSpace(string(data))
	}
	switch {
	case read("/proc/sys/kernel/unprivileged_userns_clone") == "0":
		return "Run: sysctl kernel.unprivileged_userns_clone=1."
	case read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1":
		return "Run: sysctl kernel.apparmor_restrict_unprivileged_userns=0, or give boxlite-sandbox an AppArmor profile that allows userns."
	case read("/proc/sys/user/max_user_namespaces") == "0":
		return "Run: sysctl user.max_user_namespaces=10000."
	}
	return "Allow user namespaces, or run as root; in a container, run it with --security-opt seccomp=unconfined."
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
