package tools

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
)

// bind fills the struct that into points to, described by fields, from the
// arguments of a call. It forgives what models get wrong without changing
// meaning: "42" for 42, 42.0 for 42, "true" for true, "x" for ["x"], a JSON
// text where an object or an array is meant, null for nothing. Everything else
// is refused, all of it in one error.
//
// Errors: [boxlite.InvalidArgument], with a hint that says what is valid.
func bind(tool string, fields []field, raw json.RawMessage, into any) error {
	members, err := splitObject(raw)
	if err != nil {
		return badArguments(tool, fields, err.Error(), true)
	}
	v := reflect.ValueOf(into).Elem()
	var problems []string
	lost := false // the caller does not know what there is
	given := map[string]bool{}
	for _, m := range members {
		f, ok := find(fields, m.name)
		switch {
		case !ok:
			lost = true
			problems = append(problems, "there is no argument "+quoteText(m.name, 80))
		case given[m.name]:
			problems = append(problems, m.name+" is given twice")
		case string(m.value) == "null":
		default:
			given[m.name] = true
			into := v.Field(f.index)
			if err := f.set(into, m.value); err != nil {
				problems = append(problems, m.name+" "+err.Error())
			} else if f.required && into.Kind() == reflect.String && into.Len() == 0 {
				problems = append(problems, m.name+" is empty")
			}
		}
	}
	for _, f := range fields {
		switch {
		case given[f.name]:
		case f.required:
			lost = true
			problems = append(problems, f.name+" is missing")
		case f.def != "":
			if err := f.set(v.Field(f.index), json.RawMessage(defaultJSON(f))); err != nil {
				panic("tools: default of " + f.name + " " + err.Error())
			}
		}
	}
	if problems == nil {
		return nil
	}
	const most = 5
	if n := len(problems); n > most {
		problems = append(problems[:most], fmt.Sprintf("and %d more", n-most))
	}
	return badArguments(tool, fields, strings.Join(problems, "; "), lost)
}

func badArguments(tool string, fields []field, problem string, list bool) error {
	e := &boxlite.Error{Op: "read the arguments of " + tool, Kind: boxlite.InvalidArgument, Err: errors.New(problem),
		Hint: "Correct this and call again."}
	if !list {
		return e
	}
	var names []string
	for _, f := range fields {
		name := f.name
		if f.required {
			name += " (required)"
		}
		names = append(names, name)
	}
	e.Hint = "Valid arguments: " + strings.Join(names, ", ") + "."
	return e
}

func defaultJSON(f field) string {
	if f.typ.Kind() == reflect.String {
		return quoteJSON(f.def)
	}
	return f.def
}

func find(fields []field, name string) (field, bool) {
	i := slices.IndexFunc(fields, func(f field) bool { return f.name == name })
	if i < 0 {
		return field{}, false
	}
	return fields[i], true
}

// A member is one name and value of a JSON object.
type member struct {
	name  string
	value json.RawMessage
}

// splitObject returns the members of a JSON object, or of a JSON string that
// contains one, in their order. Nothing and null have none.
func splitObject(raw json.RawMessage) ([]member, error) {
	raw = bytes.TrimSpace(raw)
	if len(raw) == 0 || string(raw) == "null" {
		return nil, nil
	}
	if raw[0] == '"' {
		var inner string
		if json.Unmarshal(raw, &inner) == nil && strings.HasPrefix(strings.TrimSpace(inner), "{") && tame(inner) {
			raw = json.RawMessage(strings.TrimSpace(inner))
		}
	}
	if raw[0] != '{' {
		return nil, errors.New("the arguments are not a JSON object")
	}
	if !json.Valid(raw) {
		return nil, errors.New("the arguments are not valid JSON")
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	_, _ = dec.Token() // {
	var members []member
	const most = 1000 // of any object: more is an attack, and each is searched for
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return nil, errors.New("the arguments are not valid JSON")
		}
		var m member
		m.name, _ = name.(string)
		if err := dec.Decode(&m.value); err != nil {
			return nil, errors.New("the arguments are not valid JSON")
		}
		if members = append(members, m); len(members) > most {
			return nil, fmt.Errorf("an object has more than %d members", most)
		}
	}
	return members, nil
}

// tame reports whether JSON within a string keeps to the limits of a message,
// which saw it as one value.
func tame(text string) bool {
	var s scanner
	s.write([]byte(text))
	return s.problem() == ""
}

// set assigns a JSON value to v, which has the field's type or points to it.
// Its error continues a sentence that begins with the field's name.
func (f field) set(v reflect.Value, raw json.RawMessage) error {
	if v.Kind() == reflect.Pointer {
		v.Set(reflect.New(f.typ))
		v = v.Elem()
	}
	switch f.typ.Kind() {
	case reflect.String:
		s, err := toString(raw)
		if err != nil {
			return err
		}
		if f.enum != nil && !slices.Contains(f.enum, s) {
			return fmt.Errorf("must be one of %s, not %s", strings.Join(f.enum, ", "), quoteText(s, 40))
		}
		v.SetString(s)
	case reflect.Bool:
		b, err := toBool(raw)
		if err != nil {
			return err
		}
		v.SetBool(b)
	case reflect.Int, reflect.Int64:
		n, err := toInt(raw)
		if err != nil {
			return err
		}
		if err := f.inRange(n); err != nil {
			return err
		}
		v.SetInt(n)
	case reflect.Slice:
		list, err := toStrings(raw)
		if err != nil {
			return err
		}
		v.Set(reflect.ValueOf(list))
	case reflect.Map:
		m, err := toMap(raw)
		if err != nil {
			return err
		}
		v.Set(reflect.ValueOf(m))
	default:
		panic("tools: cannot bind " + f.typ.String())
	}
	return nil
}

