package testimage

import "syscall"

// withParent makes a process end when the thread that starts it does.
func withParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
