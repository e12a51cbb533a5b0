package tools

import (
	"context"
	"fmt"
	"strings"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
)

// mostExecutions is how many executions box_get shows, the latest.
const mostExecutions = 20

type boxGetResult struct {
	Box             boxView    `json:"box" shallow:"true" doc:"As in box_create"`
	CommandsRun     int64      `json:"commands_run"`
	CPUPercent      *float64   `json:"cpu_percent,omitempty"`
	MemoryBytes     *int64     `json:"memory_bytes,omitempty"`
	DiskBytes       *int64     `json:"disk_bytes,omitempty"`
	Executions      []execView `json:"executions"`
	ExecutionsTotal int        `json:"executions_total"`
}

func boxGet() tool {
	return define(spec{
		name: "box_get", title: "Get box", set: "boxes", readOnly: true, idempotent: true,
		description: "Show one box: status, phase of a start under way, why it stopped or failed, use of CPU, memory and disk, " +
			"and its latest executions with their exec_ids. " +
			"Use it to find a command whose exec_id was lost, or to see how a start is getting on. Never starts the box.",
	}, getBox)
}

func getBox(ctx context.Context, c *call, a boxArgs) (string, boxGetResult, error) {
	d, err := c.svc.GetBox(ctx, a.Box)
	if err != nil {
		return "", boxGetResult{}, c.boxFault(ctx, a.Box, err)
	}
	m := d.Metrics
	r := boxGetResult{
		Box: viewBox(d.BoxInfo), CommandsRun: m.CommandsRun, CPUPercent: m.CPUPercent,
		MemoryBytes: (*int64)(m.Memory), DiskBytes: (*int64)(m.Disk),
		Executions: []execView{}, ExecutionsTotal: len(d.Executions),
	}
	var b strings.Builder
	b.WriteString("Box " + r.Box.line() + ".\n")
	fmt.Fprintf(&b, "%d GiB disk limit, %d commands run", d.DiskSizeGB, m.CommandsRun)
	if m.CPUPercent != nil {
		fmt.Fprintf(&b, ", CPU %.0f %%", *m.CPUPercent)
	}
	if m.Memory != nil {
		b.WriteString(", memory " + m.Memory.String())
	}
	if m.Disk != nil {
		b.WriteString(", disk " + m.Disk.String())
	}
	b.WriteString(".")
	writeExecutions(&b, &r, d.Executions)
	return b.String(), r, nil
}

func writeExecutions(b *strings.Builder, r *boxGetResult, execs []boxlite.ExecInfo) {
	if len(execs) == 0 {
		return
	}
	if n := len(execs); n > mostExecutions {
		execs = execs[n-mostExecutions:]
		fmt.Fprintf(b, "\nThe last %d of %d executions:", mostExecutions, n)
	} else {
		b.WriteString("\nExecutions:")
	}
	for _, e := range execs {
		v := viewExec(e)
		fmt.Fprintf(b, "\n%s %s %s", v.ExecID, quoteText(v.Command, 200), outcome(e))
		r.Executions = append(r.Executions, v)
	}
}
