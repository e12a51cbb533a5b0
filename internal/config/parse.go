package config

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// A reader fills a file's settings from its text, and goes on after mistakes, so
// that all are told at once.
type reader struct {
	file     *File
	problems Problems
	known    map[string][]string // table: names in it; for suggestions
}

func (r *reader) read(data []byte) {
	values := map[string]any{}
	if err := toml.Unmarshal(data, &values); err != nil {
		p := Problem{File: r.file.path, Message: err.Error()}
		if e, ok := errors.AsType[*toml.DecodeError](err); ok {
			p.Line, _ = e.Position()
			p.Message = strings.TrimPrefix(e.Error(), "toml: ")
			p.Hint = "Write it as TOML: name = 1, name = true, name = \"text\" or name = [\"a\", \"b\"], and tables as [name]."
		}
		r.problems = append(r.problems, p)
		return
	}
	r.file.lines = linesOf(data)
	r.known = map[string][]string{}
	for _, t := range tables(new(defaults())) {
		for _, f := range t.settings {
			r.known[t.name] = append(r.known[t.name], f.name)
		}
		parent, name := "", t.name
		if i := strings.LastIndexByte(t.name, '.'); i >= 0 {
			parent, name = t.name[:i], t.name[i+1:]
		}
		r.known[parent] = append(r.known[parent], name)
	}
	r.table("", "", reflect.ValueOf(&r.file.settings).Elem(), values)
}

// say notes a mistake at a key.
func (r *reader) say(key, hint, format string, args ...any) {
	r.problems = append(r.problems, r.file.problem(key, hint, format, args...))
}

// problem returns a mistake at a key, or at the key that it is in.
func (f *File) problem(key, hint, format string, args ...any) Problem {
	p := Problem{File: f.path, Message: fmt.Sprintf(format, args...), Hint: hint}
	for at := key; at != "" && p.Line == 0; {
		p.Line = f.lines[at]
		at = at[:max(0, strings.LastIndexAny(at, ".["))]
	}
	p.Key, _, _ = strings.Cut(key, "[") // without the place in a list
	return p
}

// table fills a struct. kind is the table's name in the schema, key in the file.
func (r *reader) table(kind, key string, into reflect.Value, values map[string]any) {
	byName := map[string]field{}
	for _, f := range fields(into) {
		byName[f.name] = f
	}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		f, ok := byName[name]
		key := join(key, name)
		if !ok {
			r.unknown(kind, key, name)
			continue
		}
		if !f.isTable() {
			r.value(key, f, values[name])
			continue
		}
		inner, ok := values[name].(map[string]any)
		if !ok {
			r.say(key, fmt.Sprintf("Write [%s], and what belongs to it below.", key), "it is a table, and this is %s", typeName(values[name]))
			continue
		}
		if f.value.Kind() == reflect.Map {
			r.each(join(kind, name), key, f.value, inner)
		} else {
			r.table(join(kind, name), key, f.value, inner)
		}
	}
}

// each fills a map of structs.
func (r *reader) each(kind, key string, into reflect.Value, values map[string]any) {
	into.Set(reflect.MakeMap(into.Type()))
	for _, name := range slices.Sorted(maps.Keys(values)) {
		key := join(key, name)
		inner, ok := values[name].(map[string]any)
		if !ok {
			r.say(key, fmt.Sprintf("Write [%s.NAME], and what belongs to it below.", kind), "it is a table, and this is %s", typeName(values[name]))
			continue
		}
		elem := reflect.New(into.Type().Elem()).Elem()
		r.table(kind, key, elem, inner)
		into.SetMapIndex(reflect.ValueOf(name), elem)
	}
}

