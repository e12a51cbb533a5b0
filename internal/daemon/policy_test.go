package daemon_test

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/internal/daemon"
	"github.com/boxlite-mcp/boxlite-mcp/internal/rpc"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore"
)

// A home is one with a daemon, in this process. Its boxes are never started.
type home struct {
	t   *testing.T
	dir string

	mu  sync.Mutex
	log bytes.Buffer // guarded by mu
}

// Write implements io.Writer for the daemon's log.
func (h *home) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.log.Write(p)
}

func (h *home) logged(text string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return strings.Count(h.log.String(), text)
}

// configure writes the operator's configuration, as an editor does.
func (h *home) configure(text string) {
	h.t.Helper()
	path := filepath.Join(h.dir, "config.toml")
	err := os.WriteFile(path+"~", []byte(text), 0o600)
	if err == nil {
		err = os.Rename(path+"~", path)
	}
	if err != nil {
		h.t.Fatal(err)
	}
}

// start runs the daemon until the test ends.
func start(t *testing.T, config string) *home {
	t.Helper()
	dir, err := os.MkdirTemp("", "home") //nolint:usetesting // the path of a socket is short
	if err != nil {
		t.Fatal(err)
	}
	h := &home{t: t, dir: dir}
	t.Cleanup(func() { os.RemoveAll(dir) })
	h.configure(config)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- daemon.Run(ctx, daemon.Options{Home: dir, Version: "test", Linger: time.Hour, Log: slog.New(slog.NewTextHandler(h, nil)),
			Programs: vmcore.Programs{Helper: "/bin/false", Sandbox: "/bin/false", Jail: "/bin/false", Agent: "/bin/false"}})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error("the daemon:", err)
		}
	})
	return h
}

// client returns a connection as a principal, "" being the operator.
func (h *home) client(principal string, registries ...string) *rpc.Client {
	c := rpc.New(rpc.Options{Socket: rpc.Socket(h.dir), Principal: principal, Operator: principal == "", Version: "test", Registries: registries})
	h.t.Cleanup(func() { c.Close() })
	return c
}

