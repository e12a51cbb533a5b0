package clients

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

// A yamlFile is YAML with a list of servers, each with its name.
type yamlFile struct{}

func (yamlFile) decode(text []byte) (map[string]any, error) {
	dec := yaml.NewDecoder(bytes.NewReader(text))
	doc := map[string]any{}
	if err := dec.Decode(&doc); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("it is not YAML: %w", err)
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, errors.Join(errors.New("it has more than one document"), err)
	}
	if doc == nil {
		doc = map[string]any{}
	}
	return doc, nil
}

func (yamlFile) put(text []byte, key, name string, fields []field) ([]byte, error) {
	y, err := linesOf(text)
	if err != nil {
		return nil, err
	}
	k, servers := y.find(key)
	switch {
	case k == nil:
		end := len(y.lines)
		y.insert(end, key+":")
		y.insert(end+1, item("  ", name, fields)...)
	case servers.Kind == yaml.SequenceNode && len(servers.Content) > 0:
		at, indent := y.end(servers), y.dash(servers.Content[0])
		if i := indexOf(servers, name); i >= 0 {
			var end int
			at, end = y.itemRange(servers, i)
			y.lines = append(y.lines[:at:at], y.lines[end:]...)
		}
		if indent < 0 || servers.Style&yaml.FlowStyle != 0 {
			return nil, errForm
		}
		y.insert(at, item(strings.Repeat(" ", indent), name, fields)...)
	default: // no servers: nothing, null or []
		if !y.unset(servers) {
			return nil, errForm
		}
		y.insert(k.Line, item(strings.Repeat(" ", k.Column-1)+"  ", name, fields)...)
	}
	return y.text(), nil
}

func (yamlFile) remove(text []byte, key, name string) ([]byte, error) {
	y, err := linesOf(text)
	if err != nil {
		return nil, err
	}
	k, servers := y.find(key)
	if k == nil || servers.Kind != yaml.SequenceNode || servers.Style&yaml.FlowStyle != 0 {
		return nil, errForm
	}
	i := indexOf(servers, name)
	if i < 0 || y.dash(servers.Content[i]) < 0 {
		return nil, errForm
	}
	at, end := y.itemRange(servers, i)
	y.lines = append(y.lines[:at:at], y.lines[end:]...)
	if len(servers.Content) == 1 { // a list of nothing is nothing, which Continue refuses
		line := y.lines[k.Line-1]
		before, after, ok := strings.Cut(line, ":")
		if !ok {
			return nil, errForm
		}
		y.lines[k.Line-1] = before + ": []" + after
	}
	return y.text(), nil
}

// item returns an entry as the lines of a list's item.
func item(indent, name string, fields []field) []string {
	lines := []string{indent + "- name: " + plain(name)}
	for _, f := range fields {
		if list, ok := f.value.([]string); ok && len(list) > 0 {
			lines = append(lines, indent+"  "+f.key+":")
			for _, s := range list {
				lines = append(lines, indent+"    - "+plain(s))
			}
			continue
		}
		value := literal(f.value)
		if s, ok := f.value.(string); ok {
			value = plain(s)
		}
		lines = append(lines, indent+"  "+f.key+": "+value)
	}
	return lines
}

// plainScalar matches what is the same string with and without quotes.
var plainScalar = regexp.MustCompile(`^(/[A-Za-z0-9/._@+-]*|[a-z]{2,}[A-Za-z0-9/._@+-]*)$`)

func plain(s string) string {
	var back any
	if plainScalar.MatchString(s) && yaml.Unmarshal([]byte(s), &back) == nil && back == s {
		return s
	}
	return quoted(s)
}

// A yamlText is a text by lines, without their ends, and what it says.
type yamlText struct {
	lines []string
	nl    string
	root  *yaml.Node // a mapping, or nil for a text that says nothing
}

func linesOf(text []byte) (*yamlText, error) {
	y := &yamlText{nl: newline(text)}
	if text = endLine(text); len(text) > 0 {
		y.lines = strings.Split(strings.TrimSuffix(string(text), y.nl), y.nl)
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(text, &doc); err != nil {
		return nil, err
	}
	if len(doc.Content) > 0 {
		y.root = doc.Content[0]
		if y.root.Kind != yaml.MappingNode || y.root.Style&yaml.FlowStyle != 0 {
			return nil, errForm
		}
	}
	return y, nil
}

func (y *yamlText) text() []byte { return []byte(strings.Join(y.lines, y.nl) + y.nl) }

func (y *yamlText) insert(at int, lines ...string) {
	y.lines = append(y.lines[:at:at], append(lines, y.lines[at:]...)...)
}

// find returns the key and the value of a setting, or nil.
func (y *yamlText) find(key string) (k, v *yaml.Node) {
	if y.root == nil {
		return nil, nil
	}
	for i := 0; i+1 < len(y.root.Content); i += 2 {
		if y.root.Content[i].Value == key {
			return y.root.Content[i], y.root.Content[i+1]
		}
	}
	return nil, nil
}

func indexOf(servers *yaml.Node, name string) int {
	for i, s := range servers.Content {
		for j := 0; j+1 < len(s.Content); j += 2 {
			if s.Content[j].Value == "name" && s.Content[j+1].Value == name {
				return i
			}
		}
	}
	return -1
}

// dash returns the column of the dash of an item, from 0, or -1 if it is not on
// the item's first line.
func (y *yamlText) dash(item *yaml.Node) int {
	before := y.lines[item.Line-1][:item.Column-1]
	if i := strings.Index(before, "-"); i >= 0 && strings.Trim(before, " -") == "" {
		return i
	}
	return -1
}

// itemRange returns the lines of an item, from and to, without the comments and
// empty lines after it.
func (y *yamlText) itemRange(servers *yaml.Node, i int) (from, to int) {
	from = servers.Content[i].Line - 1
	if i+1 == len(servers.Content) {
		return from, y.end(servers)
	}
	return from, y.trim(from, servers.Content[i+1].Line-1, y.dash(servers.Content[i]))
}

// end returns the line after a list.
func (y *yamlText) end(servers *yaml.Node) int {
	first := servers.Content[0]
	from, to := servers.Content[len(servers.Content)-1].Line-1, len(y.lines)
	for i := 0; i < len(y.root.Content); i += 2 {
		if line := y.root.Content[i].Line - 1; line > from && line < to {
			to = line
		}
	}
	return y.trim(from, to, y.dash(first))
}

// trim moves the end of a range of lines up over empty lines, and comments that
// are not indented further than the list.
func (y *yamlText) trim(from, to, dash int) int {
	for to-1 > from {
		line := y.lines[to-1]
		text := strings.TrimLeft(line, " \t\r")
		comment := strings.HasPrefix(text, "#") && len(line)-len(text) <= dash
		if text != "" && !comment {
			break
		}
		to--
	}
	return to
}

// emptyValue matches a value that is no servers.
var emptyValue = regexp.MustCompile(`^(~|null|\[\s*\])`)

// unset takes a value that is no servers out of its line, and reports whether
// it could.
func (y *yamlText) unset(v *yaml.Node) bool {
	if v.Kind == yaml.ScalarNode && v.Value == "" && v.Tag == "!!null" {
		return true
	}
	line := y.lines[v.Line-1]
	value := emptyValue.FindString(line[v.Column-1:])
	y.lines[v.Line-1] = strings.TrimRight(line[:v.Column-1], " ") + line[v.Column-1+len(value):]
	return value != ""
}
