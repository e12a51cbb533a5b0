package vmcore

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/internal/proc"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/engine"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/image"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/shim"
)

// live is a box's shim as this runtime knows it.
type live struct {
	client    *shim.Client
	container boxlite.ContainerID
	shim      proc.ID
	machine   proc.ID
	leash     io.Closer // the shim's standard input; nil if it is detached or was adopted
	lastUsed  time.Time // guarded by Runtime.mu
}

func (l *live) close() error {
	err := l.client.Close()
	if l.leash != nil {
		err = errors.Join(err, l.leash.Close())
	}
	return err
}

// start brings a box up; a running one stays as it is. If ctx ends first the
// box is as it was.
func (rt *Runtime) start(ctx context.Context, id boxlite.BoxID, report func(boxlite.Progress)) (boxlite.BoxInfo, error) {
	release, err := rt.acquire(ctx, id)
	if err != nil {
		return boxlite.BoxInfo{}, err
	}
	defer release()
	rec, err := rt.get(id)
	if err != nil {
		return boxlite.BoxInfo{}, err
	}
	if rec.Status.IsActive() && rt.liveBox(id) == nil {
		if _, err := rt.lost(ctx, rec); err != nil {
			return rt.info(rec), err
		}
		if rec, err = rt.get(id); err != nil { // it was made to be removed
			return boxlite.BoxInfo{}, err
		}
	}
	if rec.Status.IsRunning() {
		return rt.info(rec), nil
	}
	if !rec.Status.CanStart() {
		_, _, err := rec.Status.Next(boxlite.Start)
		return rt.info(rec), err
	}
	if err := rt.usable(); err != nil {
		return rt.info(rec), err
	}
	defer rt.setPhase(id, "")
	return rt.bringUp(ctx, rec, rt.reporter(id, report))
}

// usable reports whether new work may begin.
func (rt *Runtime) usable() error {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	if rt.closed {
		return isClosing()
	}
	return nil
}

// reporter notes the phase of a start, for everyone who asks, and passes it on.
func (rt *Runtime) reporter(id boxlite.BoxID, report func(boxlite.Progress)) func(boxlite.Progress) {
	return func(p boxlite.Progress) {
		phase := p.Phase
		if p.Total > 0 {
			phase = fmt.Sprintf("%s %d %%", p.Phase, 100*p.Current/p.Total)
		}
		rt.setPhase(id, phase)
		if report != nil {
			report(p)
		}
	}
}

func (rt *Runtime) setPhase(id boxlite.BoxID, phase string) {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	if phase == "" {
		delete(rt.phases, id)
		return
	}
	rt.phases[id] = phase
}

// bringUp prepares, spawns and persists. The caller leads the box.
func (rt *Runtime) bringUp(ctx context.Context, rec record, report func(boxlite.Progress)) (boxlite.BoxInfo, error) {
	began := time.Now()
	var stages boxlite.StageTiming
	lap := func(d *time.Duration) { *d, began = time.Since(began), time.Now() }

	img, err := rt.prepareImage(ctx, rec, report)
	if err != nil {
		return rt.notStarted(ctx, rec, err)
	}
	lap(&stages.ImagePrepare)
	report(boxlite.Progress{Phase: "choosing engine"})
	eng, rep, err := rt.chooseEngine(ctx, rec)
	if err != nil {
		return rt.notStarted(ctx, rec, err)
	}
	dir := rt.boxDir(rec.ID)
	if err := makeBoxDirs(dir); err != nil {
		return rt.notStarted(ctx, rec, storage("prepare box", string(rec.ID), err))
	}
	lap(&stages.FilesystemSetup)
	if err := rt.checkNetwork(rec); err != nil { // the operator may have changed his mind
		return rt.notStarted(ctx, rec, err)
	}
	cfg := rt.config(rec, img, eng.Name(), rep)
	if cfg.Network, err = rt.networkOf(rec, false); err != nil {
		return rt.notStarted(ctx, rec, err)
	}
	lap(&stages.BoxConfig)
	report(boxlite.Progress{Phase: "starting machine"})
	l, ready, err := rt.spawn(ctx, rec, cfg, func(rec *record) {
		rec.ImageDigest, rec.Engine, rec.Isolation = img.Digest, eng.Name(), string(rep.Isolation)
		rec.Limits = limits(rep)
	})
	if err != nil {
		return rt.notStarted(ctx, rec, err)
	}
	stages.BoxSpawn, stages.ContainerInit = ready.Spawn, ready.Init
	return rt.up(context.WithoutCancel(ctx), rec.ID, l, stages)
}