// eventually waits until something holds.
func (h *home) eventually(what string, holds func() bool) {
	h.t.Helper()
	for end := time.Now().Add(20 * time.Second); !holds(); {
		if time.Now().After(end) {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.t.Fatalf("%s: not within 20 s; the daemon's log:\n%s", what, h.log.String())
		}
		select {
		case <-h.t.Context().Done():
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func create(t *testing.T, c *rpc.Client, o boxlite.BoxOptions) error {
	_, err := c.CreateBox(t.Context(), boxlite.CreateRequest{Options: o, NoStart: true}, nil)
	return err
}

func TestTheConfigurationIsReadAgainAndAMistakeKeepsIt(t *testing.T) {
	t.Parallel()
	h := start(t, "[limits]\nboxes = 1\n")
	alice, operator := h.client("alice"), h.client("")
	h.eventually("the first box", func() bool { return create(t, alice, boxlite.BoxOptions{}) == nil })
	full := func(setting string) bool {
		err := create(t, alice, boxlite.BoxOptions{})
		return boxlite.KindOf(err) == boxlite.Exhausted && strings.Contains(err.Error(), setting)
	}
	if !full("limits.boxes = 1 in config.toml") {
		t.Fatal("there is no limit")
	}

	h.configure("[limits]\nboxes = 2\n")
	h.eventually("a second box", func() bool { return create(t, alice, boxlite.BoxOptions{}) == nil })
	if !full("limits.boxes = 2 in config.toml") {
		t.Error("there is no limit any more")
	}

	// A mistake: what was before counts, and whoever asks is told.
	h.configure("[limits]\nboxs = 3\n")
	h.eventually("the mistake is logged", func() bool { return h.logged("config.toml:2: limits.boxs") == 1 })
	if !full("limits.boxes = 2 in config.toml") {
		t.Error("the mistake changed what counts")
	}
	problem := func() *boxlite.Problem {
		st, err := operator.Status(t.Context())
		var d daemon.Details
		if err != nil || json.Unmarshal(st.Details, &d) != nil {
			t.Fatalf("status %+v: %v", st, err)
		}
		return d.Configuration
	}
	if p := problem(); p == nil || !strings.Contains(p.Cause, "config.toml:2: limits.boxs") || p.Hint != "Did you mean boxes?" {
		t.Errorf("the status says %+v", p)
	}
	if text, err := os.ReadFile(daemon.InForceFile(h.dir)); string(text) != "[limits]\nboxes = 2\n" {
		t.Errorf("what counts is %q, %v", text, err)
	}

	// A file that it names and that is not there is a mistake, too; then none.
	h.configure("[limits]\nboxes = 9\n[secrets.key]\nhosts = [\"api.test\"]\nfile = \"" + h.dir + "/key\"\n")
	h.eventually("the missing file is logged", func() bool { return h.logged("secrets.key") > 0 })
	if !full("limits.boxes = 2 in config.toml") {
		t.Error("half of the file counts")
	}
	if err := os.WriteFile(h.dir+"/key", []byte("sk-0123456789abcdef"), 0o600); err != nil {
		t.Fatal(err)
	}
	h.configure("[limits]\nboxes = 3\n[secrets.key]\nhosts = [\"api.test\"]\nfile = \"" + h.dir + "/key\"\n")
	h.eventually("a third box", func() bool { return create(t, alice, boxlite.BoxOptions{}) == nil })
	if list, err := alice.ListSecrets(t.Context()); err != nil || len(list) != 1 || list[0].Name != "key" {
		t.Errorf("secrets: %+v, %v", list, err)
	}
	if p := problem(); p != nil {
		t.Errorf("the status says %+v", p)
	}
	if h.logged("sk-0123456789abcdef") > 0 {
		t.Error("the log has a key")
	}

	// No file: the defaults.
	if err := os.Remove(filepath.Join(h.dir, "config.toml")); err != nil {
		t.Fatal(err)
	}
	h.eventually("no limit", func() bool { return create(t, alice, boxlite.BoxOptions{}) == nil })
}

func TestEverySettingThatRefusesIsNamed(t *testing.T) {
	t.Parallel()
	h := start(t, `[network]
allow_net = ["api.example.com"]
[images]
registries = ["docker.io", "registry.example"]
allow = ["docker.io/library/*", "registry.example/team/*"]
[limits.box]
max_cpus = 2
`)
	alice, operator := h.client("alice", "registry.example/team"), h.client("")
	h.eventually("a box", func() bool { return create(t, alice, boxlite.BoxOptions{Image: "registry.example/team/app"}) == nil })
	for _, c := range []struct {
		opts boxlite.BoxOptions
		says string
	}{
		{boxlite.BoxOptions{CPUs: 3}, "limits.box.max_cpus = 2 in config.toml"},
		{boxlite.BoxOptions{Image: "registry.example/other/app"}, "images.allow in config.toml"},
		{boxlite.BoxOptions{Image: "quay.io/team/app"}, "images.registries in config.toml"},
		{boxlite.BoxOptions{Network: boxlite.NetworkSpec{Enabled: true, AllowNet: []string{"other.example.com"}}}, "network.allow_net in config.toml"},
	} {
		if err := create(t, alice, c.opts); boxlite.KindOf(err) != boxlite.Denied || !strings.Contains(err.Error(), c.says) || boxlite.HintOf(err) == "" {
			t.Errorf("%+v: %v (hint %q)", c.opts, err, boxlite.HintOf(err))
		}
		if err := create(t, operator, c.opts); err != nil {
			t.Errorf("the operator, %+v: %v", c.opts, err)
		}
	}
	if err := create(t, h.client("bob", "quay.io"), boxlite.BoxOptions{}); boxlite.KindOf(err) != boxlite.Denied || !strings.Contains(err.Error(), "images.registries = [docker.io, registry.example] in config.toml") {
		t.Errorf("a client's own registry: %v", err)
	}
	// The search finds what is allowed, where the client looks.
	if err := create(t, alice, boxlite.BoxOptions{Image: "app"}); err != nil {
		t.Errorf("app in registry.example/team: %v", err)
	}
	if err := create(t, h.client("carol"), boxlite.BoxOptions{Image: "app"}); err != nil {
		t.Errorf("app in docker.io/library: %v", err)
	}
}

func TestADaemonDoesNotStartWithAMistake(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "config.toml"), []byte("[limits]\nboxs = 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	err := daemon.Run(t.Context(), daemon.Options{Home: dir})
	if boxlite.KindOf(err) != boxlite.Config || !strings.Contains(err.Error(), "config.toml:2: limits.boxs") {
		t.Errorf("Run: %v", err)
	}
}
