package vmcore_test

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/egress/policy"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/image"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/image/imagetest"
)

var (
	agent    = vmcore.Owner{Principal: "agent", Survives: true}
	operator = vmcore.Owner{Survives: true, Trusted: true, AnyNetwork: true, LocalRoots: []string{"/"}}
)

// patterns reads image patterns that are right.
func patterns(t *testing.T, list ...string) (out []image.Pattern) {
	t.Helper()
	for _, s := range list {
		p, err := image.ParsePattern(s)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, p)
	}
	return out
}

func registries(t *testing.T, list ...string) []image.Registry {
	t.Helper()
	rs, err := vmcore.ParseRegistries(list)
	if err != nil {
		t.Fatal(err)
	}
	return rs
}

// deniedBy checks that an error is the refusal by a setting, with a way on.
func deniedBy(t *testing.T, err error, setting string) {
	t.Helper()
	if err == nil || boxlite.KindOf(err) != boxlite.Denied || !strings.Contains(err.Error(), setting) || boxlite.HintOf(err) == "" {
		t.Errorf("%v (kind %v, hint %q), want a refusal by %s", err, boxlite.KindOf(err), boxlite.HintOf(err), setting)
	}
}

// Where an agent's images come from, with a registry that is asked.
func TestImagesComeFromWhereTheOperatorSays(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	mine, other := imagetest.Registry(t), imagetest.Registry(t)
	imagetest.Push(t, imagetest.Busybox(), mine+"/team/app:1")
	imagetest.Push(t, imagetest.Busybox(), mine+"/secret/app:1")
	imagetest.Push(t, imagetest.Busybox(), other+"/team/app:1")
	rt := w.open(t)
	rules := vmcore.ImageRules{Registries: registries(t, "http://"+mine), Allow: patterns(t, mine+"/team/*")}
	if err := rt.SetPolicy(t.Context(), vmcore.Policy{Images: rules}); err != nil {
		t.Fatal(err)
	}
	insisting := agent
	insisting.Registries = []string{"http://" + other}
	pull := func(o vmcore.Owner, ref string) error {
		_, err := rt.Pull(t.Context(), o, ref, nil)
		return err
	}
	create := func(o vmcore.Owner, ref string) error {
		_, err := rt.CreateFor(t.Context(), o, boxlite.CreateRequest{Options: boxlite.BoxOptions{Image: ref, AutoRemove: new(false)}})
		return err
	}
	for name, do := range map[string]func(vmcore.Owner, string) error{"pull": pull, "create": create} {
		for _, c := range []struct {
			owner   vmcore.Owner
			ref     string
			refused string
		}{
			{agent, mine + "/team/app:1", ""},
			{agent, "team/app:1", ""}, // searched there, as the operator reaches it
			{agent, mine + "/secret/app:1", "images.allow in config.toml"},
			{agent, "secret/app:1", "images.allow in config.toml"},
			{agent, other + "/team/app:1", "images.registries in config.toml"},
			{agent, "docker.io/library/alpine", "images.registries in config.toml"},
			{insisting, other + "/team/app:1", "images.registries in config.toml"},
			{insisting, "team/app:1", ""}, // its own list has nothing that the operator's has, which counts
		} {
			err := do(c.owner, c.ref)
			if c.refused != "" {
				deniedBy(t, err, c.refused)
			} else if err != nil {
				t.Errorf("%s %s: %v", name, c.ref, err)
			}
		}
	}
	trusted := operator
	trusted.Registries = []string{"http://" + other}
	if err := pull(trusted, other+"/team/app:1"); err != nil {
		t.Errorf("the operator: %v", err)
	}
}

