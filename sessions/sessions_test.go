package sessions_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"go.uber.org/goleak"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/sessions"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// open returns a manager over an empty home. Its boxes are never started here:
// that is tested with real machines in internal/e2e.
func open(t *testing.T, opts sessions.Options) *sessions.Manager {
	t.Helper()
	none := vmcore.Programs{Helper: "/bin/false", Sandbox: "/bin/false", Jail: "/bin/false", Agent: "/bin/false"}
	rt, err := vmcore.Open(t.Context(), vmcore.Options{Home: t.TempDir(), Programs: none})
	if err != nil {
		t.Fatal(err)
	}
	m := sessions.New(rt, opts)
	t.Cleanup(func() {
		m.Close()
		if err := rt.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

// session returns a principal's session, "" being the operator.
func session(t *testing.T, m *sessions.Manager, principal string, registries ...string) *sessions.Session {
	t.Helper()
	s, err := m.Open(sessions.Client{Principal: principal, Operator: principal == "", Registries: registries})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func create(t *testing.T, s *sessions.Session, req boxlite.CreateRequest) boxlite.BoxInfo {
	t.Helper()
	req.NoStart = true
	info, err := s.CreateBox(t.Context(), req, nil)
	if err != nil {
		t.Fatal(err)
	}
	return info
}

func TestForeignBoxesLookAbsent(t *testing.T) {
	t.Parallel()
	m := open(t, sessions.Options{})
	alice, bob, operator := session(t, m, "alice"), session(t, m, "bob"), session(t, m, "")
	hers := create(t, alice, boxlite.CreateRequest{Name: "work"})
	his := create(t, bob, boxlite.CreateRequest{Name: "work"}) // the same name: each principal has its own

	ctx, exec := t.Context(), boxlite.NewExecutionID(hers.ID)
	absent := map[string]func() error{
		"GetBox":    func() error { _, err := bob.GetBox(ctx, string(hers.ID)); return err },
		"prefix":    func() error { _, err := bob.GetBox(ctx, string(hers.ID[:10])); return err },
		"StartBox":  func() error { _, err := bob.StartBox(ctx, string(hers.ID), nil); return err },
		"StopBox":   func() error { _, err := bob.StopBox(ctx, string(hers.ID)); return err },
		"RemoveBox": func() error { _, err := bob.RemoveBox(ctx, string(hers.ID), true); return err },
		"Run":       func() error { _, err := bob.Run(ctx, string(hers.ID), boxlite.Shell("true"), nil); return err },
		"ReadFile":  func() error { _, err := bob.ReadFile(ctx, string(hers.ID), "/etc/passwd", 0, 10); return err },
		"WriteFile": func() error {
			_, err := bob.WriteFile(ctx, string(hers.ID), boxlite.WriteFileRequest{Path: "/x"})
			return err
		},
		"Output":     func() error { _, err := bob.Output(ctx, exec, boxlite.OutputRequest{}); return err },
		"WriteStdin": func() error { _, err := bob.WriteStdin(ctx, exec, nil, true); return err },
		"Signal":     func() error { return bob.Signal(ctx, exec, 9) },
		"StopExec":   func() error { _, err := bob.StopExec(ctx, exec, 0); return err },
		"ResizeTTY":  func() error { return bob.ResizeTTY(ctx, exec, 1, 1) },
	}
	for name, call := range absent {
		foreign := call()
		if boxlite.KindOf(foreign) != boxlite.NotFound {
			t.Errorf("%s of a foreign box: %v", name, foreign)
		}
	}
	// What is said of a foreign box is what is said of one that never was.
	_, foreign := bob.GetBox(ctx, string(hers.ID))
	_, never := bob.GetBox(ctx, "aaaaaaaaaaaa")
	if a, b := boxlite.HintOf(foreign), boxlite.HintOf(never); a != b {
		t.Errorf("hints differ: %q and %q", a, b)
	}
	if got, err := bob.GetBox(ctx, "work"); err != nil || got.ID != his.ID {
		t.Errorf("bob's box: %v, %v", got.ID, err)
	}
	if page, err := operator.ListBoxes(ctx, boxlite.ListRequest{}); err != nil || page.Total != 2 {
		t.Errorf("the operator sees %d boxes, %v", page.Total, err)
	}
	if _, err := operator.GetBox(ctx, "work"); boxlite.KindOf(err) != boxlite.InvalidArgument {
		t.Errorf("a name that means two boxes: %v", err)
	}
}

func TestListIsPagedInTheOrderOfCreation(t *testing.T) {
	t.Parallel()
	s := session(t, open(t, sessions.Options{}), "alice")
	var want []boxlite.BoxID
	for i := range 7 {
		labels := map[string]string{"odd": fmt.Sprint(i%2 == 1)}
		want = append(want, create(t, s, boxlite.CreateRequest{Options: boxlite.BoxOptions{Labels: labels}}).ID)
	}
	var got []boxlite.BoxID
	req := boxlite.ListRequest{Limit: 3}
	for page := 0; ; page++ {
		p, err := s.ListBoxes(t.Context(), req)
		if err != nil || p.Total != len(want) {
			t.Fatalf("page %d: %d in all, %v", page, p.Total, err)
		}
		for _, b := range p.Boxes {
			got = append(got, b.ID)
		}
		if p.Cursor == "" {
			break
		}
		req.Cursor = p.Cursor
		if page == 0 { // the box that the cursor names goes away
			if _, err := s.RemoveBox(t.Context(), string(want[2]), false); err != nil {
				t.Fatal(err)
			}
			want = slices.Delete(slices.Clone(want), 2, 3)
			got = slices.Delete(got, 2, 3)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("pages have %v, want %v", got, want)
	}
	p, err := s.ListBoxes(t.Context(), boxlite.ListRequest{Labels: map[string]string{"odd": "true"}})
	if err != nil || p.Total != 3 {
		t.Errorf("%d boxes have the label, %v", p.Total, err)
	}
	if p, _ := s.ListBoxes(t.Context(), boxlite.ListRequest{Status: boxlite.StatusRunning}); p.Total != 0 || p.Boxes == nil {
		t.Errorf("running boxes: %+v", p)
	}
	if _, err := s.ListBoxes(t.Context(), boxlite.ListRequest{Cursor: "nonsense"}); boxlite.KindOf(err) != boxlite.InvalidArgument {
		t.Errorf("a cursor that is none: %v", err)
	}
}

func TestABoxGoesWhenItsTimeToLiveIsOver(t *testing.T) {
	t.Parallel()
	s := session(t, open(t, sessions.Options{Every: 20 * time.Millisecond}), "alice")
	brief := create(t, s, boxlite.CreateRequest{TTL: 1})
	kept := create(t, s, boxlite.CreateRequest{})
	if brief.ExpiresAt == nil || kept.ExpiresAt != nil {
		t.Errorf("expiry %v and %v", brief.ExpiresAt, kept.ExpiresAt)
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		_, err := s.GetBox(t.Context(), string(brief.ID))
		if boxlite.KindOf(err) == boxlite.NotFound {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("it is still there, %v", err)
		}
	}
	if _, err := s.GetBox(t.Context(), string(kept.ID)); err != nil {
		t.Error("the other one:", err)
	}
}

func TestAPrincipalMayNotReadTheHostOrEmptyTheCache(t *testing.T) {
	t.Parallel()
	s := session(t, open(t, sessions.Options{}), "alice")
	for _, ref := range []string{"dir:/etc", "oci:/tmp", "docker-archive:/etc/passwd"} {
		if _, err := s.PullImage(t.Context(), ref, nil); boxlite.KindOf(err) != boxlite.Denied {
			t.Errorf("PullImage(%s): %v", ref, err)
		}
	}
	info := create(t, s, boxlite.CreateRequest{Options: boxlite.BoxOptions{RootfsPath: "/etc"}})
	if _, err := s.StartBox(t.Context(), string(info.ID), nil); boxlite.KindOf(err) != boxlite.Denied {
		t.Errorf("a box of /etc: %v", err)
	}
	if _, err := s.RemoveImage(t.Context(), "alpine"); boxlite.KindOf(err) != boxlite.Denied {
		t.Errorf("RemoveImage: %v", err)
	}
}

func TestNegativeTimesAreRefused(t *testing.T) {
	t.Parallel()
	s := session(t, open(t, sessions.Options{}), "alice")
	for _, req := range []boxlite.CreateRequest{{TTL: -1}, {IdleTimeout: new(boxlite.Seconds(-1))}} {
		if _, err := s.CreateBox(t.Context(), req, nil); boxlite.KindOf(err) != boxlite.Config {
			t.Errorf("%+v: %v", req, err)
		}
	}
}

func TestARegistryIsAllowedForTheSessionThatNamesIt(t *testing.T) {
	t.Parallel()
	m := open(t, sessions.Options{})
	alice, bob := session(t, m, "alice", "http://127.0.0.1:1"), session(t, m, "bob")
	if _, err := alice.PullImage(t.Context(), "127.0.0.1:1/x", nil); boxlite.KindOf(err) != boxlite.Network {
		t.Errorf("alice: %v, want that nobody answers", err)
	}
	if _, err := bob.PullImage(t.Context(), "127.0.0.1:1/x", nil); boxlite.KindOf(err) != boxlite.Denied {
		t.Errorf("bob: %v", err)
	}
	if _, err := m.Open(sessions.Client{Principal: "carol", Registries: []string{"::"}}); boxlite.KindOf(err) != boxlite.InvalidArgument {
		t.Errorf("a registry that is none: %v", err)
	}
}

// What an agent may not do about networks and secrets, however it asks.
func TestAgentsNarrowAndNeverWiden(t *testing.T) {
	t.Parallel()
	m := open(t, sessions.Options{})
	agent, operator := session(t, m, "agent"), session(t, m, "")
	value := boxlite.NewSecretValue("sk-0123456789")
	if _, err := agent.SetSecret(t.Context(), boxlite.Secret{Name: "k", Value: value}); boxlite.KindOf(err) != boxlite.Denied || boxlite.HintOf(err) == "" {
		t.Errorf("an agent sets a secret: %v", err)
	}
	if _, err := operator.SetSecret(t.Context(), boxlite.Secret{Name: "k", Hosts: []string{"*.good.test"}, Value: value}); err != nil {
		t.Fatal(err)
	}
	if _, err := agent.RemoveSecret(t.Context(), "k"); boxlite.KindOf(err) != boxlite.Denied {
		t.Errorf("an agent removes a secret: %v", err)
	}
	list, err := agent.ListSecrets(t.Context())
	if err != nil || len(list) != 1 || list[0].Name != "k" || !list[0].Value.IsZero() {
		t.Errorf("%+v, %v", list, err)
	}
	for _, c := range []struct {
		name    string
		allow   []string
		secrets []boxlite.Secret
		kind    boxlite.Kind // 0: it may
	}{
		{"a secret and the whole Internet by saying nothing", nil, []boxlite.Secret{{Name: "k"}}, boxlite.Config},
		{"a secret and the whole Internet in so many words", []string{"*"}, []boxlite.Secret{{Name: "k"}}, 0},
		{"a secret for a host of its own", []string{"api.good.test"}, []boxlite.Secret{{Name: "k", Hosts: []string{"api.good.test"}}}, 0},
		{"a secret for another host", []string{"evil.test"}, []boxlite.Secret{{Name: "k", Hosts: []string{"evil.test"}}}, boxlite.Denied},
		{"a secret that is not there", []string{"evil.test"}, []boxlite.Secret{{Name: "x"}}, boxlite.NotFound},
		{"private addresses", []string{"10.0.0.0/8"}, nil, boxlite.Denied},
		{"the host's loopback", []string{"127.0.0.1:5432"}, nil, boxlite.Denied},
	} {
		req := boxlite.CreateRequest{NoStart: true, Options: boxlite.BoxOptions{Network: boxlite.NetworkSpec{Enabled: true, AllowNet: c.allow}, Secrets: c.secrets}}
		_, err := agent.CreateBox(t.Context(), req, nil)
		if (err == nil) != (c.kind == 0) || err != nil && (boxlite.KindOf(err) != c.kind || boxlite.HintOf(err) == "") {
			t.Errorf("%s: %v (hint %q)", c.name, err, boxlite.HintOf(err))
		}
	}
	box := create(t, agent, boxlite.CreateRequest{Options: boxlite.BoxOptions{Network: boxlite.NetworkSpec{Enabled: true, AllowNet: []string{"*.good.test"}}}})
	update := func(s *sessions.Session, allow ...string) error {
		_, err := s.UpdateBox(t.Context(), string(box.ID), boxlite.UpdateRequest{Network: &boxlite.NetworkSpec{Enabled: true, AllowNet: allow}})
		return err
	}
	if err := update(agent, "evil.test"); boxlite.KindOf(err) != boxlite.Denied {
		t.Errorf("an agent widens: %v", err)
	}
	if err := update(agent, "api.good.test:443"); err != nil {
		t.Errorf("an agent narrows: %v", err)
	}
	if err := update(agent, "*.good.test"); boxlite.KindOf(err) != boxlite.Denied {
		t.Errorf("an agent takes it back: %v", err)
	}
	if err := update(operator, "10.0.0.0/8"); err != nil {
		t.Errorf("the operator widens: %v", err)
	}
	if err := update(session(t, m, "other"), "api.good.test"); boxlite.KindOf(err) != boxlite.NotFound {
		t.Errorf("another's box: %v", err)
	}
	// A secret that came with a box goes with it, and is nobody else's.
	own := create(t, operator, boxlite.CreateRequest{Options: boxlite.BoxOptions{
		Network: boxlite.NetworkSpec{Enabled: true}, Secrets: []boxlite.Secret{{Name: "own", Hosts: []string{"a.test"}, Value: value}},
	}})
	if list, _ := operator.ListSecrets(t.Context()); len(list) != 1 || len(own.Secrets) != 1 {
		t.Errorf("%+v, %v", list, own.Secrets)
	}
	if _, err := operator.RemoveBox(t.Context(), string(own.ID), true); err != nil {
		t.Error(err)
	}
}
