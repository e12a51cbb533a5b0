package tools

import (
	"context"
	"errors"
	"fmt"
	"time"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
)

type boxArgs struct {
	Box string `json:"box" required:"true" doc:"Box id, unique id prefix or name"`
}

func boxStart() tool {
	return define(spec{
		name: "box_start", title: "Start box", set: "boxes", idempotent: true, openWorld: true,
		description: "Start a stopped or never started box, or wait on for a start under way. A running box is left as it is. " +
			"Not needed before box_exec, file_read or file_write: those start the box themselves. " +
			"Pulls the image on the first start. If that takes longer than this call may, the answer has status \"starting\" and the start goes on: call again.",
	}, startBox)
}

func startBox(ctx context.Context, c *call, a boxArgs) (string, boxView, error) {
	info, running, err := c.ensureRunning(ctx, a.Box)
	if err != nil {
		return "", boxView{}, err
	}
	if !running {
		text, v := c.stillStarting(ctx, a.Box, boxView{BoxID: a.Box})
		return text, v, nil
	}
	v := viewBox(info)
	return "Box " + v.line() + ".", v, nil
}

// stillStarting answers for a start that takes longer than a call may. known is
// what is known of the box should the service not say more.
func (c *call) stillStarting(ctx context.Context, ref string, known boxView) (string, boxView) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if d, err := c.svc.GetBox(ctx, ref); err == nil {
		known = viewBox(d.BoxInfo)
	}
	if known.Phase == "" {
		known.Phase = c.progress.current()
	}
	known.Status = "starting"
	phase := ""
	if known.Phase != "" {
		phase = " (" + known.Phase + ")"
	}
	return fmt.Sprintf("Box %s is still starting%s; the start goes on without this call. "+
		"Call box_start with box=%s to wait for it, or box_get to look.", known.BoxID, phase, known.BoxID), known
}

// describeAny returns what explain says of an error, without the next step.
func describeAny(err error) string {
	message, _ := explain(err, "")
	return message
}

// hintOr returns the hint of an error, or another where it has none.
func hintOr(err error, other string) string {
	if f, ok := errors.AsType[*fault](err); ok && f.hint != "" {
		return f.hint
	}
	if h := boxlite.HintOf(err); h != "" {
		return oneLine(h, 500) + " " + other
	}
	return other
}
