package agent_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/agent"
	"github.com/boxlite-mcp/boxlite-mcp/agent/agentpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// A liar is a guest that speaks the protocol and breaks it.
type liar struct {
	agentpb.UnimplementedAgentServer
	hello    func(context.Context) (*agentpb.HelloResponse, error)
	exec     func(agentpb.Agent_ExecServer) error
	readFile func(agentpb.Agent_ReadFileServer) error
	readDir  func(agentpb.Agent_ReadDirServer) error
	stat     *agentpb.FileInfo
}

func (l *liar) Hello(ctx context.Context, _ *agentpb.HelloRequest) (*agentpb.HelloResponse, error) {
	if l.hello != nil {
		return l.hello(ctx)
	}
	return &agentpb.HelloResponse{Protocol: agent.Protocol}, nil
}
func (l *liar) Exec(s agentpb.Agent_ExecServer) error { return l.exec(s) }
func (l *liar) ReadFile(_ *agentpb.ReadFileRequest, s agentpb.Agent_ReadFileServer) error {
	return l.readFile(s)
}
func (l *liar) ReadDir(_ *agentpb.ReadDirRequest, s agentpb.Agent_ReadDirServer) error {
	return l.readDir(s)
}
func (l *liar) Stat(context.Context, *agentpb.StatRequest) (*agentpb.FileInfo, error) {
	return l.stat, nil
}
func (l *liar) Terminate(ctx context.Context, _ *agentpb.TerminateRequest) (*agentpb.Empty, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}
func (l *liar) WriteFile(s agentpb.Agent_WriteFileServer) error {
	return s.SendAndClose(&agentpb.WriteFileResponse{Bytes: 1 << 62})
}

// oneConn is a listener for one connection.
type oneConn struct {
	c    chan net.Conn
	done chan struct{}
}

