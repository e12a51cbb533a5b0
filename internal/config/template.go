package config

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"
)

const templateHead = `# The operator's configuration of boxlite-mcp.
#
# What is here bounds what MCP clients (agents) can do; the command line on the
# same home is the operator, and is not bound. Every setting is below with its
# default, behind a '#'. Take the '#' away to change one.
#
# The file is read again when it changes. A mistake keeps what was before:
# "boxlite-mcp config check" says what is wrong, "boxlite-mcp config show" what
# counts. docs/configuration.md says more.
`

// Template returns a file with every setting, explained, at its default.
func Template() string {
	var b strings.Builder
	b.WriteString(templateHead)
	for _, t := range tables(new(defaults())) {
		b.WriteByte('\n')
		comment(&b, t.doc, "")
		mark := ""
		if t.each { // there is none by default
			t.name += ".NAME"
			mark = "#"
		}
		fmt.Fprintf(&b, "%s[%s]\n", mark, t.name)
		for _, f := range t.settings {
			b.WriteByte('\n')
			example := ""
			if f.example != "" {
				example = "Such as: " + f.name + " = " + f.example
			}
			comment(&b, f.doc, example)
			fmt.Fprintf(&b, "#%s = %s\n", f.name, tomlOf(f.value))
		}
	}
	return b.String()
}

// comment writes a text in lines of at most 80 characters, and one line as it
// is.
func comment(b *strings.Builder, text, last string) {
	line := "#"
	for word := range strings.FieldsSeq(text) {
		if len(line)+1+len(word) > 80 {
			b.WriteString(line + "\n")
			line = "#"
		}
		line += " " + word
	}
	b.WriteString(line + "\n")
	if last != "" {
		b.WriteString("# " + last + "\n")
	}
}

// tomlOf returns a setting's value as the file has it.
func tomlOf(v reflect.Value) string {
	switch x := v.Interface().(type) {
	case string:
		return strconv.Quote(x)
	case []string:
		quoted := make([]string, len(x))
		for i, s := range x {
			quoted[i] = strconv.Quote(s)
		}
		return "[" + strings.Join(quoted, ", ") + "]"
	default:
		return fmt.Sprint(x)
	}
}
