package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/spf13/cobra"
)

const pageSize = 1000 // boxes, a call; the most there can be

func (m *commander) psCmd() *cobra.Command {
	var all, quiet, json bool
	var filters []string
	cmd := &cobra.Command{
		Use:     "ps [flags]",
		Aliases: []string{"list"},
		Short:   "List boxes",
		Long:    "List the boxes that are active or starting; with -a, or a filter for a status, all.",
		Args:    noArgs,
	}
	fs := cmd.Flags()
	fs.BoolVarP(&all, "all", "a", false, "also boxes that are not active")
	fs.BoolVarP(&quiet, "quiet", "q", false, "print ids only")
	fs.BoolVar(&json, "json", false, "print an array of boxes as JSON")
	fs.StringArrayVarP(&filters, "filter", "f", nil, "only boxes that `match`: status=S, label=NAME[=value], name=PART, image=PART or principal=NAME; repeatable, all must match")
	cmd.RunE = m.with(func(ctx context.Context, l *link, _ []string) error {
		f, err := parseFilters(filters)
		if err != nil {
			return err
		}
		f.all = all || f.status != ""
		boxes, err := listBoxes(ctx, l, f)
		switch {
		case err != nil:
			return err
		case json:
			return m.printJSON(boxes)
		case quiet:
			for _, b := range boxes {
				if err := m.printf("%s\n", b.ID); err != nil {
					return err
				}
			}
			return nil
		}
		return m.printBoxes(boxes)
	})
	return cmd
}

// A boxFilter selects boxes.
type boxFilter struct {
	all    bool // also those that are not active
	status boxlite.BoxStatus
	labels map[string]string
	has    []string                     // labels that must be there
	match  []func(boxlite.BoxInfo) bool // all must hold
}

func parseFilters(flags []string) (boxFilter, error) {
	f := boxFilter{labels: map[string]string{}}
	for _, s := range flags {
		key, value, ok := strings.Cut(s, "=")
		name, want, exact := strings.Cut(value, "=")
		switch {
		case !ok || value == "":
			return f, usage(fmt.Sprintf("--filter %q", s), "Write KEY=value, with status, label, name, image or principal for KEY.", nil)
		case key == "status" && slices.Contains(boxlite.Statuses[:], boxlite.BoxStatus(value)):
			f.status = boxlite.BoxStatus(value)
		case key == "status":
			return f, usage(fmt.Sprintf("--filter %q", s), "Use one of "+strings.Trim(fmt.Sprint(boxlite.Statuses), "[]")+".", nil)
		case key == "label" && exact:
			f.labels[name] = want
		case key == "label":
			f.has = append(f.has, value)
		case key == "name":
			f.match = append(f.match, func(b boxlite.BoxInfo) bool { return strings.Contains(b.Name, value) })
		case key == "image":
			f.match = append(f.match, func(b boxlite.BoxInfo) bool { return strings.Contains(b.Image, value) })
		case key == "principal":
			f.match = append(f.match, func(b boxlite.BoxInfo) bool { return b.Principal == value })
		default:
			return f, usage(fmt.Sprintf("--filter %q", s), "Filter by status, label, name, image or principal.", nil)
		}
	}
	return f, nil
}

func (f boxFilter) keeps(b boxlite.BoxInfo) bool {
	for _, name := range f.has {
		if _, ok := b.Labels[name]; !ok {
			return false
		}
	}
	for _, match := range f.match {
		if !match(b) {
			return false
		}
	}
	return f.all || b.Status.IsActive() || b.Phase != ""
}

// listBoxes returns the boxes of all pages that the filter keeps; never nil.
func listBoxes(ctx context.Context, l *link, f boxFilter) ([]boxlite.BoxInfo, error) {
	boxes := []boxlite.BoxInfo{}
	req := boxlite.ListRequest{Status: f.status, Labels: f.labels, Limit: pageSize}
	for {
		var page boxlite.BoxPage
		err := l.again(ctx, func(s boxlite.Service) (err error) {
			page, err = s.ListBoxes(ctx, req)
			return err
		})
		if err != nil {
			return nil, err
		}
		for _, b := range page.Boxes {
			if f.keeps(b) {
				boxes = append(boxes, b)
			}
		}
		if page.Cursor == "" || page.Cursor == req.Cursor {
			return boxes, nil
		}
		req.Cursor = page.Cursor
	}
}

