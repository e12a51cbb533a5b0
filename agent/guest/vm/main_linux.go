package vm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/boxlite-mcp/boxlite-mcp/agent/guest"
	"github.com/boxlite-mcp/boxlite-mcp/agent/vmboot"
)

// boxCgroup is the cgroup that holds everything of the box.
const boxCgroup = "/box"

// Main is the machine's first process. It returns why the machine cannot go
// on; at the end of the control channel it powers the machine off.
func Main(ctx context.Context) error {
	if os.Getpid() != 1 {
		return errors.New("this is for the first process of a virtual machine")
	}
	if err := setUp(); err != nil {
		return err
	}
	control, engine, err := openChannels() // while there is a /dev to find them in
	if err != nil {
		return err
	}
	layer, err := mountRoot()
	if err != nil {
		return err
	}
	guest.Tune()
	served := make(chan struct{})
	go func() { // ends with the machine, or with its engine
		defer close(served)
		serveEngine(engine, layer)
	}()
	if err := guest.Serve(ctx, control, guest.Options{Cgroup: boxCgroup}); err != nil {
		return err
	}
	select { // the engine may be about to say how it wants the layer left
	case <-served:
	case <-time.After(time.Second):
	}
	unix.Sync()
	return unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

// setUp brings the machine to where its devices are there and it is who it is
// to be.
func setUp() error {
	for _, m := range []struct{ kind, path string }{{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}} {
		if err := mount(m.kind, m.path, m.kind, 0, ""); err != nil {
			return err
		}
	}
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	cfg, err := vmboot.FromCommandLine(string(line))
	if err != nil {
		return err
	}
	if err := loadModules("/modules"); err != nil {
		return err
	}
	if err := setClock(cfg.Time); err != nil {
		return err
	}
	if err := unix.Sethostname([]byte(cfg.Hostname)); err != nil {
		return fmt.Errorf("set the host name: %w", err)
	}
	if err := setUpNetwork(cfg.NIC); err != nil {
		return err
	}
	return setUpCgroups(cfg.Processes)
}

func mount(source, target, kind string, flags uintptr, data string) error {
	if err := os.MkdirAll(target, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(source, target, kind, flags, data); err != nil {
		return fmt.Errorf("mount %s at %s: %w", kind, target, err)
	}
	return nil
}

func setClock(nanoseconds int64) error {
	ts := unix.NsecToTimespec(nanoseconds)
	if err := unix.ClockSettime(unix.CLOCK_REALTIME, &ts); err != nil {
		return fmt.Errorf("set the clock: %w", err)
	}
	return nil
}

// setUpCgroups makes the box's cgroup and bounds what is in it. The mount is
// detached again: package guest makes one of its own, which no path leads to.
func setUpCgroups(processes int) error {
	const dir = "/cgroup"
	if err := mount("cgroup2", dir, "cgroup2", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return err
	}
	if err := os.Mkdir(dir+boxCgroup, 0o755); err != nil {
		return err
	}
	for _, w := range []struct{ file, text string }{
		{"/cgroup.subtree_control", "+pids +memory"},
		{boxCgroup + "/cgroup.subtree_control", "+pids +memory"},
		{boxCgroup + "/pids.max", fmt.Sprint(processes)},
	} {
		if err := os.WriteFile(dir+w.file, []byte(w.text), 0); err != nil {
			return fmt.Errorf("limit processes: %w", err)
		}
	}
	return unix.Unmount(dir, unix.MNT_DETACH)
}

// openChannels opens the agent's and the engine's channel.
func openChannels() (control, engine net.Conn, err error) {
	if engine, err = openPort(vmboot.EnginePort); err != nil {
		return nil, nil, err
	}
	control, err = openPort(vmboot.ControlPort)
	return control, engine, err
}
