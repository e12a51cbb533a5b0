package tools

import (
	"context"
	"fmt"
	"strings"
	"time"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
)

type boxExecArgs struct {
	Box            string            `json:"box" required:"true" doc:"Box id, unique id prefix or name"`
	Command        string            `json:"command" doc:"Line for /bin/sh -c; this or argv"`
	Argv           []string          `json:"argv" doc:"Program and arguments, no shell"`
	WaitSeconds    int               `json:"wait_seconds" default:"30" min:"0" max:"50" doc:"How long to wait for the end; the command goes on after"`
	TimeoutSeconds int64             `json:"timeout_seconds" default:"1800" min:"0" max:"31536000" doc:"End the command and its children after this; 0: never"`
	WorkingDir     string            `json:"working_dir" doc:"Absolute path"`
	Env            map[string]string `json:"env"`
	User           string            `json:"user" doc:"name or uid[:gid]; default: the image's"`
	Stdin          *string           `json:"stdin" doc:"Text for standard input"`
	KeepStdinOpen  bool              `json:"keep_stdin_open" default:"false" doc:"Take more input by exec_write"`
	TTY            bool              `json:"tty" default:"false" doc:"Run on a terminal; all output is stdout"`
	MaxOutputBytes int               `json:"max_output_bytes" default:"16384" min:"256" max:"38000" doc:"Most output to show"`
}

// An execResult is how a command stands and what it has printed.
type execResult struct {
	ExecID    string       `json:"exec_id,omitempty"` // absent: it was not started
	BoxID     string       `json:"box_id,omitempty"`
	Status    string       `json:"status" enum:"starting_box,running,exited"`
	ExitCode  *int         `json:"exit_code,omitempty"`
	Signal    int          `json:"signal,omitempty"`
	TimedOut  bool         `json:"timed_out,omitempty"`
	OOM       bool         `json:"oom,omitempty"`
	Lost      string       `json:"lost,omitempty"`
	Truncated bool         `json:"truncated,omitempty"`
	Seconds   float64      `json:"duration_seconds,omitempty"`
	Denied    []egressView `json:"egress_denied,omitempty" shallow:"true" doc:"What the box could not reach meanwhile"`
	Stdout    *streamView  `json:"stdout,omitempty"`
	Stderr    *streamView  `json:"stderr,omitempty" shallow:"true" doc:"Like stdout"`
	Next      string       `json:"next,omitempty"` // the call that goes on
}

func boxExec() tool {
	return define(spec{
		name: "box_exec", title: "Run command", set: "exec", destructive: true, openWorld: true,
		description: "Run a command in a box, starting the box if needed, and return its exit code and output. " +
			"Give command (a shell line) or argv. A command that takes longer than wait_seconds goes on: " +
			"the answer then has status \"running\" and an exec_id for exec_read, exec_write and exec_stop. " +
			"Long output is shown by its beginning and end; exec_read reads the rest. " +
			"A non-zero exit code is a result, not an error. " +
			"Each command is a new process: cd and variables do not carry over, files do. " +
			`Example: {"box": "dev", "command": "pip install numpy && python3 main.py"}`,
	}, execInBox)
}

// execInBox starts the box, the command, and waits, in this order: whether the
// command runs is certain at every moment, whenever the wait is ended.
func execInBox(ctx context.Context, c *call, a boxExecArgs) (string, execResult, error) {
	cmd, err := a.toCommand()
	if err != nil {
		return "", execResult{}, err
	}
	cmd.Key = boxlite.NewExecutionKey()
	if e, ran, err := c.runAtOnce(ctx, a.Box, cmd); err != nil {
		return "", execResult{}, c.boxFault(ctx, a.Box, err)
	} else if ran {
		return c.follow(ctx, e, a)
	}
	info, running, err := c.ensureRunning(ctx, a.Box)
	if err != nil {
		return "", execResult{}, err
	}
	if !running {
		text, v := c.stillStarting(ctx, a.Box, boxView{BoxID: a.Box})
		next := "box_start with box=" + v.BoxID + ", then box_exec again"
		return "The command has NOT been run. " + text, execResult{BoxID: v.BoxID, Status: "starting_box", Next: next}, nil
	}
	e, err := c.runCommand(ctx, info.ID, cmd)
	if err != nil {
		return "", execResult{}, c.boxFault(ctx, a.Box, err)
	}
	return c.follow(ctx, e, a)
}

// runAtOnce runs the command if the box runs, and reports whether it did. The
// box has to be given by its id, because a command's id, which is told before
// the command runs, begins with it.
func (c *call) runAtOnce(ctx context.Context, ref string, cmd boxlite.Command) (e boxlite.ExecInfo, ran bool, err error) {
	id, err := boxlite.ParseBoxID(ref)
	if err != nil || c.starts.isStarting(c.svc, ref) {
		return e, false, nil //nolint:nilerr // what is no id is a name, or a prefix
	}
	cmd.IfRunning = true
	e, err = c.runCommand(ctx, id, cmd)
	switch boxlite.KindOf(err) {
	case boxlite.InvalidState, boxlite.NotFound: // not running, or a name after all: the long way knows what to say
		return e, false, nil
	}
	return e, err == nil, err
}

// follow feeds a command that runs and watches it.
func (c *call) follow(ctx context.Context, e boxlite.ExecInfo, a boxExecArgs) (string, execResult, error) {
	if a.Stdin != nil {
		c.feed(ctx, e.ID, *a.Stdin, !a.KeepStdinOpen)
	}
	return c.watch(ctx, e, a.WaitSeconds, a.MaxOutputBytes)
}

