// Command conformance serves what other people's test suites expect of a server
// that is tested: tools, prompts and resources with names and answers of their
// choosing, beside the tools and prompts of boxlite-mcp. What serves them is what
// serves those: package tools behind package listen. It has no boxes.
//
//	go run ./internal/conformance 127.0.0.1:7777    # prints a token
//
// scripts/conformance runs the suites against it; docs/conformance.md says what
// came of it. The token is needed, as everywhere.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/internal/listen"
	"github.com/boxlite-mcp/boxlite-mcp/tools"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "conformance:", err)
		os.Exit(1)
	}
}

// run serves until ctx ends. It prints a token for the server to stdout once it
// listens.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) (err error) {
	if len(args) != 1 {
		return errors.New("give the address to listen at")
	}
	dir, err := os.MkdirTemp("", "conformance-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	tokens := listen.NewTokens(filepath.Join(dir, "tokens.json"))
	token, err := tokens.Add("suite", "suite")
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(stderr, nil))
	srv, err := tools.NewServer(noBoxes, tools.Options{Log: log, Extend: mount})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, srv.Close()) }()
	mcp := srv.HTTP()
	defer mcp.Close(context.WithoutCancel(ctx))
	var config net.ListenConfig
	l, err := config.Listen(ctx, "tcp", args[0])
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintln(stdout, token); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { mcp.Close(context.WithoutCancel(ctx)) }) // streams end, so that Serve can
	defer stop()
	return listen.Serve(ctx, l, listen.Options{
		Handler: mcp, Tokens: tokens, Identify: tools.WithPrincipal, Log: log,
		Origins: []string{"http://" + l.Addr().String()}, // the suite plays a web page of this server
	})
}

// noBoxes is the service of this server.
func noBoxes(context.Context) (boxlite.Service, error) {
	return nil, boxlite.Errorf(boxlite.Unsupported, "call", "", "this server has no boxes")
}