func (m *commander) printBoxes(boxes []boxlite.BoxInfo) error {
	mixed := slices.ContainsFunc(boxes, func(b boxlite.BoxInfo) bool { return b.Principal != "" && b.Principal != "local" })
	head := []string{"ID", "NAME", "IMAGE", "STATUS", "CPUS", "MEMORY", "ENGINE", "CREATED"}
	if mixed {
		head = append(head, "PRINCIPAL")
	}
	rows := [][]string{head}
	now := time.Now()
	for _, b := range boxes {
		row := []string{string(b.ID), b.Name, cut(b.Image, 48), describe(b), fmt.Sprint(b.CPUs),
			boxlite.FromMiB(int64(b.MemoryMiB)).String(), b.Engine, ago(now, b.CreatedAt)}
		if mixed {
			row = append(row, b.Principal)
		}
		rows = append(rows, row)
	}
	return table(m.Stdout, rows)
}

// describe returns a box's state in a few words.
func describe(b boxlite.BoxInfo) string {
	switch {
	case b.Phase != "":
		return cut(b.Phase, 40)
	case b.Reason != "" && !b.Status.IsActive():
		return fmt.Sprintf("%s: %s", b.Status, cut(oneLine(b.Reason), 40))
	}
	return string(b.Status)
}

func (m *commander) startCmd() *cobra.Command {
	var mode string
	cmd := &cobra.Command{
		Use:               "start [flags] BOX...",
		Short:             "Start boxes",
		Args:              needs(1, -1, "box"),
		ValidArgsFunction: m.completeAll(m.boxNames(boxlite.BoxStatus.CanStart)),
	}
	progressFlag(cmd.Flags(), &mode, "plain")
	cmd.RunE = m.with(func(ctx context.Context, l *link, args []string) error {
		return each(args, func(ref string) error {
			p, err := m.newProgress(mode, "plain")
			if err != nil {
				return err
			}
			err = l.again(ctx, func(s boxlite.Service) error {
				_, err := s.StartBox(ctx, ref, p.report)
				return err
			})
			p.end()
			if err != nil {
				return err
			}
			return m.printf("%s\n", ref)
		})
	})
	return cmd
}

func (m *commander) stopCmd() *cobra.Command {
	return &cobra.Command{
		Use:               "stop BOX...",
		Short:             "Stop boxes; their disks are kept",
		Args:              needs(1, -1, "box"),
		ValidArgsFunction: m.completeAll(m.boxNames(boxlite.BoxStatus.CanStop)),
		RunE: m.with(func(ctx context.Context, l *link, args []string) error {
			return each(args, func(ref string) error {
				err := l.once(ctx, func(s boxlite.Service) error {
					_, err := s.StopBox(ctx, ref)
					return err
				})
				if err != nil {
					return err
				}
				return m.printf("%s\n", ref)
			})
		}),
	}
}

func (m *commander) rmCmd() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:               "rm [flags] BOX...",
		Aliases:           []string{"remove"},
		Short:             "Remove boxes and their disks",
		Args:              needs(1, -1, "box"),
		ValidArgsFunction: m.completeAll(m.boxNames(func(boxlite.BoxStatus) bool { return true })),
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "also boxes that are active")
	cmd.RunE = m.with(func(ctx context.Context, l *link, args []string) error {
		return each(args, func(ref string) error {
			err := l.once(ctx, func(s boxlite.Service) error {
				_, err := s.RemoveBox(ctx, ref, force)
				return err
			})
			if err != nil {
				return err
			}
			return m.printf("%s\n", ref)
		})
	})
	return cmd
}