// An image that a box was made from, and that is in the cache, may be forbidden
// afterwards.
func TestARuleForImagesCountsFromTheNextStart(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	host := imagetest.Registry(t)
	ref := imagetest.Push(t, imagetest.Busybox(), host+"/team/app:1")
	rt := w.open(t)
	owner := agent
	owner.Registries = []string{"http://" + host}
	box, err := rt.CreateFor(t.Context(), owner, boxlite.CreateRequest{Options: boxlite.BoxOptions{Image: ref, AutoRemove: new(false), MemoryMiB: 128}})
	if err != nil {
		t.Fatal(err)
	}
	sh(t, box, "true")
	if err := rt.SetPolicy(t.Context(), vmcore.Policy{Images: vmcore.ImageRules{Allow: patterns(t, "docker.io/*")}}); err != nil {
		t.Fatal(err)
	}
	sh(t, box, "true") // it runs
	if err := box.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	deniedBy(t, box.Start(t.Context(), nil), "images.allow in config.toml")
	if err := rt.SetPolicy(t.Context(), vmcore.Policy{}); err != nil {
		t.Fatal(err)
	}
	sh(t, box, "true")
}

func TestLocalImagesComeFromBelowTheOperatorsRoots(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	layout := strings.TrimPrefix(w.image, "oci:")
	w.opts.Images.LocalRoots = []string{filepath.Dir(layout)}
	rt := w.open(t)
	if _, err := rt.Pull(t.Context(), agent, w.image, nil); err != nil {
		t.Errorf("below a root: %v", err)
	}
	elsewhere := "oci:" + imagetest.Layout(t, imagetest.Busybox(), "")
	if _, err := rt.Pull(t.Context(), agent, elsewhere, nil); boxlite.KindOf(err) != boxlite.Denied {
		t.Errorf("elsewhere: %v", err)
	}
	if _, err := rt.Pull(t.Context(), operator, elsewhere, nil); err != nil {
		t.Errorf("the operator: %v", err)
	}
}

func TestBoxesRunOnWhatTheOperatorAllows(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	rt := w.open(t)
	for _, c := range []struct {
		name             string
		rules            vmcore.EngineRules
		engine, isolates string
		kind             boxlite.Kind // of the error
		says             string       // "": it starts
	}{
		{"allowed", vmcore.EngineRules{Allowed: []string{"other", "gvisor"}}, "", "", 0, ""},
		{"asked for and allowed", vmcore.EngineRules{Allowed: []string{"gvisor"}}, "gvisor", "", 0, ""},
		{"not allowed", vmcore.EngineRules{Allowed: []string{"other", "qemu"}}, "gvisor", "", boxlite.Denied, "engine.allowed = [other, qemu] in config.toml"},
		{"the default is not here", vmcore.EngineRules{Default: "nonesuch"}, "", "", boxlite.UnsupportedEngine, "nonesuch"},
		{"too little isolation", vmcore.EngineRules{Isolation: "hardware-vm", Allowed: []string{"gvisor"}}, "", "", boxlite.UnsupportedEngine, `engine.isolation = "hardware-vm" in config.toml`},
		{"a caller cannot ask for less", vmcore.EngineRules{Isolation: "hardware-vm", Allowed: []string{"gvisor"}}, "", "vm", boxlite.UnsupportedEngine, `engine.isolation = "hardware-vm"`},
		{"but for more", vmcore.EngineRules{Isolation: "vm", Allowed: []string{"gvisor"}}, "", "hardware-vm", boxlite.UnsupportedEngine, "not hardware-vm"},
	} {
		if err := rt.SetPolicy(t.Context(), vmcore.Policy{Engines: c.rules}); err != nil {
			t.Fatal(err)
		}
		owner := agent
		owner.LocalRoots = []string{"/"}
		req := boxlite.CreateRequest{Options: boxlite.BoxOptions{Image: w.image, AutoRemove: new(false), MemoryMiB: 128, Engine: c.engine, Isolation: c.isolates}}
		box, err := rt.CreateFor(t.Context(), owner, req)
		if err != nil {
			t.Fatal(err)
		}
		err = box.Start(t.Context(), nil)
		if c.says == "" && (err != nil || box.Info().Engine != "gvisor") {
			t.Errorf("%s: %v, on %s", c.name, err, box.Info().Engine)
		}
		if c.says != "" && (err == nil || boxlite.KindOf(err) != c.kind || !strings.Contains(err.Error(), c.says) || boxlite.HintOf(err) == "") {
			t.Errorf("%s: %v (kind %v, hint %q)", c.name, err, boxlite.KindOf(err), boxlite.HintOf(err))
		}
		if err := box.Remove(t.Context(), true); err != nil {
			t.Fatal(err)
		}
	}
	// The operator's own are not bound.
	if err := rt.SetPolicy(t.Context(), vmcore.Policy{Engines: vmcore.EngineRules{Allowed: []string{"other"}, Isolation: "hardware-vm"}}); err != nil {
		t.Fatal(err)
	}
	box, err := rt.CreateFor(t.Context(), operator, boxlite.CreateRequest{Options: boxlite.BoxOptions{Image: w.image, AutoRemove: new(false), MemoryMiB: 128, Engine: "gvisor"}})
	if err == nil {
		err = box.Start(t.Context(), nil)
	}
	if err != nil {
		t.Errorf("the operator: %v", err)
	}
}

