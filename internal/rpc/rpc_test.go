package rpc_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/internal/rpc"
	"github.com/boxlite-mcp/boxlite-mcp/internal/rpc/rpcpb"
	"github.com/boxlite-mcp/boxlite-mcp/internal/unixsocket"
)

func TestMain(m *testing.M) {
	if home := os.Getenv(daemonEnv); home != "" {
		os.Exit(runDaemon(home))
	}
	if home := os.Getenv(clientEnv); home != "" {
		os.Exit(runClient(home))
	}
	goleak.VerifyTestMain(m)
}

// start serves svc to everyone at a new home.
func start(t testing.TB, svc boxlite.Service) (home string) {
	t.Helper()
	home = t.TempDir()
	serve(t, home, rpc.ServerOptions{Open: always(svc)})
	return home
}

func always(svc boxlite.Service) func(rpc.Caller) (boxlite.Service, error) {
	return func(rpc.Caller) (boxlite.Service, error) { return svc, nil }
}

// serve serves at home until the test ends.
func serve(t testing.TB, home string, opts rpc.ServerOptions) *rpc.Server {
	t.Helper()
	l, err := unixsocket.Listen(rpc.Socket(home))
	if err != nil {
		t.Fatal(err)
	}
	opts.Home = home
	srv := rpc.NewServer(opts)
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		srv.Stop(ctx)
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return srv
}

