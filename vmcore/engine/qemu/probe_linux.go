package qemu

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/agent/vmboot"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/engine"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/engine/probe"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/engine/vm"
)

// kvmProbeTime bounds the trial boot with KVM: some hosts have a /dev/kvm with
// which ordinary kernels hang.
const kvmProbeTime = 10 * time.Second

// Probe implements [engine.Engine]. It boots a machine whose base is an empty
// file system, and has it and this process do the same work.
func (e *Engine) Probe(ctx context.Context) engine.Report {
	r := engine.Report{Isolation: isolationOf(e.opts.Accel), RealKernel: true, Rootless: os.Geteuid() != 0,
		HardMemoryLimit: true, HardCPULimit: true, CrashLoss: crashLoss}
	if err := e.check(); err != nil {
		r.Reason, r.Hint = e.explain(err)
		return r
	}
	r.Version = e.version(ctx)
	if e.opts.Accel == KVM {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, kvmProbeTime)
		defer cancel()
	}
	if err := e.tryOut(ctx, &r); err != nil {
		r.Reason, r.Hint = e.explain(err)
		return r
	}
	r.Usable = true
	if e.opts.Accel == TCG {
		r.Reason = fmt.Sprintf("machines are emulated: a program takes about %.0f times as long as on the host", r.CPUFactor)
		r.Hint = "Use a host with KVM for virtual machines at full speed, or engine gvisor."
	}
	return r
}

// The reasons for which a host has no KVM.
var (
	errNoKVM  = errors.New("this host has no /dev/kvm")
	errNoVirt = errors.New("this host's CPU shows no hardware virtualisation (vmx or svm), so that its /dev/kvm boots no ordinary kernel")
)

// check sees whether what a machine is made of is there.
func (e *Engine) check() error {
	if e.opts.Accel == KVM {
		if _, err := os.Stat(kvmDevice); err != nil {
			return errNoKVM
		}
		f, err := os.OpenFile(kvmDevice, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		f.Close()
		if info, err := os.ReadFile("/proc/cpuinfo"); err == nil && vm.Architecture() == "x86_64" && !hasFlag(string(info), "vmx", "svm") {
			return errNoVirt
		}
	}
	if _, err := e.program(); err != nil {
		return err
	}
	if _, err := vm.FindKernel(e.opts.Kernels...); err != nil {
		return err
	}
	if _, err := vm.Mke2fs(); err != nil {
		return err
	}
	return probe.CheckPrograms(e.opts.Jail, e.opts.Agent)
}

// hasFlag reports whether /proc/cpuinfo's flags have one of the names.
func hasFlag(cpuinfo string, names ...string) bool {
	for line := range strings.Lines(cpuinfo) {
		if key, list, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "flags" {
			flags := strings.Fields(list)
			return slices.ContainsFunc(names, func(name string) bool { return slices.Contains(flags, name) })
		}
	}
	return false
}

// version returns QEMU's.
func (e *Engine) version(ctx context.Context) string {
	out, err := exec.CommandContext(ctx, e.opts.Program, "-version").Output()
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return strings.TrimPrefix(strings.TrimSpace(line), "QEMU emulator version ")
}

// tryOut boots a machine, sees that its agent answers and measures it.
func (e *Engine) tryOut(ctx context.Context, r *engine.Report) error {
	spec, remove, err := probe.Spec(e.opts.Agent)
	if err != nil {
		return err
	}
	defer remove()
	spec.Memory, spec.DiskSize = 128*boxlite.MiB, 16*boxlite.MiB
	begin := time.Now()
	m, err := e.start(ctx, spec)
	if err != nil {
		return err
	}
	defer func() {
		m.Kill()
		<-m.Done()
	}()
	if err := probe.AwaitAgent(ctx, m); err != nil {
		return fmt.Errorf("%w\n%s", err, lastWords(m.console, 5))
	}
	r.Start = time.Since(begin)
	r.CPUFactor, err = m.cpuFactor(ctx)
	return err
}

// cpuFactor measures how many times longer than the host the machine takes for
// the same work.
func (m *machine) cpuFactor(ctx context.Context) (float64, error) {
	const rounds = 2000 // a few milliseconds
	begin := time.Now()
	vmboot.Work(rounds)
	host := time.Since(begin)
	answer, err := m.channel.Do(ctx, vmboot.CmdWork, rounds)
	if err != nil {
		return 0, err
	}
	ns, err := strconv.ParseInt(answer, 10, 64)
	if err != nil || ns <= 0 {
		return 0, fmt.Errorf("the machine says that work took it %.20q", answer)
	}
	factor := float64(ns) / float64(host)
	return min(max(factor, 1), 100), nil
}

// explain returns why the engine is not usable and what to do about it.
func (e *Engine) explain(err error) (reason, hint string) {
	reason = strings.Join(strings.Fields(err.Error()), " ")
	switch {
	case errors.Is(err, errNoKVM), errors.Is(err, errNoVirt):
		return reason, "Turn on virtualisation in the firmware, or nested virtualisation for this virtual machine; or use engine gvisor or qemu-tcg."
	case errors.Is(err, vm.ErrNoKernel):
		return reason, "Run: apt-get install linux-image-cloud-amd64, or, to leave the boot menu of this host alone, scripts/guest-kernel DIR with DIR the directory guest beside boxlite-mcp."
	case errors.Is(err, fs.ErrNotExist) && strings.Contains(reason, "mke2fs"):
		return reason, "Run: apt-get install e2fsprogs."
	case errors.Is(err, fs.ErrNotExist) && strings.Contains(reason, "qemu-system"):
		return reason, "Run: apt-get install --no-install-recommends qemu-system-x86 (or qemu-system-arm)."
	case errors.Is(err, fs.ErrNotExist):
		return reason, "Install boxlite-jail and boxlite-agent beside boxlite-mcp, or build them with make build."
	case errors.Is(err, fs.ErrPermission) && strings.Contains(reason, kvmDevice):
		return reason, "Become a member of group kvm: usermod -aG kvm USER, and log in again."
	case errors.Is(err, syscall.EPERM), errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EUSERS), errors.Is(err, syscall.EINVAL):
		return "user namespaces are not allowed here: " + reason, "Allow user namespaces, or run as root."
	case errors.Is(err, context.DeadlineExceeded):
		return "a trial machine did not answer in time: " + reason, "Try again on a less busy host, or look into its console."
	}
	return reason, "Look into the machine's console, above."
}
