package main

import (
	"context"
	"fmt"
	"io"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/internal/cli"
	"github.com/boxlite-mcp/boxlite-mcp/tools"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/image"
)

// wire connects the command line to the daemon, the MCP tools, the engines and
// the roles.
func wire(app *cli.App) {
	app.Connect = func(ctx context.Context, c cli.Config) (boxlite.Service, func() error, error) {
		client, err := dialer(app, c, "", true)
		if err != nil {
			return nil, nil, err
		}
		if _, _, err := client.Hello(ctx); err != nil {
			client.Close()
			return nil, nil, err
		}
		return client, client.Close, nil
	}
	app.Serve = func(ctx context.Context, c cli.Config, in io.Reader, out io.Writer) error {
		return serveStdio(ctx, app, c, in, out)
	}
	app.Listen = func(ctx context.Context, c cli.Config, l cli.ListenConfig) error { return serveHTTP(ctx, app, c, l) }
	app.OpenTokens = func(c cli.Config) cli.Tokens { return cliTokens{tokensOf(c)} }
	app.OpenSettings = func(c cli.Config) cli.Settings { return settings{c.Home} }
	app.ProbeEngines = func(ctx context.Context, _ cli.Config) []cli.Check { return probeEngines(ctx, app) }
	app.ExplainNet = explainNet
	app.Setups = setups{app}
	app.Repair = vmcore.Repair
	app.CheckRegistry = func(name string) error {
		_, err := image.ParseRegistry(name)
		return err
	}
	app.Roles = roles(app)
}

// serveStdio speaks MCP on in and out. It answers before the daemon does: the
// first call of a tool connects.
func serveStdio(ctx context.Context, app *cli.App, c cli.Config, in io.Reader, out io.Writer) error {
	client, err := dialer(app, c, c.Principal, false)
	if err != nil {
		return err
	}
	defer client.Close()
	svc := withDefaults(client, c)
	opts, err := toolOptions(c, c.Log(app.Stderr))
	if err != nil {
		return err
	}
	srv, err := tools.NewServer(tools.Always(svc), opts)
	if err != nil {
		return err
	}
	defer srv.Close()
	return srv.ServeStdio(ctx, in, out)
}

// defaults is a Service whose new boxes get the operator's engine and isolation
// where the caller names none.
type defaults struct {
	boxlite.Service
	engine, isolation string
}

func withDefaults(svc boxlite.Service, c cli.Config) boxlite.Service {
	if c.Engine == "" && c.Isolation == "" {
		return svc
	}
	return &defaults{svc, c.Engine, c.Isolation}
}

// CreateBox implements boxlite.Boxes.
func (d *defaults) CreateBox(ctx context.Context, req boxlite.CreateRequest, report func(boxlite.Progress)) (boxlite.BoxInfo, error) {
	if req.Options.Engine == "" {
		req.Options.Engine = d.engine
	}
	if req.Options.Isolation == "" {
		req.Options.Isolation = d.isolation
	}
	return d.Service.CreateBox(ctx, req, report)
}

// probeEngines says what each engine can do on this host, for doctor. It needs
// neither a home nor a daemon.
func probeEngines(ctx context.Context, app *cli.App) []cli.Check {
	reports, err := vmcore.ProbeEngines(ctx, programs(app))
	if err != nil {
		return []cli.Check{{Name: "engines", Detail: err.Error(), Hint: boxlite.HintOf(err)}}
	}
	var checks []cli.Check
	for _, r := range reports {
		c := cli.Check{Name: "engine " + r.Name, OK: r.Usable, Detail: r.Reason, Hint: r.Hint, Optional: len(reports) > 1}
		if r.Usable {
			c.Detail = fmt.Sprintf("%s, first output after %d ms", r.Isolation, r.Start.Milliseconds())
			if weak := r.Limits(); weak != "" {
				c.Detail += "; " + weak
			}
		}
		checks = append(checks, c)
	}
	return checks
}
