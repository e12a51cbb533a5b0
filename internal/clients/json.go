package clients

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/tailscale/hujson"
)

// A jsonFile is JSON with a table of servers by name at its top. Comments and
// commas at the end of lists are kept; a client that does not read them itself
// is strict.
type jsonFile struct{ strict bool }

// byteOrderMark is what some editors begin a file with.
var byteOrderMark = []byte("\ufeff")

// parse returns what a text holds, which begins with no mark; nil, if it is
// blank. A comment may end with the text, which hujson does not know.
func (j jsonFile) parse(text []byte) (*hujson.Value, error) {
	if len(bytes.TrimSpace(text)) == 0 {
		return nil, nil
	}
	v, err := hujson.Parse(endLine(text))
	if err != nil {
		return nil, fmt.Errorf("it is not JSON: %w", err)
	}
	if j.strict && !v.IsStandard() {
		return nil, errors.New("it has comments or commas at the end of lists, which the client does not read")
	}
	if _, ok := v.Value.(*hujson.Object); !ok {
		return nil, errors.New("it is not an object")
	}
	return &v, nil
}

func (j jsonFile) decode(text []byte) (map[string]any, error) {
	text = bytes.TrimPrefix(text, byteOrderMark)
	root, err := j.parse(text)
	if root == nil || err != nil {
		return map[string]any{}, err
	}
	standard, err := hujson.Standardize(endLine(text))
	if err != nil {
		return nil, err
	}
	dec := json.NewDecoder(bytes.NewReader(standard))
	dec.UseNumber() // so that no number is rounded, and two that differ look alike
	var doc map[string]any
	return doc, dec.Decode(&doc)
}

func (j jsonFile) put(text []byte, key, name string, fields []field) ([]byte, error) {
	l, err := j.layout(text)
	if err != nil {
		return nil, err
	}
	entry := func(indent string) string { return l.entry(fields, indent) }
	table := func(indent string) string {
		inner := indent + l.unit
		return "{" + l.nl + inner + quoted(name) + ": " + entry(inner) + l.nl + indent + "}"
	}
	servers := member(l.root, key)
	if servers == nil {
		return l.insert(l.root, key, table)
	}
	if v := servers.Value; v.Value.Kind() == 'n' { // null
		return l.marked(splice(l.text, v.StartOffset, v.EndOffset, table(indentOf(l.text, v.StartOffset)))), nil
	}
	if old := member(servers.Value, name); old != nil {
		v := old.Value
		return l.marked(splice(l.text, v.StartOffset, v.EndOffset, entry(indentOf(l.text, v.StartOffset)))), nil
	}
	return l.insert(servers.Value, name, entry)
}

func (j jsonFile) remove(text []byte, key, name string) ([]byte, error) {
	l, err := j.layout(text)
	if err != nil {
		return nil, err
	}
	servers := member(l.root, key)
	if servers == nil {
		return nil, errForm
	}
	o, ok := servers.Value.Value.(*hujson.Object)
	if !ok {
		return nil, errForm
	}
	for i, m := range o.Members {
		if isName(m, name) {
			return l.marked(cut(l.text, servers.Value, o, i)), nil
		}
	}
	return nil, errForm
}

// cut removes a member of the object at v, and the comma that is too many
// without it.
func cut(text []byte, v hujson.Value, o *hujson.Object, i int) []byte {
	m := o.Members[i]
	last, trailing := i == len(o.Members)-1, trailingComma(o)
	to := m.Value.EndOffset
	if !last || trailing {
		to += len(m.Value.AfterExtra) + len(",")
	}
	open, closing := v.StartOffset+1, v.EndOffset-1
	if len(bytes.TrimSpace(text[open:m.Name.StartOffset]))+len(bytes.TrimSpace(text[to:closing])) == 0 {
		return splice(text, open, closing, "")
	}
	from, to := wholeLines(text, m.Name.StartOffset, to)
	out := splice(text, from, to, "")
	if last && !trailing && i > 0 {
		before := o.Members[i-1].Value
		comma := before.EndOffset + len(before.AfterExtra)
		out = splice(out, comma, comma+1, "")
	}
	return out
}

