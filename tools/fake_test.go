package tools_test

import (
	"cmp"
	"context"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
)

// A fake is a complete service in memory. Its boxes understand a few words of
// shell, one after the other, separated by semicolons:
//
//	echo TEXT    print TEXT and a newline
//	warn TEXT    the same on standard error
//	hex DIGITS   print bytes
//	fill N       print N bytes, in lines of ten: "000000000\n"
//	sleep SECONDS, exit CODE, die SIGNAL, cat (standard input to output)
//
// Time is time.Sleep's, so that a test may run it in a bubble.
type fake struct {
	startTakes time.Duration // a start reports half of it, "pulling image 50 %"
	ignoreCtx  bool          // starts ignore their context
	countIDs   bool          // executions are numbered and keys ignored, for golden files
	hook       func(op string) error

	mu     sync.Mutex
	n      int                               // guarded by mu
	boxes  []*fakeBox                        // guarded by mu
	execs  map[boxlite.ExecutionID]*fakeExec // guarded by mu
	images []boxlite.ImageInfo               // guarded by mu
	events []boxlite.NetworkEvent            // guarded by mu
	known  []boxlite.SecretInfo              // guarded by mu
	ops    []string                          // guarded by mu; what was called
	last   boxlite.CreateRequest             // guarded by mu
	wg     sync.WaitGroup
}

type fakeBox struct {
	info  boxlite.BoxInfo
	execs []boxlite.ExecutionID
	files map[string][]byte
	modes map[string]uint32
}

type fakeExec struct {
	f        *fake
	box      *fakeBox
	info     boxlite.ExecInfo
	cmd      boxlite.Command
	out      [2][]byte
	changed  chan struct{} // closed and replaced at each change
	stop     chan int      // signals
	stdin    chan []byte
	stdinEOF bool
}

var _ boxlite.Service = (*fake)(nil)

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func newFake() *fake { return &fake{execs: map[boxlite.ExecutionID]*fakeExec{}} }

func (f *fake) enter(op string) error {
	f.mu.Lock()
	f.ops = append(f.ops, op)
	f.mu.Unlock()
	if f.hook != nil {
		return f.hook(op)
	}
	return nil
}

func (f *fake) count(op string) (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, o := range f.ops {
		if o == op {
			n++
		}
	}
	return n
}

// wait ends every command and waits for it.
func (f *fake) wait() {
	f.mu.Lock()
	for _, e := range f.execs {
		if e.info.Running {
			e.kill(9)
		}
	}
	f.mu.Unlock()
	f.wg.Wait()
}

func (f *fake) find(ref string) (*fakeBox, error) {
	var found []*fakeBox
	for _, b := range f.boxes {
		if string(b.info.ID) == ref || b.info.Name == ref && ref != "" {
			return b, nil
		}
		if strings.HasPrefix(string(b.info.ID), ref) && ref != "" {
			found = append(found, b)
		}
	}
	switch len(found) {
	case 0:
		return nil, boxlite.Errorf(boxlite.NotFound, "look up box", ref, "no record")
	case 1:
		return found[0], nil
	}
	return nil, boxlite.Errorf(boxlite.InvalidArgument, "look up box", ref, "%d boxes begin with it", len(found))
}

