package tools

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
)

type fileWriteArgs struct {
	Box      string  `json:"box" required:"true" doc:"Box id, unique id prefix or name"`
	Path     string  `json:"path" required:"true" doc:"Absolute path in the box"`
	Content  *string `json:"content" required:"true"`
	Encoding string  `json:"encoding" default:"text" enum:"text,base64"`
	Append   bool    `json:"append" default:"false" doc:"Add to the end"`
	Mode     string  `json:"mode" doc:"Octal permissions, e.g. 0755; default 0644"`
	User     string  `json:"user" doc:"Owner"`
}

type fileWriteResult struct {
	Path         string `json:"path"`
	BytesWritten int    `json:"bytes_written"`
	Size         int64  `json:"size"`
	Mode         string `json:"mode"`
}

func fileWrite() tool {
	return define(spec{
		name: "file_write", title: "Write file", set: "files", destructive: true,
		description: "Write a file in a box, replacing it or, with append, extending it; parent directories are made, and a stopped box is resumed. " +
			"Use encoding=base64 for binary content. At most about 6 MB a call; write larger files in pieces with append. " +
			`Example: {"box": "dev", "path": "/root/main.py", "content": "print(1)\n"}`,
	}, writeFile)
}

func writeFile(ctx context.Context, c *call, a fileWriteArgs) (string, fileWriteResult, error) {
	req := boxlite.WriteFileRequest{Path: a.Path, Append: a.Append, User: a.User}
	var err error
	if req.Mode, err = parseMode(a.Mode); err != nil {
		return "", fileWriteResult{}, err
	}
	if req.Data, err = decode(*a.Content, a.Encoding); err != nil {
		return "", fileWriteResult{}, err
	}
	box, err := c.boxForFiles(ctx, a.Box)
	if err != nil {
		return "", fileWriteResult{}, err
	}
	c.progress.report(boxlite.Progress{Phase: "writing file"})
	unsure := &fault{message: "the file is still being written, and this goes on.", hint: "Look at it with box_exec (ls -l) before writing it again."}
	info, err := detached(ctx, c, unsure, func(ctx context.Context) (boxlite.FileInfo, error) {
		return c.svc.WriteFile(ctx, box, req)
	})
	if err != nil {
		return "", fileWriteResult{}, fileFault(a.Box, a.Path, err)
	}
	r := fileWriteResult{Path: oneLine(a.Path, 1000), BytesWritten: len(req.Data), Size: info.Size, Mode: fmt.Sprintf("%04o", info.Mode&0o7777)}
	verb := "Wrote"
	if a.Append {
		verb = "Appended"
	}
	return fmt.Sprintf("%s %d bytes to %s in box %s: %d bytes, mode %s.", verb, r.BytesWritten, quoteText(a.Path, 1000), quoteText(a.Box, 80), r.Size, r.Mode), r, nil
}

// parseMode reads octal permission bits; "" is 0, for the default.
func parseMode(s string) (uint32, error) {
	if s == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(strings.TrimPrefix(s, "0o"), 8, 32)
	if err != nil || n == 0 || n > 0o7777 {
		return 0, boxlite.Errorf(boxlite.InvalidArgument, "write file", "", "mode must be octal permissions such as 0644 or 0755, not %s", quoteText(s, 40))
	}
	return uint32(n), nil
}
