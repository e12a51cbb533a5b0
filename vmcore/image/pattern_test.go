package image_test

import (
	"testing"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/image"
)

func TestPatternsMatchWhatTheySay(t *testing.T) {
	const digest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	for _, c := range []struct {
		pattern, ref string
		want         bool
	}{
		{"registry.example/team/*", "registry.example/team/app:1", true},
		{"registry.example/team/*", "registry.example/team/deep/app", true},
		{"registry.example/team/*", "registry.example/team/app@" + digest, true},
		{"registry.example/team/*", "registry.example/teams/app", false},
		{"registry.example/team/*", "registry.example/other/team/app", false},
		{"registry.example/team/*", "registry.example:5000/team/app", false},
		{"registry.example/team/*", "evil.example/registry.example/team/app", false},
		{"registry.example/*", "registry.example.evil.test/x", false},
		{"python", "docker.io/library/python:3.12", true},
		{"python", "docker.io/library/python2", false},
		{"python", "docker.io/someone/python", false},
		{"docker.io/*", "docker.io/library/alpine", true},
		{"*/library/alpine", "docker.io/library/alpine", true},
		{"python:3.*", "docker.io/library/python:3.12", true},
		{"python:3.*", "docker.io/library/python:2.7", false},
		{"python:3.*", "docker.io/library/python@" + digest, false}, // which tag that is, nobody knows
		{"python:3.12", "docker.io/library/python:3.12@" + digest, true},
		{"docker.io/*/a*b*c", "docker.io/x/aXbYc", false},
		{"docker.io/*/a*b*c", "docker.io/x/a1b2b3c", true},
		{"docker.io/a*a", "docker.io/library/a", false}, // the two may not be the same letter
		{"*/*", "dir:/srv/root", false},
		{"*/*", "alpine", false}, // not said yet where it comes from
	} {
		p, err := image.ParsePattern(c.pattern)
		if err != nil {
			t.Errorf("ParsePattern(%q): %v", c.pattern, err)
			continue
		}
		r, err := image.ParseReference(c.ref)
		if err != nil {
			if c.want {
				t.Errorf("ParseReference(%q): %v", c.ref, err)
			}
			continue
		}
		if got := p.Matches(r); got != c.want {
			t.Errorf("%s matches %s: %v, want %v", c.pattern, c.ref, got, c.want)
		}
	}
	if r, _ := image.ParseReference("docker.io/library/alpine"); (image.Pattern{}).Matches(r) {
		t.Error("the zero pattern matches")
	}
	for _, s := range []string{"", "/", "https://registry.example/team", "registry.example/", "Registry.example/Team", "a b", "x@" + digest, "python:", "registry.example/../x"} {
		if p, err := image.ParsePattern(s); boxlite.KindOf(err) != boxlite.InvalidArgument || boxlite.HintOf(err) == "" {
			t.Errorf("ParsePattern(%q) = %v, %v", s, p, err)
		}
	}
}

func FuzzParsePattern(f *testing.F) {
	for _, s := range []string{"python:3.*", "registry.example/team/*", "*/a*b:*", "localhost:5000/x"} {
		f.Add(s, "docker.io/library/python:3.12")
	}
	f.Fuzz(func(t *testing.T, s, ref string) {
		p, err := image.ParsePattern(s)
		if err != nil {
			return
		}
		again, err := image.ParsePattern(p.String())
		if err != nil || again != p {
			t.Fatalf("%q is %q, which is %q, %v", s, p, again, err)
		}
		r, err := image.ParseReference(ref)
		if err != nil {
			return
		}
		if own, err := image.ParsePattern(r.Registry + "/" + r.Repository); err == nil && r.Registry != "" && !own.Matches(r) {
			t.Errorf("%q does not match %q, of which it is the name", own, ref)
		}
	})
}