func (f *fake) CreateBox(ctx context.Context, req boxlite.CreateRequest, report func(boxlite.Progress)) (boxlite.BoxInfo, error) {
	if err := f.enter("create"); err != nil {
		return boxlite.BoxInfo{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.last = req
	if req.Name != "" {
		if slices.ContainsFunc(f.boxes, func(b *fakeBox) bool { return b.info.Name == req.Name }) {
			return boxlite.BoxInfo{}, boxlite.Errorf(boxlite.AlreadyExists, "create box", req.Name, "name in use")
		}
	}
	o, err := req.Options.WithDefaults()
	if err != nil {
		return boxlite.BoxInfo{}, err
	}
	f.n++
	b := &fakeBox{files: map[string][]byte{}, modes: map[string]uint32{}}
	b.info = boxlite.BoxInfo{
		ID: boxlite.BoxID(fmt.Sprintf("bx%010d", f.n)), Name: req.Name, Labels: o.Labels, CreatedAt: epoch,
		BoxState: boxlite.BoxState{Status: boxlite.StatusConfigured},
		Image:    o.Image, CPUs: o.CPUs, MemoryMiB: o.MemoryMiB, DiskSizeGB: o.DiskSizeGB, AutoRemove: *o.AutoRemove, Detach: o.Detach,
		Network: o.Network,
	}
	for _, s := range o.Secrets {
		b.info.Secrets = append(b.info.Secrets, s.Name)
	}
	f.boxes = append(f.boxes, b)
	return b.info, nil
}

func (f *fake) GetBox(ctx context.Context, ref string) (boxlite.BoxDetails, error) {
	if err := f.enter("get"); err != nil {
		return boxlite.BoxDetails{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	b, err := f.find(ref)
	if err != nil {
		return boxlite.BoxDetails{}, err
	}
	d := boxlite.BoxDetails{BoxInfo: b.info, Metrics: boxlite.BoxMetrics{CommandsRun: int64(len(b.execs))}}
	if b.info.Status.IsRunning() {
		d.Metrics.Memory = new(boxlite.FromMiB(30))
	}
	for _, id := range b.execs {
		d.Executions = append(d.Executions, f.execs[id].info)
	}
	return d, nil
}

func (f *fake) ListBoxes(ctx context.Context, req boxlite.ListRequest) (boxlite.BoxPage, error) {
	if err := f.enter("list"); err != nil {
		return boxlite.BoxPage{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	var match []boxlite.BoxInfo
	for _, b := range f.boxes {
		ok := req.Status == "" || req.Status == b.info.Status
		for k, v := range req.Labels {
			ok = ok && b.info.Labels[k] == v
		}
		if ok {
			match = append(match, b.info)
		}
	}
	page := boxlite.BoxPage{Total: len(match)}
	from, _ := strconv.Atoi(req.Cursor)
	to := min(len(match), from+cmp.Or(req.Limit, 20))
	page.Boxes = match[min(from, to):to]
	if to < len(match) {
		page.Cursor = strconv.Itoa(to)
	}
	return page, nil
}

func (f *fake) StartBox(ctx context.Context, ref string, report func(boxlite.Progress)) (boxlite.BoxInfo, error) {
	if err := f.enter("start"); err != nil {
		return boxlite.BoxInfo{}, err
	}
	f.mu.Lock()
	b, err := f.find(ref)
	if err != nil {
		f.mu.Unlock()
		return boxlite.BoxInfo{}, err
	}
	status := b.info.Status
	f.mu.Unlock()
	if !status.IsRunning() && f.startTakes > 0 {
		report(boxlite.Progress{Phase: "pulling image", Current: 50, Total: 100})
		if f.ignoreCtx {
			time.Sleep(f.startTakes)
		} else {
			select {
			case <-time.After(f.startTakes):
			case <-ctx.Done():
				return boxlite.BoxInfo{}, &boxlite.Error{Op: "start box", Ref: ref, Kind: boxlite.Canceled, Err: ctx.Err()}
			}
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	b.info.Status = boxlite.StatusRunning
	return b.info, nil
}

func (f *fake) StopBox(ctx context.Context, ref string) (boxlite.BoxInfo, error) {
	if err := f.enter("stop"); err != nil {
		return boxlite.BoxInfo{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	b, err := f.find(ref)
	if err != nil {
		return boxlite.BoxInfo{}, err
	}
	for _, id := range b.execs {
		f.execs[id].kill(9)
	}
	if b.info.Status.IsActive() {
		b.info.Status, b.info.Reason = boxlite.StatusStopped, "stopped by request"
	}
	return b.info, nil
}

func (f *fake) UpdateBox(_ context.Context, ref string, req boxlite.UpdateRequest) (boxlite.BoxInfo, error) {
	if err := f.enter("update"); err != nil {
		return boxlite.BoxInfo{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	b, err := f.find(ref)
	if err != nil {
		return boxlite.BoxInfo{}, err
	}
	if req.Network != nil {
		b.info.Network = *req.Network
	}
	return b.info, nil
}

func (f *fake) NetworkLog(_ context.Context, req boxlite.NetworkLogRequest) (log boxlite.NetworkLog, err error) {
	if err := f.enter("netlog"); err != nil {
		return log, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, err := f.find(req.Box); err != nil {
		return log, err
	}
	for _, e := range f.events {
		if !(req.Denied && e.Allowed && !e.Failed()) {
			log.Events = append(log.Events, e)
		}
	}
	if n := len(log.Events); n > req.Limit && req.Limit > 0 {
		log.Events, log.More = log.Events[n-req.Limit:], true
	}
	return log, nil
}

func (f *fake) ListSecrets(context.Context) ([]boxlite.SecretInfo, error) {
	return f.known, f.enter("secrets")
}

func (f *fake) SetSecret(context.Context, boxlite.Secret) (boxlite.SecretInfo, error) {
	return boxlite.SecretInfo{}, boxlite.Errorf(boxlite.Denied, "set secret", "", "only the operator may")
}

func (f *fake) RemoveSecret(context.Context, string) (boxlite.SecretInfo, error) {
	return boxlite.SecretInfo{}, boxlite.Errorf(boxlite.Denied, "remove secret", "", "only the operator may")
}

func (f *fake) RemoveBox(ctx context.Context, ref string, force bool) (boxlite.BoxInfo, error) {
	if err := f.enter("remove"); err != nil {
		return boxlite.BoxInfo{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	b, err := f.find(ref)
	if err != nil {
		return boxlite.BoxInfo{}, err
	}
	if b.info.Status.IsActive() && !force {
		return boxlite.BoxInfo{}, boxlite.Errorf(boxlite.InvalidState, "remove box", ref, "it is running")
	}
	for _, id := range b.execs {
		f.execs[id].kill(9)
		delete(f.execs, id)
	}
	f.boxes = slices.DeleteFunc(f.boxes, func(x *fakeBox) bool { return x == b })
	return b.info, nil
}

func (f *fake) Run(ctx context.Context, ref string, cmd boxlite.Command, report func(boxlite.Progress)) (boxlite.ExecInfo, error) {
	if err := f.enter("run"); err != nil {
		return boxlite.ExecInfo{}, err
	}
	if cmd.IfRunning {
		f.mu.Lock()
		b, err := f.find(ref)
		f.mu.Unlock()
		if err == nil && b.info.Status != boxlite.StatusRunning {
			err = boxlite.Errorf(boxlite.InvalidState, "run command", ref, "the box is not running")
		}
		if err != nil {
			return boxlite.ExecInfo{}, err
		}
	} else if _, err := f.StartBox(ctx, ref, report); err != nil {
		return boxlite.ExecInfo{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	b, err := f.find(ref)
	if err != nil {
		return boxlite.ExecInfo{}, err
	}
	if cmd.Args[0] == "nosuch" {
		return boxlite.ExecInfo{}, boxlite.Errorf(boxlite.Run, "run command", "nosuch", "not found in PATH")
	}
	f.n++
	id := cmd.ExecutionID(b.info.ID)
	if f.countIDs {
		id = boxlite.ExecutionID(fmt.Sprintf("%s-x%07d", b.info.ID, f.n))
	}
	if e, ok := f.execs[id]; ok {
		return e.info, nil
	}
	e := &fakeExec{
		f: f, box: b, cmd: cmd, changed: make(chan struct{}), stop: make(chan int, 1), stdin: make(chan []byte),
		info: boxlite.ExecInfo{ID: id, Args: cmd.Args, TTY: cmd.TTY, Started: epoch, Running: true},
	}
	f.execs[id] = e
	b.execs = append(b.execs, id)
	script := strings.Join(cmd.Args, " ")
	if len(cmd.Args) == 3 && cmd.Args[1] == "-c" {
		script = cmd.Args[2]
	}
	f.wg.Go(func() { e.run(script) })
	return e.info, nil
}

// change wakes who waits; f.mu is held.
func (e *fakeExec) change() {
	close(e.changed)
	e.changed = make(chan struct{})
}

func (e *fakeExec) kill(signal int) {
	if e.info.Running {
		select {
		case e.stop <- signal:
		default:
		}
	}
}

func (e *fakeExec) print(stream int, data []byte) {
	e.f.mu.Lock()
	defer e.f.mu.Unlock()
	e.out[stream] = append(e.out[stream], data...)
	e.info.StdoutEnd, e.info.StderrEnd = int64(len(e.out[0])), int64(len(e.out[1]))
	e.change()
}

func (e *fakeExec) run(script string) {
	begun := time.Now()
	var timeout <-chan time.Time
	if e.cmd.Timeout > 0 {
		t := time.NewTimer(e.cmd.Timeout)
		defer t.Stop()
		timeout = t.C
	}
	var r boxlite.ExecResult
	for word := range strings.SplitSeq(script, ";") {
		verb, arg, _ := strings.Cut(strings.TrimSpace(word), " ")
		n, _ := strconv.ParseFloat(arg, 64)
		var ended <-chan time.Time
		switch verb {
		case "echo":
			e.print(0, []byte(arg+"\n"))
		case "warn":
			e.print(1, []byte(arg+"\n"))
		case "hex":
			b, _ := hex.DecodeString(arg)
			e.print(0, b)
		case "fill":
			var b []byte
			for i := 0; len(b) < int(n); i++ {
				b = fmt.Appendf(b, "%09d\n", i)
			}
			e.print(0, b[:int(n)])
		case "exit":
			r.ExitCode = int(n)
		case "die":
			r.ExitCode, r.Signal = -int(n), int(n)
		case "cat":
			r = e.cat(timeout)
		case "sleep":
			ended = time.After(time.Duration(n * float64(time.Second)))
		}
		if ended != nil {
			select {
			case <-ended:
			case s := <-e.stop:
				r.ExitCode, r.Signal = -s, s
			case <-timeout:
				r.ExitCode, r.Signal, r.TimedOut = -15, 15, true
			}
		}
		if r.ExitCode != 0 {
			break
		}
	}
	r.Duration = time.Since(begun)
	e.f.mu.Lock()
	defer e.f.mu.Unlock()
	e.info.Running, e.info.Result = false, &r
	e.change()
}

func (e *fakeExec) cat(timeout <-chan time.Time) (r boxlite.ExecResult) {
	for {
		select {
		case b, ok := <-e.stdin:
			if !ok {
				return r
			}
			e.print(0, b)
		case s := <-e.stop:
			return boxlite.ExecResult{ExitCode: -s, Signal: s}
		case <-timeout:
			return boxlite.ExecResult{ExitCode: -15, Signal: 15, TimedOut: true}
		}
	}
}

func (f *fake) exec(id boxlite.ExecutionID) (*fakeExec, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if e, ok := f.execs[id]; ok {
		return e, nil
	}
	return nil, boxlite.Errorf(boxlite.NotFound, "look up execution", string(id), "no record")
}

func (f *fake) Output(ctx context.Context, id boxlite.ExecutionID, req boxlite.OutputRequest) (boxlite.Output, error) {
	if err := f.enter("output"); err != nil {
		return boxlite.Output{}, err
	}
	e, err := f.exec(id)
	if err != nil {
		return boxlite.Output{}, err
	}
	var deadline <-chan time.Time
	if req.Wait > 0 {
		t := time.NewTimer(req.Wait)
		defer t.Stop()
		deadline = t.C
	}
	for {
		f.mu.Lock()
		o := boxlite.Output{Exec: e.info, Stdout: e.chunk(0, req.StdoutOffset, req.MaxBytes), Stderr: e.chunk(1, req.StderrOffset, req.MaxBytes)}
		changed := e.changed
		f.mu.Unlock()
		ready := !o.Exec.Running || req.Until == boxlite.UntilOutput && len(o.Stdout.Data)+len(o.Stderr.Data) > 0
		if ready || deadline == nil {
			return o, nil
		}
		select {
		case <-changed:
		case <-deadline:
			deadline = nil
		case <-ctx.Done():
			return boxlite.Output{}, &boxlite.Error{Op: "read output", Kind: boxlite.KindOf(ctx.Err()), Err: ctx.Err()}
		}
	}
}

func (e *fakeExec) chunk(stream int, offset int64, most int) boxlite.OutputChunk {
	data := e.out[stream]
	end := int64(len(data))
	if offset < 0 {
		offset = max(0, end+offset)
	}
	offset = min(offset, end)
	to := min(end, offset+int64(most))
	return boxlite.OutputChunk{Offset: offset, Data: slices.Clone(data[offset:to]), End: end, EOF: !e.info.Running && to == end}
}

func (f *fake) WriteStdin(ctx context.Context, id boxlite.ExecutionID, data []byte, eof bool) (int, error) {
	if err := f.enter("write"); err != nil {
		return 0, err
	}
	e, err := f.exec(id)
	if err != nil {
		return 0, err
	}
	f.mu.Lock()
	shut := e.stdinEOF || !e.cmd.Stdin || !e.info.Running
	f.mu.Unlock()
	if shut {
		return 0, &boxlite.Error{Op: "write input", Kind: boxlite.InvalidState, Hint: "Start the command with keep_stdin_open=true."}
	}
	n := 0
	for n < len(data) {
		piece := data[n:min(len(data), n+4096)]
		f.mu.Lock()
		changed, running := e.changed, e.info.Running
		f.mu.Unlock()
		if !running {
			return n, boxlite.Errorf(boxlite.InvalidState, "write input", "", "the command has ended")
		}
		select {
		case e.stdin <- slices.Clone(piece):
			n += len(piece)
		case <-changed:
		case <-ctx.Done():
			return n, ctx.Err()
		}
	}
	if eof {
		f.mu.Lock()
		e.stdinEOF = true
		f.mu.Unlock()
		close(e.stdin)
	}
	return n, nil
}

func (f *fake) Signal(ctx context.Context, id boxlite.ExecutionID, signal int) error {
	if err := f.enter("signal"); err != nil {
		return err
	}
	e, err := f.exec(id)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	e.kill(signal)
	return nil
}

func (f *fake) StopExec(ctx context.Context, id boxlite.ExecutionID, grace time.Duration) (boxlite.ExecInfo, error) {
	if err := f.enter("stopexec"); err != nil {
		return boxlite.ExecInfo{}, err
	}
	if err := f.Signal(ctx, id, 15); err != nil {
		return boxlite.ExecInfo{}, err
	}
	o, err := f.Output(ctx, id, boxlite.OutputRequest{Wait: time.Hour, Until: boxlite.UntilExit})
	return o.Exec, err
}

func (f *fake) ResizeTTY(ctx context.Context, id boxlite.ExecutionID, rows, cols uint16) error {
	return nil
}

func (f *fake) ReadFile(ctx context.Context, ref, path string, offset int64, limit int) (boxlite.FileData, error) {
	if err := f.enter("readfile"); err != nil {
		return boxlite.FileData{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	b, err := f.find(ref)
	if err != nil {
		return boxlite.FileData{}, err
	}
	data, ok := b.files[path]
	if !ok {
		return boxlite.FileData{}, boxlite.Errorf(boxlite.NotFound, "read file", path, "no such file")
	}
	if offset < 0 {
		offset = max(0, int64(len(data))+offset)
	}
	offset = min(offset, int64(len(data)))
	return boxlite.FileData{FileInfo: b.stat(path), Offset: offset, Data: data[offset:min(int64(len(data)), offset+int64(limit))]}, nil
}

func (b *fakeBox) stat(path string) boxlite.FileInfo {
	return boxlite.FileInfo{Path: path, Size: int64(len(b.files[path])), Mode: 0o100000 | b.modes[path], Modified: epoch}
}

func (f *fake) WriteFile(ctx context.Context, ref string, req boxlite.WriteFileRequest) (boxlite.FileInfo, error) {
	if err := f.enter("writefile"); err != nil {
		return boxlite.FileInfo{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	b, err := f.find(ref)
	if err != nil {
		return boxlite.FileInfo{}, err
	}
	if !req.Append {
		b.files[req.Path] = nil
	}
	b.files[req.Path] = append(b.files[req.Path], req.Data...)
	b.modes[req.Path] = cmp.Or(req.Mode, b.modes[req.Path], 0o644)
	return b.stat(req.Path), nil
}

func (f *fake) ListImages(ctx context.Context) ([]boxlite.ImageInfo, error) {
	if err := f.enter("images"); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.images), nil
}

func (f *fake) PullImage(ctx context.Context, ref string, report func(boxlite.Progress)) (boxlite.ImageInfo, error) {
	return boxlite.ImageInfo{}, boxlite.Errorf(boxlite.Unsupported, "pull image", ref, "not by tools")
}

func (f *fake) RemoveImage(ctx context.Context, ref string) (boxlite.ImageInfo, error) {
	return boxlite.ImageInfo{}, boxlite.Errorf(boxlite.Unsupported, "remove image", ref, "not by tools")
}