// up persists that a box runs and follows its shim from then on.
func (rt *Runtime) up(ctx context.Context, id boxlite.BoxID, l *live, stages boxlite.StageTiming) (boxlite.BoxInfo, error) {
	now := time.Now().UTC()
	l.lastUsed = now
	rec, err := rt.move(ctx, id, boxlite.Start, func(rec *record) {
		rec.Starting, rec.Reason = false, ""
		rec.ContainerID, rec.PID, rec.Shim, rec.Machine, rec.LastUsed = l.container, l.machine.PID, l.shim, l.machine, now
		rec.Totals.Stages = stages
	})
	if err != nil { // it cannot be remembered, so it must not run
		_ = l.client.Discard(ctx)
		_ = l.shim.Kill(10 * time.Second)
		_ = l.close()
		return rt.info(rec), err
	}
	rt.enter(id, l)
	return rt.info(rec), nil
}

// enter makes a shim known and watches it. In a runtime that is closing it only
// lets go of it: the next one finds it by its record.
func (rt *Runtime) enter(id boxlite.BoxID, l *live) {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	if rt.closed {
		_ = l.close()
		return
	}
	rt.live[id] = l
	rt.work.Go(func() { rt.watch(id, l) })
}

// notStarted persists why a box did not come up. A start that was called off
// leaves the box as it was.
func (rt *Runtime) notStarted(ctx context.Context, rec record, cause error) (boxlite.BoxInfo, error) {
	saved := context.WithoutCancel(ctx)
	clear := func(rec *record) { rec.Starting, rec.Shim, rec.PID, rec.ContainerID = false, proc.ID{}, 0, "" }
	if ctx.Err() != nil {
		rec, err := rt.update(saved, rec.ID, func(rec *record) error { clear(rec); return nil })
		e := &boxlite.Error{Op: "start box", Kind: boxlite.KindOf(ctx.Err()), Ref: string(rec.ID), Err: errors.Join(cause, err),
			Hint: "The box is kept: start it again, or remove it."}
		return rt.info(rec), e
	}
	rt.count(func(t *totals) { t.BoxesFailed++ })
	rec, err := rt.move(saved, rec.ID, boxlite.Fail, func(rec *record) {
		clear(rec)
		rec.Reason = firstLine(cause.Error())
	})
	return rt.info(rec), errors.Join(cause, err)
}

func firstLine(s string) string {
	const longest = 300
	for i, r := range s {
		if r == '\n' || i >= longest {
			return s[:i] + " …"
		}
	}
	return s
}

func makeBoxDirs(dir string) error {
	for _, sub := range []string{"machine", "layer", "executions", "log"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			return err
		}
	}
	return nil
}

// guestDir is where what virtual machines are booted from is kept.
func guestDir(home string) string { return filepath.Join(home, "guest") }

// config says all that the shim needs to know.
func (rt *Runtime) config(rec record, img image.Image, engineName string, rep engine.Report) shim.Config {
	dir := rt.boxDir(rec.ID)
	container := boxlite.NewContainerID()
	hostname := string(rec.ID)
	if rec.Name != "" {
		hostname = rec.Name
	}
	workdir, env := rec.Options.WorkingDir, imageEnv(img)
	if workdir == "" {
		workdir = img.Config.WorkingDir
	}
	return shim.Config{
		Box: rec.ID, Dir: dir, Engine: engineName, Sandbox: rt.opts.Programs.Sandbox, Jail: rt.opts.Programs.Jail, QEMU: rt.opts.Programs.QEMU, Guest: guestDir(rt.opts.Home),
		Machine: engine.MachineSpec{
			ID: container, Dir: filepath.Join(dir, "machine"), Hostname: hostname,
			CPUs: rec.CPUs, Memory: rec.Options.Memory(), DiskSize: rec.Options.Disk(),
			Base: img.BasePath, Layer: filepath.Join(dir, "layer"),
			Agent: rt.opts.Programs.Agent, Log: filepath.Join(dir, "log", "console.log"),
		},
		Env: slices.Concat(env, placeholders(rec), rec.Options.Env), WorkingDir: workdir, User: img.Config.User,
		Attached:    rec.attached(),
		BootTimeout: scale(rt.opts.BootTimeout, rep.CPUFactor),
		SyncEvery:   rep.CrashLoss, Version: rt.opts.Version, Totals: rec.Totals,
	}
}

func imageEnv(img image.Image) []boxlite.Env {
	var env []boxlite.Env
	for _, s := range img.Config.Env {
		if e, err := boxlite.ParseEnv(s); err == nil {
			env = append(env, e)
		}
	}
	return env
}

