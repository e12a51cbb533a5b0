package vmcore_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/egress/policy"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore"
)

func TestNetworkThatMayNotBe(t *testing.T) {
	t.Parallel()
	access := func(allow ...string) *policy.Access {
		a, err := policy.ParseAccess(allow)
		if err != nil {
			t.Fatal(err)
		}
		return &a
	}
	ceiling := access("*.example.com:443")
	agent, operator := vmcore.Owner{Principal: "agent"}, vmcore.Owner{AnyNetwork: true}
	for _, c := range []struct {
		name    string
		owner   vmcore.Owner
		allow   []string
		ceiling *policy.Access
		kind    boxlite.Kind // of the error
		says    string       // "": no error
	}{
		{"malformed", operator, []string{"https://api.example.com/v1"}, nil, boxlite.Config, "api.example.com"},
		{"malformed under a ceiling", agent, []string{"a b"}, ceiling, boxlite.Config, "a b"},
		{"wider than the ceiling", agent, []string{"*.example.com"}, ceiling, boxlite.Denied, "*.example.com:443"},
		{"the Internet beyond the ceiling", agent, nil, ceiling, boxlite.Denied, "the public Internet"},
		{"nothing is the ceiling", agent, nil, &policy.Access{}, boxlite.Denied, "nothing"},
		{"the host's LAN without a word of the operator", agent, []string{"192.168.0.0/16"}, nil, boxlite.Denied, "the public Internet"},
		{"the operator's own LAN", operator, []string{"192.168.0.0/16"}, nil, 0, ""},
		{"within the ceiling", agent, []string{"api.example.com:443"}, ceiling, 0, ""},
		{"the Internet", agent, nil, nil, 0, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.opts.Network.Ceiling = c.ceiling
			rt := w.open(t)
			spec := boxlite.NetworkSpec{Enabled: true, AllowNet: c.allow}
			_, err := rt.CreateFor(t.Context(), c.owner, boxlite.CreateRequest{Options: boxlite.BoxOptions{Image: w.image, Network: spec}})
			switch {
			case c.says == "" && err != nil:
				t.Error(err)
			case c.says != "" && (boxlite.KindOf(err) != c.kind || !strings.Contains(err.Error(), c.says) || boxlite.HintOf(err) == ""):
				t.Errorf("%v (kind %v, hint %q), want %v about %q with a hint", err, boxlite.KindOf(err), boxlite.HintOf(err), c.kind, c.says)
			}
			if n := len(rt.ListInfo()); (n == 0) != (c.says != "") {
				t.Errorf("there are %d boxes", n)
			}
		})
	}
}

// netWorld is a world with an upstream, which the operator gave a name, and a
// box that may reach it.
func netWorld(t *testing.T, allow ...string) (w *world, box *vmcore.Box, hits *atomic.Int64) {
	t.Helper()
	hits = new(atomic.Int64)
	srv := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		hits.Add(1)
		fmt.Fprintf(rw, "hello from %s", r.Host)
	}))
	t.Cleanup(srv.Close)
	w = newWorld(t)
	for _, name := range []string{"api.good.test", "evil.test"} {
		s, err := policy.ParseStatic(name + "=" + srv.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		w.opts.Network.Static = append(w.opts.Network.Static, s)
	}
	rt := w.open(t)
	box, err := rt.CreateFor(t.Context(), vmcore.Owner{Survives: true, LocalRoots: []string{"/"}}, boxlite.CreateRequest{Name: "net", Options: boxlite.BoxOptions{
		Image: w.image, Network: boxlite.NetworkSpec{Enabled: true, AllowNet: allow}, AutoRemove: new(false),
	}})
	if err != nil {
		t.Fatal(err)
	}
	return w, box, hits
}

