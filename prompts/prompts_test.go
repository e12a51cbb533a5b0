package prompts_test

import (
	"regexp"
	"strings"
	"testing"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/prompts"
)

// filled returns an argument for every name, none of which can be mistaken.
func filled(p prompts.Prompt) map[string]string {
	args := map[string]string{}
	for _, a := range p.Args {
		args[a.Name] = "<the " + a.Name + " & {{.nothing}}>"
	}
	return args
}

func TestEveryArgumentReachesThePrompt(t *testing.T) {
	for _, p := range prompts.All() {
		text, err := p.Render(filled(p))
		if err != nil {
			t.Errorf("%s: %v", p.Name, err)
		}
		for name, v := range filled(p) {
			if !strings.Contains(text, v) {
				t.Errorf("%s: %s is not in it, as it was given:\n%s", p.Name, name, text)
			}
		}
	}
}

func TestPromptsDoWithoutOptionalArguments(t *testing.T) {
	for _, p := range prompts.All() {
		args := map[string]string{}
		for _, a := range p.Args {
			if a.Required {
				args[a.Name] = "something"
			}
		}
		text, err := p.Render(args)
		if err != nil || strings.Contains(text, "``") || strings.Contains(text, "<no value>") {
			t.Errorf("%s: %v\n%s", p.Name, err, text)
		}
	}
}

func TestBadArgumentsAreRefused(t *testing.T) {
	for _, p := range prompts.All() {
		unknown, long := filled(p), filled(p)
		unknown["colour"] = "red"
		long[p.Args[0].Name] = strings.Repeat("x", 65<<10)
		for _, args := range []map[string]string{unknown, long} {
			if _, err := p.Render(args); boxlite.KindOf(err) != boxlite.InvalidArgument {
				t.Errorf("%s: %v", p.Name, err)
			}
		}
		if _, err := p.Render(nil); p.Args[0].Required != (boxlite.KindOf(err) == boxlite.InvalidArgument && err != nil) {
			t.Errorf("%s without arguments: %v", p.Name, err)
		}
	}
}

// A prompt names tools in backquotes; those must be tools.
func TestPromptsNameToolsThatExist(t *testing.T) {
	tools := "box_create box_list box_get box_start box_stop box_remove box_exec exec_read exec_write exec_stop file_read file_write image_list"
	for _, p := range prompts.All() {
		text, err := p.Render(filled(p))
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile("`((?:box|exec|file|image)_[a-z]+)`").FindAllStringSubmatch(text, -1) {
			if !strings.Contains(" "+tools+" ", " "+m[1]+" ") {
				t.Errorf("%s names %s", p.Name, m[1])
			}
		}
	}
}
