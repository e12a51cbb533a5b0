// Package proc tells processes apart for ever: a process id alone may be used
// again, a process id with its start time and the kernel's boot id is not. It
// starts nothing.
package proc

// An ID names one process of one boot of one host. The zero value names none.
type ID struct {
	PID   int    `json:"pid"`
	Start string `json:"start"` // when it was started, in the kernel's own unit
	Boot  string `json:"boot"`  // boot id of the kernel
}

// Of returns the identity of a live process.
func Of(pid int) (ID, error) {
	start, err := startTime(pid)
	if err != nil {
		return ID{}, err
	}
	boot, err := BootID()
	return ID{PID: pid, Start: start, Boot: boot}, err
}

// Alive reports whether the process is still there and not a zombie.
func (id ID) Alive() bool {
	if id.PID <= 0 {
		return false
	}
	now, err := Of(id.PID)
	return err == nil && now == id
}
