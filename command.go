package boxlite

import (
	"fmt"
	"path"
	"strings"
	"time"
)

// A Command is a program to run in a box.
type Command struct {
	Args       []string      `json:"args"`                  // program and arguments; the program is looked up in the box's PATH
	Env        []Env         `json:"env,omitempty"`         // added to the box's; later entries win
	WorkingDir string        `json:"working_dir,omitempty"` // absolute; "": the box's, then the image's, then /
	User       string        `json:"user,omitempty"`        // name|uid[:group|gid], resolved in the box; "": the image's, then root
	TTY        bool          `json:"tty,omitempty"`         // run on a pseudo-terminal; its output is all stdout
	Rows       uint16        `json:"rows,omitempty"`        // of the terminal; 0: 24
	Cols       uint16        `json:"cols,omitempty"`        // of the terminal; 0: 80
	Stdin      bool          `json:"stdin,omitempty"`       // keep standard input open for writing; else it is empty
	Timeout    time.Duration `json:"timeout,omitempty"`     // the whole process tree ends after it; 0: none

	// Key makes it safe to ask again: Run with the key of an execution that the
	// running box knows returns that execution. It is what [NewExecutionKey]
	// returns. "": always another execution.
	Key string `json:"key,omitempty"`

	// IfRunning makes Run fail with [InvalidState] where it would have to start
	// the box first, so that a caller who would rather watch that start is
	// spared asking beforehand.
	IfRunning bool `json:"if_running,omitempty"`
}

// ExecutionID returns the identifier that the command's execution in the given
// box has, or a fresh one if the command has no key.
func (c Command) ExecutionID(box BoxID) ExecutionID {
	if c.Key == "" {
		return NewExecutionID(box)
	}
	return ExecutionID(string(box) + "-" + c.Key)
}

// Shell returns the command that /bin/sh runs for a line of shell.
func Shell(line string) Command { return Command{Args: []string{"/bin/sh", "-c", line}} }

// Check reports whether the command can be run at all.
//
// Errors: [InvalidArgument].
func (c Command) Check() error {
	bad := func(hint, format string, args ...any) error {
		return &Error{Op: "check command", Kind: InvalidArgument, Hint: hint, Err: fmt.Errorf(format, args...)}
	}
	if len(c.Args) == 0 || c.Args[0] == "" {
		return bad("Name a program to run.", "the command is empty")
	}
	size := 0
	for _, a := range c.Args {
		if size += len(a); strings.ContainsRune(a, 0) {
			return bad("Write the data to a file in the box and name the file.", "an argument has a NUL byte")
		}
	}
	for _, e := range c.Env {
		if size += len(e.Name) + len(e.Value); e.Name == "" || strings.ContainsAny(e.Name, "=\x00") || strings.ContainsRune(e.Value, 0) {
			return bad("Names have no '=', and neither names nor values a NUL byte.", "environment variable %s cannot be set", quote(e.Name))
		}
	}
	if size > 1<<20 {
		return bad("Write the data to a file in the box and name the file.", "arguments and environment are %d bytes, more than 1 MiB", size)
	}
	if c.WorkingDir != "" && !path.IsAbs(c.WorkingDir) {
		return bad("Give an absolute path inside the box.", "working_dir %s is relative", quote(c.WorkingDir))
	}
	if c.Key != "" && !isExecutionKey(c.Key) {
		return bad("Leave the key out.", "key %s is not %d Base62 characters", quote(c.Key), executionKeyLen)
	}
	if c.Timeout < 0 {
		return bad("Give a positive timeout, or none.", "timeout is %s", c.Timeout)
	}
	return nil
}

// An ExecResult says how a command ended.
type ExecResult struct {
	ExitCode  int           `json:"exit_code"`            // of the program; −n for death by signal n
	Signal    int           `json:"signal,omitempty"`     // the signal it died of
	TimedOut  bool          `json:"timed_out,omitempty"`  // it was ended by its timeout
	OOM       bool          `json:"oom,omitempty"`        // it, or the box, was ended for want of memory
	Lost      string        `json:"lost,omitempty"`       // why the box went away under it; ExitCode is then −9
	Truncated bool          `json:"truncated,omitempty"`  // output beyond the spill limit was dropped
	Duration  time.Duration `json:"duration_ns,omitzero"` // from start to exit
}

// Success reports whether the exit code is 0.
func (r ExecResult) Success() bool { return r.ExitCode == 0 }

// Code returns the exit code as a shell reports it: 128+n for signal n.
func (r ExecResult) Code() int {
	if r.ExitCode < 0 {
		return 128 - r.ExitCode
	}
	return r.ExitCode
}

// ExecInfo describes an execution.
type ExecInfo struct {
	ID        ExecutionID `json:"id"`
	Args      []string    `json:"args"`
	User      string      `json:"user,omitempty"`
	TTY       bool        `json:"tty,omitempty"`
	Started   time.Time   `json:"started"`
	Running   bool        `json:"running"`
	Result    *ExecResult `json:"result,omitempty"` // once it is not running
	StdoutEnd int64       `json:"stdout_end"`       // bytes written so far
	StderrEnd int64       `json:"stderr_end"`
}

// An Output is a piece of an execution's output streams and where it stands.
type Output struct {
	Exec   ExecInfo    `json:"exec"`
	Stdout OutputChunk `json:"stdout"`
	Stderr OutputChunk `json:"stderr"`
}

// An OutputChunk is a run of bytes of one stream.
type OutputChunk struct {
	Offset  int64  `json:"offset"`            // of the first byte of Data in the stream
	Data    []byte `json:"data,omitempty"`    // as the program wrote it
	Dropped int64  `json:"dropped,omitempty"` // bytes before Offset that were asked for and are past the spill limit
	End     int64  `json:"end"`               // bytes the stream has had so far; Offset+len(Data) < End: there is more now
	EOF     bool   `json:"eof,omitempty"`     // the stream is closed and Data reaches its end
}

// Next returns the offset to read on from.
func (c OutputChunk) Next() int64 { return c.Offset + int64(len(c.Data)) }

// An OutputRequest says which output to return, and how long to wait for it.
type OutputRequest struct {
	StdoutOffset int64 `json:"stdout_offset"` // negative: that many bytes before the end
	StderrOffset int64 `json:"stderr_offset"`
	MaxBytes     int   `json:"max_bytes"` // of each stream; 0: none, to wait only
	// Wait is how long to wait for Until. 0 returns what there is.
	Wait  time.Duration `json:"wait"`
	Until Until         `json:"until"`
}

// Until says what an [OutputRequest] waits for.
type Until uint8

// What can be waited for.
const (
	UntilOutput Until = iota // a byte of either stream, end of both, or exit
	UntilExit                // exit only
)