// scale lengthens a time-out for an engine that is slower than the host.
func scale(d time.Duration, factor float64) time.Duration {
	return time.Duration(float64(d) * max(1, factor))
}

// spawn starts a shim and waits until its box is up. The shim's process is
// persisted, with what note adds, before the shim is told to begin: one that is
// never told ends by itself, so none is ever lost.
func (rt *Runtime) spawn(ctx context.Context, rec record, cfg shim.Config, note func(*record)) (*live, shim.Ready, error) {
	p, err := rt.startShim(cfg)
	if err != nil {
		return nil, shim.Ready{}, err
	}
	_, err = rt.update(ctx, rec.ID, func(rec *record) error {
		note(rec)
		rec.Starting, rec.Shim, rec.ContainerID = true, p.id, cfg.Machine.ID
		return nil
	})
	var ready shim.Ready
	if err == nil {
		ready, err = p.begin(ctx, cfg)
	}
	var client *shim.Client
	if err == nil {
		client, err = shim.Dial(ctx, cfg.Dir, cfg.Box, cfg.Machine.ID)
	}
	if err != nil {
		p.abandon()
		return nil, ready, err
	}
	machine, _ := proc.Of(ready.MachinePID)
	l := &live{client: client, container: cfg.Machine.ID, shim: p.id, machine: machine}
	if cfg.Attached {
		l.leash = p.stdin
	} else {
		p.stdin.Close()
	}
	return l, ready, nil
}

// A shimProcess is a shim that has been started and not yet told what to do.
type shimProcess struct {
	id     proc.ID
	stdin  io.WriteCloser
	stdout io.ReadCloser
	exited chan struct{} // closed when it has been waited for
}

func (rt *Runtime) startShim(cfg shim.Config) (*shimProcess, error) {
	log, err := os.OpenFile(filepath.Join(cfg.Dir, "log", "shim.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, storage("start shim", string(cfg.Box), err)
	}
	defer log.Close()
	cmd := rt.opts.Programs.shimCommand(cfg.Dir)
	cmd.Dir, cmd.Env, cmd.Stderr = "/", []string{}, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // signals to our terminal are not for boxes
	p := &shimProcess{exited: make(chan struct{})}
	if p.stdin, err = cmd.StdinPipe(); err == nil {
		var r, w *os.File
		if r, w, err = os.Pipe(); err == nil {
			p.stdout, cmd.Stdout = r, w
			err = cmd.Start()
			w.Close()
		}
	}
	if err != nil {
		return nil, &boxlite.Error{Op: "start shim", Kind: boxlite.Engine, Ref: string(cfg.Box), Err: err,
			Hint: "Check that " + cmd.Path + " can be executed: boxlite-mcp doctor."}
	}
	p.id, err = proc.Of(cmd.Process.Pid)
	go p.reap(cmd) // ends with the shim; nothing waits for it, as the shim may outlive us
	if err != nil {
		p.abandon()
		return nil, &boxlite.Error{Op: "start shim", Kind: boxlite.Engine, Ref: string(cfg.Box), Err: err}
	}
	return p, nil
}

func (p *shimProcess) reap(cmd *exec.Cmd) {
	_, _ = cmd.Process.Wait()
	close(p.exited)
}

// begin tells the shim what to do and waits for its word.
func (p *shimProcess) begin(ctx context.Context, cfg shim.Config) (shim.Ready, error) {
	var ready shim.Ready
	stop := context.AfterFunc(ctx, func() { p.stdout.Close() })
	defer stop()
	defer p.stdout.Close()
	line, err := json.Marshal(cfg)
	if err == nil {
		_, err = p.stdin.Write(append(line, '\n'))
	}
	if err == nil {
		line, err = bufio.NewReader(io.LimitReader(p.stdout, 1<<20)).ReadBytes('\n')
	}
	if err == nil {
		err = json.Unmarshal(line, &ready)
	}
	if err != nil {
		return ready, &boxlite.Error{Op: "start shim", Kind: boxlite.Engine, Ref: string(cfg.Box), Err: fmt.Errorf("it ended without a word: %w", err),
			Hint: "Call box_start to try again; the operator finds more in boxes/" + string(cfg.Box) + "/log/shim.log below the home."}
	}
	return ready, ready.Error.Err()
}

// abandon ends a shim whose box did not come up, and waits for it.
func (p *shimProcess) abandon() {
	p.stdin.Close()
	p.stdout.Close()
	select {
	case <-p.exited: // it had given up itself
		return
	case <-time.After(100 * time.Millisecond):
	}
	_ = p.id.Kill(10 * time.Second)
	<-p.exited
}
