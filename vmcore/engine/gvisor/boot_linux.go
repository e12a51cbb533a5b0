package gvisor

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/engine"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/engine/child"
)

// nobody is who the sandbox is in its own user namespace.
const nobody = 65534

// A command line of gVisor's boot, with the descriptors that it names.
type bootCommand struct {
	files []*os.File // descriptor 3 and on
	args  []string
}

// give makes f one of the sandbox's descriptors and returns its number there.
func (c *bootCommand) give(f *os.File) string {
	c.files = append(c.files, f)
	return strconv.Itoa(len(c.files) + 2)
}

func (c *bootCommand) add(args ...string) { c.args = append(c.args, args...) }

// The ends of a sandbox's descriptors: ours stay open while it runs, its own
// are closed once it has them.
type descriptors struct {
	lifeline *os.File    // ours, for writing
	ready    *os.File    // ours, for reading: a byte when the sandbox listens
	console  *os.File    // ours, for reading
	agent    net.Conn    // ours
	store    *os.File    // both have it: what the machine writes is in there
	listener string      // where the sandbox will listen, until connected
	theirs   []*os.File  // to be closed by us once started
	closers  []io.Closer // ours, for a failed start

	consoleEnd *os.File // theirs
}

func (d *descriptors) closeTheirs() {
	closeAll(d.theirs)
	d.theirs = nil
}

// pipe returns a pipe of which the sandbox gets the writing end, or the reading
// end if it is to read.
func (d *descriptors) pipe(toSandbox bool) (ours, theirs *os.File, err error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	ours, theirs = r, w
	if toSandbox {
		ours, theirs = w, r
	}
	d.theirs, d.closers = append(d.theirs, theirs), append(d.closers, ours)
	return ours, theirs, nil
}

func (d *descriptors) open(path string) (*os.File, error) {
	f, err := os.Open(path)
	if err == nil {
		d.theirs = append(d.theirs, f)
	}
	return f, err
}

// command returns the command that boots spec, with all its descriptors. On
// failure the caller releases d all the same.
func (e *Engine) command(spec engine.MachineSpec, layer *layer, d *descriptors) (*exec.Cmd, error) {
	c := &bootCommand{}
	ours, theirs, err := d.pipe(true)
	if err != nil {
		return nil, err
	}
	d.lifeline = ours
	env := []string{"LIFELINE=" + c.give(theirs), "GOGC=50"}

	if err := c.addConsole(e.opts, spec, d); err != nil {
		return nil, err
	}
	c.add("--platform=systrap", "--network=none", "--directfs=false", "--rootless=false", "--overlay2=none",
		"--allow-suid", "--net-raw", "--host-settings=ignore", "--in-sandbox-cgroup=v2", "--control-rpc-stop-timeout=0",
		"boot", "--bundle="+spec.Dir, "--setup-root", "--attached",
		"--cpu-num="+strconv.Itoa(spec.CPUs),
		"--total-memory="+strconv.FormatInt(int64(spec.Memory), 10),
		"--total-host-memory="+strconv.FormatInt(int64(spec.Memory), 10))
	for _, add := range []func(engine.MachineSpec, *descriptors) error{c.addControl, c.addBundle, c.addAgent} {
		if err := add(spec, d); err != nil {
			return nil, err
		}
	}
	if err := c.addRoot(spec, layer, d); err != nil {
		return nil, err
	}
	c.add(string(spec.ID))

	program, err := d.open(e.opts.Sandbox)
	if err != nil {
		return nil, err
	}
	// By descriptor, because whom the sandbox runs as may not be let into the
	// directories above it.
	return &exec.Cmd{
		Path:        "/proc/self/fd/" + c.give(program),
		Args:        append([]string{"boxlite-sandbox"}, c.args...),
		Env:         env,
		Dir:         "/",
		ExtraFiles:  c.files,
		SysProcAttr: isolation(spec.ID),
	}, nil
}

// isolation returns the namespaces and the identity of the sandbox: nobody, in
// a user namespace where nobody else exists. The capabilities are for making
// its root; boot gives them up.
func isolation(id boxlite.ContainerID) *syscall.SysProcAttr {
	uid, gid := os.Geteuid(), os.Getegid()
	root := uid == 0
	if root {
		uid, gid = child.OwnID("/proc/self/uid_map", id), child.OwnID("/proc/self/gid_map", id)
	}
	return &syscall.SysProcAttr{
		Setsid: true,
		Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC |
			unix.CLONE_NEWUTS | unix.CLONE_NEWNET,
		UidMappings:                []syscall.SysProcIDMap{{ContainerID: nobody, HostID: uid, Size: 1}},
		GidMappings:                []syscall.SysProcIDMap{{ContainerID: nobody, HostID: gid, Size: 1}},
		GidMappingsEnableSetgroups: root, // so that root's groups are dropped
		Credential:                 &syscall.Credential{Uid: nobody, Gid: nobody},
		AmbientCaps:                []uintptr{unix.CAP_SYS_ADMIN, unix.CAP_SYS_CHROOT, unix.CAP_SETPCAP, unix.CAP_SYS_PTRACE},
		Pdeathsig:                  unix.SIGKILL,
	}
}