func (a boxExecArgs) toCommand() (boxlite.Command, error) {
	if (a.Command == "") == (len(a.Argv) == 0) {
		return boxlite.Command{}, boxlite.Errorf(boxlite.InvalidArgument, "run command", "", "give exactly one of command and argv")
	}
	cmd := boxlite.Command{Args: a.Argv}
	if a.Command != "" {
		cmd = boxlite.Shell(a.Command)
	}
	cmd.Env = envList(a.Env)
	cmd.WorkingDir, cmd.User, cmd.TTY = a.WorkingDir, a.User, a.TTY
	cmd.Stdin = a.Stdin != nil || a.KeepStdinOpen
	cmd.Timeout = time.Duration(a.TimeoutSeconds) * time.Second
	return cmd, cmd.Check()
}

// runCommand starts a command. Once asked for, the start is not taken back by
// the end of the wait: a command that runs although its caller was told
// otherwise would be worse. The command's key lets its id be told before it is
// confirmed.
func (c *call) runCommand(ctx context.Context, box boxlite.BoxID, cmd boxlite.Command) (boxlite.ExecInfo, error) {
	id := string(cmd.ExecutionID(box))
	c.progress.follow(nil)
	c.progress.report(boxlite.Progress{Phase: "running"})
	c.progress.tell("starting the command as exec_id " + id)
	unsure := &fault{
		message: "the command was handed to the box, which has not confirmed yet that it runs. Its exec_id is " + id + ".",
		hint:    "Call exec_read with exec_id=" + id + " before running it again.",
	}
	return detached(ctx, c, unsure, func(ctx context.Context) (boxlite.ExecInfo, error) {
		e, err := c.svc.Run(ctx, string(box), cmd, c.progress.report)
		if err != nil && boxlite.KindOf(err) == boxlite.RpcTransport {
			err = &fault{message: "the connection was lost while the command was being started. Its exec_id is " + id + ".", hint: unsure.hint, cause: err}
		}
		return e, err
	})
}

// feed writes a command's standard input in the background, because a command
// need not read it. What goes wrong shows in the command's behaviour.
func (c *call) feed(ctx context.Context, id boxlite.ExecutionID, text string, eof bool) {
	c.starts.detach(ctx, func(free context.Context) {
		for data := []byte(text); ; {
			n, err := c.svc.WriteStdin(free, id, data, eof)
			if data = data[min(n, len(data)):]; err != nil || len(data) == 0 {
				return
			}
		}
	})
}

// watch waits for the end of a command and shows what it has printed.
func (c *call) watch(ctx context.Context, e boxlite.ExecInfo, waitSeconds, budget int) (string, execResult, error) {
	out, err := c.svc.Output(ctx, e.ID, boxlite.OutputRequest{
		MaxBytes: budget, Wait: c.waitFor(waitSeconds), Until: boxlite.UntilExit,
	})
	if err == nil {
		var stdout, stderr streamView
		if stdout, stderr, err = c.overview(ctx, e.ID, out, budget); err == nil {
			text, r := showExec(out.Exec, stdout, stderr)
			return c.showDenied(ctx, out.Exec, text, r)
		}
	}
	if boxlite.KindOf(err) == boxlite.NotFound {
		return "", execResult{}, execFault(string(e.ID), err)
	}
	// The command runs, so its id must reach the caller whatever went wrong.
	return "", execResult{}, &fault{
		message: fmt.Sprintf("the command was started as exec_id %s, and then its output could not be read. %s", e.ID, describeAny(err)),
		hint:    "Call exec_read with exec_id=" + string(e.ID) + "; do not run the command again.",
		cause:   err,
	}
}

// showExec returns an execution and a piece of its output as text and as a
// result.
func showExec(e boxlite.ExecInfo, stdout, stderr streamView) (string, execResult) {
	r := execResult{
		ExecID: string(e.ID), BoxID: string(e.ID.Box()), Status: "running",
		Stdout: &stdout, Stderr: &stderr,
	}
	if !e.Running && e.Result != nil {
		x := e.Result
		r.Status, r.ExitCode, r.Signal, r.TimedOut, r.OOM = "exited", &x.ExitCode, x.Signal, x.TimedOut, x.OOM
		r.Lost, r.Truncated, r.Seconds = oneLine(x.Lost, 300), x.Truncated, x.Duration.Seconds()
	}
	var b strings.Builder
	fmt.Fprintf(&b, "The command %s. exec_id %s\n", outcome(e), e.ID)
	stdout.write(&b, "stdout")
	stderr.write(&b, "stderr")
	if stdout.End == 0 && stderr.End == 0 {
		b.WriteString("It has printed nothing.\n")
	}
	if r.Truncated {
		b.WriteString("Output beyond the spill limit was dropped.\n")
	}
	r.Next = nextCall(r, stdout, stderr)
	if r.Next != "" {
		b.WriteString("Next: " + r.Next + ".\n")
	}
	return strings.TrimSuffix(b.String(), "\n"), r
}

// nextCall returns the call that reads on, or "" if there is nothing more.
func nextCall(r execResult, stdout, stderr streamView) string {
	more := stdout.NextOffset < stdout.End || stderr.NextOffset < stderr.End
	read := fmt.Sprintf("exec_read with exec_id=%s stdout_offset=%d stderr_offset=%d", r.ExecID, stdout.NextOffset, stderr.NextOffset)
	switch {
	case r.Status == "running":
		return read + " waits for more; exec_stop ends the command"
	case more:
		return read + " reads on"
	}
	return ""
}
