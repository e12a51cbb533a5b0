// Command demo shows what an AI agent does with boxlite-mcp, and checks every
// step of it. It is an ordinary MCP client, made with the official Go SDK, and
// nothing is staged: the image is Debian with Python, made from packages and
// served by a registry; the server is the program that a client would start;
// the box is a real sandbox.
//
//	make demo
//
// What it prints is what the agent sees. It ends with status 1 at the first
// step that does not do what it should.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/boxlite-mcp/boxlite-mcp/internal/testimage"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if errors.Is(err, flag.ErrHelp) {
		os.Exit(2)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// run is main without the process.
func run(ctx context.Context, args []string, out io.Writer) (err error) {
	flags := flag.NewFlagSet("demo", flag.ContinueOnError)
	server := flags.String("server", "bin/boxlite-mcp", "the server `program`, as built")
	cache := flags.String("cache", "build/testimage", "where the image is kept between runs")
	verbose := flags.Bool("v", false, "print results whole, and what tools print that make the image")
	if err := flags.Parse(args); err != nil {
		return err
	}
	home, err := os.MkdirTemp("", "boxlite-demo-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(home)) }()
	begun := time.Now()
	s := &stage{out: out, verbose: *verbose, home: filepath.Join(home, "home")}
	if s.server, err = filepath.Abs(*server); err != nil {
		return err
	}

	s.chapter("An image from packages, served by a registry")
	reg, err := serveImage(ctx, s, *cache, filepath.Join(home, "registry"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, reg.Close()) }()
	s.registry = reg.URL()

	if s.api, err = serveAPI(ctx, home); err != nil {
		return err
	}
	defer s.api.server.Close()
	err = errors.Join(story(ctx, s), s.end(ctx))
	if err == nil {
		s.chapter(fmt.Sprintf("All of it worked, in %.1f s", time.Since(begun).Seconds()))
	}
	return err
}

// serveImage makes the image, unless an earlier run did, and serves it.
func serveImage(ctx context.Context, s *stage, cache, dir string) (*testimage.Registry, error) {
	log := io.Discard
	if s.verbose {
		log = s.out
	}
	begun := time.Now()
	img, err := testimage.Debian(ctx, cache, log)
	if err != nil {
		return nil, err
	}
	s.say("Debian with Python is in %s (%.1f s; a minute the first time).", cache, time.Since(begun).Seconds())
	reg, err := testimage.Serve(ctx, dir, log)
	if err != nil {
		return nil, err
	}
	ref, err := reg.Push(ctx, img, image)
	if err != nil {
		return nil, errors.Join(err, reg.Close())
	}
	s.say("docker-registry serves it as %s.", ref)
	return reg, nil
}
