package qemu

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/agent/vmboot"
	"github.com/boxlite-mcp/boxlite-mcp/internal/jail"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/engine"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/engine/child"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/engine/vm"
)

// program returns the path of QEMU.
func (e *Engine) program() (string, error) {
	if e.opts.Program == "" {
		return "", fmt.Errorf("%s is not installed: %w", programName(), os.ErrNotExist)
	}
	return e.opts.Program, nil
}

// A commandLine is QEMU's, with the descriptors that it names.
type commandLine struct {
	files    []*os.File // descriptor 3 and on
	args     []string
	readOnly map[int]string // descriptors of files that other machines use, too, and their paths
}

// give makes f one of QEMU's descriptors and returns its number there.
func (c *commandLine) give(f *os.File) string {
	c.files = append(c.files, f)
	return strconv.Itoa(len(c.files) + 2)
}

// giveShared is give for a file that other machines use, too.
func (c *commandLine) giveShared(f *os.File) string {
	c.readOnly[len(c.files)+3] = f.Name()
	return c.give(f)
}

func (c *commandLine) add(args ...string) { c.args = append(c.args, args...) }

// files are what a machine is made of.
type files struct {
	kernel, initramfs *os.File
	base, layer       *os.File
	control, channel  *os.File // sockets
	monitor           *os.File // a socket
	nic               *os.File // a socket, nil: none
}

// newCommandLine returns what QEMU is started with.
func newCommandLine(accel Accel, spec engine.MachineSpec, f files) *commandLine {
	c := &commandLine{readOnly: map[int]string{}}
	c.add("-name", "boxlite-"+string(spec.ID), "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny")
	c.machine(accel, spec)
	c.add("-kernel", "/proc/self/fd/"+c.giveShared(f.kernel), "-initrd", "/proc/self/fd/"+c.giveShared(f.initramfs),
		"-append", kernelArguments(accel, spec))
	c.add("-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console")
	c.add("-chardev", "socket,id=monitor,fd="+c.give(f.monitor), "-mon", "chardev=monitor,mode=control")
	c.disk("base", vmboot.BaseDisk, f.base, true)
	c.disk("layer", vmboot.LayerDisk, f.layer, false)
	c.add("-device", "virtio-serial-pci,id=ports,max_ports=4")
	c.port(1, "control", vmboot.ControlPort, f.control)
	c.port(2, "channel", vmboot.EnginePort, f.channel)
	c.add("-object", "rng-builtin,id=random", "-device", "virtio-rng-pci,rng=random")
	if f.nic != nil {
		c.add("-netdev", "dgram,id=net,local.type=fd,local.str="+c.give(f.nic),
			"-device", "virtio-net-pci,netdev=net,romfile=,mac="+spec.NIC.MAC.String()+",host_mtu="+strconv.Itoa(spec.NIC.MTU))
	}
	return c
}

func (c *commandLine) machine(accel Accel, spec engine.MachineSpec) {
	mib := (int64(spec.Memory+kernelMemory) + int64(boxlite.MiB) - 1) / int64(boxlite.MiB)
	c.add("-m", strconv.FormatInt(mib, 10)+"M", "-smp", strconv.Itoa(spec.CPUs))
	board := "q35,usb=off,sata=off,smbus=off,hpet=off,vmport=off,dump-guest-core=off"
	if vm.Architecture() == "aarch64" {
		board = "virt,dump-guest-core=off"
	}
	if accel == KVM {
		c.add("-M", board, "-accel", "kvm", "-cpu", "host")
		return
	}
	// Several translating threads ran stale code now and then after the guest's
	// kernel had patched itself: one takes turns.
	c.add("-M", board, "-accel", "tcg,thread=single")
	if vm.Architecture() == "aarch64" {
		c.add("-cpu", "max")
	} else {
		c.add("-cpu", "qemu64")
	}
}

// disk adds a virtio-blk disk over an open file.
func (c *commandLine) disk(name, serial string, f *os.File, readOnly bool) {
	set := strconv.Itoa(len(c.files) + 1)
	give := c.give
	if readOnly {
		give = c.giveShared
	}
	c.add("-add-fd", "fd="+give(f)+",set="+set)
	node, err := json.Marshal(map[string]any{
		"driver": "raw", "node-name": name, "read-only": readOnly, "discard": "unmap",
		"file": map[string]any{"driver": "file", "filename": "/dev/fdset/" + set, "locking": "off", "read-only": readOnly, "discard": "unmap"},
	})
	if err != nil {
		panic(err) // words and truths
	}
	c.add("-blockdev", string(node), "-device", "virtio-blk-pci,drive="+name+",serial="+serial)
}

