package vm

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/boxlite-mcp/boxlite-mcp/agent/guest"
	"github.com/boxlite-mcp/boxlite-mcp/agent/vmboot"
)

// Requests of linux/fs.h that package unix does not have.
const (
	fiFreeze = 0xC0045877
	fiThaw   = 0xC0045878
)

// deviceTime is how long a device may take to appear once its driver is there.
const deviceTime = 10 * time.Second

// openPort opens the virtio-serial port with a name.
func openPort(name string) (net.Conn, error) {
	var fd int
	err := await("the port "+name, func() (err error) {
		names, _ := filepath.Glob("/sys/class/virtio-ports/*/name")
		for _, file := range names {
			if text, err := os.ReadFile(file); err == nil && strings.TrimSpace(string(text)) == name {
				fd, err = unix.Open("/dev/"+filepath.Base(filepath.Dir(file)), unix.O_RDWR|unix.O_CLOEXEC, 0)
				return err
			}
		}
		return os.ErrNotExist
	})
	if err != nil {
		return nil, err
	}
	return guest.Inherited(fd)
}

// await tries until it succeeds or deviceTime is over.
func await(what string, try func() error) error {
	again := time.NewTicker(time.Millisecond)
	defer again.Stop()
	for deadline := time.After(deviceTime); ; {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-again.C:
		case <-deadline:
			return fmt.Errorf("wait for %s: %w", what, err)
		}
	}
}

// serveEngine does what the engine asks, until it has gone. layer is a
// directory of the writable layer.
func serveEngine(conn net.Conn, layer *os.File) {
	defer conn.Close()
	if _, err := fmt.Fprintf(conn, "ready %d\n", vmboot.Version); err != nil {
		return
	}
	frozen := false
	lines := bufio.NewScanner(conn)
	lines.Buffer(make([]byte, vmboot.MaxLine), vmboot.MaxLine)
	for lines.Scan() {
		number, command, _ := strings.Cut(lines.Text(), " ")
		verb, argument, _ := strings.Cut(command, " ")
		answer, err := obey(verb, argument, layer, &frozen)
		text := strings.TrimSpace("ok " + answer)
		if err != nil {
			text = "error " + strings.ReplaceAll(fmt.Sprintf("%.500s", err), "\n", " ")
		}
		if _, err := fmt.Fprintln(conn, number, text); err != nil {
			return
		}
	}
}

func obey(verb, argument string, layer *os.File, frozen *bool) (string, error) {
	switch verb {
	case vmboot.CmdFreeze:
		if *frozen {
			return "", nil
		}
		if err := unix.IoctlSetInt(int(layer.Fd()), fiFreeze, 0); err != nil {
			return "", fmt.Errorf("freeze the layer: %w", err)
		}
		*frozen = true
	case vmboot.CmdThaw:
		if !*frozen {
			return "", nil
		}
		if err := unix.IoctlSetInt(int(layer.Fd()), fiThaw, 0); err != nil {
			return "", fmt.Errorf("thaw the layer: %w", err)
		}
		*frozen = false
	case vmboot.CmdSync:
		if *frozen { // it is durable, and syncfs would wait for the thaw
			return "", nil
		}
		if err := unix.Syncfs(int(layer.Fd())); err != nil {
			return "", fmt.Errorf("sync the layer: %w", err)
		}
	case vmboot.CmdTime:
		ns, err := strconv.ParseInt(argument, 10, 64)
		if err != nil {
			return "", err
		}
		return "", setClock(ns)
	case vmboot.CmdWork:
		rounds, err := strconv.ParseInt(argument, 10, 64)
		if err != nil || rounds < 0 || rounds > 1<<20 {
			return "", fmt.Errorf("%.20q is no number of rounds", argument)
		}
		begin := time.Now()
		vmboot.Work(rounds)
		return strconv.FormatInt(time.Since(begin).Nanoseconds(), 10), nil
	default:
		return "", fmt.Errorf("unknown command %.20q", verb)
	}
	return "", nil
}
