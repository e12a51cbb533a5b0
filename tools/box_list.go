package tools

import (
	"context"
	"fmt"
	"strings"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
)

type boxListArgs struct {
	Status string            `json:"status" default:"any" enum:"any,configured,running,paused,stopping,stopped,failed,unknown"`
	Labels map[string]string `json:"labels" doc:"Only boxes with all of these"`
	Limit  int               `json:"limit" default:"20" min:"1" max:"100"`
	Cursor string            `json:"cursor" doc:"next_cursor of the last page"`
}

type boxListResult struct {
	Boxes      []boxView `json:"boxes"`
	Total      int       `json:"total"`
	NextCursor string    `json:"next_cursor,omitempty"`
}

func boxList() tool {
	return define(spec{
		name: "box_list", title: "List boxes", set: "boxes", readOnly: true, idempotent: true,
		description: "List your boxes, oldest first, with id, name, status and image. " +
			"Start here when you come back to earlier work: boxes and their files outlive conversations and restarts. " +
			"Stopped boxes keep their files and resume with box_exec. Paged: pass next_cursor as cursor.",
	}, listBoxes)
}

func listBoxes(ctx context.Context, c *call, a boxListArgs) (string, boxListResult, error) {
	if a.Status == "any" {
		a.Status = ""
	}
	page, err := c.svc.ListBoxes(ctx, boxlite.ListRequest{
		Status: boxlite.BoxStatus(a.Status), Labels: a.Labels, Limit: a.Limit, Cursor: a.Cursor,
	})
	if err != nil {
		return "", boxListResult{}, err
	}
	r := boxListResult{Boxes: []boxView{}, Total: page.Total, NextCursor: page.Cursor}
	if page.Total == 0 {
		return "There are no such boxes. box_create makes one.", r, nil
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%d of %d boxes:\n", len(page.Boxes), page.Total)
	unsaid := 0
	for _, info := range page.Boxes {
		v := viewBox(info).brief()
		if line := v.line() + "\n"; b.Len()+len(line) < mostShown {
			b.WriteString(line)
		} else {
			unsaid++
		}
		r.Boxes = append(r.Boxes, v)
	}
	if unsaid > 0 {
		fmt.Fprintf(&b, "[%d more on this page do not fit; use a smaller limit]\n", unsaid)
	}
	if page.Cursor != "" {
		b.WriteString("More: box_list with cursor=" + oneLine(page.Cursor, 200))
	}
	return strings.TrimSuffix(b.String(), "\n"), r, nil
}
