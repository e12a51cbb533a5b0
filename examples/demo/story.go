package main

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// image is what the registry calls it; the server's --registry says where.
const image = "demo/python:3"

// story is the demo, in the order of an agent's work.
func story(ctx context.Context, s *stage) error {
	for _, part := range []func(context.Context, *stage) error{
		keepKey, createBox, runPython, readLongOutput, killRunaway, surviveRestart, stopAndResume, useKey, removeBox,
	} {
		if err := part(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

func createBox(ctx context.Context, s *stage) error {
	s.chapter("The client starts the server and creates a box")
	if err := s.connect(ctx); err != nil {
		return err
	}
	box, err := s.call(ctx, "box_create", args{"image": image, "name": "demo", "memory_mib": 512})
	if err != nil {
		return err
	}
	return expect("the box", box.text("status"), "running")
}

func runPython(ctx context.Context, s *stage) error {
	s.chapter("It runs Python in it")
	const program = `import platform, sys, os
print("hello from", platform.python_implementation(), sys.version.split()[0], "as uid", os.getuid())
print("the sum of the first million squares is", sum(i*i for i in range(1_000_001)))
sys.exit(3)
`
	if _, err := s.call(ctx, "file_write", args{"box": "demo", "path": "/root/hello.py", "content": program}); err != nil {
		return err
	}
	r, err := s.call(ctx, "box_exec", args{"box": "demo", "argv": []string{"python3", "/root/hello.py"}})
	if err != nil {
		return err
	}
	if err := expect("the exit code", r.number("exit_code"), 3); err != nil {
		return err
	}
	if out := r.text("stdout", "text"); !strings.Contains(out, "333333833333500000") {
		return fmt.Errorf("the program printed %q", out)
	}
	if _, err := s.call(ctx, "box_exec", args{"box": "demo", "argv": []string{"no-such-program"}}); err == nil {
		return fmt.Errorf("a program that does not exist has run")
	}
	return nil
}

// readLongOutput reads a megabyte in pieces and compares its digest with the
// one the program computed of what it wrote.
func readLongOutput(ctx context.Context, s *stage) error {
	s.chapter("It reads a long output in pieces")
	const program = `import hashlib, sys
h = hashlib.sha256()
for i in range(30_000):
    line = f"{i:6d} squared is {i*i}\n".encode()
    h.update(line)
    sys.stdout.buffer.write(line)
print(h.hexdigest(), end="", file=sys.stderr)
`
	r, err := s.call(ctx, "box_exec", args{"box": "demo", "argv": []string{"python3", "-c", program}, "max_output_bytes": 600})
	if err != nil {
		return err
	}
	id, size, want := r.text("exec_id"), r.number("stdout", "end"), r.text("stderr", "text")
	sum, pieces := sha256.New(), 0
	for offset := 0; offset < size; pieces++ {
		loud := s.quiet(pieces > 0)
		p, err := s.call(ctx, "exec_read", args{"exec_id": id, "stdout_offset": offset, "encoding": "base64", "max_output_bytes": 38000})
		loud()
		if err != nil {
			return err
		}
		data, err := base64.StdEncoding.DecodeString(p.text("stdout", "text"))
		if err != nil {
			return err
		}
		if len(data) == 0 {
			return fmt.Errorf("no output at offset %d of %d", offset, size)
		}
		sum.Write(data)
		offset = p.number("stdout", "next_offset")
	}
	s.say("… and so on: %d bytes in %d pieces. Their SHA-256 is the one that the program computed.", size, pieces)
	return expect("the digest", hex.EncodeToString(sum.Sum(nil)), want)
}

func killRunaway(ctx context.Context, s *stage) error {
	s.chapter("It kills a command that ran away, with its children")
	const line = `setsid sleep 12345 & sh -c 'while :; do :; done' & python3 -c 'while True: pass'`
	r, err := s.call(ctx, "box_exec", args{"box": "demo", "command": line, "wait_seconds": 2})
	if err != nil {
		return err
	}
	if err := expect("the command", r.text("status"), "running"); err != nil {
		return err
	}
	stopped, err := s.call(ctx, "exec_stop", args{"exec_id": r.text("exec_id")})
	if err != nil {
		return err
	}
	if err := expect("the command", stopped.text("status"), "exited"); err != nil {
		return err
	}
	ps, err := s.call(ctx, "box_exec", args{"box": "demo", "command": "ps -eo args"})
	if err != nil {
		return err
	}
	for _, gone := range []string{"sleep 12345", "while :", "while True"} {
		if strings.Contains(ps.text("stdout", "text"), gone) {
			return fmt.Errorf("%q still runs", gone)
		}
	}
	return nil
}

// surviveRestart ends the server and the daemon without asking, while a
// command runs.
func surviveRestart(ctx context.Context, s *stage) error {
	s.chapter("The server and the daemon are killed while a command runs; it comes back")
	const line = `for i in $(seq 80); do echo tick $i; sleep 0.1; done`
	r, err := s.call(ctx, "box_exec", args{"box": "demo", "command": line, "wait_seconds": 1})
	if err != nil {
		return err
	}
	if err := expect("the command", r.text("status"), "running"); err != nil {
		return err
	}
	if err := s.killAll(); err != nil {
		return err
	}
	select {
	case <-time.After(time.Second): // for the command to go on printing to nobody
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := s.connect(ctx); err != nil {
		return err
	}
	rest, err := s.call(ctx, "exec_read", args{"exec_id": r.text("exec_id"), "until": "exit"})
	if err != nil {
		return err
	}
	var want strings.Builder
	for i := range 80 {
		fmt.Fprintf(&want, "tick %d\n", i+1)
	}
	if err := expect("the exit code", rest.number("exit_code"), 0); err != nil {
		return err
	}
	return expect("the output", rest.text("stdout", "text"), want.String())
}

func stopAndResume(ctx context.Context, s *stage) error {
	s.chapter("The box is stopped; the next command resumes it, and its disk is as it was")
	r, err := s.call(ctx, "box_stop", args{"box": "demo"})
	if err != nil {
		return err
	}
	if err := expect("the box", r.text("status"), "stopped"); err != nil {
		return err
	}
	r, err = s.call(ctx, "box_exec", args{"box": "demo", "command": "head -n 1 /root/hello.py"})
	if err != nil {
		return err
	}
	return expect("the file", r.text("stdout", "text"), "import platform, sys, os\n")
}

func removeBox(ctx context.Context, s *stage) error {
	s.chapter("It removes the box")
	if _, err := s.call(ctx, "box_remove", args{"box": "demo", "force": true}); err != nil {
		return err
	}
	list, err := s.call(ctx, "box_list", args{})
	if err != nil {
		return err
	}
	if err := expect("the number of boxes", list.number("total"), 0); err != nil {
		return err
	}
	left, err := os.ReadDir(filepath.Join(s.home, "boxes"))
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	return expect("what is left of boxes on disk", len(left), 0)
}

// expect fails unless got is want.
func expect[T comparable](what string, got, want T) error {
	if got != want {
		return fmt.Errorf("%s is %v, want %v", what, got, want)
	}
	return nil
}
