// Command agent is what the engine tests run in a machine in place of the real
// agent: it runs one command a line, as itself, and answers with a line.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"syscall"
)

type request struct {
	Args []string
}

type reply struct {
	Output []byte
	Code   int
	Err    string
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "test agent:", err)
		os.Exit(1)
	}
}

func run() error {
	if len(os.Args) != 4 || os.Args[1] != "serve" || os.Args[2] != "--fd" {
		return fmt.Errorf("arguments %q", os.Args)
	}
	fd, err := strconv.Atoi(os.Args[3])
	if err != nil {
		return err
	}
	conn, err := net.FileConn(os.NewFile(uintptr(fd), "host"))
	if err != nil {
		return err
	}
	syscall.CloseOnExec(fd)
	syscall.Unmount("/tmp", syscall.MNT_DETACH)
	lines := json.NewDecoder(bufio.NewReader(conn))
	for {
		var req request
		if err := lines.Decode(&req); err != nil {
			return err
		}
		if err := json.NewEncoder(conn).Encode(answer(req)); err != nil {
			return err
		}
	}
}

func answer(req request) reply {
	out, err := exec.Command(req.Args[0], req.Args[1:]...).CombinedOutput()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return reply{Output: out, Code: exit.ExitCode()}
	}
	if err != nil {
		return reply{Output: out, Code: -1, Err: err.Error()}
	}
	return reply{Output: out}
}
