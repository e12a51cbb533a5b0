package config // the schema is inside

import (
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/egress/gateway"
	"github.com/boxlite-mcp/boxlite-mcp/sessions"
	mcptools "github.com/boxlite-mcp/boxlite-mcp/tools"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore"
)

var update = flag.Bool("update", false, "write golden files")

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got); -update writes it:\n%s", path, diff)
	}
}

// keys returns the keys of all settings; of a secret, as secrets.NAME.….
func keys() (list []string) {
	for _, tab := range tables(new(defaults())) {
		if tab.each {
			tab.name += ".NAME"
		}
		for _, f := range tab.settings {
			list = append(list, tab.name+"."+f.name)
		}
	}
	return list
}

func TestEverySettingIsInTheTemplateAtItsDefault(t *testing.T) {
	text := Template()
	golden(t, "template.toml", text)
	if f, err := parse("config.toml", []byte(text)); err != nil || !reflect.DeepEqual(f.settings, defaults()) {
		t.Errorf("as it is written: %v, %+v", err, f.settings)
	}
	// With every '#' of a setting taken away: each is there, and nothing changes.
	bare := regexp.MustCompile(`(?m)^#(\[|[a-z_]+ = )`).ReplaceAllString(text, "$1")
	bare = strings.Replace(bare, "\nfile = \"\"", "\nfile = \"/run/secrets/x\"", 1) // a secret has no default that could be one
	f, err := parse("config.toml", []byte(bare))
	if err != nil {
		t.Fatalf("%v\n%s", err, bare)
	}
	for _, key := range keys() {
		if f.lines[key] == 0 {
			t.Errorf("%s is not in the template", key)
		}
	}
	want := map[string]secret{"NAME": {Hosts: []string{}, Command: []string{}, File: "/run/secrets/x"}}
	if diff := cmp.Diff(want, f.settings.Secrets); diff != "" {
		t.Errorf("secrets: %s", diff)
	}
	policy, _ := f.static()
	none, _ := (&File{settings: defaults()}).static()
	policy.Runtime.Images.LocalRoots = nil // a list without entries is no list
	policy.Principals.Registries = nil
	policy.Runtime.Engines.Allowed = nil
	if !reflect.DeepEqual(policy, none) {
		t.Errorf("the template says\n%+v, and the default is\n%+v", policy, none)
	}
}

func TestDefaultsAreThoseOfWhoHoldsToThem(t *testing.T) {
	f := &File{settings: defaults()}
	p, problems := f.static()
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	if !reflect.DeepEqual(p.Principals, sessions.DefaultPolicy()) {
		t.Errorf("principals: %+v", p.Principals)
	}
	limits := p.Runtime.Network.Limits
	p.Runtime.Network.Limits = gateway.Limits{}
	if !reflect.DeepEqual(p.Runtime, vmcore.Policy{}) {
		t.Errorf("the runtime: %+v", p.Runtime)
	}
	if limits != (gateway.Limits{Connections: 512, Flows: 512, ConnectRate: 1000, LookupRate: 200}) { // as gateway documents
		t.Errorf("networks: %+v", limits)
	}
	engines := slices.Sorted(slices.Values(vmcore.EngineNames()))
	for key, want := range map[string][]string{"allowed": engines, "default": append([]string{"auto"}, engines...)} {
		for _, e := range fields(reflect.ValueOf(f.settings.Engine)) {
			if e.name == key && !slices.Equal(slices.Sorted(slices.Values(e.enum)), want) {
				t.Errorf("engine.%s may be %v, and there are %v", key, e.enum, want)
			}
		}
	}
	if !slices.Equal(f.Tools().Toolsets, mcptools.Toolsets) || f.Tools().ReadOnly {
		t.Errorf("tools: %+v, and there are %v", f.Tools(), mcptools.Toolsets)
	}
}

// Whoever adds a setting says what it is about, and with what bounds.
func TestEverySettingIsDescribed(t *testing.T) {
	name := regexp.MustCompile(`^[a-z_]+$`)
	for _, tab := range tables(new(defaults())) {
		if tab.doc == "" {
			t.Errorf("[%s] has no description", tab.name)
		}
		for _, f := range tab.settings {
			if !name.MatchString(f.name) || f.doc == "" {
				t.Errorf("%s.%s: it needs a name and a description", tab.name, f.name)
			}
			if f.value.Kind() == reflect.Int && f.max <= f.min {
				t.Errorf("%s.%s: from %d to %d", tab.name, f.name, f.min, f.max)
			}
			switch f.value.Interface().(type) {
			case bool, int, string, []string:
			default:
				t.Errorf("%s.%s: the reader knows no %v", tab.name, f.name, f.value.Type())
			}
			if f.example != "" {
				text := "[" + strings.Replace(tab.name, "secrets", "secrets.x", 1) + "]\n" + f.name + " = " + f.example + "\n"
				if tab.each && f.name != "file" && f.name != "command" {
					text += "file = \"/x\"\n"
				}
				if _, err := parse("example", []byte(text)); err != nil {
					t.Errorf("%s.%s: its example is wrong: %v", tab.name, f.name, err)
				}
			}
		}
	}
}

