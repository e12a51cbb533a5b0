package tools

import (
	"context"
	"fmt"
	"time"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
)

// minWrite is the least time that an operation gets which was asked not to
// wait, but has to reach the box.
const minWrite = 500 * time.Millisecond

type execStopArgs struct {
	ExecID       string `json:"exec_id" required:"true"`
	Signal       string `json:"signal" enum:"INT,TERM,HUP,QUIT,USR1,USR2,KILL" doc:"Only send this to its process group"`
	GraceSeconds int    `json:"grace_seconds" default:"2" min:"0" max:"30" doc:"Between SIGTERM and SIGKILL"`
}

type execStopResult struct {
	ExecID   string `json:"exec_id"`
	Status   string `json:"status" enum:"running,exited"`
	ExitCode *int   `json:"exit_code,omitempty"`
	Signal   int    `json:"signal,omitempty"`
}

var signals = map[string]int{"HUP": 1, "INT": 2, "QUIT": 3, "KILL": 9, "USR1": 10, "USR2": 12, "TERM": 15}

func execStop() tool {
	return define(spec{
		name: "exec_stop", title: "Stop command", set: "exec", destructive: true,
		description: "End a running command and everything it started: SIGTERM, then SIGKILL after grace_seconds. " +
			"With signal, only send that signal and return at once, e.g. INT as Ctrl-C does. " +
			"The box and its other commands go on, and the output stays readable with exec_read. Does nothing to a command that has ended.",
	}, stopExec)
}

func stopExec(ctx context.Context, c *call, a execStopArgs) (string, execStopResult, error) {
	id, err := boxlite.ParseExecutionID(a.ExecID)
	if err != nil {
		return "", execStopResult{}, err
	}
	if a.Signal != "" {
		return sendSignal(ctx, c, id, a.Signal)
	}
	c.progress.report(boxlite.Progress{Phase: "stopping command"})
	unsure := &fault{message: "the command is still being stopped, and this goes on.", hint: "Call exec_read to see when it has ended."}
	e, err := detached(ctx, c, unsure, func(ctx context.Context) (boxlite.ExecInfo, error) {
		return c.svc.StopExec(ctx, id, time.Duration(a.GraceSeconds)*time.Second)
	})
	if err != nil {
		return "", execStopResult{}, execFault(a.ExecID, err)
	}
	r := execStopResult{ExecID: a.ExecID, Status: "running"}
	if !e.Running && e.Result != nil {
		r.Status, r.ExitCode, r.Signal = "exited", &e.Result.ExitCode, e.Result.Signal
	}
	return fmt.Sprintf("The command %s. Its output is still there: exec_read with exec_id=%s.", outcome(e), a.ExecID), r, nil
}

func sendSignal(ctx context.Context, c *call, id boxlite.ExecutionID, name string) (string, execStopResult, error) {
	if err := c.svc.Signal(ctx, id, signals[name]); err != nil {
		return "", execStopResult{}, execFault(string(id), err)
	}
	out, err := c.svc.Output(ctx, id, boxlite.OutputRequest{Wait: minWrite, Until: boxlite.UntilExit})
	if err != nil {
		return "", execStopResult{}, execFault(string(id), err)
	}
	r := execStopResult{ExecID: string(id), Status: "running"}
	if e := out.Exec; !e.Running && e.Result != nil {
		r.Status, r.ExitCode, r.Signal = "exited", &e.Result.ExitCode, e.Result.Signal
	}
	return fmt.Sprintf("Sent SIG%s. The command %s. exec_read with exec_id=%s shows what it prints.", name, outcome(out.Exec), id), r, nil
}
