// Package prompts holds the MCP prompts: recipes that a person picks in a
// client, each a Markdown file with a few named arguments. It knows the names
// of the tools, and nothing of how they or prompts are served.
//
//	for _, p := range prompts.All() {
//		text, err := p.Render(map[string]string{"task": "plot sin(x)"})
//	}
//
// Prompts are values that never change; everything may be called concurrently.
package prompts

import (
	"embed"
	"fmt"
	"strings"
	"text/template"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
)

//go:embed *.md
var files embed.FS

// A Prompt is one recipe.
type Prompt struct {
	Name        string // snake case; the file's name without .md
	Title       string // for people
	Description string // one sentence
	Args        []Arg
}

// An Arg is a named text that a person fills in.
type Arg struct {
	Name        string
	Description string
	Required    bool
	Default     string // of one that is not required
}

// All returns every prompt, in the order in which clients see them.
func All() []Prompt {
	return []Prompt{
		{
			Name: "run_code_safely", Title: "Run code safely",
			Description: "Run code or a task in an isolated box, check what it does, and report the result.",
			Args: []Arg{
				{Name: "task", Description: "What to run or achieve; code is welcome", Required: true},
				{Name: "image", Description: "Container image for the box", Default: "python:3.12"},
			},
		},
		{
			Name: "debug_failing_command", Title: "Debug a failing command",
			Description: "Find out why a command fails in a box, fix the cause, and prove that it is fixed.",
			Args: []Arg{
				{Name: "command", Description: "The command that fails", Required: true},
				{Name: "box", Description: "Box in which it fails; if left out, a new one is made"},
				{Name: "expected", Description: "What should happen instead"},
			},
		},
		{
			Name: "clean_up", Title: "Clean up boxes",
			Description: "Look through the boxes, keep what matters, and remove the rest after asking.",
			Args: []Arg{
				{Name: "keep", Description: "What must not be removed, in words", Default: "boxes with a name, and boxes used within the last day"},
			},
		},
	}
}

// mostText is the most bytes of one argument.
const mostText = 64 << 10

// Render returns the prompt's text for the given arguments.
//
// Errors: [boxlite.InvalidArgument] if a required argument is missing, one is
// not known, or one is longer than 64 KiB.
func (p Prompt) Render(args map[string]string) (string, error) {
	values := map[string]string{}
	for _, a := range p.Args {
		v := strings.TrimSpace(args[a.Name])
		switch {
		case v == "" && a.Required:
			return "", p.bad("argument %s is missing", a.Name)
		case len(v) > mostText:
			return "", p.bad("argument %s is longer than %d bytes", a.Name, mostText)
		case v == "":
			v = a.Default
		}
		values[a.Name] = v
	}
	for name := range args {
		if _, ok := values[name]; !ok {
			return "", p.bad("there is no argument %q", name)
		}
	}
	text, err := files.ReadFile(p.Name + ".md")
	if err != nil {
		return "", err
	}
	t, err := template.New(p.Name).Option("missingkey=error").Parse(string(text))
	if err != nil {
		return "", err
	}
	var b strings.Builder
	if err := t.Execute(&b, values); err != nil {
		return "", err
	}
	return b.String(), nil
}

func (p Prompt) bad(format string, args ...any) error {
	var names []string
	for _, a := range p.Args {
		names = append(names, a.Name)
	}
	return &boxlite.Error{Op: "fill in prompt", Ref: p.Name, Kind: boxlite.InvalidArgument,
		Err: fmt.Errorf(format, args...), Hint: "Its arguments are " + strings.Join(names, ", ") + "."}
}
