package tools

import (
	"context"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
)

type execReadArgs struct {
	ExecID         string `json:"exec_id" required:"true"`
	StdoutOffset   int64  `json:"stdout_offset" default:"0" doc:"First byte wanted; negative: from the end"`
	StderrOffset   int64  `json:"stderr_offset" default:"0"`
	WaitSeconds    int    `json:"wait_seconds" default:"30" min:"0" max:"50"`
	Until          string `json:"until" default:"output" enum:"output,exit" doc:"What to wait for"`
	MaxOutputBytes int    `json:"max_output_bytes" default:"16384" min:"256" max:"38000"`
	Encoding       string `json:"encoding" default:"text" enum:"text,base64" doc:"base64 gives the exact bytes"`
}

func execRead() tool {
	return define(spec{
		name: "exec_read", title: "Read output", set: "exec", readOnly: true, idempotent: true,
		description: "Read a command's output from given offsets, waiting up to wait_seconds for more, and see whether it still runs. " +
			"Pass the next_offset values of the last answer to read on; the same offsets give the same bytes again, also after the command ended. " +
			"With until=exit it waits for the end. Text is made printable (escapes such as \\x1b); encoding=base64 gives exact bytes. " +
			`Example: {"exec_id": "…", "stdout_offset": 16384, "wait_seconds": 30}`,
	}, readExec)
}

func readExec(ctx context.Context, c *call, a execReadArgs) (string, execResult, error) {
	id, err := boxlite.ParseExecutionID(a.ExecID)
	if err != nil {
		return "", execResult{}, err
	}
	req := boxlite.OutputRequest{
		StdoutOffset: a.StdoutOffset, StderrOffset: a.StderrOffset,
		MaxBytes: a.MaxOutputBytes, Wait: c.waitFor(a.WaitSeconds),
	}
	if a.Until == "exit" {
		req.Until = boxlite.UntilExit
	}
	c.progress.report(boxlite.Progress{Phase: "waiting for " + a.Until})
	out, err := c.svc.Output(ctx, id, req)
	if err != nil {
		return "", execResult{}, execFault(a.ExecID, err)
	}
	show := piece
	wide := func(ch boxlite.OutputChunk) int { return len(visible(ch.Data)) }
	if a.Encoding == "base64" {
		show = piece64
		wide = func(ch boxlite.OutputChunk) int { return (len(ch.Data) + 2) / 3 * 4 }
	}
	outShare, errShare := share(a.MaxOutputBytes, wide(out.Stdout), wide(out.Stderr))
	text, r := showExec(out.Exec, show(out.Stdout, outShare), show(out.Stderr, errShare))
	return c.showDenied(ctx, out.Exec, text, r)
}
