package tools

import (
	"context"
	"fmt"
	"strings"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
)

type fileReadArgs struct {
	Box      string `json:"box" required:"true" doc:"Box id, unique id prefix or name"`
	Path     string `json:"path" required:"true" doc:"Absolute path in the box"`
	Offset   int64  `json:"offset" default:"0" doc:"First byte wanted; negative: from the end"`
	Limit    int    `json:"limit" default:"16384" min:"1" max:"38000" doc:"Most bytes of result"`
	Encoding string `json:"encoding" default:"text" enum:"text,base64" doc:"base64 gives the exact bytes"`
}

type fileReadResult struct {
	Path       string `json:"path"`
	Content    string `json:"content"`
	Encoding   string `json:"encoding"`
	Offset     int64  `json:"offset"`
	NextOffset int64  `json:"next_offset"`
	Size       int64  `json:"size"`
	EOF        bool   `json:"eof"`
	Mode       string `json:"mode"`
}

func fileRead() tool {
	return define(spec{
		name: "file_read", title: "Read file", set: "files", readOnly: true, idempotent: true,
		description: "Read a piece of a regular file in a box, resuming the box if it is stopped. " +
			"Text is made printable; encoding=base64 gives exact bytes, for binary files. " +
			"Long files come in pieces: pass next_offset as offset to read on. " +
			"To list a directory or to search, use box_exec with ls or grep.",
	}, readFile)
}

func readFile(ctx context.Context, c *call, a fileReadArgs) (string, fileReadResult, error) {
	box, err := c.boxForFiles(ctx, a.Box)
	if err != nil {
		return "", fileReadResult{}, err
	}
	want := a.Limit
	if a.Encoding == "base64" {
		want = max(1, a.Limit/4*3)
	}
	d, err := c.svc.ReadFile(ctx, box, a.Path, a.Offset, want)
	if err != nil {
		return "", fileReadResult{}, fileFault(a.Box, a.Path, err)
	}
	chunk := boxlite.OutputChunk{Offset: d.Offset, Data: d.Data, End: max(d.Size, d.Offset+int64(len(d.Data))), EOF: true}
	show := piece
	if a.Encoding == "base64" {
		show = piece64
	}
	v := show(chunk, max(a.Limit, maxEscape))
	r := fileReadResult{
		Path: oneLine(a.Path, 1000), Content: v.Text, Encoding: a.Encoding, Offset: v.Offset, NextOffset: v.NextOffset,
		Size: v.End, EOF: v.EOF, Mode: fmt.Sprintf("%04o", d.Mode&0o7777),
	}
	return r.text(a.Box), r, nil
}

func (r fileReadResult) text(box string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s in box %s: bytes %d to %d of %d, mode %s\n", quoteText(r.Path, 1000), quoteText(box, 80), r.Offset, r.NextOffset, r.Size, r.Mode)
	if r.Content != "" {
		label := "content"
		if r.Encoding == "base64" {
			label += " base64"
		}
		b.WriteString(fence(label, r.Content) + "\n")
	}
	if !r.EOF {
		fmt.Fprintf(&b, "Next: file_read with offset=%d reads on.\n", r.NextOffset)
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// boxForFiles returns the id of a box that runs, starting it where that is
// needed.
func (c *call) boxForFiles(ctx context.Context, ref string) (id string, err error) {
	if c.readOnly {
		d, err := c.svc.GetBox(ctx, ref)
		if err != nil {
			return "", c.boxFault(ctx, ref, err)
		}
		if !d.Status.IsRunning() {
			return "", boxlite.Errorf(boxlite.InvalidState, "read file in box", ref, "the box is %s, and this server may not start it", d.Status)
		}
		return string(d.ID), nil
	}
	info, running, err := c.ensureRunning(ctx, ref)
	if err != nil {
		return "", err
	}
	if !running {
		text, v := c.stillStarting(ctx, ref, boxView{BoxID: ref})
		return "", &fault{
			message: "no file was touched: " + text,
			hint:    "Then call again.",
			cause:   &boxlite.Error{Op: "start box", Ref: v.BoxID, Kind: boxlite.Timeout},
		}
	}
	return string(info.ID), nil
}
