package sessions_test

import (
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/sessions"
)

// limited returns the default policy with something changed.
func limited(change func(*sessions.Policy)) *sessions.Policy {
	p := sessions.DefaultPolicy()
	change(&p)
	return &p
}

// refused checks that an error is the operator's refusal by the setting.
func refused(t *testing.T, err error, kind boxlite.Kind, setting string) {
	t.Helper()
	if boxlite.KindOf(err) != kind || err == nil || !strings.Contains(err.Error(), setting+" in config.toml") || boxlite.HintOf(err) == "" {
		t.Errorf("%v (kind %v, hint %q), want %v by %q", err, boxlite.KindOf(err), boxlite.HintOf(err), kind, setting)
	}
}

func TestFiftyCreatesAtOnceMakeAsManyBoxesAsThereMayBe(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		setting string
		limits  sessions.Limits
	}{
		{"limits.boxes = 10", sessions.Limits{Boxes: 10}},
		{"limits.disk_gb = 105", sessions.Limits{DiskGB: 105}}, // ten of 10 GiB, and half of one
	} {
		m := open(t, sessions.Options{Policy: limited(func(p *sessions.Policy) { p.Limits = c.limits })})
		alice, again, bob := session(t, m, "alice"), session(t, m, "alice"), session(t, m, "bob")
		var made atomic.Int64
		var wg sync.WaitGroup
		for i := range 50 {
			s := alice
			if i%2 == 1 {
				s = again
			}
			wg.Go(func() {
				_, err := s.CreateBox(t.Context(), boxlite.CreateRequest{NoStart: true}, nil)
				if err == nil {
					made.Add(1)
					return
				}
				refused(t, err, boxlite.Exhausted, c.setting)
			})
		}
		wg.Wait()
		if made.Load() != 10 {
			t.Errorf("%s: %d boxes were made", c.setting, made.Load())
		}
		page, err := alice.ListBoxes(t.Context(), boxlite.ListRequest{})
		if err != nil || page.Total != 10 {
			t.Fatalf("%s: there are %d boxes, %v", c.setting, page.Total, err)
		}
		// Others have limits of their own, the operator none, and what is removed is free.
		create(t, bob, boxlite.CreateRequest{})
		create(t, session(t, m, ""), boxlite.CreateRequest{})
		if _, err := alice.RemoveBox(t.Context(), string(page.Boxes[0].ID), false); err != nil {
			t.Fatal(err)
		}
		create(t, alice, boxlite.CreateRequest{})
		_, err = alice.CreateBox(t.Context(), boxlite.CreateRequest{NoStart: true}, nil)
		refused(t, err, boxlite.Exhausted, c.setting)
	}
}

// A box that could not be made does not count.
func TestFailedCreatesUseNothingUp(t *testing.T) {
	t.Parallel()
	s := session(t, open(t, sessions.Options{Policy: limited(func(p *sessions.Policy) { p.Limits.Boxes = 2 })}), "alice")
	create(t, s, boxlite.CreateRequest{Name: "a"})
	for range 5 {
		if _, err := s.CreateBox(t.Context(), boxlite.CreateRequest{Name: "a", NoStart: true}, nil); boxlite.KindOf(err) != boxlite.AlreadyExists {
			t.Fatal(err)
		}
	}
	create(t, s, boxlite.CreateRequest{Name: "b"})
}

func TestABoxHasTheOperatorsDefaultsAndNoMoreThanHisMost(t *testing.T) {
	t.Parallel()
	m := open(t, sessions.Options{Policy: limited(func(p *sessions.Policy) {
		p.Box = sessions.BoxLimits{CPUs: 1, MaxCPUs: 4, MemoryMiB: 512, MaxMemoryMiB: 256, MaxDiskGB: 20,
			IdleTimeout: 10 * time.Minute, MaxIdleTimeout: time.Hour, MaxLifetime: 24 * time.Hour}
	})})
	s := session(t, m, "alice")
	box := create(t, s, boxlite.CreateRequest{})
	if box.CPUs != 1 || box.MemoryMiB != 256 || box.DiskSizeGB != 20 {
		t.Errorf("defaults: %+v", box)
	}
	if box.ExpiresAt == nil || box.ExpiresAt.Sub(box.CreatedAt) != 24*time.Hour {
		t.Errorf("it is removed at %v", box.ExpiresAt)
	}
	narrow := create(t, s, boxlite.CreateRequest{Options: boxlite.BoxOptions{CPUs: 4, MemoryMiB: 64}, TTL: 60, IdleTimeout: new(boxlite.Seconds(3600))})
	if narrow.CPUs != 4 || narrow.MemoryMiB != 64 || narrow.ExpiresAt.Sub(narrow.CreatedAt) != time.Minute {
		t.Errorf("what was asked for: %+v", narrow)
	}
	for setting, req := range map[string]boxlite.CreateRequest{
		"limits.box.max_cpus = 4":                    {Options: boxlite.BoxOptions{CPUs: 5}},
		"limits.box.max_memory_mib = 256":            {Options: boxlite.BoxOptions{MemoryMiB: 257}},
		"limits.box.max_disk_gb = 20":                {Options: boxlite.BoxOptions{DiskSizeGB: 21}},
		"limits.box.max_idle_timeout_seconds = 3600": {IdleTimeout: new(boxlite.Seconds(0))},
		"limits.box.max_lifetime_seconds = 86400":    {TTL: 86401},
	} {
		req.NoStart = true
		_, err := s.CreateBox(t.Context(), req, nil)
		refused(t, err, boxlite.Denied, setting)
	}
	// The operator is not bound by it.
	if box := create(t, session(t, m, ""), boxlite.CreateRequest{Options: boxlite.BoxOptions{CPUs: 8}}); box.CPUs != 8 || box.MemoryMiB != 512 {
		t.Errorf("the operator's: %+v", box)
	}
	// From now on.
	m.SetPolicy(sessions.DefaultPolicy())
	if box := create(t, s, boxlite.CreateRequest{}); box.CPUs != boxlite.DefaultCPUs || box.ExpiresAt != nil {
		t.Errorf("without limits: %+v", box)
	}
}