// dial connects to home until the test ends.
func dial(t testing.TB, home string, opts rpc.Options) *rpc.Client {
	t.Helper()
	opts.Socket = rpc.Socket(home)
	if opts.Principal == "" {
		opts.Principal = "local"
	}
	c, err := rpc.Dial(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// A memory is a Service whose answers are made of the questions: the same call
// on both ends of a connection must return the same.
type memory struct{}

var _ boxlite.Service = memory{}

var then = time.Date(2026, 2, 3, 4, 5, 6, 789, time.UTC)

func (memory) box(ref string) boxlite.BoxInfo {
	return boxlite.BoxInfo{ID: "aB3cD4eF5gH6", Name: ref, Labels: map[string]string{"k": "v\x00é"}, CreatedAt: then, LastUsed: then,
		BoxState: boxlite.BoxState{Status: boxlite.StatusRunning, PID: 7, LastUpdated: then}, CPUs: 2, ExpiresAt: new(then)}
}

func progress(report func(boxlite.Progress)) {
	if report != nil {
		report(boxlite.Progress{Phase: "pulling", Current: 1, Total: 2})
		report(boxlite.Progress{Phase: "starting"})
	}
}

func (m memory) CreateBox(_ context.Context, req boxlite.CreateRequest, report func(boxlite.Progress)) (boxlite.BoxInfo, error) {
	progress(report)
	info := m.box(req.Name)
	info.AutoRemove, info.Image = *req.Options.AutoRemove, req.Options.Image
	return info, nil
}

func (m memory) GetBox(_ context.Context, ref string) (boxlite.BoxDetails, error) {
	return boxlite.BoxDetails{BoxInfo: m.box(ref), Metrics: boxlite.BoxMetrics{CommandsRun: 3, Disk: new(boxlite.GiB)},
		Executions: []boxlite.ExecInfo{m.exec("x")}}, nil
}

func (m memory) ListBoxes(_ context.Context, req boxlite.ListRequest) (boxlite.BoxPage, error) {
	return boxlite.BoxPage{Boxes: []boxlite.BoxInfo{m.box(string(req.Status))}, Total: req.Limit, Cursor: req.Cursor}, nil
}

func (m memory) StartBox(_ context.Context, ref string, report func(boxlite.Progress)) (boxlite.BoxInfo, error) {
	progress(report)
	return m.box(ref), nil
}

func (m memory) StopBox(_ context.Context, ref string) (boxlite.BoxInfo, error) {
	return m.box(ref), nil
}

func (m memory) RemoveBox(_ context.Context, ref string, force bool) (boxlite.BoxInfo, error) {
	return m.box(fmt.Sprint(ref, force)), nil
}

func (memory) exec(id string) boxlite.ExecInfo {
	return boxlite.ExecInfo{ID: boxlite.ExecutionID(id), Args: []string{"a", ""}, Started: then,
		Result: &boxlite.ExecResult{ExitCode: -9, Signal: 9, Duration: time.Second}, StdoutEnd: 1 << 40}
}

func (m memory) Run(_ context.Context, box string, cmd boxlite.Command, report func(boxlite.Progress)) (boxlite.ExecInfo, error) {
	progress(report)
	info := m.exec(box)
	info.Args = append(cmd.Args, cmd.Env[0].String(), cmd.Timeout.String(), cmd.Key)
	return info, nil
}

func (m memory) Output(_ context.Context, id boxlite.ExecutionID, req boxlite.OutputRequest) (boxlite.Output, error) {
	return boxlite.Output{Exec: m.exec(string(id)),
		Stdout: boxlite.OutputChunk{Offset: req.StdoutOffset, Data: []byte("\x00\xff"), Dropped: 5, End: int64(req.MaxBytes), EOF: true},
		Stderr: boxlite.OutputChunk{Offset: req.StderrOffset, End: int64(req.Until)}}, nil
}

func (memory) WriteStdin(_ context.Context, _ boxlite.ExecutionID, data []byte, _ bool) (int, error) {
	return len(data), nil
}

func (memory) Signal(_ context.Context, id boxlite.ExecutionID, signal int) error {
	return boxlite.Errorf(boxlite.Run, "signal", string(id), "signal %d", signal)
}

func (m memory) StopExec(_ context.Context, id boxlite.ExecutionID, grace time.Duration) (boxlite.ExecInfo, error) {
	info := m.exec(string(id))
	info.Result.Duration = grace
	return info, nil
}

func (memory) ResizeTTY(_ context.Context, id boxlite.ExecutionID, rows, cols uint16) error {
	return boxlite.Errorf(boxlite.Run, "resize", string(id), "%d %d", rows, cols)
}

func (memory) ReadFile(_ context.Context, box, path string, offset int64, limit int) (boxlite.FileData, error) {
	return boxlite.FileData{FileInfo: boxlite.FileInfo{Path: path, Size: int64(limit), Mode: 0o100644, Modified: then}, Offset: offset, Data: []byte(box)}, nil
}

func (memory) WriteFile(_ context.Context, box string, r boxlite.WriteFileRequest) (boxlite.FileInfo, error) {
	return boxlite.FileInfo{Path: fmt.Sprint(box, r.Path, r.Append, r.User), Size: int64(len(r.Data)), Mode: r.Mode, Modified: then}, nil
}

func (memory) ListImages(context.Context) ([]boxlite.ImageInfo, error) {
	return []boxlite.ImageInfo{{Reference: "r", Size: boxlite.GiB, Pulled: then}}, nil
}

func (memory) PullImage(_ context.Context, ref string, report func(boxlite.Progress)) (boxlite.ImageInfo, error) {
	progress(report)
	return boxlite.ImageInfo{Reference: ref, Created: then, Pulled: then}, nil
}

func (memory) RemoveImage(_ context.Context, ref string) (boxlite.ImageInfo, error) {
	return boxlite.ImageInfo{Reference: ref, Pulled: then}, nil
}

func (m memory) UpdateBox(_ context.Context, ref string, req boxlite.UpdateRequest) (boxlite.BoxInfo, error) {
	info := m.box(ref)
	info.Network, info.Labels = *req.Network, req.Labels
	return info, nil
}

func (memory) NetworkLog(_ context.Context, req boxlite.NetworkLogRequest) (boxlite.NetworkLog, error) {
	return boxlite.NetworkLog{Events: []boxlite.NetworkEvent{{Seq: 7, Time: req.Since, Host: req.Box, Count: int64(req.Limit), Allowed: req.Denied}}, More: true}, nil
}

func (memory) ListSecrets(context.Context) ([]boxlite.SecretInfo, error) {
	return []boxlite.SecretInfo{{Secret: boxlite.Secret{Name: "k", Hosts: []string{"h.test"}}, Source: "vault", Updated: then}}, nil
}

// SetSecret tells the value in the place of the placeholder, to show that it
// arrived.
func (memory) SetSecret(_ context.Context, s boxlite.Secret) (boxlite.SecretInfo, error) {
	return boxlite.SecretInfo{Secret: boxlite.Secret{Name: s.Name, Hosts: s.Hosts, Placeholder: s.Value.Reveal(), InBody: s.InBody}, Updated: then}, nil
}

func (memory) RemoveSecret(_ context.Context, name string) (boxlite.SecretInfo, error) {
	return boxlite.SecretInfo{Secret: boxlite.Secret{Name: name}, Updated: then}, nil
}

// conversation makes every call once and returns all that came of it.
func conversation(ctx context.Context, svc boxlite.Service) (results []any) {
	add := func(v any, err error) {
		text := ""
		if err != nil {
			text = err.Error()
		}
		results = append(results, v, text)
	}
	report := func(p boxlite.Progress) { results = append(results, p) }
	raw := "not\xffUTF-8"
	add(svc.CreateBox(ctx, boxlite.CreateRequest{Name: "n", Options: boxlite.BoxOptions{Image: "i", AutoRemove: new(false)}}, report))
	add(svc.GetBox(ctx, "get"))
	add(svc.ListBoxes(ctx, boxlite.ListRequest{Status: boxlite.StatusFailed, Limit: 9, Cursor: "c"}))
	add(svc.StartBox(ctx, "start", report))
	add(svc.StartBox(ctx, "start", nil))
	add(svc.StopBox(ctx, "stop"))
	add(svc.RemoveBox(ctx, "rm", true))
	add(svc.Run(ctx, "box", boxlite.Command{Args: []string{"x"}, Env: []boxlite.Env{{Name: "A", Value: "b"}}, Timeout: time.Minute, Key: "01234567"}, report))
	add(svc.Output(ctx, "id", boxlite.OutputRequest{StdoutOffset: -5, StderrOffset: 1 << 50, MaxBytes: 77, Until: boxlite.UntilExit}))
	add(svc.WriteStdin(ctx, "id", []byte("abc"), true))
	add(nil, svc.Signal(ctx, "id", 15))
	add(svc.StopExec(ctx, "id", 3*time.Second))
	add(nil, svc.ResizeTTY(ctx, "id", 24, 65535))
	add(svc.ReadFile(ctx, "box", "/p", -3, 100))
	add(svc.WriteFile(ctx, "box", boxlite.WriteFileRequest{Path: "/p", Data: []byte(raw), Append: true, Mode: 0o755, User: "u"}))
	add(svc.ListImages(ctx))
	add(svc.PullImage(ctx, "img", report))
	add(svc.RemoveImage(ctx, "img"))
	add(svc.UpdateBox(ctx, "box", boxlite.UpdateRequest{Network: &boxlite.NetworkSpec{Enabled: true, AllowNet: []string{"a"}}, Labels: map[string]string{"k": ""}}))
	add(svc.NetworkLog(ctx, boxlite.NetworkLogRequest{Box: "b", Since: then, Denied: true, Limit: 9}))
	add(svc.ListSecrets(ctx))
	add(svc.SetSecret(ctx, boxlite.Secret{Name: "k", Hosts: []string{"h.test"}, InBody: true, Value: boxlite.NewSecretValue("the value")}))
	add(svc.RemoveSecret(ctx, "k"))
	return results
}

func TestEveryCallIsTheSameOnBothEnds(t *testing.T) {
	home := start(t, memory{})
	want := conversation(t.Context(), memory{})
	if diff := cmp.Diff(want, conversation(t.Context(), dial(t, home, rpc.Options{})), cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
		t.Errorf("(-direct +client):\n%s", diff)
	}
}

func TestTenClientsAtOnceSeeTheirOwn(t *testing.T) {
	home := t.TempDir()
	srv := serve(t, home, rpc.ServerOptions{Open: func(c rpc.Caller) (boxlite.Service, error) {
		return named{memory{}, c.Principal}, nil
	}})
	var wg sync.WaitGroup
	for i := range 10 {
		name := fmt.Sprint("principal", i)
		c := dial(t, home, rpc.Options{Principal: name})
		for range 8 {
			wg.Go(func() {
				for range 20 {
					if info, err := c.StopBox(t.Context(), "b"); err != nil || info.Principal != name {
						t.Errorf("%s: %+v, %v", name, info, err)
						return
					}
				}
			})
		}
	}
	if n := srv.Clients(); n != 10 {
		t.Errorf("Clients() = %d", n)
	}
	wg.Wait()
}

// named says whose service it is.
type named struct {
	memory
	principal string
}

func (n named) StopBox(context.Context, string) (boxlite.BoxInfo, error) {
	return boxlite.BoxInfo{Principal: n.principal}, nil
}

func TestClientsAreCounted(t *testing.T) {
	home := t.TempDir()
	srv := serve(t, home, rpc.ServerOptions{Open: always(memory{})})
	silent, err := unixsocket.Dial(t.Context(), rpc.Socket(home)) // says no hello
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	await := func(want int) {
		t.Helper()
		timeout := time.After(5 * time.Second)
		for srv.Clients() != want {
			select {
			case <-srv.Changed():
			case <-timeout:
				t.Fatalf("Clients() = %d, want %d", srv.Clients(), want)
			}
		}
	}
	a := dial(t, home, rpc.Options{})
	b := dial(t, home, rpc.Options{Operator: true})
	await(2)
	st, err := b.Status(t.Context())
	if err != nil || st.Clients != 2 || st.PID != os.Getpid() || st.Home != home || st.Protocol != rpc.Protocol {
		t.Errorf("Status() = %+v, %v", st, err)
	}
	a.Close()
	await(1)
	b.Close()
	await(0)
}

// failing is a Service whose GetBox fails as it is told.
type failing struct {
	memory
	fail func() error
}

func (f failing) GetBox(context.Context, string) (boxlite.BoxDetails, error) {
	return boxlite.BoxDetails{}, f.fail()
}

func FuzzErrorsArriveAsTheyWereSent(f *testing.F) {
	var sent *boxlite.Error
	home := start(f, failing{fail: func() error { return fmt.Errorf("outer: %w", sent) }})
	operator := dial(f, home, rpc.Options{Operator: true})
	local := dial(f, home, rpc.Options{Principal: "p"})
	for k := boxlite.Internal; !strings.HasPrefix(k.String(), "Kind("); k++ {
		f.Add(uint8(k), "start box", "b1", "Call box_list.", "no such thing")
		f.Add(uint8(k), "", "", "", "")
	}
	f.Fuzz(func(t *testing.T, kind uint8, op, ref, hint, cause string) {
		sent = &boxlite.Error{Op: op, Kind: boxlite.Kind(kind), Ref: ref, Hint: hint, Err: errors.New(cause)}
		want := boxlite.ParseKind(sent.Kind.String()) // what is no kind is Internal
		for name, c := range map[string]*rpc.Client{"operator": operator, "local": local} {
			_, err := c.GetBox(t.Context(), "b")
			got, ok := errors.AsType[*boxlite.Error](err)
			if !ok || got.Kind != want {
				t.Fatalf("%s: sent %+v, got %+v", name, sent, err)
			}
			if len(op+ref+hint+cause) > 1000 {
				continue // may be cut
			}
			valid := func(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }
			if (op != "" && got.Op != valid(op)) || got.Ref != valid(ref) || got.Hint != valid(hint) {
				t.Errorf("%s: sent %+v, got %+v", name, sent, got)
			}
			hidden := name == "local" && want == boxlite.Internal
			if told := strings.Contains(err.Error(), valid(cause)); cause != "" && len(cause) > 12 && told == hidden && want != boxlite.Canceled {
				t.Errorf("%s: sent %q, got %q", name, cause, err)
			}
		}
	})
}

func TestUnclassifiedErrorsAreTheOperators(t *testing.T) {
	var log strings.Builder
	home := t.TempDir()
	fail := errors.New("open /home/someone/key.pem: permission denied")
	serve(t, home, rpc.ServerOptions{Open: always(failing{fail: func() error { return fail }}), Log: slog.New(slog.NewTextHandler(&log, nil))})
	_, err := dial(t, home, rpc.Options{}).GetBox(t.Context(), "b")
	if !errors.Is(err, boxlite.Internal) || strings.Contains(err.Error(), "key.pem") {
		t.Errorf("a front end is told %v", err)
	}
	_, incident, _ := strings.Cut(err.Error(), "incident ")
	incident, _, _ = strings.Cut(incident, " ")
	if len(incident) != 8 || !strings.Contains(log.String(), "incident="+incident) || !strings.Contains(log.String(), "key.pem") {
		t.Errorf("incident %q is not in the log:\n%s", incident, &log)
	}
	if _, err := dial(t, home, rpc.Options{Operator: true}).GetBox(t.Context(), "b"); !strings.Contains(err.Error(), "key.pem") {
		t.Errorf("the operator is told %v", err)
	}
}

// panicking is a Service that has bugs.
type panicking struct{ memory }

func (panicking) GetBox(context.Context, string) (boxlite.BoxDetails, error) { panic("bug") }
func (panicking) StartBox(context.Context, string, func(boxlite.Progress)) (boxlite.BoxInfo, error) {
	panic("bug")
}

func TestAPanicEndsItsCallOnly(t *testing.T) {
	c := dial(t, start(t, panicking{}), rpc.Options{Operator: true})
	_, err := c.GetBox(t.Context(), "b")
	_, err2 := c.StartBox(t.Context(), "b", nil)
	for _, err := range []error{err, err2} {
		if !errors.Is(err, boxlite.Internal) || !strings.Contains(err.Error(), "bug") {
			t.Errorf("got %v", err)
		}
	}
	if _, err := c.ListImages(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestOpenDecidesWhoMayConnect(t *testing.T) {
	home := t.TempDir()
	serve(t, home, rpc.ServerOptions{Open: func(rpc.Caller) (boxlite.Service, error) {
		return nil, boxlite.Errorf(boxlite.Denied, "connect", "", "no such principal")
	}})
	for _, opts := range []rpc.Options{{Principal: "p"}, {Operator: true}} {
		opts.Socket = rpc.Socket(home)
		if _, err := rpc.Dial(t.Context(), opts); !errors.Is(err, boxlite.Denied) {
			t.Errorf("Dial(%+v): %v", opts, err)
		}
	}
	if _, err := rpc.Dial(t.Context(), rpc.Options{Socket: rpc.Socket(home)}); !errors.Is(err, boxlite.InvalidArgument) {
		t.Errorf("Dial of nobody: %v", err)
	}
}

func TestOperatorsCallsAreTheOperators(t *testing.T) {
	home := t.TempDir()
	asked := make(chan string, 1)
	serve(t, home, rpc.ServerOptions{Open: always(memory{}), Version: "v1.2.3", Shutdown: func(reason string) { asked <- reason },
		Details: func(context.Context) (json.RawMessage, error) { return json.RawMessage(`{"boxes":3}`), nil }})
	local := dial(t, home, rpc.Options{})
	if _, err := local.Status(t.Context()); !errors.Is(err, boxlite.Denied) {
		t.Errorf("Status: %v", err)
	}
	if err := local.Shutdown(t.Context(), "x"); !errors.Is(err, boxlite.Denied) {
		t.Errorf("Shutdown: %v", err)
	}
	operator := dial(t, home, rpc.Options{Operator: true})
	if st, err := operator.Status(t.Context()); err != nil || string(st.Details) != `{"boxes":3}` || st.Version != "v1.2.3" {
		t.Errorf("Status() = %+v, %v", st, err)
	}
	if err := operator.Shutdown(t.Context(), "because"); err != nil || <-asked != "because" {
		t.Errorf("Shutdown: %v", err)
	}
	if version, id, err := operator.Hello(t.Context()); version != "v1.2.3" || !id.Alive() || id.PID != os.Getpid() || err != nil {
		t.Errorf("Hello() = %s, %v, %v", version, id, err)
	}
}

// waiting is a Service whose Output waits, and says when it begins and ends.
type waiting struct {
	memory
	begun, ended chan error
}

func newWaiting() waiting { return waiting{begun: make(chan error, 64), ended: make(chan error, 64)} }

func (w waiting) Output(ctx context.Context, id boxlite.ExecutionID, req boxlite.OutputRequest) (boxlite.Output, error) {
	w.begun <- nil
	select {
	case <-ctx.Done():
		w.ended <- ctx.Err()
		return boxlite.Output{}, ctx.Err()
	case <-time.After(req.Wait):
		return w.memory.Output(ctx, id, req)
	}
}

func TestCancelEndsTheServersWait(t *testing.T) {
	w := newWaiting()
	home := start(t, w)
	for name, end := range map[string]func(context.CancelFunc, *rpc.Client){
		"cancel": func(cancel context.CancelFunc, _ *rpc.Client) { cancel() },
		"close":  func(_ context.CancelFunc, c *rpc.Client) { c.Close() },
	} {
		c := dial(t, home, rpc.Options{})
		ctx, cancel := context.WithCancel(t.Context())
		failed := make(chan error, 1)
		go func() {
			_, err := c.Output(ctx, "id", boxlite.OutputRequest{Wait: time.Minute})
			failed <- err
		}()
		<-w.begun
		end(cancel, c)
		select {
		case <-w.ended:
		case <-time.After(5 * time.Second):
			t.Fatalf("%s: the server still waits", name)
		}
		if err := <-failed; name == "cancel" && (!errors.Is(err, boxlite.Canceled) || !errors.Is(err, context.Canceled)) || err == nil {
			t.Errorf("%s: %v", name, err)
		}
		cancel()
	}
}

func TestDeadlineIsATimeout(t *testing.T) {
	c := dial(t, start(t, newWaiting()), rpc.Options{})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if _, err := c.Output(ctx, "id", boxlite.OutputRequest{Wait: time.Minute}); !errors.Is(err, boxlite.Timeout) {
		t.Errorf("got %v", err)
	}
}

// chatty reports far more than anybody reads.
type chatty struct{ memory }

func (c chatty) StartBox(_ context.Context, ref string, report func(boxlite.Progress)) (boxlite.BoxInfo, error) {
	for i := range 200_000 {
		report(boxlite.Progress{Phase: fmt.Sprint("phase ", i/50_000), Current: int64(i)})
	}
	return c.box(ref), nil
}

func TestASlowReaderDoesNotHoldUpTheStart(t *testing.T) {
	c := dial(t, start(t, chatty{}), rpc.Options{})
	last := int64(-1)
	phases := map[string]bool{}
	_, err := c.StartBox(t.Context(), "b", func(p boxlite.Progress) {
		time.Sleep(time.Millisecond)
		if p.Current <= last {
			t.Errorf("%d after %d", p.Current, last)
		}
		last, phases[p.Phase] = p.Current, true
	})
	if err != nil || last != 199_999 || len(phases) != 4 {
		t.Errorf("last progress %d, phases %v, %v", last, phases, err)
	}
}

// gulping takes so much input and then fails.
type gulping struct {
	memory
	mu   *sync.Mutex
	got  *[]byte
	eofs *int
	most int
}

func (g gulping) WriteStdin(_ context.Context, _ boxlite.ExecutionID, data []byte, eof bool) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := min(len(data), g.most-len(*g.got))
	*g.got = append(*g.got, data[:n]...)
	if eof {
		*g.eofs++
	}
	if n < len(data) {
		return n, boxlite.Errorf(boxlite.InvalidState, "write to command", "", "the input is closed")
	}
	return n, nil
}

func TestInputIsTakenInPieces(t *testing.T) {
	data := pattern(5<<20+17, 0)
	for _, most := range []int{len(data), 3<<20 + 5, 0} {
		g := gulping{mu: new(sync.Mutex), got: new([]byte), eofs: new(int), most: most}
		c := dial(t, start(t, g), rpc.Options{})
		n, err := c.WriteStdin(t.Context(), "id", data, true)
		if n != most || string(*g.got) != string(data[:most]) || (err == nil) != (most == len(data)) || err != nil && !errors.Is(err, boxlite.InvalidState) {
			t.Errorf("of %d bytes %d were taken, want %d; %v", len(data), n, most, err)
		}
		if most == len(data) && *g.eofs != 1 {
			t.Errorf("the input was closed %d times", *g.eofs)
		}
		if n, err := c.WriteStdin(t.Context(), "id", nil, true); n != 0 || err != nil {
			t.Errorf("closing only: %d, %v", n, err)
		}
	}
}

func TestTooMuchAtOnceIsRefused(t *testing.T) {
	c := dial(t, start(t, huge{}), rpc.Options{})
	_, err := c.WriteFile(t.Context(), "b", boxlite.WriteFileRequest{Path: "/p", Data: make([]byte, 15<<20+1)})
	if !errors.Is(err, boxlite.InvalidArgument) || boxlite.HintOf(err) == "" {
		t.Errorf("WriteFile: %v", err)
	}
	if info, err := c.WriteFile(t.Context(), "b", boxlite.WriteFileRequest{Path: "/p", Data: make([]byte, 15<<20)}); err != nil || info.Size != 15<<20 {
		t.Errorf("WriteFile of 15 MiB: %+v, %v", info, err)
	}
	if _, err := c.ListImages(t.Context()); !errors.Is(err, boxlite.Exhausted) {
		t.Errorf("ListImages: %v", err)
	}
	if _, err := c.GetBox(t.Context(), "b"); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// huge has more images than fit into a message.
type huge struct{ memory }

func (huge) ListImages(context.Context) ([]boxlite.ImageInfo, error) {
	return []boxlite.ImageInfo{{Reference: strings.Repeat("x", 17<<20)}}, nil
}

func TestHomesWithLongPaths(t *testing.T) {
	home := filepath.Join(t.TempDir(), strings.Repeat("long", 50))
	if err := os.Mkdir(home, 0o700); err != nil {
		t.Fatal(err)
	}
	serve(t, home, rpc.ServerOptions{Open: always(memory{})})
	if _, err := dial(t, home, rpc.Options{}).GetBox(t.Context(), "b"); err != nil {
		t.Error(err)
	}
}

func TestGarbageOnTheSocketHarmsNobody(t *testing.T) {
	home := start(t, memory{})
	c := dial(t, home, rpc.Options{})
	for _, garbage := range []string{"GET / HTTP/1.1\r\n\r\n", "\x00\x00", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff", strings.Repeat("x", 1<<16)} {
		conn, err := unixsocket.Dial(t.Context(), rpc.Socket(home))
		if err != nil {
			t.Fatal(err)
		}
		conn.Write([]byte(garbage))
		conn.(*net.UnixConn).CloseWrite()
		conn.Close()
	}
	if _, err := c.GetBox(t.Context(), "b"); err != nil {
		t.Error(err)
	}
}

func TestClosedClientSaysSo(t *testing.T) {
	c := dial(t, start(t, memory{}), rpc.Options{})
	c.Close()
	if _, err := c.GetBox(t.Context(), "b"); !errors.Is(err, boxlite.InvalidState) {
		t.Errorf("got %v", err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

func TestNothingIsAnsweredBeforeHello(t *testing.T) {
	home := start(t, memory{})
	conn, err := grpc.NewClient("unix:"+rpc.Socket(home), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	d := rpcpb.NewDaemonClient(conn)
	if _, err := d.GetBox(t.Context(), &rpcpb.Ref{Ref: []byte("b")}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("GetBox: %v", err)
	}
	if _, err := d.Status(t.Context(), &rpcpb.Empty{}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("Status: %v", err)
	}
	stream, err := d.StartBox(t.Context(), &rpcpb.Ref{})
	if err == nil {
		_, err = stream.Recv()
	}
	if status.Code(err) != codes.FailedPrecondition {
		t.Errorf("StartBox: %v", err)
	}
	// A client of the future may say hello, and replace the daemon, but no more.
	hello := &rpcpb.HelloRequest{Protocol: 99, MinProtocol: 98, Operator: true}
	if reply, err := d.Hello(t.Context(), hello); err != nil || reply.Protocol != rpc.Protocol || reply.MinProtocol != rpc.MinProtocol {
		t.Errorf("Hello: %v, %v", reply, err)
	}
	if _, err := d.GetBox(t.Context(), &rpcpb.Ref{Ref: []byte("b")}); status.Code(err) != codes.Unimplemented {
		t.Errorf("GetBox in a foreign protocol: %v", err)
	}
	if _, err := d.Status(t.Context(), &rpcpb.Empty{}); err != nil {
		t.Errorf("Status in a foreign protocol: %v", err)
	}
	if _, err := d.Hello(t.Context(), hello); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("a second Hello: %v", err)
	}
}

func TestMessagesFromStrangeClientsAreRefused(t *testing.T) {
	home := start(t, memory{})
	conn, err := grpc.NewClient("unix:"+rpc.Socket(home), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	d := rpcpb.NewDaemonClient(conn)
	if _, err := d.Hello(t.Context(), &rpcpb.HelloRequest{Protocol: rpc.Protocol, MinProtocol: rpc.MinProtocol, Principal: []byte("p")}); err != nil {
		t.Fatal(err)
	}
	if _, err := d.ListBoxes(t.Context(), &rpcpb.Words{Json: []byte("{")}); err == nil {
		t.Error("ListBoxes took half an object")
	}
	if _, err := d.ResizeTTY(t.Context(), &rpcpb.ResizeTTYRequest{Rows: 1 << 16}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("ResizeTTY: %v", err)
	}
	if _, err := d.WriteFile(t.Context(), &rpcpb.WriteFileRequest{Data: make([]byte, 17<<20)}); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("WriteFile: %v", err)
	}
	out, err := d.Output(t.Context(), &rpcpb.OutputRequest{MaxBytes: 1 << 40})
	if err != nil || out.Stdout.End != 4<<20 { // memory says there what it was asked for
		t.Errorf("Output of 1 TiB: asked for %d, %v", out.GetStdout().GetEnd(), err)
	}
}

func TestRegistriesComeWithEveryHello(t *testing.T) {
	home := t.TempDir()
	var got []string
	opts := rpc.ServerOptions{Open: func(c rpc.Caller) (boxlite.Service, error) {
		registries := c.Registries
		got = append(got, c.Registries...)
		if len(registries) > 0 && registries[0] == "bad" {
			return nil, boxlite.Errorf(boxlite.Config, "add registry", registries[0], "no such form")
		}
		return memory{}, nil
	}}
	serve(t, home, opts)
	dial(t, home, rpc.Options{})
	dial(t, home, rpc.Options{Registries: []string{"a", "http://b:5000"}})
	if diff := cmp.Diff([]string{"a", "http://b:5000"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	_, err := rpc.Dial(t.Context(), rpc.Options{Socket: rpc.Socket(home), Principal: "p", Registries: []string{"bad"}})
	if !errors.Is(err, boxlite.Config) {
		t.Errorf("got %v", err)
	}
}