func (m *commander) inspectCmd() *cobra.Command {
	var json bool
	cmd := &cobra.Command{
		Use:               "inspect [flags] BOX",
		Aliases:           []string{"info"},
		Short:             "Show all that is known of a box",
		Args:              needs(1, 1, "box"),
		ValidArgsFunction: m.completeFirst(m.boxNames(func(boxlite.BoxStatus) bool { return true })),
	}
	cmd.Flags().BoolVar(&json, "json", false, "print the box as JSON")
	cmd.RunE = m.with(func(ctx context.Context, l *link, args []string) error {
		d, err := getBox(ctx, l, args[0])
		switch {
		case err != nil:
			return err
		case json:
			return m.printJSON(d)
		}
		return m.printDetails(d)
	})
	return cmd
}

func getBox(ctx context.Context, l *link, ref string) (d boxlite.BoxDetails, err error) {
	err = l.again(ctx, func(s boxlite.Service) (err error) {
		d, err = s.GetBox(ctx, ref)
		return err
	})
	return d, err
}

func (m *commander) printDetails(d boxlite.BoxDetails) error {
	now := time.Now()
	rows := [][]string{{"id", string(d.ID)}}
	add := func(name, value string) {
		if value != "" {
			rows = append(rows, []string{name, value})
		}
	}
	add("name", d.Name)
	add("principal", d.Principal)
	add("status", string(d.Status))
	add("starting", d.Phase)
	add("reason", d.Reason)
	add("image", d.Image)
	add("digest", d.ImageDigest)
	add("engine", strings.TrimSpace(d.Engine+" "+parens(d.Isolation)))
	add("cpus", fmt.Sprint(d.CPUs))
	add("memory", of(d.Metrics.Memory, boxlite.FromMiB(int64(d.MemoryMiB))))
	add("disk", of(d.Metrics.Disk, boxlite.FromGiB(int64(d.DiskSizeGB))))
	add("limits", d.Limits)
	add("network", reaches(d.Network))
	add("secrets", strings.Join(d.Secrets, ", "))
	for _, k := range sortedKeys(d.Labels) {
		add("label", k+"="+d.Labels[k])
	}
	add("created", ago(now, d.CreatedAt))
	add("last used", ago(now, d.LastUsed))
	if d.ExpiresAt != nil {
		add("removed in", span(d.ExpiresAt.Sub(now)))
	}
	if d.AutoRemove {
		add("when it stops", "it is removed")
	}
	add("commands run", fmt.Sprint(d.Metrics.CommandsRun))
	if err := table(m.Stdout, rows); err != nil || len(d.Executions) == 0 {
		return err
	}
	execs := [][]string{{"EXECUTION", "STATUS", "STARTED", "OUTPUT", "COMMAND"}}
	for _, e := range d.Executions {
		execs = append(execs, []string{string(e.ID), ending(e), ago(now, e.Started),
			boxlite.Bytes(e.StdoutEnd + e.StderrEnd).String(), cut(oneLine(strings.Join(e.Args, " ")), 60)})
	}
	if err := m.printf("\n"); err != nil {
		return err
	}
	return table(m.Stdout, execs)
}

// ending returns how an execution ended in a few words.
func ending(e boxlite.ExecInfo) string {
	switch r := e.Result; {
	case e.Running || r == nil:
		return "running"
	case r.TimedOut:
		return "timed out"
	case r.OOM:
		return "out of memory"
	case r.Lost != "":
		return "lost: " + cut(oneLine(r.Lost), 30)
	case r.Signal != 0:
		return fmt.Sprintf("signal %d", r.Signal)
	default:
		return fmt.Sprintf("exit %d", r.ExitCode)
	}
}

// of returns "used of limit", or the limit alone where the use is not known.
func of(used *boxlite.Bytes, limit boxlite.Bytes) string {
	if used == nil {
		return limit.String()
	}
	return used.String() + " of " + limit.String()
}

func parens(s string) string {
	if s == "" {
		return ""
	}
	return "(" + s + ")"
}

func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