// addConsole gives the sandbox one pipe for everything it says: its own words,
// its last ones, and the agent's.
func (c *bootCommand) addConsole(opts Options, spec engine.MachineSpec, d *descriptors) error {
	ours, theirs, err := d.pipe(false)
	if err != nil {
		return err
	}
	d.console, d.consoleEnd = ours, theirs
	c.add("--log-fd="+c.give(theirs), "--panic-log-fd="+c.give(theirs))
	if opts.DebugLog == "" {
		return nil
	}
	debug, err := os.OpenFile(filepath.Join(opts.DebugLog, string(spec.ID)+".log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	d.theirs = append(d.theirs, debug)
	c.add("--debug", "--strace=false", "--debug-log-fd="+c.give(debug))
	return nil
}

// addControl gives the sandbox the socket to be commanded by, and the pipe to
// say that it listens.
func (c *bootCommand) addControl(spec engine.MachineSpec, d *descriptors) error {
	d.listener = filepath.Join(spec.Dir, "sandbox.sock")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return err
	}
	socket := os.NewFile(uintptr(fd), "sandbox.sock")
	d.theirs = append(d.theirs, socket)
	if err := os.Remove(d.listener); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	err = atShortPath(d.listener, func(short string) error { return unix.Bind(fd, &unix.SockaddrUnix{Name: short}) })
	if err != nil {
		return fmt.Errorf("bind %s: %w", d.listener, err)
	}
	ours, theirs, err := d.pipe(false)
	if err != nil {
		return err
	}
	d.ready = ours
	c.add("--controller-fd="+c.give(socket), "--start-sync-fd="+c.give(theirs))
	return nil
}

// addBundle gives the sandbox its OCI configuration, in a file without a name.
func (c *bootCommand) addBundle(spec engine.MachineSpec, d *descriptors) error {
	data, err := json.Marshal(newBundle(spec))
	if err != nil {
		return err
	}
	fd, err := unix.MemfdCreate("config.json", unix.MFD_CLOEXEC)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), "config.json")
	d.theirs = append(d.theirs, f)
	if _, err := f.Write(data); err != nil {
		return err
	}
	c.add("--spec-fd=" + c.give(f))
	return nil
}

// addAgent gives the sandbox the agent, its standard files and its stream.
func (c *bootCommand) addAgent(spec engine.MachineSpec, d *descriptors) error {
	program, err := d.open(spec.Agent)
	if err != nil {
		return err
	}
	null, err := d.open(os.DevNull)
	if err != nil {
		return err
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return err
	}
	host, guest := os.NewFile(uintptr(fds[0]), "control"), os.NewFile(uintptr(fds[1]), "control")
	defer host.Close()
	d.theirs = append(d.theirs, guest)
	if d.agent, err = net.FileConn(host); err != nil {
		return err
	}
	d.closers = append(d.closers, d.agent)
	c.add("--exec-fd="+c.give(program),
		"--stdio-fds="+c.give(null), "--stdio-fds="+c.give(d.consoleEnd), "--stdio-fds="+c.give(d.consoleEnd),
		fmt.Sprintf("--pass-fd=%s:%d", c.give(guest), controlFD))
	return nil
}

// addRoot gives the sandbox its base, the file for what is written, and the
// saved layer if there is one.
func (c *bootCommand) addRoot(spec engine.MachineSpec, l *layer, d *descriptors) error {
	base, err := d.open(spec.Base)
	if err != nil {
		return err
	}
	if d.store, err = l.newStore(); err != nil {
		return err
	}
	d.closers = append(d.closers, d.store)
	c.add("--io-fds="+c.give(base),
		"--gofer-filestore-fds="+c.give(d.store),
		fmt.Sprintf("--gofer-mount-confs=erofs:anon:size=%d", spec.DiskSize))
	saved, err := l.open()
	d.theirs = append(d.theirs, saved...)
	for _, f := range saved {
		c.add("--fs-restore-fds=" + c.give(f))
	}
	return err
}
