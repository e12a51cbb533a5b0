package guest

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/agent/agentpb"
	"golang.org/x/sys/unix"
)

const (
	defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	maxAccounts = 4 << 20 // of /etc/passwd or /etc/group that is read
)

// A command is an ExecStart with everything looked up in the box.
type command struct {
	paths []string // of the program, to be tried in order
	args  []string
	env   []string
	dir   string
	user  user
}

func runError(hint, format string, args ...any) error {
	return &boxlite.Error{Op: "run command", Kind: boxlite.Run, Hint: hint, Err: fmt.Errorf(format, args...)}
}

// A request is an ExecStart in Go's types.
type request struct {
	id         uint64
	args, env  []string
	dir        string
	createDir  bool
	user       string
	tty, stdin bool
	rows, cols uint32
}

// newRequest takes an ExecStart that is within the limits.
func newRequest(s *agentpb.ExecStart) (*request, error) {
	r := &request{id: s.Id, args: byteStrings(s.Args), env: byteStrings(s.Env), dir: string(s.Dir), createDir: s.CreateDir,
		user: s.User, tty: s.Tty, stdin: s.Stdin, rows: s.Rows, cols: s.Cols}
	return r, r.check()
}

func byteStrings(list [][]byte) []string {
	out := make([]string, len(list))
	for i, b := range list {
		out[i] = string(b)
	}
	return out
}

// check reports whether a request is within the limits.
func (s *request) check() error {
	bad := func(what string) error {
		return boxlite.Errorf(boxlite.InvalidArgument, "run command", "", "%s", what)
	}
	size := 0
	for _, list := range [][]string{s.args, s.env} {
		if len(list) > maxArgs {
			return bad("too many arguments or variables")
		}
		for _, v := range list {
			if size += len(v) + 1; strings.ContainsRune(v, 0) {
				return bad("a NUL byte in an argument or variable")
			}
		}
	}
	switch {
	case len(s.args) == 0 || s.args[0] == "":
		return bad("no program")
	case size > maxArgBytes:
		return bad("arguments and variables are too long")
	case s.dir != "" && !path.IsAbs(s.dir) || len(s.dir) > maxPath || strings.ContainsRune(s.dir, 0):
		return bad("the directory is not an absolute path")
	case s.rows > 1<<16-1 || s.cols > 1<<16-1:
		return bad("the terminal is too large")
	}
	return nil
}

// lookUp resolves a request in the box. It is called on a thread of the box.
func lookUp(s *request) (*command, error) {
	u, err := lookUpUser(s.user)
	if err != nil {
		return nil, runError("Name a user of the box's /etc/passwd, or a number.", "%w", err)
	}
	c := &command{args: s.args, user: u, dir: s.dir, env: composeEnv(s.env, u, s.tty)}
	if c.dir == "" {
		c.dir = "/"
	}
	if err := c.enterDir(s.createDir); err != nil {
		return nil, err
	}
	c.paths, err = c.programs()
	return c, err
}

// lookUpUser finds a user in the box's files.
func lookUpUser(spec string) (user, error) {
	passwd, err := readSmall("/etc/passwd")
	if err != nil {
		return user{}, err
	}
	groups, err := readSmall("/etc/group")
	if err != nil {
		return user{}, err
	}
	return parseAccounts(passwd, groups).find(spec)
}

// readSmall returns a regular file's beginning, and nothing for one that is
// not there or not regular.
func readSmall(name string) ([]byte, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, nil
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, nil
	}
	return io.ReadAll(io.LimitReader(f, maxAccounts))
}

// composeEnv returns env with the last of each name, and what a program may
// expect beside.
func composeEnv(env []string, u user, tty bool) []string {
	at := make(map[string]int, len(env)+4)
	out := make([]string, 0, len(env)+4)
	for _, e := range env {
		name, _, ok := strings.Cut(e, "=")
		if !ok || name == "" {
			continue
		}
		if i, again := at[name]; again {
			out[i] = e
			continue
		}
		at[name] = len(out)
		out = append(out, e)
	}
	add := func(name, value string) {
		if _, ok := at[name]; !ok && value != "" {
			out = append(out, name+"="+value)
		}
	}
	add("PATH", defaultPath)
	add("HOME", u.home)
	add("USER", u.name)
	if tty {
		add("TERM", "xterm-256color")
	}
	return out
}

