package image_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/image"
)

var digest64 = "sha256:" + strings.Repeat("ab", 32)

func TestParseReference(t *testing.T) {
	for in, want := range map[string]string{
		"alpine":                            "alpine:latest",
		"alpine:3.19":                       "alpine:3.19",
		"alpine@" + digest64:                "alpine@" + digest64,
		"alpine:3.19@" + digest64:           "alpine:3.19@" + digest64,
		"myorg/app":                         "myorg/app:latest",
		"docker.io/alpine":                  "docker.io/library/alpine:latest",
		"index.docker.io/alpine":            "docker.io/library/alpine:latest",
		"docker.io/library/alpine":          "docker.io/library/alpine:latest",
		"ghcr.io/a/b/c:x":                   "ghcr.io/a/b/c:x",
		"localhost/a":                       "localhost/a:latest",
		"localhost:5000/a":                  "localhost:5000/a:latest",
		"Registry.Local:5000/a":             "registry.local:5000/a:latest",
		"[::1]:5000/a":                      "[::1]:5000/a:latest",
		"10.0.0.1:80/a_b/c__d/e-f--g":       "10.0.0.1:80/a_b/c__d/e-f--g:latest",
		"oci:/srv/layout":                   "oci:/srv/layout",
		"oci:/srv/layout:1.2":               "oci:/srv/layout:1.2",
		"oci:/srv/./a/../layout/":           "oci:/srv/layout",
		"docker-archive:/a.tar:alpine:3.19": "docker-archive:/a.tar:alpine:3.19",
		"oci-archive:/a.tar":                "oci-archive:/a.tar",
		"dir:/srv/root:with:colons":         "dir:/srv/root:with:colons",
	} {
		r, err := image.ParseReference(in)
		if err != nil || r.String() != want {
			t.Errorf("ParseReference(%q) = %q, %v; want %q", in, r, err, want)
		}
	}
	for _, in := range []string{
		"", ":", "/", "a/", "/a", "A", "a//b", "-a", "a-", "a:", "a:-x", "a:" + strings.Repeat("t", 129), "a@sha256:xyz", "a@sha512:" + strings.Repeat("ab", 64),
		"a@", "https://docker.io/a", "docker.io:0/a", "docker.io:99999/a", "docker.io:x/a", "host_name.x/a", "a b", "a\x00", "a/../b", "x.y/../b",
		strings.Repeat("a", 300), "oci:", "oci:/x:", "dir:", "docker-archive::tag", "dir:/a\x00b", "é", "-.io/a", "sub/ghcr.io:5000/a",
	} {
		r, err := image.ParseReference(in)
		if !errors.Is(err, boxlite.InvalidArgument) || boxlite.HintOf(err) == "" {
			t.Errorf("ParseReference(%q) = %+v, %v; want InvalidArgument with a hint", in, r, err)
		}
	}
}

func FuzzParseReference(f *testing.F) {
	for _, s := range []string{"alpine", "ghcr.io/a/b:c@" + digest64, "oci:/x:y", "dir:/", "[::1]:5/a", "docker-archive:/a:b:c", "docker.io/x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := image.ParseReference(s)
		if err != nil {
			if boxlite.KindOf(err) != boxlite.InvalidArgument {
				t.Fatalf("ParseReference(%q): %v", s, err)
			}
			return
		}
		again, err := image.ParseReference(r.String())
		if err != nil || again != r {
			t.Fatalf("ParseReference(%q) = %+v, written %q, read back as %+v, %v", s, r, r, again, err)
		}
		if !r.IsLocal() && (strings.Contains(r.Repository, "..") || strings.ContainsAny(r.String(), " \x00\n?#%\\")) {
			t.Fatalf("ParseReference(%q) = %+v is not fit for a URL", s, r)
		}
	})
}

func TestAuthDoesNotPrint(t *testing.T) {
	for _, a := range []image.Auth{image.Basic("user", "hunter2"), image.Bearer("hunter2")} {
		r := image.Registry{Host: "x.y", Auth: a}
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d", "%T"} {
			if s := fmt.Sprintf(verb+verb, a, r); strings.Contains(s, "hunter2") || strings.Contains(s, fmt.Sprintf("%x", "hunter2")) {
				t.Errorf("%s prints %s", verb, s)
			}
		}
		if b, err := json.Marshal(r); err != nil || strings.Contains(string(b), "hunter2") {
			t.Errorf("JSON is %s, %v", b, err)
		}
	}
}

func TestParseRegistry(t *testing.T) {
	for in, want := range map[string]image.Registry{
		"docker.io":                  {Host: "docker.io"},
		"https://ghcr.io/myorg":      {Host: "ghcr.io/myorg"},
		"http://registry.local:5000": {Host: "registry.local:5000", HTTP: true},
	} {
		if r, err := image.ParseRegistry(in); err != nil || fmt.Sprint(r) != fmt.Sprint(want) {
			t.Errorf("ParseRegistry(%q) = %v, %v; want %v", in, r, err, want)
		}
	}
	for _, in := range []string{"", "http://", "ftp://x", "x/../y", "x y", "user:pw@host"} {
		if _, err := image.ParseRegistry(in); !errors.Is(err, boxlite.InvalidArgument) {
			t.Errorf("ParseRegistry(%q): %v, want InvalidArgument", in, err)
		}
	}
}
