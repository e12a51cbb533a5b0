package config

import (
	"maps"
	"reflect"
	"slices"
)

// A Value is one setting and what counts for it.
type Value struct {
	Key    string `json:"key"`
	Value  any    `json:"value"`
	Text   string `json:"-"`              // the value as the file has it
	Source string `json:"source"`         // "default" or "file"
	Line   int    `json:"line,omitempty"` // in the file
}

// Values returns every setting, in the order of [Template].
func (f *File) Values() []Value {
	var list []Value
	add := func(table string, settings []field) {
		for _, s := range settings {
			v := Value{Key: join(table, s.name), Value: s.value.Interface(), Text: tomlOf(s.value), Source: "default"}
			if s.value.Kind() == reflect.Slice && s.value.IsNil() {
				v.Value = []string{}
			}
			if v.Line = f.lines[v.Key]; v.Line > 0 {
				v.Source = "file"
			}
			list = append(list, v)
		}
	}
	for _, t := range tables(&f.settings) {
		if !t.each {
			add(t.name, t.settings)
			continue
		}
		for _, name := range slices.Sorted(maps.Keys(f.settings.Secrets)) { // the one table of which there may be any number
			add(join(t.name, name), fields(reflect.ValueOf(f.settings.Secrets[name])))
		}
	}
	return list
}