func (l *oneConn) Accept() (net.Conn, error) {
	select {
	case c := <-l.c:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}
func (l *oneConn) Close() error   { return nil }
func (l *oneConn) Addr() net.Addr { return &net.UnixAddr{} }

// listen serves l on the returned connection.
func (l *liar) listen(t *testing.T) net.Conn {
	host, guest := socketpair(t)
	g := grpc.NewServer(grpc.MaxSendMsgSize(1 << 30))
	agentpb.RegisterAgentServer(g, l)
	one := &oneConn{c: make(chan net.Conn, 1), done: make(chan struct{})}
	one.c <- guest
	ended := make(chan struct{})
	go func() { defer close(ended); _ = g.Serve(one) }()
	t.Cleanup(func() { close(one.done); g.Stop(); <-ended })
	return host
}

func (l *liar) client(t *testing.T) *agent.Client {
	t.Helper()
	c, err := agent.NewClient(t.Context(), l.listen(t), agent.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func socketpair(t *testing.T) (host, guest net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if host, err = net.Dial("tcp", l.Addr().String()); err == nil {
		guest, err = l.Accept()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { host.Close(); guest.Close() })
	return host, guest
}

func started() *agentpb.ExecEvent {
	return &agentpb.ExecEvent{Event: &agentpb.ExecEvent_Started{Started: &agentpb.ExecStarted{Pid: 7}}}
}
func exited(code, signal int32) *agentpb.ExecEvent {
	return &agentpb.ExecEvent{Event: &agentpb.ExecEvent_Exited{Exited: &agentpb.ExecExited{Code: code, Signal: signal}}}
}
func stdout(b []byte) *agentpb.ExecEvent {
	return &agentpb.ExecEvent{Event: &agentpb.ExecEvent_Stdout{Stdout: b}}
}

func send(events ...*agentpb.ExecEvent) func(agentpb.Agent_ExecServer) error {
	return func(s agentpb.Agent_ExecServer) error {
		for _, e := range events {
			if err := s.Send(e); err != nil {
				return err
			}
		}
		return nil
	}
}

func TestGuestThatBreaksAnExecution(t *testing.T) {
	for name, c := range map[string]struct {
		exec  func(agentpb.Agent_ExecServer) error
		start boxlite.Kind // 0: Start works and Wait fails with Portal
	}{
		"ends-at-once":        {send(), boxlite.Portal},
		"exit-before-start":   {send(exited(0, 0)), boxlite.Portal},
		"output-before-start": {send(stdout([]byte("x"))), boxlite.Portal},
		"empty-event":         {send(&agentpb.ExecEvent{}), boxlite.Portal},
		"huge-message":        {send(started(), stdout(make([]byte, 2<<20))), 0},
		"starts-twice":        {send(started(), started()), 0},
		"empty-in-the-middle": {send(started(), &agentpb.ExecEvent{}), 0},
		"never-exits":         {send(started()), 0},
		"exit-code-too-large": {send(started(), exited(256, 0)), 0},
		"exit-code-negative":  {send(started(), exited(-5, 0)), 0},
		"signal-unknown":      {send(started(), exited(-400, 400)), 0},
		"signal-with-code":    {send(started(), exited(0, 9)), 0},
		"own-kind":            {func(agentpb.Agent_ExecServer) error { return status.Error(codes.PermissionDenied, "hm") }, boxlite.Portal},
		"panics-status": {func(agentpb.Agent_ExecServer) error {
			return status.Error(codes.Code(999), strings.Repeat("\x1b[2J", 9999))
		}, boxlite.Portal},
	} {
		t.Run(name, func(t *testing.T) {
			client := (&liar{exec: c.exec}).client(t)
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			e, err := client.Start(ctx, agent.ExecSpec{Args: []string{"x"}}, io.Discard, io.Discard)
			if c.start != 0 {
				wantKind(t, err, c.start)
				if err != nil && (len(err.Error()) > 3000 || strings.ContainsRune(err.Error(), 0x1b)) {
					t.Errorf("untamed: %.100q", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			_, err = e.Wait(ctx)
			wantKind(t, err, boxlite.Portal)
			<-e.Closed()
		})
	}
}

func TestGuestThatGoesOnAfterTheEnd(t *testing.T) {
	client := (&liar{exec: send(started(), exited(3, 0), stdout([]byte("late")), exited(4, 0), stdout([]byte("later")))}).client(t)
	var out bytes.Buffer
	e, err := client.Start(t.Context(), agent.ExecSpec{Args: []string{"x"}}, &out, nil)
	if err != nil {
		t.Fatal(err)
	}
	<-e.Closed()
	if s, err := e.Wait(t.Context()); err != nil || s.Code != 3 || out.String() != "late" {
		t.Errorf("%+v %v %q", s, err, out.String())
	}
}

func TestGuestThatNeverAnswers(t *testing.T) {
	client := (&liar{exec: func(s agentpb.Agent_ExecServer) error {
		m, err := s.Recv()
		if err == nil && m.GetStart() != nil && string(m.GetStart().Args[0]) == "start" {
			_ = s.Send(started())
		}
		<-s.Context().Done()
		return nil
	}}).client(t)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err := client.Start(ctx, agent.ExecSpec{Args: []string{"hang"}}, nil, nil)
	wantKind(t, err, boxlite.Timeout)
	e, err := client.Start(t.Context(), agent.ExecSpec{Args: []string{"start"}, Stdin: true}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, err = e.Wait(ctx)
	wantKind(t, err, boxlite.Timeout)
	ctx, cancel = context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	wantKind(t, e.KillTree(ctx), boxlite.Timeout)
	_, err = e.Write(ctx, make([]byte, 1<<20))
	wantKind(t, err, boxlite.Timeout)
	gone, give := context.WithCancel(t.Context())
	give()
	wantKind(t, e.KillTree(gone), boxlite.Canceled)
	client.Close()
	_, err = e.Wait(t.Context())
	wantKind(t, err, boxlite.RpcTransport)
}

func TestGuestThatFloodsStaysInItsWindow(t *testing.T) {
	sent := make(chan int, 1)
	client := (&liar{exec: func(s agentpb.Agent_ExecServer) error {
		_ = s.Send(started())
		n := 0
		defer func() { sent <- n }()
		for ; s.Send(stdout(make([]byte, 64<<10))) == nil; n++ {
		}
		return nil
	}}).client(t)
	gate := make(chan struct{})
	_, err := client.Start(t.Context(), agent.ExecSpec{Args: []string{"x"}}, &count{wait: gate}, nil)
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(300 * time.Millisecond)
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	if m.HeapInuse > 64<<20 {
		t.Errorf("%d bytes of heap", m.HeapInuse)
	}
	close(gate)
	client.Close()
	<-sent
}

func TestGuestThatLiesAboutFiles(t *testing.T) {
	forever := func(s agentpb.Agent_ReadFileServer) error {
		for {
			if err := s.Send(&agentpb.FileChunk{Data: make([]byte, 1000)}); err != nil {
				return err
			}
		}
	}
	l := &liar{readFile: forever}
	client := l.client(t)
	n, err := client.ReadFile(t.Context(), "/f", agent.ReadOptions{Limit: 4500}, io.Discard)
	wantKind(t, err, boxlite.Portal)
	if n > 4500 {
		t.Errorf("%d bytes", n)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err = client.ReadFile(ctx, "/f", agent.ReadOptions{}, io.Discard)
	wantKind(t, err, boxlite.Timeout)
	_, err = client.WriteFile(t.Context(), "/f", strings.NewReader("x"), agent.WriteOptions{})
	wantKind(t, err, boxlite.Portal)

	for _, name := range []string{"", "..", ".", "a/b", "../../etc/passwd", "x\x00", strings.Repeat("n", 300)} {
		l.readDir = func(s agentpb.Agent_ReadDirServer) error {
			return s.Send(&agentpb.ReadDirResponse{Entries: []*agentpb.FileInfo{{Name: []byte(name)}}})
		}
		_, _, err = client.ReadDir(t.Context(), "/", "", 0)
		wantKind(t, err, boxlite.Portal)
	}
	l.readDir = func(s agentpb.Agent_ReadDirServer) error {
		for s.Send(&agentpb.ReadDirResponse{Entries: []*agentpb.FileInfo{{Name: []byte("a")}, nil, {Name: []byte("b")}}}) == nil {
		}
		return nil
	}
	_, _, err = client.ReadDir(t.Context(), "/", "", 3)
	wantKind(t, err, boxlite.Portal)
	l.readDir = func(s agentpb.Agent_ReadDirServer) error {
		for s.Send(&agentpb.ReadDirResponse{}) == nil {
		}
		return nil
	}
	_, _, err = client.ReadDir(t.Context(), "/", "", 3)
	wantKind(t, err, boxlite.Portal)
	l.stat = &agentpb.FileInfo{Name: []byte("../evil"), Size: -1}
	_, err = client.Stat(t.Context(), "/f", "")
	wantKind(t, err, boxlite.Portal)
}

func TestGuestThatDoesNotGreet(t *testing.T) {
	hang := func(ctx context.Context) (*agentpb.HelloResponse, error) { <-ctx.Done(); return nil, ctx.Err() }
	for name, c := range map[string]struct {
		conn func(t *testing.T) net.Conn
		kind boxlite.Kind
	}{
		"silent":                {func(t *testing.T) net.Conn { h, _ := socketpair(t); return h }, boxlite.Portal},
		"closes":                {func(t *testing.T) net.Conn { h, g := socketpair(t); g.Close(); return h }, boxlite.Portal},
		"speaks-something-else": {raw("HTTP/1.1 200 OK\r\n\r\n"), boxlite.Portal},
		"huge-frame":            {raw("\xff\xff\xff\x04\x00\x00\x00\x00\x00" + strings.Repeat("x", 1<<16)), boxlite.Portal},
		"settings-forever":      {flood("\x00\x00\x00\x04\x00\x00\x00\x00\x00"), boxlite.Portal},
		"pings-forever":         {flood("\x00\x00\x08\x06\x00\x00\x00\x00\x0012345678"), boxlite.Portal},
		"hangs":                 {(&liar{hello: hang}).listen, boxlite.Portal},
		"another-version": {(&liar{hello: func(context.Context) (*agentpb.HelloResponse, error) {
			return &agentpb.HelloResponse{Protocol: 99}, nil
		}}).listen, boxlite.Portal},
		"refuses": {(&liar{hello: func(context.Context) (*agentpb.HelloResponse, error) {
			return nil, errors.New("no")
		}}).listen, boxlite.Portal},
	} {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			_, err := agent.NewClient(t.Context(), c.conn(t), agent.Options{HelloTimeout: 300 * time.Millisecond})
			wantKind(t, err, c.kind)
			if d := time.Since(start); d > 15*time.Second { // floods cost time on a busy host
				t.Errorf("took %s", d)
			}
		})
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	h, _ := socketpair(t)
	_, err := agent.NewClient(ctx, h, agent.Options{})
	wantKind(t, err, boxlite.Timeout)
}

// raw is a guest that says something and reads all.
func raw(say string) func(*testing.T) net.Conn {
	return func(t *testing.T) net.Conn {
		h, g := socketpair(t)
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_, _ = g.Write([]byte(say))
			_, _ = io.Copy(io.Discard, g)
		}()
		t.Cleanup(func() { g.Close(); <-ended })
		return h
	}
}

// flood is a guest that says something after a good beginning, again and again.
func flood(say string) func(*testing.T) net.Conn {
	return func(t *testing.T) net.Conn {
		h, g := socketpair(t)
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_, _ = g.Write([]byte("\x00\x00\x00\x04\x00\x00\x00\x00\x00"))
			for many := []byte(strings.Repeat(say, 100)); ; {
				if _, err := g.Write(many); err != nil {
					return
				}
			}
		}()
		t.Cleanup(func() { g.Close(); <-ended })
		return h
	}
}

// A message's length is four bytes that the guest chooses.
func TestGuestThatClaimsFourGiB(t *testing.T) {
	l := &liar{exec: func(s agentpb.Agent_ExecServer) error { <-s.Context().Done(); return nil }}
	host := l.listen(t)
	tampered := &tamper{Conn: host}
	client, err := agent.NewClient(t.Context(), tampered, agent.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	l.stat = &agentpb.FileInfo{Name: []byte("f"), Link: bytes.Repeat([]byte("MARK"), 64)}
	_, err = client.Stat(t.Context(), "/f", "")
	wantKind(t, err, boxlite.Portal)
	if !tampered.done {
		t.Error("the message was not tampered with")
	}
}

// tamper makes the gRPC length before a marked message 4 GiB.
type tamper struct {
	net.Conn
	done bool
}

func (c *tamper) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if at := bytes.Index(p[:n], []byte("MARKMARK")); at > 0 && !c.done {
		for i := at; i > 8; i-- { // back to the DATA frame's header
			size := int(p[i-9])<<16 | int(p[i-8])<<8 | int(p[i-7])
			if p[i-6] == 0 && size > 256 && size < 400 {
				binary.BigEndian.PutUint32(p[i+1:], 1<<32-1)
				c.done = true
				break
			}
		}
	}
	return n, err
}

func wantKind(t *testing.T, err error, kind boxlite.Kind) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Errorf("error %v, want kind %v", err, kind)
	}
}

// count counts bytes, and waits before each write if it is told to.
type count struct {
	n    int64
	wait <-chan struct{}
}

func (c *count) Write(p []byte) (int, error) {
	if c.wait != nil {
		<-c.wait
	}
	c.n += int64(len(p))
	return len(p), nil
}
