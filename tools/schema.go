package tools

import (
	"encoding/json"
	"reflect"
	"strconv"
	"strings"
)

// inputSchema returns the JSON Schema of a tool's arguments, properties in the
// order of the fields.
func inputSchema(fields []field) json.RawMessage {
	var b strings.Builder
	b.WriteString(`{"type":"object","properties":{`)
	var required []string
	for i, f := range fields {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(quoteJSON(f.name) + ":{")
		b.WriteString(typeSchema(f.typ))
		writeConstraints(&b, f)
		b.WriteByte('}')
		if f.required {
			required = append(required, f.name)
		}
	}
	b.WriteByte('}')
	if required != nil {
		b.WriteString(`,"required":` + toJSON(required))
	}
	b.WriteString(`,"additionalProperties":false}`)
	return json.RawMessage(b.String())
}

func writeConstraints(b *strings.Builder, f field) {
	if f.doc != "" {
		b.WriteString(`,"description":` + quoteJSON(f.doc))
	}
	if f.enum != nil {
		b.WriteString(`,"enum":` + toJSON(f.enum))
	}
	if f.min != nil {
		b.WriteString(`,"minimum":` + strconv.FormatInt(*f.min, 10))
	}
	if f.max != nil {
		b.WriteString(`,"maximum":` + strconv.FormatInt(*f.max, 10))
	}
	if f.def != "" {
		def := f.def
		if f.typ.Kind() == reflect.String {
			def = quoteJSON(def)
		}
		b.WriteString(`,"default":` + def)
	}
}

// outputSchema returns the JSON Schema of a tool's structured result. An error
// has the one property "error" instead: some clients validate it too.
func outputSchema(fields []field) json.RawMessage {
	props, required := properties(fields)
	return json.RawMessage(`{"type":"object","properties":{` + props + `,"error":{"type":"object"}},` +
		`"anyOf":[{"required":` + toJSON(required) + `},{"required":["error"]}]}`)
}

func properties(fields []field) (props string, required []string) {
	var b strings.Builder
	for i, f := range fields {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(quoteJSON(f.name) + ":{")
		if f.shallow && f.typ.Kind() == reflect.Slice {
			b.WriteString(`"type":"array","items":{"type":"object"}`)
		} else if f.shallow {
			b.WriteString(`"type":"object"`)
		} else {
			b.WriteString(typeSchema(f.typ))
		}
		writeConstraints(&b, f)
		b.WriteByte('}')
		if !f.optional {
			required = append(required, f.name)
		}
	}
	return b.String(), required
}

// typeSchema returns the members of the schema of a type, without braces.
func typeSchema(t reflect.Type) string {
	s := `"type":` + quoteJSON(jsonType(t))
	switch {
	case t == timeType:
	case t.Kind() == reflect.Slice:
		s += `,"items":{` + typeSchema(t.Elem()) + `}`
	case t.Kind() == reflect.Map:
		s += `,"additionalProperties":{"type":"string"}`
	case t.Kind() == reflect.Struct:
		props, _ := properties(structFields(t))
		s += `,"properties":{` + props + `}`
	}
	return s
}

func quoteJSON(s string) string { return toJSON(s) }

// toJSON returns v as JSON; v is made of strings.
func toJSON(v any) string {
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		panic("tools: " + err.Error())
	}
	return strings.TrimSuffix(b.String(), "\n")
}