func TestBoxReachesWhatItMay(t *testing.T) {
	t.Parallel()
	_, box, hits := netWorld(t, "api.good.test:80")
	if out, errs, code := sh(t, box, "wget -qO- http://api.good.test/"); out != "hello from api.good.test" {
		t.Errorf("%q, %q, exit %d", out, errs, code.ExitCode)
	}
	// The same after the box was stopped: policy is there before its first frame.
	if err := box.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if out, errs, code := sh(t, box, "wget -qO- http://api.good.test/"); out != "hello from api.good.test" {
		t.Errorf("%q, %q, exit %d", out, errs, code.ExitCode)
	}
	if n := hits.Load(); n != 2 {
		t.Errorf("%d requests", n)
	}
	list := netLog(t, box, func(e boxlite.NetworkEvent) bool { return e.Kind == boxlite.NetConnect && !e.Open })
	if len(list) != 2 || !list[0].Allowed || list[0].Host != "api.good.test" || list[0].Sent == 0 || list[1].Received == 0 || list[1].Seq <= list[0].Seq {
		t.Errorf("%+v", list)
	}
}

// netLog returns the records that match; those of connections that have just
// ended may need a moment.
func netLog(t *testing.T, box *vmcore.Box, match func(boxlite.NetworkEvent) bool) []boxlite.NetworkEvent {
	t.Helper()
	var list []boxlite.NetworkEvent
	for began := time.Now(); time.Since(began) < 5*time.Second; time.Sleep(50 * time.Millisecond) {
		var err error
		if list, err = box.NetworkLog(100, false, match); err != nil {
			t.Fatal(err)
		}
		if len(list) > 1 {
			break
		}
	}
	return list
}

func TestBoxReachesNothingElse(t *testing.T) {
	t.Parallel()
	_, box, hits := netWorld(t, "api.good.test:80")
	canary, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer canary.Close()
	port := canary.Addr().(*net.TCPAddr).Port
	for _, c := range []struct{ name, script string }{
		{"another name", "wget -qO- http://evil.test/"},
		{"another port", "wget -qO- http://api.good.test:81/"},
		{"metadata", "wget -qO- http://169.254.169.254/latest/meta-data/"},
		{"an address", "wget -qO- http://93.184.215.14/"},
		{"the gateway", "wget -qO- http://198.19.255.1/"},
		{"its own loopback is not the host's", fmt.Sprintf("wget -qO- http://127.0.0.1:%d/", port)},
		{"the host by the gateway's address", fmt.Sprintf("wget -qO- http://198.19.255.1:%d/", port)},
		{"A24 another source address", "ip addr add 198.19.255.3/30 dev eth0; nc -s 198.19.255.3 -w 2 198.18.0.1 80 </dev/null || exit 1"},
		{"ping", "ping -c 1 -W 2 93.184.215.14"},
	} {
		if out, errs, code := sh(t, box, c.script); code.ExitCode == 0 {
			t.Errorf("%s: %q, %q, exit %d", c.name, out, errs, code.ExitCode)
		}
	}
	if n := hits.Load(); n != 0 {
		t.Errorf("%d requests reached the host", n)
	}
	codes := map[string]bool{}
	for _, e := range netLog(t, box, func(e boxlite.NetworkEvent) bool { return !e.Allowed }) {
		codes[e.Code] = true
	}
	for _, want := range []string{"no_rule", "wrong_port", "metadata", "box_subnet"} {
		if !codes[want] {
			t.Errorf("no record of %s: %v", want, codes)
		}
	}
}

// A box goes on with its network when the runtime is closed and opened again.
func TestNetworkOutlivesTheRuntime(t *testing.T) {
	t.Parallel()
	w, box, _ := netWorld(t, "api.good.test")
	run, err := box.Run(t.Context(), boxlite.Shell("sleep 1; wget -qO- http://api.good.test/ && wget -qO- http://evil.test/; sleep 1000"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := box.Runtime().Close(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2 * time.Second)
	rt := w.open(t)
	again, err := rt.Execution(vmcore.Everything, run.ID())
	if err != nil {
		t.Fatal(err)
	}
	waitFor(t, "output", func() bool {
		out, err := again.Output(t.Context(), boxlite.OutputRequest{MaxBytes: 1000})
		return err == nil && string(out.Stdout.Data) == "hello from api.good.test" && strings.Contains(string(out.Stderr.Data), "evil.test")
	})
	if err := rt.Remove(context.WithoutCancel(t.Context()), "net", true); err != nil {
		t.Error(err)
	}
}
