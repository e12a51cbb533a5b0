// Command bench measures the system against what it is made of and against
// other tools, in one run, and says which of its aims are met:
//
//	make bench
//
// A ratio is of two things that were done by turns, A, B, A, B, so that what
// else the machine is doing hits both; of each series the least, the median
// and the greatest are printed. "The bare engine" is the same sandbox with the
// same image and the same agent, driven by this process: no daemon, no shim, no
// store, no MCP.
//
// It measures real programs only: boxlite-mcp and the two beside it (-server),
// Debian with Python from a local registry, skopeo and umoci. It ends with
// status 1 if something cannot be measured or what was measured cannot be; a
// missed aim is printed and is no failure. The last recorded result is in
// docs/benchmarks.md.
//
// It runs one measurement at a time. On disk it uses one temporary directory,
// which it removes, and the cache of the image.
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
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	_, err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if errors.Is(err, flag.ErrHelp) {
		os.Exit(2)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// options say what to measure and with what.
type options struct {
	server string // path of boxlite-mcp
	cache  string // directory of the image
	only   *regexp.Regexp
	quick  bool
}

func parse(args []string, out io.Writer) (options, error) {
	var o options
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(out)
	server := flags.String("server", "bin/boxlite-mcp", "the server `program`, as built")
	cache := flags.String("cache", "build/testimage", "where the image is kept between runs")
	only := flags.String("only", ".*", "measure what this `pattern` matches: "+strings.Join(names(), ", "))
	flags.BoolVar(&o.quick, "quick", false, "once and little of everything: whether it can be measured, not how fast it is")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if flags.NArg() > 0 {
		return o, fmt.Errorf("unexpected %q", flags.Args())
	}
	var err error
	if o.only, err = regexp.Compile("^(" + *only + ")$"); err != nil {
		return o, err
	}
	if !slices.ContainsFunc(names(), o.only.MatchString) {
		return o, fmt.Errorf("-only %s matches none of %s", *only, strings.Join(names(), ", "))
	}
	if o.server, err = filepath.Abs(*server); err != nil {
		return o, err
	}
	o.cache, err = filepath.Abs(*cache)
	return o, err
}

// A measurement adds its results to the report.
type measurement struct {
	name string
	run  func(ctx context.Context, s *setting, r *report) error
}

var measurements = []measurement{
	{"start", measureStart},
	{"exec", measureExec},
	{"memory", measureMemory},
	{"restart", measureRestart},
	{"output", measureOutput},
	{"import", measureImport},
	{"list", measureList},
	{"network", measureNetwork},
}

func names() (all []string) {
	for _, m := range measurements {
		all = append(all, m.name)
	}
	return all
}

// run is main without the process.
func run(ctx context.Context, args []string, out io.Writer) (*report, error) {
	o, err := parse(args, out)
	if err != nil {
		return nil, err
	}
	begun := time.Now()
	r := &report{out: out}
	r.say("%s, %d CPUs, load %s", runtime.GOARCH, runtime.NumCPU(), load())
	s, err := newSetting(ctx, o)
	if err != nil {
		return r, err
	}
	for _, m := range measurements {
		if !o.only.MatchString(m.name) {
			continue
		}
		if err = m.run(ctx, s, r); err != nil {
			err = fmt.Errorf("measure %s: %w", m.name, err)
			break
		}
	}
	err = errors.Join(err, s.close(context.WithoutCancel(ctx)))
	r.say("\n%d aims met, %d missed, in %.0f s; load %s", r.met, r.missed, time.Since(begun).Seconds(), load())
	return r, errors.Join(err, r.nonsense())
}

// load returns the system's load averages.
func load() string {
	data, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	return strings.Join(strings.Fields(string(data))[:3], " ")
}