// unknown notes a name that there is not, with what was meant.
func (r *reader) unknown(kind, key, name string) {
	hint := ""
	if near := nearest(name, r.known[kind]); near != "" {
		hint = fmt.Sprintf("Did you mean %s?", near)
	} else {
		for _, other := range slices.Sorted(maps.Keys(r.known)) {
			if other != kind && slices.Contains(r.known[other], name) {
				hint = fmt.Sprintf("Did you mean %s? It belongs below [%s].", join(other, name), other)
				break
			}
		}
	}
	if hint == "" {
		hint = "Leave it out, or choose from: " + strings.Join(r.known[kind], ", ") + "."
	}
	r.say(key, hint, "there is no such setting")
}

// value sets one setting.
func (r *reader) value(key string, f field, x any) {
	wants := func(what string) { r.say(key, "", "it is %s, and this is %s", what, typeName(x)) }
	switch f.value.Interface().(type) {
	case bool:
		b, ok := x.(bool)
		if !ok {
			wants("true or false")
			return
		}
		f.value.SetBool(b)
	case int:
		n, ok := x.(int64)
		switch {
		case !ok:
			wants("a whole number")
		case n < f.min || n > f.max:
			r.say(key, "", "%d is not from %d to %d", n, f.min, f.max)
		default:
			f.value.SetInt(n)
		}
	case string:
		s, ok := x.(string)
		if !ok {
			wants("a text")
			return
		}
		r.oneOf(key, f, s)
		f.value.SetString(s)
	case []string:
		list, ok := x.([]any)
		if !ok {
			wants("a list of texts")
			return
		}
		texts := []string{}
		for i, x := range list {
			at := fmt.Sprintf("%s[%d]", key, i)
			s, ok := x.(string)
			if !ok {
				r.say(at, "", "it is a list of texts, and there is %s in it", typeName(x))
				continue
			}
			r.oneOf(at, f, s)
			texts = append(texts, s)
		}
		f.value.Set(reflect.ValueOf(texts))
	}
}

// oneOf checks a text of which there are only some.
func (r *reader) oneOf(key string, f field, s string) {
	if len(f.enum) == 0 || slices.Contains(f.enum, s) {
		return
	}
	hint := "Choose from: " + strings.Join(f.enum, ", ") + "."
	if near := nearest(s, f.enum); near != "" {
		hint = fmt.Sprintf("Did you mean %q? %s", near, hint)
	}
	r.say(key, hint, "there is no %q", s)
}

// typeName says what a value of TOML is.
func typeName(x any) string {
	switch x.(type) {
	case bool:
		return "true or false"
	case int64:
		return "a number"
	case float64:
		return "a number with a fraction"
	case string:
		return "a text"
	case []any:
		return "a list"
	case map[string]any:
		return "a table"
	}
	return "a date or a time"
}

// linesOf returns on which line each key stands, and each element of a list that
// is a text, as "key[0]".
func linesOf(data []byte) map[string]int {
	lines := map[string]int{}
	var p unstable.Parser
	p.Reset(data)
	at := func(n *unstable.Node) int { return p.Shape(n.Raw).Start.Line }
	note := func(table string, keys unstable.Iterator) string {
		for keys.Next() {
			table = join(table, string(keys.Node().Data))
			if lines[table] == 0 {
				lines[table] = at(keys.Node())
			}
		}
		return table
	}
	var value func(key string, n *unstable.Node)
	value = func(key string, n *unstable.Node) {
		children, i := n.Children(), 0
		for children.Next() {
			switch child := children.Node(); {
			case n.Kind == unstable.InlineTable:
				value(note(key, child.Key()), child.Value())
			case n.Kind == unstable.Array && child.Kind != unstable.Comment:
				if child.Raw.Length > 0 {
					lines[fmt.Sprintf("%s[%d]", key, i)] = at(child)
				}
				i++
			}
		}
	}
	table := ""
	for p.NextExpression() {
		switch e := p.Expression(); e.Kind {
		case unstable.Table, unstable.ArrayTable:
			table = note("", e.Key())
		case unstable.KeyValue:
			value(note(table, e.Key()), e.Value())
		default: // comments, which the parser was not asked to keep
		}
	}
	return lines
}
