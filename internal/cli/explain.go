package cli

import (
	"context"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/spf13/cobra"
)

// A NetQuestion asks what would become of a box's connection.
type NetQuestion struct {
	Allow   []string // the box's allow_net; none: the public Internet
	Static  []string // the operator's static entries, name=address:port
	Resolve bool     // look names up, as the gateway would
	Dest    string   // host, host:port, tcp/… or udp/…, or a URL
}

// A NetStep is one thing that would be decided about the connection.
type NetStep struct {
	Stage   string `json:"stage"`   // "destination", "name", "address"; the last is "verdict"
	Subject string `json:"subject"` // what is decided about
	Allow   bool   `json:"allow"`
	Code    string `json:"code"`
	Rule    string `json:"rule,omitempty"`
	Reason  string `json:"reason"`
}

const explainHelp = `Say what would become of a box's connection, step by step, by the code that
decides about real ones. It needs no box and no daemon.

DESTINATION is a host or an address, with or without a port (443 is meant), with
or without tcp/ or udp/, or a URL.

The exit code is 0 if the connection would be allowed, and 5 if not.`

func (m *commander) explainNetCmd() *cobra.Command {
	var q NetQuestion
	var json, offline bool
	cmd := &cobra.Command{
		Use:   "explain-net [flags] DESTINATION",
		Short: "Say whether a box could reach something, and why",
		Long:  explainHelp,
		Example: "  boxlite-mcp explain-net --allow '*.example.org' --allow api.example.com:443 cdn.example.org\n" +
			"  boxlite-mcp explain-net --offline --allow 10.0.0.0/8 10.1.2.3:5432",
		Args: needs(1, 1, "destination"),
	}
	fs := cmd.Flags()
	fs.StringArrayVar(&q.Allow, "allow", nil, "`rule` of what the box may reach; repeatable (default the public Internet)")
	fs.StringArrayVar(&q.Static, "static", nil, "`entry` that says where a name leads, as NAME=ADDRESS:PORT; repeatable")
	fs.BoolVar(&offline, "offline", false, "look up no names")
	fs.BoolVar(&json, "json", false, "print an array of steps as JSON")
	cmd.RunE = m.run(func(ctx context.Context, _ Config, args []string) error {
		if m.ExplainNet == nil {
			return &boxlite.Error{Op: "explain network access", Kind: boxlite.Unsupported}
		}
		q.Dest, q.Resolve = args[0], !offline
		steps, err := m.ExplainNet(ctx, q)
		if err != nil {
			return err
		}
		if json {
			err = m.printJSON(steps)
		} else {
			err = m.printSteps(steps)
		}
		if err == nil && (len(steps) == 0 || !steps[len(steps)-1].Allow) {
			return &exitError{exitCode(boxlite.Denied), nil}
		}
		return err
	})
	return cmd
}

func (m *commander) printSteps(steps []NetStep) error {
	rows := make([][]string, len(steps))
	for i, s := range steps {
		verb := "deny"
		if s.Allow {
			verb = "allow"
		}
		rows[i] = []string{s.Stage, verb, oneLine(s.Subject), s.Code, oneLine(s.Reason)}
	}
	return table(m.Stdout, rows)
}