// A name may be a family's, such as qemu for qemu-tcg.
func TestWhatIsAllowedOfAFamilyIsTried(t *testing.T) {
	for _, c := range []struct {
		allowed []string
		name    string
		want    string // "": denied
	}{
		{nil, "qemu", "qemu"},
		{nil, "auto", "auto"},
		{[]string{"qemu-tcg", "gvisor"}, "auto", "qemu-tcg gvisor"},
		{[]string{"qemu"}, "qemu-tcg", "qemu-tcg"},
		{[]string{"gvisor", "qemu-tcg"}, "qemu", "qemu-tcg"}, // as a box wants it that has run there
		{[]string{"qemu-tcg"}, "gvisor", ""},
		{[]string{"qemu"}, "qe", ""},
	} {
		got, err := vmcore.EngineRules{Allowed: c.allowed}.Engines(c.name)
		if strings.Join(got, " ") != c.want || (boxlite.KindOf(err) == boxlite.Denied) != (c.want == "") {
			t.Errorf("%s of %v: %v, %v", c.name, c.allowed, got, err)
		}
	}
}

// A ceiling that was lowered while nobody owned the home counts for the boxes
// that went on; nothing left is nothing, and not the public Internet.
func TestALowerCeilingMeetsBoxesThatWentOn(t *testing.T) {
	t.Parallel()
	w, box, hits := netWorld(t, "api.good.test:80")
	fetch := func(b *vmcore.Box) bool {
		_, _, code := sh(t, b, "wget -qO- http://api.good.test/")
		return code.ExitCode == 0
	}
	if !fetch(box) {
		t.Fatal("the box does not reach what it may")
	}
	id := string(box.ID())
	if err := box.Runtime().Close(); err != nil {
		t.Fatal(err)
	}
	open := func(ceiling *policy.Access) (*vmcore.Runtime, *vmcore.Box) {
		t.Helper()
		w.opts.Network.Ceiling = ceiling
		rt, err := vmcore.Open(t.Context(), w.opts)
		if err != nil {
			t.Fatal(err)
		}
		box, err := rt.Get(id)
		if err != nil || !box.Info().Status.IsRunning() {
			t.Fatalf("%+v, %v", box.Info(), err)
		}
		return rt, box
	}
	other, err := policy.ParseAccess([]string{"evil.test:80"})
	if err != nil {
		t.Fatal(err)
	}
	rt, again := open(&other)
	defer func() {
		if err := again.Remove(context.Background(), true); err != nil {
			t.Error(err)
		}
		if err := rt.Close(); err != nil {
			t.Error(err)
		}
	}()
	before := hits.Load()
	if fetch(again) || hits.Load() != before {
		t.Error("it reaches what the ceiling does not have")
	}
	if out, _, code := sh(t, again, "wget -qO- http://evil.test/"); code.ExitCode == 0 {
		t.Errorf("it reaches what it never asked for: %s", out)
	}
	// Now, while it runs, all of it back.
	if err := rt.SetPolicy(t.Context(), vmcore.Policy{Network: vmcore.NetworkOptions{Static: w.opts.Network.Static}}); err != nil {
		t.Fatal(err)
	}
	if !fetch(again) {
		t.Error("it does not reach what it may again")
	}
}

