package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/agent"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/engine"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/engine/gvisor"
)

// A way is one way to use boxes.
type way interface {
	name() string
	create(ctx context.Context) (box, error) // made of the image, with the default size
}

// A box is a box made in one of the ways.
type box interface {
	run(ctx context.Context, args ...string) (ran, error) // to its end
	remove(ctx context.Context) error
}

// ran says what a command did.
type ran struct {
	out   string
	first time.Time // when the first of its output was here; zero: there was none
}

// mustBe is an error if the command did not print what it should have.
func (r ran) mustBe(want string) error {
	if r.out != want {
		return fmt.Errorf("it printed %.100q, want %q", r.out, want)
	}
	return nil
}

// A firstWrite keeps what is written, and when that began.
type firstWrite struct {
	text  strings.Builder
	first time.Time
}

func (w *firstWrite) Write(p []byte) (int, error) {
	if w.first.IsZero() {
		w.first = time.Now()
	}
	return w.text.Write(p)
}

// apiWay is package vmcore in this process.
type apiWay struct {
	rt    *vmcore.Runtime
	image string
}

func openAPI(ctx context.Context, s *setting) (*apiWay, error) {
	rt, err := vmcore.Open(ctx, vmcore.Options{
		Home: filepath.Join(s.dir, "api"), Programs: s.programs, Registries: s.registries(),
	})
	if err != nil {
		return nil, err
	}
	if _, err := rt.Pull(ctx, vmcore.Owner{}, s.image, nil); err != nil {
		return nil, errors.Join(err, rt.Close())
	}
	return &apiWay{rt, s.image}, nil
}

func (w *apiWay) name() string { return "Go API" }

func (w *apiWay) create(ctx context.Context) (box, error) {
	b, err := w.rt.Create(ctx, boxlite.BoxOptions{Image: w.image, AutoRemove: new(false)}, "")
	if err != nil {
		return nil, err
	}
	return apiBox{b}, nil
}

type apiBox struct{ *vmcore.Box }

func (b apiBox) run(ctx context.Context, args ...string) (ran, error) {
	e, err := b.Run(ctx, boxlite.Command{Args: args}, nil)
	if err != nil {
		return ran{}, err
	}
	var out firstWrite
	if _, err := io.Copy(&out, e.Stdout()); err != nil {
		return ran{}, err
	}
	res, err := e.Wait(ctx)
	if err == nil && res.ExitCode != 0 {
		err = fmt.Errorf("%q ended with %+v", args, res)
	}
	return ran{out.text.String(), out.first}, err
}

func (b apiBox) remove(ctx context.Context) error { return b.Remove(ctx, true) }

// bareWay is the engine in this process.
type bareWay struct {
	engine *gvisor.Engine
	agent  string // path
	base   string // path of the image
	dir    string
	made   int
}

// openBare takes the image as the Go API has it.
func openBare(s *setting) (*bareWay, error) {
	bases, err := filepath.Glob(filepath.Join(s.dir, "api", "images", "images", "*", "base.erofs"))
	if err != nil || len(bases) != 1 {
		return nil, fmt.Errorf("%d flattened images, want one: %q %w", len(bases), bases, err)
	}
	return &bareWay{engine: gvisor.New(gvisor.Options{Sandbox: s.programs.Sandbox, Agent: s.programs.Agent}),
		agent: s.programs.Agent, base: bases[0], dir: filepath.Join(s.dir, "bare")}, nil
}

func (w *bareWay) name() string { return "bare engine" }

func (w *bareWay) create(ctx context.Context) (box, error) {
	w.made++
	defaults, err := boxlite.BoxOptions{Image: "x"}.WithDefaults()
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(w.dir, fmt.Sprint(w.made))
	spec := engine.MachineSpec{
		ID: boxlite.NewContainerID(), Dir: filepath.Join(dir, "machine"), Hostname: "bare",
		CPUs: defaults.CPUs, Memory: defaults.Memory(), DiskSize: defaults.Disk(),
		Base: w.base, Layer: filepath.Join(dir, "layer"), Agent: w.agent, Log: filepath.Join(dir, "log"),
	}
	if err := errors.Join(os.MkdirAll(spec.Dir, 0o700), os.MkdirAll(spec.Layer, 0o700)); err != nil {
		return nil, err
	}
	m, err := w.engine.Start(ctx, spec)
	if err != nil {
		return nil, err
	}
	c, err := agent.NewClient(ctx, m.Control(), agent.Options{})
	if err != nil {
		m.Kill()
		<-m.Done()
		return nil, err
	}
	return &bareBox{m, c, dir}, nil
}

type bareBox struct {
	engine.Machine
	agent *agent.Client
	dir   string
}

func (b *bareBox) run(ctx context.Context, args ...string) (ran, error) {
	var out firstWrite
	e, err := b.agent.Start(ctx, agent.ExecSpec{Args: args}, &out, nil)
	if err != nil {
		return ran{}, err
	}
	st, err := e.Wait(ctx)
	if err == nil && st.Code != 0 {
		err = fmt.Errorf("%q ended with %+v", args, st)
	}
	return ran{out.text.String(), out.first}, err
}

func (b *bareBox) remove(context.Context) error {
	b.Kill()
	<-b.Done()
	return errors.Join(b.agent.Close(), os.RemoveAll(b.dir))
}
