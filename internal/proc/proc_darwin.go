package proc

import (
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// BootID returns what tells this boot of the kernel from others.
func BootID() (string, error) { return unix.Sysctl("kern.bootsessionuuid") }

func startTime(pid int) (string, error) {
	info, err := unix.SysctlKinfoProc("kern.proc.pid", pid)
	if err != nil {
		return "", err
	}
	const zombie = 5 // SZOMB in sys/proc.h
	if info.Proc.P_stat == zombie {
		return "", os.ErrProcessDone
	}
	t := info.Proc.P_starttime
	return fmt.Sprintf("%d.%06d", t.Sec, t.Usec), nil
}

// Kill sends SIGKILL to the process, if it is still the same, and waits until
// it is gone, at most for the given time.
func (id ID) Kill(wait time.Duration) error {
	if id.PID <= 1 || !id.Alive() {
		return nil
	}
	if err := syscall.Kill(id.PID, syscall.SIGKILL); err != nil {
		return fmt.Errorf("kill process %d: %w", id.PID, err)
	}
	for end := time.Now().Add(wait); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if !id.Alive() {
			return nil
		}
	}
	return os.ErrDeadlineExceeded
}
