package tools

import (
	"context"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
)

type boxRemoveArgs struct {
	Box   string `json:"box" required:"true" doc:"Box id, unique id prefix or name"`
	Force bool   `json:"force" default:"false" doc:"Also if it is running"`
}

type boxRemoveResult struct {
	BoxID   string `json:"box_id"`
	Name    string `json:"name,omitempty"`
	Removed bool   `json:"removed"`
}

func boxRemove() tool {
	return define(spec{
		name: "box_remove", title: "Remove box", set: "boxes", destructive: true,
		description: "Delete a box with all its files and outputs, for good. " +
			"A running box needs force=true, which ends its commands first. Read what you still need with file_read before. " +
			"To free memory and keep the files use box_stop.",
	}, removeBox)
}

func removeBox(ctx context.Context, c *call, a boxRemoveArgs) (string, boxRemoveResult, error) {
	c.progress.report(boxlite.Progress{Phase: "removing box"})
	unsure := &fault{message: "box " + quoteText(a.Box, 80) + " is still being removed, and this goes on.", hint: "Call box_list to see when it is gone."}
	info, err := detached(ctx, c, unsure, func(ctx context.Context) (boxlite.BoxInfo, error) {
		return c.svc.RemoveBox(ctx, a.Box, a.Force)
	})
	switch {
	case err == nil:
	case boxlite.KindOf(err) == boxlite.InvalidState && !a.Force:
		return "", boxRemoveResult{}, &fault{
			message: "box " + quoteText(a.Box, 80) + " is in use and was not removed.",
			hint:    "Call box_stop first, or box_remove with force=true.",
			cause:   err,
		}
	default:
		return "", boxRemoveResult{}, c.boxFault(ctx, a.Box, err)
	}
	r := boxRemoveResult{BoxID: string(info.ID), Name: oneLine(info.Name, 80), Removed: true}
	name := ""
	if r.Name != "" {
		name = " " + quoteText(r.Name, 80)
	}
	return "Removed box " + r.BoxID + name + " and its files.", r, nil
}
