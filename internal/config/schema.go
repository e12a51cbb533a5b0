package config

import (
	"reflect"
	"strconv"
	"strings"
)

// A field is one field of a struct of settings, as its tags say.
type field struct {
	name, doc, example string
	enum               []string
	min, max           int64 // of a number; both 0: any
	value              reflect.Value
}

// fields returns the fields of a struct in their order.
func fields(v reflect.Value) []field {
	var list []field
	for i := range v.NumField() {
		tag := v.Type().Field(i).Tag
		f := field{name: tag.Get("toml"), doc: tag.Get("doc"), example: tag.Get("example"), value: v.Field(i)}
		f.min, _ = strconv.ParseInt(tag.Get("min"), 10, 64) // a test reads them all
		f.max, _ = strconv.ParseInt(tag.Get("max"), 10, 64)
		if e := tag.Get("enum"); e != "" {
			f.enum = strings.Split(e, ",")
		}
		list = append(list, f)
	}
	return list
}

// isTable reports whether the field is a table of the file.
func (f field) isTable() bool {
	return f.value.Kind() == reflect.Struct || f.value.Kind() == reflect.Map
}

// A table is a part of the file, with the settings in it.
type table struct {
	name     string // "limits.box"
	doc      string
	settings []field
	each     bool // there are any number of them, [name.NAME]
}

// tables returns the tables of the settings in the order of the file. Of a map it
// is one, of which the settings are those of each.
func tables(s *settings) []table {
	var list []table
	var walk func(name, doc string, v reflect.Value, each bool)
	walk = func(name, doc string, v reflect.Value, each bool) {
		t := table{name: name, doc: doc, each: each}
		var inner []field
		for _, f := range fields(v) {
			if f.isTable() {
				inner = append(inner, f)
			} else {
				t.settings = append(t.settings, f)
			}
		}
		if len(t.settings) > 0 {
			list = append(list, t)
		}
		for _, f := range inner {
			key := join(name, f.name)
			if f.value.Kind() == reflect.Map {
				walk(key, f.doc, reflect.New(f.value.Type().Elem()).Elem(), true)
			} else {
				walk(key, f.doc, f.value, false)
			}
		}
	}
	walk("", "", reflect.ValueOf(s).Elem(), false)
	return list
}

func join(table, name string) string {
	if table == "" {
		return name
	}
	return table + "." + name
}
