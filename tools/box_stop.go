package tools

import (
	"context"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
)

func boxStop() tool {
	return define(spec{
		name: "box_stop", title: "Stop box", set: "boxes", destructive: true, idempotent: true,
		description: "Stop a box: all its commands end and its memory is freed; its files are kept, and the next box_exec resumes it. " +
			"Does nothing to a stopped box. To end a single command use exec_stop; to delete the box and its files use box_remove.",
	}, stopBox)
}

func stopBox(ctx context.Context, c *call, a boxArgs) (string, boxView, error) {
	c.progress.report(boxlite.Progress{Phase: "stopping box"})
	unsure := &fault{message: "box " + quoteText(a.Box, 80) + " is still stopping, and goes on doing so.", hint: "Call box_get to see when it has stopped."}
	info, err := detached(ctx, c, unsure, func(ctx context.Context) (boxlite.BoxInfo, error) {
		return c.svc.StopBox(ctx, a.Box)
	})
	if err != nil {
		return "", boxView{}, c.boxFault(ctx, a.Box, err)
	}
	v := viewBox(info)
	return "Box " + v.line() + ". Its files are kept.", v, nil
}