// enterDir sees to it that the command's directory is one.
func (c *command) enterDir(create bool) error {
	info, err := os.Stat(c.dir)
	if errors.Is(err, fs.ErrNotExist) && create {
		if err := mkdirAll(c.dir, c.user); err != nil {
			return runError("Choose another working directory.", "make working directory %q: %w", c.dir, bare(err))
		}
		return nil
	}
	if err != nil {
		return runError("Make the directory first, or choose one that exists.", "working directory %q: %w", c.dir, bare(err))
	}
	if !info.IsDir() {
		return runError("Choose a directory.", "working directory %q is not a directory", c.dir)
	}
	err = as(c.user, func() error { return unix.Faccessat(unix.AT_FDCWD, c.dir, unix.X_OK, unix.AT_EACCESS) })
	if errors.Is(err, unix.EACCES) {
		return runError("Choose a directory that the user may enter, or another user.", "working directory %q: %w", c.dir, err)
	}
	return nil
}

// mkdirAll makes a directory and its missing parents, all owned by u.
func mkdirAll(name string, u user) error {
	name = path.Clean(name)
	if info, err := os.Stat(name); err == nil {
		if !info.IsDir() {
			return unix.ENOTDIR
		}
		return nil
	}
	if err := mkdirAll(path.Dir(name), u); err != nil {
		return err
	}
	if err := os.Mkdir(name, 0o755); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return nil
		}
		return err
	}
	return os.Lchown(name, int(u.uid), int(u.gid))
}

// programs returns where the program may be, best first.
func (c *command) programs() ([]string, error) {
	name := c.args[0]
	if strings.Contains(name, "/") {
		return []string{name}, c.usable(name)
	}
	var found []string
	var denied error
	searched := c.variable("PATH")
	for dir := range strings.SplitSeq(searched, ":") {
		if dir == "" {
			dir = "."
		}
		p := dir + "/" + name
		switch err := c.usable(p); {
		case err == nil:
			found = append(found, p)
		case !errors.Is(err, fs.ErrNotExist):
			denied = err
		}
	}
	switch {
	case len(found) > 0:
		return found, nil
	case denied != nil:
		return nil, denied
	}
	return nil, runError("Install it in the box, or give its absolute path.", "%q is not in PATH (%.256q): %w", name, searched, fs.ErrNotExist)
}

// usable reports whether the file can be a program: regular, with a bit that
// lets somebody execute it.
func (c *command) usable(name string) error {
	if !path.IsAbs(name) {
		name = path.Join(c.dir, name)
	}
	info, err := os.Stat(name)
	switch {
	case err != nil:
		return runError("Check the path, or install the program in the box.", "%q: %w", name, bare(err))
	case !info.Mode().IsRegular():
		return runError("Name a program.", "%q is not a file", name)
	case info.Mode()&0o111 == 0:
		return runError("Run chmod +x on it, or name its interpreter first.", "%q is not executable", name)
	}
	return nil
}

func (c *command) variable(name string) string {
	for _, e := range c.env {
		if v, ok := strings.CutPrefix(e, name+"="); ok {
			return v
		}
	}
	return ""
}

// explain says what a failed execve means for people.
func (c *command) explain(name string, err error) error {
	switch {
	case errors.Is(err, unix.ENOENT):
		return runError("Install the interpreter it names in its first line, or the C library it is linked with.",
			"%q is there, but what should load it is not: %w", name, err)
	case errors.Is(err, unix.ENOEXEC):
		return runError("Begin a script with a line like #!/bin/sh; use programs built for the box's architecture.",
			"%q is in no format that can be run: %w", name, err)
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return runError("Make it executable for the user, or run as another user.", "%q as user %d: %w", name, c.user.uid, err)
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.ENOMEM):
		return &boxlite.Error{Op: "run command", Kind: boxlite.Exhausted, Hint: "End something that runs in the box, or give the box more.", Err: err}
	}
	return runError("", "%q: %w", name, err)
}

// bare returns the system's error without the operation and path around it.
func bare(err error) error {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		return e.Err
	}
	return err
}