// wholeLines widens a range to lines if there is nothing else on them.
func wholeLines(text []byte, from, to int) (int, int) {
	start, end := lineStart(text, from), len(text)
	if n := bytes.IndexByte(text[to:], '\n'); n >= 0 {
		end = to + n + 1
	}
	if len(bytes.TrimSpace(text[start:from]))+len(bytes.TrimSpace(text[to:end])) > 0 {
		return from, to
	}
	return start, end
}

// member returns the first member of an object with that name, or nil.
func member(v hujson.Value, name string) *hujson.ObjectMember {
	o, ok := v.Value.(*hujson.Object)
	if !ok {
		return nil
	}
	for i := range o.Members {
		if isName(o.Members[i], name) {
			return &o.Members[i]
		}
	}
	return nil
}

func isName(m hujson.ObjectMember, name string) bool {
	l, ok := m.Name.Value.(hujson.Literal)
	return ok && l.String() == name
}

// trailingComma reports whether there is a comma after the last member.
func trailingComma(o *hujson.Object) bool {
	return len(o.Members) > 0 && o.Members[len(o.Members)-1].Value.AfterExtra != nil
}

// A layout is a text, what it holds, and how it is written.
type layout struct {
	mark, text []byte // the text comes after the mark
	root       hujson.Value
	unit, nl   string // of indentation; of lines
}

func (j jsonFile) layout(text []byte) (layout, error) {
	bare := bytes.TrimPrefix(text, byteOrderMark)
	l := layout{mark: text[:len(text)-len(bare)], text: bare, unit: "  ", nl: newline(text)}
	if len(bytes.TrimSpace(bare)) == 0 {
		l.text = []byte("{}" + l.nl)
	}
	root, err := j.parse(l.text)
	if err != nil {
		return l, err
	}
	l.root = *root
	if o := root.Value.(*hujson.Object); len(o.Members) > 0 {
		if indent := indentOf(l.text, o.Members[0].Name.StartOffset); indent != "" {
			l.unit = indent
		}
	}
	return l, nil
}

// marked returns a text with the mark that the file began with.
func (l layout) marked(text []byte) []byte { return append(bytes.Clone(l.mark), text...) }

// insert returns the text with a member at the end of an object, on lines of
// its own.
func (l layout) insert(v hujson.Value, name string, value func(indent string) string) ([]byte, error) {
	o, ok := v.Value.(*hujson.Object)
	if !ok {
		return nil, errForm
	}
	closing := v.EndOffset - 1
	outer := indentOf(l.text, closing)
	inner := outer + l.unit
	if len(o.Members) > 0 && l.beginsLine(o.Members[0].Name.StartOffset) {
		inner = indentOf(l.text, o.Members[0].Name.StartOffset)
	}
	added := l.nl + inner + quoted(name) + ": " + value(inner)
	if trailingComma(o) {
		added += ","
	}
	from := len(bytes.TrimRight(l.text[:closing], " \t\r\n"))
	to := from
	if !bytes.Contains(l.text[from:closing], []byte("\n")) {
		added, to = added+l.nl+outer, closing
	}
	out := splice(l.text, from, to, added)
	if len(o.Members) > 0 && !trailingComma(o) {
		end := o.Members[len(o.Members)-1].Value.EndOffset
		out = splice(out, end, end, ",")
	}
	return l.marked(out), nil
}

// beginsLine reports whether there are only blanks before the offset.
func (l layout) beginsLine(offset int) bool {
	return len(bytes.TrimSpace(l.text[lineStart(l.text, offset):offset])) == 0
}

// entry returns an entry as an object whose last line has the given indent.
func (l layout) entry(fields []field, indent string) string {
	var lines []string
	for _, f := range fields {
		lines = append(lines, l.nl+indent+l.unit+quoted(f.key)+": "+literal(f.value))
	}
	return "{" + strings.Join(lines, ",") + l.nl + indent + "}"
}

// literal returns the value of a field as JSON or TOML, on one line.
func literal(value any) string {
	if list, ok := value.([]string); ok {
		items := make([]string, len(list))
		for i, s := range list {
			items[i] = quoted(s)
		}
		return "[" + strings.Join(items, ", ") + "]"
	}
	return quoted(fmt.Sprint(value))
}

// quoted returns s as a string of JSON, which is one of TOML and YAML too.
func quoted(s string) string {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(s); err != nil {
		panic("clients: a string cannot be encoded: " + err.Error())
	}
	return strings.TrimSuffix(b.String(), "\n")
}