// What an operator replaces in his configuration, running boxes send from then
// on, and nobody can set.
func TestConfiguredSecretsAreReplaced(t *testing.T) {
	t.Parallel()
	rt := newWorld(t).open(t)
	secret := func(value string) []boxlite.Secret {
		return []boxlite.Secret{{Name: "key", Hosts: []string{"api.test"}, Value: boxlite.NewSecretValue(value)}}
	}
	for _, value := range []string{"sk-0123456789", "sk-9876543210"} {
		if err := rt.SetPolicy(t.Context(), vmcore.Policy{Secrets: secret(value)}); err != nil {
			t.Fatal(err)
		}
		list, err := rt.Secrets()
		if err != nil || len(list) != 1 || list[0].Source != "config" {
			t.Errorf("%+v, %v", list, err)
		}
		if _, err := rt.SetSecret(t.Context(), secret("sk-mine-0123456")[0]); boxlite.KindOf(err) != boxlite.Denied {
			t.Errorf("SetSecret: %v", err)
		}
	}
	if err := rt.SetPolicy(t.Context(), vmcore.Policy{}); err != nil {
		t.Fatal(err)
	}
	if list, err := rt.Secrets(); err != nil || len(list) != 0 {
		t.Errorf("%+v, %v", list, err)
	}
	if _, err := rt.SetSecret(t.Context(), secret("sk-mine-0123456")[0]); err != nil {
		t.Errorf("SetSecret: %v", err)
	}
}

// A policy may be replaced while boxes start and stop.
func TestAPolicyIsReplacedUnderStarts(t *testing.T) {
	t.Parallel()
	w, box, _ := netWorld(t, "api.good.test:80")
	rt := box.Runtime()
	narrow, err := policy.ParseAccess([]string{"api.good.test:80"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	done := make(chan error, 1)
	go func() {
		for i := 0; ctx.Err() == nil; i++ {
			p := vmcore.Policy{Network: vmcore.NetworkOptions{Static: w.opts.Network.Static}}
			if i%2 == 0 {
				p.Network.Ceiling = &narrow
			}
			if err := rt.SetPolicy(t.Context(), p); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	for ctx.Err() == nil {
		if out, errs, code := sh(t, box, "wget -qO- http://api.good.test/"); code.ExitCode != 0 {
			t.Errorf("%q, %q", out, errs)
			break
		}
		if err := box.Stop(t.Context()); err != nil {
			t.Error(err)
			break
		}
	}
	if err := <-done; err != nil {
		t.Errorf("SetPolicy: %v", err)
	}
}

// A box that has run keeps to an engine that reads what it wrote, whatever new
// boxes get.
func TestABoxKeepsToTheEngineOfItsLayer(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	rt := w.open(t)
	box, err := rt.Create(t.Context(), boxlite.BoxOptions{Image: w.image, AutoRemove: new(false), MemoryMiB: 256}, "keeper")
	if err != nil {
		t.Fatal(err)
	}
	if err := rt.SetPolicy(t.Context(), vmcore.Policy{Engines: vmcore.EngineRules{Default: "gvisor"}}); err != nil {
		t.Fatal(err)
	}
	sh(t, box, "echo kept > /root/file")
	if err := box.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := rt.SetPolicy(t.Context(), vmcore.Policy{Engines: vmcore.EngineRules{Default: "qemu-tcg"}}); err != nil {
		t.Fatal(err)
	}
	out, _, _ := sh(t, box, "cat /root/file")
	if engine := box.Info().Engine; out != "kept\n" || engine != "gvisor" {
		t.Errorf("on %s it has %q", engine, out)
	}
}