func TestABoxThatIsMoreThanAllThereMayBeIsNotMade(t *testing.T) {
	t.Parallel()
	s := session(t, open(t, sessions.Options{Policy: limited(func(p *sessions.Policy) { p.Limits.CPUs, p.Limits.MemoryMiB = 4, 1024 })}), "alice")
	_, err := s.CreateBox(t.Context(), boxlite.CreateRequest{NoStart: true, Options: boxlite.BoxOptions{CPUs: 5}}, nil)
	refused(t, err, boxlite.Exhausted, "limits.cpus = 4")
	_, err = s.CreateBox(t.Context(), boxlite.CreateRequest{NoStart: true, Options: boxlite.BoxOptions{MemoryMiB: 2048}}, nil)
	refused(t, err, boxlite.Exhausted, "limits.memory_mib = 1024")
	for range 4 { // boxes that do not run use no CPU
		create(t, s, boxlite.CreateRequest{})
	}
}

func TestNothingChangesWhereNothingMay(t *testing.T) {
	t.Parallel()
	m := open(t, sessions.Options{})
	s := session(t, m, "alice")
	box := string(create(t, s, boxlite.CreateRequest{}).ID)
	m.SetPolicy(*limited(func(p *sessions.Policy) { p.ReadOnly = true }))
	ctx, exec := t.Context(), boxlite.NewExecutionID(boxlite.BoxID(box))
	for name, call := range map[string]func() error{
		"CreateBox":  func() error { _, err := s.CreateBox(ctx, boxlite.CreateRequest{}, nil); return err },
		"StartBox":   func() error { _, err := s.StartBox(ctx, box, nil); return err },
		"StopBox":    func() error { _, err := s.StopBox(ctx, box); return err },
		"RemoveBox":  func() error { _, err := s.RemoveBox(ctx, box, true); return err },
		"UpdateBox":  func() error { _, err := s.UpdateBox(ctx, box, boxlite.UpdateRequest{}); return err },
		"Run":        func() error { _, err := s.Run(ctx, box, boxlite.Shell("true"), nil); return err },
		"ReadFile":   func() error { _, err := s.ReadFile(ctx, box, "/etc/passwd", 0, 10); return err }, // would start it
		"WriteFile":  func() error { _, err := s.WriteFile(ctx, box, boxlite.WriteFileRequest{Path: "/x"}); return err },
		"PullImage":  func() error { _, err := s.PullImage(ctx, "alpine", nil); return err },
		"WriteStdin": func() error { _, err := s.WriteStdin(ctx, exec, nil, true); return err },
		"Signal":     func() error { return s.Signal(ctx, exec, 9) },
		"StopExec":   func() error { _, err := s.StopExec(ctx, exec, 0); return err },
		"ResizeTTY":  func() error { return s.ResizeTTY(ctx, exec, 1, 1) },
	} {
		t.Run(name, func(t *testing.T) { refused(t, call(), boxlite.Denied, "tools.read_only = true") })
	}
	if _, err := s.GetBox(ctx, box); err != nil {
		t.Error("GetBox:", err)
	}
	create(t, session(t, m, ""), boxlite.CreateRequest{}) // the operator may
	m.SetPolicy(sessions.DefaultPolicy())
	if _, err := s.RemoveBox(ctx, box, false); err != nil {
		t.Error("after it was taken back:", err)
	}
}

func TestAClientNamesNoRegistryThatTheOperatorHasNot(t *testing.T) {
	t.Parallel()
	m := open(t, sessions.Options{Policy: limited(func(p *sessions.Policy) { p.Registries = []string{"registry.example", "docker.io"} })})
	session(t, m, "alice", "registry.example/team")
	_, err := m.Open(sessions.Client{Principal: "alice", Registries: []string{"docker.io", "http://other.example:5000"}})
	refused(t, err, boxlite.Denied, "images.registries = [registry.example, docker.io]")
	session(t, m, "", "other.example") // the operator does
}