func (f field) inRange(n int64) error {
	switch {
	case f.min != nil && f.max != nil && (n < *f.min || n > *f.max):
		return fmt.Errorf("must be from %d to %d, not %d", *f.min, *f.max, n)
	case f.min != nil && n < *f.min:
		return fmt.Errorf("must be at least %d, not %d", *f.min, n)
	case f.max != nil && n > *f.max:
		return fmt.Errorf("must be at most %d, not %d", *f.max, n)
	}
	return nil
}

var errNotText = errors.New("must be a string")

// toString reads a string, or the text of a number or a boolean.
func toString(raw json.RawMessage) (string, error) {
	switch raw[0] {
	case '"':
		return unquote(raw)
	case '{', '[':
		return "", errNotText
	}
	return string(raw), nil
}

// unquote decodes a JSON string and refuses what the decoder would silently
// replace: half of a surrogate pair, which no UTF-8 can carry.
func unquote(raw json.RawMessage) (string, error) {
	var s string
	if err := json.Unmarshal(raw, &s); err != nil {
		return "", errNotText
	}
	const lost = string(utf8.RuneError)
	if n := strings.Count(s, lost); n > 0 && n > strings.Count(string(raw), lost)+strings.Count(strings.ToLower(string(raw)), `\ufffd`) {
		return "", errors.New(`contains half of a surrogate pair, such as \ud800; send bytes as base64 where the tool takes it`)
	}
	return s, nil
}

func toBool(raw json.RawMessage) (bool, error) {
	s, err := toString(raw)
	if err == nil {
		switch strings.ToLower(strings.TrimSpace(s)) {
		case "true":
			return true, nil
		case "false":
			return false, nil
		}
	}
	return false, errors.New("must be true or false")
}

func toInt(raw json.RawMessage) (int64, error) {
	bad := errors.New("must be a whole number")
	s, err := toString(raw)
	if err != nil {
		return 0, bad
	}
	s = strings.TrimSpace(s)
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		return n, nil
	}
	if len(s) > 40 || strings.ContainsAny(s, "xXpP_nN") { // no hexadecimal, no underscores, no NaN, no Inf
		return 0, bad
	}
	x, err := strconv.ParseFloat(s, 64)
	if err != nil || x != math.Trunc(x) || math.Abs(x) > 1<<53 {
		return 0, bad
	}
	return int64(x), nil
}

// toStrings reads an array of strings, or one string as an array of itself, or
// of what it contains where that is the JSON text of such an array.
func toStrings(raw json.RawMessage) ([]string, error) {
	if raw[0] == '"' {
		s, err := unquote(raw)
		if err != nil {
			return nil, err
		}
		if inner := strings.TrimSpace(s); strings.HasPrefix(inner, "[") && tame(inner) && json.Valid([]byte(inner)) {
			if list, err := toStrings(json.RawMessage(inner)); err == nil {
				return list, nil
			}
		}
		return []string{s}, nil
	}
	bad := errors.New("must be an array of strings")
	if raw[0] != '[' {
		return nil, bad
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	_, _ = dec.Token() // [
	list := []string{}
	for dec.More() {
		var item json.RawMessage
		if err := dec.Decode(&item); err != nil || string(item) == "null" {
			return nil, bad
		}
		s, err := toString(item)
		if err != nil {
			return nil, bad
		}
		list = append(list, s)
	}
	if _, err := dec.Token(); err != nil && err != io.EOF {
		return nil, bad
	}
	return list, nil
}

// toMap reads an object of strings, its JSON text, or an array of "NAME=value".
func toMap(raw json.RawMessage) (map[string]string, error) {
	bad := errors.New(`must be an object of strings, such as {"NAME": "value"}`)
	if raw[0] == '[' {
		return pairs(raw, bad)
	}
	members, err := splitObject(raw)
	if err != nil {
		return nil, bad
	}
	m := make(map[string]string, len(members))
	for _, p := range members {
		if string(p.value) == "null" {
			return nil, bad
		}
		s, err := toString(p.value)
		if err != nil {
			return nil, bad
		}
		if _, twice := m[p.name]; twice {
			return nil, fmt.Errorf("has %s twice", quoteText(p.name, 40))
		}
		m[p.name] = s
	}
	return m, nil
}

func pairs(raw json.RawMessage, bad error) (map[string]string, error) {
	list, err := toStrings(raw)
	if err != nil {
		return nil, bad
	}
	m := make(map[string]string, len(list))
	for _, s := range list {
		name, value, ok := strings.Cut(s, "=")
		if !ok {
			return nil, bad
		}
		m[name] = value
	}
	return m, nil
}
