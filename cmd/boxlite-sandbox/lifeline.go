package main

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// lifelineVar names the descriptor of the lifeline. Once boot has had its
// byte, "started:" stands before the number: boot executes itself again.
const lifelineVar = "LIFELINE"

// followLifeline waits for the engine's word to start and from then on ends the
// process when the engine's process is gone. Without a lifeline, as in boot's
// own children, it does nothing: they end with boot, the first process of
// their PID namespace.
func followLifeline() error {
	value := os.Getenv(lifelineVar)
	if value == "" || !slices.Contains(os.Args, "boot") {
		return nil
	}
	number, started := strings.CutPrefix(value, "started:")
	fd, err := strconv.Atoi(number)
	if err != nil || fd < 3 {
		return fmt.Errorf("%s=%q is not a descriptor", lifelineVar, value)
	}
	if !started {
		if !readByte(fd) {
			return fmt.Errorf("the engine is gone")
		}
		if err := os.Setenv(lifelineVar, "started:"+number); err != nil {
			return err
		}
	}
	go func() { // ends with the process, which it ends
		for readByte(fd) {
		}
		unix.Exit(1)
	}()
	return nil
}

// readByte reads a byte from fd. It returns false when nobody can write any
// more. A plain read is among the few system calls that the sandbox's filter
// lets through.
func readByte(fd int) bool {
	var b [1]byte
	for {
		n, err := unix.Read(fd, b[:])
		if err == unix.EINTR {
			continue
		}
		return err == nil && n == 1
	}
}