// port adds a named virtio-serial port over a socket.
func (c *commandLine) port(number int, id, name string, f *os.File) {
	c.add("-chardev", "socket,id="+id+",fd="+c.give(f),
		"-device", fmt.Sprintf("virtserialport,bus=ports.0,nr=%d,chardev=%s,name=%s", number, id, name))
}

func kernelArguments(accel Accel, spec engine.MachineSpec) string {
	cfg := vmboot.Config{Hostname: spec.Hostname, Processes: spec.Processes, Time: time.Now().UnixNano()}
	if spec.NIC != nil {
		cfg.NIC = &vmboot.NIC{MTU: spec.NIC.MTU, Address: spec.NIC.Address, Gateway: spec.NIC.Gateway}
	}
	console := "ttyS0"
	if vm.Architecture() == "aarch64" {
		console = "ttyAMA0"
	}
	args := []string{"console=" + console, "quiet", "loglevel=4", "panic=-1", "reboot=t", "rdinit=/init", "8250.nr_uarts=1",
		"no_timer_check", "random.trust_cpu=on", "cryptomgr.notests", "rcupdate.rcu_expedited=1", "swiotlb=noforce"}
	if accel == TCG { // what it has no speculation to be protected from
		args = append(args, "mitigations=off")
	}
	return strings.Join(append(args, vmboot.Parameter+"="+cfg.Encode(), "--", "vm"), " ")
}

// jailed returns the command that runs QEMU in its jail.
func (c *commandLine) jailed(boxliteJail, qemu string, accel Accel, id boxlite.ContainerID) *exec.Cmd {
	spec := jail.Spec{Program: qemu, Args: c.args, Trees: jail.SystemTrees(qemu), Devices: []string{"/dev/null", "/dev/urandom"}}
	if os.Geteuid() != 0 { // else its user is another, and owns nothing
		spec.ReadOnly = c.readOnly
	}
	group := os.Getegid()
	if accel == KVM {
		spec.Devices = append(spec.Devices, kvmDevice)
	}
	return &exec.Cmd{
		Path: boxliteJail, Args: []string{"boxlite-jail", spec.Argument()}, Env: []string{"GOMAXPROCS=1"}, Dir: "/",
		ExtraFiles: c.files, SysProcAttr: isolation(id, accel, group),
	}
}

// isolation returns the namespaces and the identity of QEMU: nobody, in a user
// namespace where nobody else exists. The capabilities are for making the jail,
// which gives them up.
func isolation(id boxlite.ContainerID, accel Accel, group int) *syscall.SysProcAttr {
	uid, gid := os.Geteuid(), group
	root := uid == 0
	if root {
		uid, gid = child.OwnID("/proc/self/uid_map", id), child.OwnID("/proc/self/gid_map", id)
		if accel == KVM {
			gid = groupOf(kvmDevice, gid)
		}
	}
	return &syscall.SysProcAttr{
		Setsid: true,
		Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC |
			unix.CLONE_NEWUTS | unix.CLONE_NEWNET,
		UidMappings:                []syscall.SysProcIDMap{{ContainerID: child.Nobody, HostID: uid, Size: 1}},
		GidMappings:                []syscall.SysProcIDMap{{ContainerID: child.Nobody, HostID: gid, Size: 1}},
		GidMappingsEnableSetgroups: root, // so that root's groups are dropped
		Credential:                 &syscall.Credential{Uid: child.Nobody, Gid: child.Nobody, NoSetGroups: !root},
		AmbientCaps:                []uintptr{unix.CAP_SYS_ADMIN, unix.CAP_SYS_CHROOT, unix.CAP_SETPCAP},
		Pdeathsig:                  unix.SIGKILL,
	}
}

// groupOf returns the group that may use a device, or other if that is root's.
func groupOf(device string, other int) int {
	var st unix.Stat_t
	if err := unix.Stat(device, &st); err != nil || st.Gid == 0 {
		return other
	}
	return int(st.Gid)
}
