package clients

import (
	"bytes"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// A tomlFile is TOML with tables [key.name].
type tomlFile struct{}

func (tomlFile) decode(text []byte) (map[string]any, error) {
	doc := map[string]any{}
	if err := toml.Unmarshal(bytes.TrimPrefix(text, byteOrderMark), &doc); err != nil {
		return nil, fmt.Errorf("it is not TOML: %w", err)
	}
	return doc, nil
}

func (t tomlFile) put(text []byte, key, name string, fields []field) ([]byte, error) {
	text, err := t.without(text, key, name)
	if err != nil {
		return nil, err
	}
	nl := newline(text)
	text = endLine(text)
	if len(bytes.TrimSpace(text)) > 0 {
		text = append(text, nl...)
	}
	text = append(text, "["+bareOrQuoted(key)+"."+bareOrQuoted(name)+"]"+nl...)
	for _, f := range fields {
		text = append(text, bareOrQuoted(f.key)+" = "+literal(f.value)+nl...)
	}
	return text, nil
}

func (t tomlFile) remove(text []byte, key, name string) ([]byte, error) {
	return t.without(text, key, name)
}

// without returns the text without the tables and settings below key.name.
// Comments between them go too; those before the next table stay.
func (tomlFile) without(text []byte, key, name string) ([]byte, error) {
	statements, err := statementsOf(text)
	if err != nil {
		return nil, err
	}
	ours := func(i int) bool {
		return i < len(statements) && len(statements[i].path) >= 2 && statements[i].path[0] == key && statements[i].path[1] == name
	}
	var out []byte
	kept := 0 // what is before it is in out, or gone
	for i := 0; i < len(statements); i++ {
		if !ours(i) {
			continue
		}
		start, end := statements[i].start, len(text)
		for ours(i + 1) {
			i++
		}
		if i+1 < len(statements) {
			end = statements[i+1].start
		}
		out = append(out, withoutBlankLine(text[kept:start])...)
		kept = start + endOfStatements(text[start:end])
		if len(out) == 0 {
			kept = len(text) - len(bytes.TrimLeft(text[kept:], "\r\n"))
		}
	}
	return append(out, text[kept:]...), nil
}

// withoutBlankLine returns what is before a table, without the empty line that
// sets it off.
func withoutBlankLine(before []byte) []byte {
	for _, nl := range []string{"\r\n", "\n"} {
		if bytes.HasSuffix(before, []byte(nl+nl)) {
			return before[:len(before)-len(nl)]
		}
	}
	return before
}

// endOfStatements returns how much of the text is statements: what follows them
// are empty lines, and comments on what is next.
func endOfStatements(text []byte) int {
	end := len(text)
	for {
		start := lineStart(text, end-1)
		line := bytes.TrimSpace(text[start:end])
		if start == 0 || len(line) > 0 && line[0] != '#' {
			return end
		}
		end = start
	}
}

// A statement is a table or a setting: whose it is, and where its line begins.
type statement struct {
	path  []string
	start int
}

// statementsOf returns the statements of a text in order.
func statementsOf(text []byte) ([]statement, error) {
	var p unstable.Parser
	bare := bytes.TrimPrefix(text, byteOrderMark)
	mark := len(text) - len(bare)
	p.Reset(bare)
	var all []statement
	var table []string
	for p.NextExpression() {
		e := p.Expression()
		if e.Kind != unstable.KeyValue && e.Kind != unstable.Table && e.Kind != unstable.ArrayTable {
			continue
		}
		var path []string
		start := -1
		for keys := e.Key(); keys.Next(); {
			if start < 0 {
				start = int(keys.Node().Raw.Offset)
			}
			path = append(path, string(keys.Node().Data))
		}
		if e.Kind == unstable.KeyValue {
			path = slices.Concat(table, path)
		} else {
			table = path
		}
		all = append(all, statement{path, mark + lineStart(bare, start)})
	}
	return all, p.Error()
}

var bareKey = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)

func bareOrQuoted(key string) string {
	if bareKey.MatchString(key) {
		return key
	}
	return strings.ReplaceAll(quoted(key), "\x7f", `\u007f`)
}
