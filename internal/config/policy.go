package config

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/egress/gateway"
	"github.com/boxlite-mcp/boxlite-mcp/egress/policy"
	"github.com/boxlite-mcp/boxlite-mcp/secrets"
	"github.com/boxlite-mcp/boxlite-mcp/sessions"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/image"
)

// A Policy is what the file says, as those have it who hold to it.
type Policy struct {
	Runtime    vmcore.Policy
	Principals sessions.Policy
}

// Tools are the tools that MCP clients have.
type Tools struct {
	ReadOnly bool
	Toolsets []string
}

// Tools returns what the file says of tools.
func (f *File) Tools() Tools {
	t := f.settings.Tools
	return Tools{t.ReadOnly, slices.DeleteFunc(slices.Clone(t.Toolsets), func(s string) bool { return slices.Contains(t.Disabled, s) })}
}

// Policy returns what the file says, with what is in the files that it names and
// what its commands print.
//
// Errors: Config, with [Problems] as cause. They contain no value.
func (f *File) Policy(ctx context.Context) (Policy, error) {
	p, _ := f.static() // Open has shown that nothing is wrong
	problems := f.readCAs(&p.Runtime.Network)
	for _, name := range slices.Sorted(maps.Keys(f.settings.Secrets)) {
		s, err := f.settings.Secrets[name].read(ctx, name)
		if err == nil {
			_, err = secrets.NewSet([]boxlite.Secret{s})
		}
		if err != nil {
			problems = append(problems, f.wrong("secrets."+name, err))
			continue
		}
		p.Runtime.Secrets = append(p.Runtime.Secrets, s)
	}
	return p, problems.asError(f.path)
}

// CheckFiles reads the files that the file names, and runs no command.
//
// Errors: Config, with [Problems] as cause.
func (f *File) CheckFiles() error {
	problems := f.readCAs(&vmcore.NetworkOptions{})
	for name, s := range f.settings.Secrets {
		if s.File == "" {
			continue
		}
		if _, err := readSecretFile(s.File); err != nil {
			problems = append(problems, f.wrong("secrets."+name+".file", err))
		}
	}
	return problems.asError(f.path)
}

// wrong returns the problem that an error says.
func (f *File) wrong(key string, err error) Problem {
	return f.problem(key, boxlite.HintOf(err), "%v", err)
}

func (f *File) readCAs(into *vmcore.NetworkOptions) (problems Problems) {
	path := f.settings.Network.CAFile
	if path == "" {
		return nil
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return Problems{f.wrong("network.ca_file", err)}
	}
	into.RootCAs = data
	return nil
}

// static returns what the file says by itself, and all that is wrong with it.
func (f *File) static() (Policy, Problems) {
	var ps Problems
	p := Policy{Principals: f.principals()}
	p.Runtime.Network = f.network(&ps)
	p.Runtime.Images = f.images(&ps)
	p.Runtime.Engines = f.engines(&ps)
	for i, root := range p.Runtime.Images.LocalRoots {
		if !filepath.IsAbs(root) {
			ps = append(ps, f.problem(at("images.local_roots", i), "Write the whole path.", "%q is not absolute", root))
		}
	}
	for name, s := range f.settings.Secrets {
		if err := s.check(name); err != nil {
			ps = append(ps, f.wrong("secrets."+name, err))
		}
	}
	return p, ps
}

func at(key string, i int) string { return fmt.Sprintf("%s[%d]", key, i) }

// parsed reads each text of a list.
func parsed[T any](f *File, ps *Problems, key string, list []string, parse func(string) (T, error)) []T {
	var out []T
	for i, s := range list {
		v, err := parse(s)
		if err != nil {
			*ps = append(*ps, f.wrong(at(key, i), err))
			continue
		}
		out = append(out, v)
	}
	return out
}

func (f *File) network(ps *Problems) vmcore.NetworkOptions {
	n := f.settings.Network
	o := vmcore.NetworkOptions{Limits: gateway.Limits{
		Connections: n.Connections, Flows: n.Flows, ConnectRate: n.ConnectRate, LookupRate: n.LookupRate,
		Sent: int64(n.MaxSentMiB) << 20, Received: int64(n.MaxReceivedMiB) << 20,
	}}
	before := len(*ps)
	rules := parsed(f, ps, "network.allow_net", n.AllowNet, policy.ParseRule)
	if len(*ps) == before {
		if _, err := policy.ParseRules(n.AllowNet); err != nil { // what is wrong between them
			*ps = append(*ps, f.wrong("network.allow_net", err))
		}
	}
	if !slices.Equal(n.AllowNet, defaults().Network.AllowNet) {
		o.Ceiling = &policy.Access{Mode: policy.List, Rules: rules}
	}
	o.Static = parsed(f, ps, "network.static", n.Static, policy.ParseStatic)
	return o
}

func (f *File) images(ps *Problems) vmcore.ImageRules {
	i := f.settings.Images
	return vmcore.ImageRules{
		LocalRoots: i.LocalRoots,
		Allow:      parsed(f, ps, "images.allow", i.Allow, image.ParsePattern),
		Registries: parsed(f, ps, "images.registries", i.Registries, func(s string) (image.Registry, error) {
			r, err := image.ParseRegistry(s)
			r.Search = true
			return r, err
		}),
	}
}

func (f *File) engines(ps *Problems) vmcore.EngineRules {
	e := f.settings.Engine
	r := vmcore.EngineRules{Allowed: e.Allowed, Default: e.Default}
	if e.Default == "auto" {
		r.Default = ""
	} else if len(e.Allowed) > 0 && !slices.ContainsFunc(e.Allowed, func(a string) bool { return kin(a, e.Default) }) {
		*ps = append(*ps, f.problem("engine.default", "Add it to engine.allowed, or choose another.", "%q is not in engine.allowed", e.Default))
	}
	if e.Isolation != "any" && e.Isolation != "sandbox" { // which every engine is
		r.Isolation = e.Isolation
	}
	return r
}

// kin reports whether one engine is the other, or of its family: qemu-tcg of qemu.
func kin(a, b string) bool {
	return a == b || strings.HasPrefix(a, b+"-") || strings.HasPrefix(b, a+"-")
}

func (f *File) principals() sessions.Policy {
	l, b := f.settings.Limits, f.settings.Limits.Box
	return sessions.Policy{
		ReadOnly: f.settings.Tools.ReadOnly, Registries: f.settings.Images.Registries,
		Limits: sessions.Limits{Boxes: l.Boxes, DiskGB: l.DiskGB, CPUs: l.CPUs, MemoryMiB: l.MemoryMiB, Executions: l.Executions},
		Box: sessions.BoxLimits{
			CPUs: b.CPUs, MaxCPUs: b.MaxCPUs, MemoryMiB: b.MemoryMiB, MaxMemoryMiB: b.MaxMemoryMiB, DiskGB: b.DiskGB, MaxDiskGB: b.MaxDiskGB,
			IdleTimeout: seconds(b.IdleTimeoutSeconds), MaxIdleTimeout: seconds(b.MaxIdleTimeoutSeconds), MaxLifetime: seconds(b.MaxLifetimeSeconds),
		},
	}
}

func seconds(n int) time.Duration { return time.Duration(n) * time.Second }
