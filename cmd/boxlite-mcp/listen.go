package main

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"sync"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/internal/cli"
	"github.com/boxlite-mcp/boxlite-mcp/internal/listen"
	"github.com/boxlite-mcp/boxlite-mcp/internal/rpc"
	"github.com/boxlite-mcp/boxlite-mcp/tools"
)

// serveHTTP speaks MCP over HTTP until ctx ends.
func serveHTTP(ctx context.Context, app *cli.App, c cli.Config, lc cli.ListenConfig) (err error) {
	log := c.Log(app.Stderr)
	clients := &clients{app: app, c: c, byPrincipal: map[string]*principalClient{}}
	defer func() { err = errors.Join(err, clients.close()) }()
	opts := listen.Options{
		Tokens: tokensOf(c), Identify: tools.WithPrincipal,
		Hosts: lc.Hosts, Origins: lc.Origins, CertFile: lc.CertFile, KeyFile: lc.KeyFile, Log: log,
	}
	if err := cli.ClaimHome(c.Home); err != nil {
		return err
	}
	if err := opts.Check(lc.Addr); err != nil {
		return err
	}
	toolOpts, err := toolOptions(c, log)
	if err != nil {
		return err
	}
	srv, err := tools.NewServer(clients.service, toolOpts)
	if err != nil {
		return err
	}
	defer srv.Close()
	mcp := srv.HTTP()
	defer mcp.Close(context.WithoutCancel(ctx))
	opts.Handler = mcp
	var config net.ListenConfig
	l, err := config.Listen(ctx, "tcp", lc.Addr)
	if err != nil {
		return &boxlite.Error{Op: "listen", Kind: boxlite.Config, Ref: lc.Addr, Err: err, Hint: "Choose another port, or end what listens there."}
	}
	log.Info("listening", "addr", l.Addr().String())
	go func() { <-ctx.Done(); mcp.Close(context.WithoutCancel(ctx)) }() // streams end, so that Serve can
	return listen.Serve(ctx, l, opts)
}

func tokensOf(c cli.Config) *listen.Tokens {
	return listen.NewTokens(filepath.Join(c.Home, "tokens.json"))
}

// cliTokens are the tokens as the command line knows them.
type cliTokens struct{ *listen.Tokens }

func (t cliTokens) List() ([]cli.Token, error) {
	list, err := t.Tokens.List()
	var out []cli.Token
	for _, x := range list {
		out = append(out, cli.Token{Name: x.Name, Principal: x.Principal, Created: x.Created})
	}
	return out, err
}

// clients are the connections to the daemon, one for each principal that has
// called.
type clients struct {
	app *cli.App
	c   cli.Config

	mu          sync.Mutex
	byPrincipal map[string]*principalClient // guarded by mu
}

type principalClient struct {
	*rpc.Client
	svc boxlite.Service
}

// service returns the service of the principal whose call ctx is of.
func (s *clients) service(ctx context.Context) (boxlite.Service, error) {
	principal := tools.PrincipalOf(ctx)
	if principal == "" {
		return nil, boxlite.Errorf(boxlite.Internal, "serve", "", "a call without a principal")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.byPrincipal[principal]; p != nil {
		return p.svc, nil
	}
	client, err := dialer(s.app, s.c, principal, false)
	if err != nil {
		return nil, err
	}
	p := &principalClient{client, withDefaults(client, s.c)}
	s.byPrincipal[principal] = p
	return p.svc, nil
}

func (s *clients) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, p := range s.byPrincipal {
		errs = append(errs, p.Close())
	}
	clear(s.byPrincipal)
	return errors.Join(errs...)
}
