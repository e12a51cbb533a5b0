package tools

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// A field is one argument of a tool, or one property of its result, as the
// tags of a struct field say:
//
//	json:"name,omitempty"   the name on the wire; omitempty or omitzero: need not be there in a result
//	doc:"…"                 description
//	required:"true"         an argument that must be there
//	default:"30"            the value of an argument that is not there
//	min:"0" max:"50"        the range of a number
//	enum:"a,b"              the values of a string
//	shallow:"true"          an object, or objects, whose properties the schema does not list
type field struct {
	name     string
	index    int
	typ      reflect.Type // without pointers
	doc      string
	required bool
	optional bool // may be absent from a result
	def      string
	min, max *int64
	enum     []string
	shallow  bool
}

// fieldsOf returns the fields of the struct type T in their order.
func fieldsOf[T any]() []field { return structFields(reflect.TypeFor[T]()) }

func structFields(t reflect.Type) []field {
	var fields []field
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Anonymous {
			panic(fmt.Sprintf("tools: %s embeds %s; name its fields", t, f.Type))
		}
		name, opts, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "" {
			panic(fmt.Sprintf("tools: field %s of %s has no JSON name", f.Name, t))
		}
		typ := f.Type
		if typ.Kind() == reflect.Pointer {
			typ = typ.Elem()
		}
		def := field{
			name: name, index: i, typ: typ,
			doc: f.Tag.Get("doc"), def: f.Tag.Get("default"),
			required: f.Tag.Get("required") == "true",
			shallow:  f.Tag.Get("shallow") == "true",
			optional: strings.Contains(opts, "omit"),
			min:      bound(f.Tag.Get("min")), max: bound(f.Tag.Get("max")),
		}
		if e := f.Tag.Get("enum"); e != "" {
			def.enum = strings.Split(e, ",")
		}
		jsonType(typ) // panics if it cannot be described
		fields = append(fields, def)
	}
	return fields
}

func bound(s string) *int64 {
	if s == "" {
		return nil
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		panic("tools: bad bound in a struct tag: " + err.Error())
	}
	return &n
}

var timeType = reflect.TypeFor[time.Time]()

// jsonType returns the JSON Schema type of values of type t.
func jsonType(t reflect.Type) string {
	switch {
	case t == timeType:
		return "string"
	case t.Kind() == reflect.String:
		return "string"
	case t.Kind() == reflect.Bool:
		return "boolean"
	case t.Kind() == reflect.Int, t.Kind() == reflect.Int64:
		return "integer"
	case t.Kind() == reflect.Float64:
		return "number"
	case t.Kind() == reflect.Slice:
		jsonType(t.Elem())
		return "array"
	case t.Kind() == reflect.Struct, t.Kind() == reflect.Map && t.Elem().Kind() == reflect.String:
		return "object"
	}
	panic("tools: no JSON type for " + t.String())
}