func TestEverySettingIsDocumented(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "configuration.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range keys() {
		if !strings.Contains(string(page), "`"+key+"`") {
			t.Errorf("docs/configuration.md does not say what %s is", key)
		}
	}
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-zA-Z_.]+)`").FindAllStringSubmatch(string(page), -1) {
		if !slices.Contains(keys(), m[1]) {
			t.Errorf("docs/configuration.md says what %s is, which there is not", m[1])
		}
	}
}

// All mistakes at once, each with its place and what to do.
func TestMistakesAreToldWithTheirPlaces(t *testing.T) {
	const text = `[network]
allow_nets = ["*"]
static = [
  "api.internal=10.1.2.3:443",
  "api.internal",
]
connections = "many"

[limit]
boxes = 3

[limits]
boxs = 10
memory_mib = 1.5
max_cpus = 4
box = 1

[engine]
allowed = ["gvisor", "qmu"]
isolation = "virtual"

[images]
allow = ["https://registry.example/team/*"]
registries = "docker.io"
frobnicate = true

[tools]
toolsets = ["boxes", "file"]
read_only = "yes"

[secrets.openai]
host = ["api.openai.com"]
file = "/run/secrets/openai"
`
	_, err := parse("config.toml", []byte(text))
	if boxlite.KindOf(err) != boxlite.Config {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, p := range ProblemsOf(err) {
		b.WriteString(p.String() + "\n")
		if p.Hint != "" {
			b.WriteString("  hint: " + p.Hint + "\n")
		}
		if p.Line == 0 {
			t.Errorf("%s: without a line", p)
		}
	}
	golden(t, "mistakes.golden", b.String())
	for _, text := range []string{"[network\n", "a = \n", "[limits]\nboxes = 1\nboxes = 2\n"} {
		_, err := parse("config.toml", []byte(text))
		if ps := ProblemsOf(err); len(ps) != 1 || ps[0].Line == 0 {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestValuesSayWhereTheyComeFrom(t *testing.T) {
	f, err := parse("config.toml", []byte("[limits]\nboxes = 3\n\n[limits.box]\n\nmax_cpus = 4\n[secrets]\nx = {hosts = [\"api.test\"], file = \"/run/x\"}\n"))
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]Value{}
	for _, v := range f.Values() {
		got[v.Key] = v
	}
	for key, want := range map[string]Value{
		"limits.boxes":        {Value: 3, Text: "3", Source: "file", Line: 2},
		"limits.cpus":         {Value: 0, Text: "0", Source: "default"},
		"limits.box.max_cpus": {Value: 4, Text: "4", Source: "file", Line: 6},
		"engine.default":      {Value: "auto", Text: `"auto"`, Source: "default"},
		"secrets.x.hosts":     {Value: []string{"api.test"}, Text: `["api.test"]`, Source: "file", Line: 8},
		"secrets.x.query":     {Value: false, Text: "false", Source: "default"},
	} {
		want.Key = key
		if diff := cmp.Diff(want, got[key]); diff != "" {
			t.Errorf("%s: %s", key, diff)
		}
	}
	if n := len(keys()); len(got) != n {
		t.Errorf("%d values of %d settings", len(got), n)
	}
}

func TestTheDefaultEngineIsAllowed(t *testing.T) {
	for text, wrong := range map[string]bool{
		`default = "gvisor"`:                           false,
		"allowed = [\"gvisor\"]\ndefault = \"gvisor\"": false,
		"allowed = [\"qemu\"]\ndefault = \"qemu-tcg\"": false,
		"allowed = [\"qemu-tcg\"]\ndefault = \"qemu\"": false,
		"allowed = [\"qemu\"]\ndefault = \"gvisor\"":   true,
	} {
		_, err := parse("config.toml", []byte("[engine]\n"+text))
		if ps := ProblemsOf(err); wrong != (len(ps) == 1 && ps[0].Key == "engine.default" && ps[0].Line == 3) || !wrong && err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestToolsetsAreTakenAway(t *testing.T) {
	f, err := parse("config.toml", []byte("[tools]\ntoolsets = [\"boxes\", \"exec\", \"images\"]\ndisabled = [\"images\", \"network\"]\nread_only = true\n"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Tools{ReadOnly: true, Toolsets: []string{"boxes", "exec"}}, f.Tools()); diff != "" {
		t.Error(diff)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(Template())
	f.Add("[limits]\nboxes = 1\n[secrets]\nx = {hosts=[\"a\"], file=\"/x\"}\n")
	f.Add("network = [{allow_net = 1}]\n[[images]]\nallow = [[\"x\"]]\n")
	f.Fuzz(func(t *testing.T, text string) {
		file, err := parse("config.toml", []byte(text))
		if err == nil {
			file.Tools()
			file.Values()
			return
		}
		if boxlite.KindOf(err) != boxlite.Config || len(ProblemsOf(err)) == 0 || boxlite.HintOf(err) == "" {
			t.Errorf("%q: %v", text, err)
		}
	})
}
