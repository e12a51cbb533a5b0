package boxlite_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/boxlite-mcp/boxlite-mcp"
	"github.com/google/go-cmp/cmp"
)

// The defaults of the API reference.
func TestZeroOptionsAreTheReferencesDefaults(t *testing.T) {
	got, err := boxlite.BoxOptions{}.WithDefaults()
	if err != nil {
		t.Fatal(err)
	}
	want := boxlite.BoxOptions{Image: "alpine:latest", CPUs: 2, MemoryMiB: 512, DiskSizeGB: 10, AutoRemove: new(true)}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got.Memory() != 512*boxlite.MiB || got.Disk() != 10*boxlite.GiB {
		t.Errorf("memory %v, disk %v", got.Memory(), got.Disk())
	}
	again, err := got.WithDefaults()
	if diff := cmp.Diff(got, again); diff != "" || err != nil {
		t.Errorf("defaults of defaults: %v\n%s", err, diff)
	}
}

func TestWithDefaultsKeepsWhatIsSet(t *testing.T) {
	in := boxlite.BoxOptions{RootfsPath: "/srv/root", CPUs: 64, MemoryMiB: 64, DiskSizeGB: 1, Detach: true, WorkingDir: "/w",
		Isolation: "vm", Engine: "gvisor", Labels: map[string]string{"a": "b"}, Env: []boxlite.Env{{Name: "A", Value: "1=2"}}}
	got, err := in.WithDefaults()
	want := in
	want.AutoRemove = new(false) // detached boxes are kept
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	if in.AutoRemove != nil {
		t.Errorf("the options that were passed in have changed")
	}
	if _, err := (boxlite.BoxOptions{Detach: true, AutoRemove: new(false)}).WithDefaults(); err != nil {
		t.Errorf("detach without auto_remove: %v", err)
	}
}

func TestWithDefaultsRefuses(t *testing.T) {
	many := map[string]string{}
	for i := range 65 {
		many[fmt.Sprint(i)] = ""
	}
	for name, o := range map[string]boxlite.BoxOptions{
		"image and root":               {Image: "a", RootfsPath: "/r"},
		"relative root":                {RootfsPath: "r"},
		"relative directory":           {WorkingDir: "w"},
		"rules without a network":      {Network: boxlite.NetworkSpec{AllowNet: []string{"api.example.com"}}},
		"secrets without a network":    {Secrets: []boxlite.Secret{{Name: "k"}}},
		"a secret twice":               {Network: boxlite.NetworkSpec{Enabled: true}, Secrets: []boxlite.Secret{{Name: "a-b"}, {Name: "a_b"}}},
		"a secret with a strange name": {Network: boxlite.NetworkSpec{Enabled: true}, Secrets: []boxlite.Secret{{Name: "a b"}}},
		"detach and auto_remove":       {Detach: true, AutoRemove: new(true)},
		"65 CPUs":                      {CPUs: 65},
		"-1 CPUs":                      {CPUs: -1},
		"63 MiB":                       {MemoryMiB: 63},
		"2 TiB of memory":              {MemoryMiB: 2 << 20},
		"-1 GB":                        {DiskSizeGB: -1},
		"32 TiB of disk":               {DiskSizeGB: 32 << 10},
		"nameless variable":            {Env: []boxlite.Env{{Value: "x"}}},
		"name with equals":             {Env: []boxlite.Env{{Name: "a=b"}}},
		"value with NUL":               {Env: []boxlite.Env{{Name: "a", Value: "\x00"}}},
		"isolation":                    {Isolation: "strong"},
		"65 labels":                    {Labels: many},
		"nameless label":               {Labels: map[string]string{"": "x"}},
		"long label":                   {Labels: map[string]string{"x": strings.Repeat("y", 1024)}},
	} {
		if _, err := o.WithDefaults(); !errors.Is(err, boxlite.Config) {
			t.Errorf("%s: got %v, want a configuration error", name, err)
		}
	}
}

func TestParseBoxName(t *testing.T) {
	for s, ok := range map[string]bool{
		"web":                        true,
		"9":                          true,
		"my-box_2.old":               true,
		strings.Repeat("a", 63):      true,
		"experiments":                true, // 11 letters
		"mydatascience":              true, // 13 letters
		"datasciences":               true, // 12, but no digit and no capital: a word
		"data-science":               true, // 12 with a dash
		"":                           false,
		"-web":                       false,
		".web":                       false,
		"a b":                        false,
		"a/b":                        false,
		"ä":                          false,
		"a\n":                        false,
		strings.Repeat("a", 64):      false,
		"aB3cD4eF5gH6":               false, // a box id
		"datascience1":               false, // could be a box id
		"01ARZ3NDEKTSV4RRFFQ69G5FAV": false, // a ULID
		"aB3cD4eF5gH6-x7Y8z9A0":      false, // an execution id
	} {
		got, err := boxlite.ParseBoxName(s)
		if ok && (got != s || err != nil) {
			t.Errorf("ParseBoxName(%q) = %q, %v; want it unchanged", s, got, err)
		}
		if !ok {
			wantInvalid(t, "ParseBoxName("+s+")", got, err)
		}
	}
}

func FuzzBoxName(f *testing.F) {
	f.Add("web")
	f.Add("aB3cD4eF5gH6")
	f.Add("../x")
	f.Fuzz(func(t *testing.T, s string) {
		got, err := boxlite.ParseBoxName(s)
		if err != nil {
			wantInvalid(t, "ParseBoxName("+s+")", got, err)
			return
		}
		if got != s || s == "." || s == ".." || strings.ContainsAny(s, "/\x00\n ") {
			t.Errorf("ParseBoxName(%q) = %q", s, got)
		}
		if id, err := boxlite.ParseExecutionID(s); err == nil {
			t.Errorf("%q is a name and the execution %q", s, id)
		}
	})
}

func TestParseEnv(t *testing.T) {
	for s, want := range map[string]boxlite.Env{
		"A=1":   {Name: "A", Value: "1"},
		"A=":    {Name: "A"},
		"A=b=c": {Name: "A", Value: "b=c"},
		"A= ä ": {Name: "A", Value: " ä "},
	} {
		if got, err := boxlite.ParseEnv(s); got != want || err != nil {
			t.Errorf("ParseEnv(%q) = %+v, %v; want %+v", s, got, err, want)
		}
	}
	for _, s := range []string{"", "A", "=", "=1", "A=\x00", "A\x00=1"} {
		got, err := boxlite.ParseEnv(s)
		wantInvalid(t, "ParseEnv("+s+")", got.Name+got.Value, err)
	}
}

func FuzzEnv(f *testing.F) {
	f.Add("PATH=/bin:/usr/bin")
	f.Add("A=b=c")
	f.Fuzz(func(t *testing.T, s string) {
		e, err := boxlite.ParseEnv(s)
		if err != nil {
			return
		}
		if e.String() != s {
			t.Errorf("ParseEnv(%q).String() = %q", s, e.String())
		}
		// What parses can be run: the rules are the same everywhere.
		if err := (boxlite.Command{Args: []string{"x"}, Env: []boxlite.Env{e}}).Check(); err != nil && len(s) < 1<<20 {
			t.Errorf("ParseEnv(%q) is fine, but not in a command: %v", s, err)
		}
		if _, err := (boxlite.BoxOptions{Env: []boxlite.Env{e}}).WithDefaults(); err != nil {
			t.Errorf("ParseEnv(%q) is fine, but not in a box: %v", s, err)
		}
	})
}
