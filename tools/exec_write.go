package tools

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
)

type execWriteArgs struct {
	ExecID      string `json:"exec_id" required:"true"`
	Data        string `json:"data" doc:"End a line with \\n"`
	Encoding    string `json:"encoding" default:"text" enum:"text,base64"`
	EOF         bool   `json:"eof" default:"false" doc:"Close standard input after data"`
	WaitSeconds int    `json:"wait_seconds" default:"10" min:"0" max:"50" doc:"How long to wait for it to be taken"`
}

type execWriteResult struct {
	ExecID       string `json:"exec_id"`
	BytesWritten int    `json:"bytes_written"`
	Closed       bool   `json:"closed"`
}

func execWrite() tool {
	return define(spec{
		name: "exec_write", title: "Write input", set: "exec", destructive: true,
		description: "Write to the standard input of a command that box_exec started with keep_stdin_open=true. " +
			"A command that does not read takes only part: the answer says how many bytes were taken; send the rest later. " +
			"Read the reply with exec_read. Not for answering prompts of commands started without keep_stdin_open.",
	}, writeExec)
}

func writeExec(ctx context.Context, c *call, a execWriteArgs) (string, execWriteResult, error) {
	id, err := boxlite.ParseExecutionID(a.ExecID)
	if err != nil {
		return "", execWriteResult{}, err
	}
	data, err := decode(a.Data, a.Encoding)
	if err != nil {
		return "", execWriteResult{}, err
	}
	if len(data) == 0 && !a.EOF {
		return "", execWriteResult{}, boxlite.Errorf(boxlite.InvalidArgument, "write input", "", "give data, or eof=true to close the input")
	}
	wait, cancel := context.WithTimeout(ctx, max(c.waitFor(a.WaitSeconds), minWrite))
	defer cancel()
	n, err := c.svc.WriteStdin(wait, id, data, a.EOF)
	n = min(max(n, 0), len(data))
	switch {
	case err == nil, wait.Err() != nil: // what was taken, was taken
	case n > 0:
		return "", execWriteResult{}, &fault{
			message: fmt.Sprintf("the command took %d of %d bytes and then no more. %s", n, len(data), describeAny(err)),
			cause:   err,
		}
	default:
		return "", execWriteResult{}, execFault(a.ExecID, err)
	}
	r := execWriteResult{ExecID: a.ExecID, BytesWritten: n, Closed: a.EOF && err == nil}
	return r.text(len(data)), r, nil
}

func (r execWriteResult) text(size int) string {
	text := fmt.Sprintf("The command took %d of %d bytes.", r.BytesWritten, size)
	switch {
	case r.BytesWritten < size:
		text += " It has not read the rest yet; nothing of it is kept. Send it again later, from there on."
	case r.Closed:
		text += " Its input is closed."
	}
	return text + " Read its output with exec_read, exec_id=" + r.ExecID + "."
}

// decode returns the bytes that a text argument stands for.
func decode(s, encoding string) ([]byte, error) {
	if encoding != "base64" {
		return []byte(s), nil
	}
	s = strings.Map(func(r rune) rune {
		if r == '\n' || r == '\r' || r == ' ' {
			return -1
		}
		return r
	}, s)
	data, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		data, err = base64.RawStdEncoding.DecodeString(s)
	}
	if err != nil {
		return nil, &boxlite.Error{Op: "decode base64", Kind: boxlite.InvalidArgument, Err: errors.New("the data is not base64"),
			Hint: "Use the standard alphabet, or encoding=text."}
	}
	return data, nil
}
