package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// netFlags are the flags that say what a box may reach.
type netFlags struct {
	mode  string
	allow []string
}

func (f *netFlags) add(fs *pflag.FlagSet) {
	fs.StringVar(&f.mode, "network", "", "`public`: the public Internet, and what --allow-net says; or none (default public)")
	fs.StringArrayVar(&f.allow, "allow-net", nil, "`rule` of what the box may reach, such as api.example.com:443, and nothing else; repeatable (default the public Internet)")
}

// spec returns the network that the flags describe.
//
// Errors: InvalidArgument.
func (f *netFlags) spec() (boxlite.NetworkSpec, error) {
	switch f.mode {
	case "", "public":
		return boxlite.NetworkSpec{Enabled: true, AllowNet: f.allow}, nil
	case "none":
		if len(f.allow) > 0 {
			return boxlite.NetworkSpec{}, usage("--network none", "Leave out one of the two.", fmt.Errorf("--allow-net says what to reach"))
		}
		return boxlite.NetworkSpec{}, nil
	}
	return boxlite.NetworkSpec{}, usage(fmt.Sprintf("--network %q", f.mode), "Use public or none.", nil)
}

// reaches returns what a network lets a box reach.
func reaches(n boxlite.NetworkSpec) string {
	switch {
	case !n.Enabled:
		return "none"
	case len(n.AllowNet) == 0:
		return "the public Internet"
	}
	return strings.Join(n.AllowNet, ", ")
}

func (m *commander) updateCmd() *cobra.Command {
	var f netFlags
	var labels []string
	cmd := &cobra.Command{
		Use:   "update [flags] BOX",
		Short: "Change what a box may reach, or its labels",
		Long: `Change what a box may reach, or its labels, while it runs or not. Connections that
are not allowed any more end at once. A box that runs without a network gets one
when it is started again.`,
		Example:           "  boxlite-mcp update dev --allow-net api.example.com:443\n  boxlite-mcp update dev --network none",
		Args:              needs(1, 1, "box"),
		ValidArgsFunction: m.completeFirst(m.boxNames(func(boxlite.BoxStatus) bool { return true })),
	}
	fs := cmd.Flags()
	f.add(fs)
	fs.StringArrayVar(&labels, "label", nil, "`label` to set: NAME=value, or NAME= to remove it; repeatable")
	cmd.RunE = m.with(func(ctx context.Context, l *link, args []string) error {
		var req boxlite.UpdateRequest
		if fs.Changed("network") || fs.Changed("allow-net") {
			spec, err := f.spec()
			if err != nil {
				return err
			}
			req.Network = &spec
		}
		var err error
		if req.Labels, err = parseLabels(labels); err != nil {
			return err
		}
		if req.Network == nil && len(req.Labels) == 0 {
			return usage("update", "Give --allow-net, --network or --label.", fmt.Errorf("nothing to change"))
		}
		return l.once(ctx, func(s boxlite.Service) error {
			info, err := s.UpdateBox(ctx, args[0], req)
			if err == nil {
				err = m.printf("%s\n", info.ID)
			}
			return err
		})
	})
	return cmd
}

func (m *commander) netlogCmd() *cobra.Command {
	var denied, lines bool
	var since spanFlag
	var limit int
	cmd := &cobra.Command{
		Use:   "netlog [flags] [BOX]",
		Short: "Show what a box tried to reach, and what became of it",
		Long: `Show what a box tried to reach, oldest first: names looked up, connections, and
requests to hosts that a secret or an HTTP rule is about. Without a box, show what
all boxes tried, those that are removed too, in the last 30 days, and where images
were pulled from.`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: m.completeFirst(m.boxNames(func(boxlite.BoxStatus) bool { return true })),
	}
	fs := cmd.Flags()
	fs.BoolVar(&denied, "denied", false, "only what was refused, or did not work")
	fs.Var(&since, "since", "only what is not older than this, such as 10m")
	fs.IntVarP(&limit, "limit", "n", 100, "at most this `number` of records, the newest of more")
	fs.BoolVar(&lines, "json", false, "print a line of JSON for each record")
	cmd.RunE = m.with(func(ctx context.Context, l *link, args []string) error {
		req := boxlite.NetworkLogRequest{Denied: denied, Limit: limit}
		if len(args) == 1 {
			req.Box = args[0]
		}
		if since > 0 {
			req.Since = time.Now().Add(-time.Duration(since))
		}
		var log boxlite.NetworkLog
		err := l.once(ctx, func(s boxlite.Service) (err error) {
			log, err = s.NetworkLog(ctx, req)
			return err
		})
		if err != nil {
			return err
		}
		if lines {
			return m.printEventLines(log.Events)
		}
		if log.More {
			fmt.Fprintf(m.Stderr, "%s: there are older records; -n shows more\n", Name)
		}
		return m.printEvents(log.Events)
	})
	return cmd
}

func (m *commander) printEventLines(events []boxlite.NetworkEvent) error {
	for _, e := range events {
		line, err := json.Marshal(e)
		if err != nil {
			return err
		}
		if err := m.printf("%s\n", line); err != nil {
			return err
		}
	}
	return nil
}

func (m *commander) printEvents(events []boxlite.NetworkEvent) error {
	rows := [][]string{{"TIME", "BOX", "WHAT", "TARGET", "DECISION", "CODE", "BYTES OUT/IN", "REASON"}}
	for _, e := range events {
		verb := "deny"
		if e.Allowed {
			verb = "allow"
		}
		reason := e.Reason
		if len(e.Secrets) > 0 {
			reason += fmt.Sprintf(" (secrets %v)", e.Secrets)
		}
		if e.Count > 1 {
			reason += fmt.Sprintf(" (%d times)", e.Count)
		}
		rows = append(rows, []string{
			e.Time.Local().Format(time.DateTime), string(e.Box), string(e.Kind), oneLine(e.Target()), verb, e.Code, fmt.Sprintf("%d/%d", e.Sent, e.Received), oneLine(reason),
		})
	}
	return table(m.Stdout, rows)
}
