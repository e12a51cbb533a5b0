package clients

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"reflect"
	"strings"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
)

// program is the base name of commands that are ours, wherever they lie.
const program = "boxlite-mcp"

// A format is how a kind of file is read and edited. An edit keeps all of the
// text that is not about the entry; whether it succeeded is for the caller to
// see, by decoding what came out.
type format interface {
	// decode returns what the file says; nothing, for one that is empty.
	decode(text []byte) (map[string]any, error)

	// put returns the text with the entry, in place of one of the same name.
	put(text []byte, key, name string, fields []field) ([]byte, error)

	// remove returns the text without the entry, which is there.
	remove(text []byte, key, name string) ([]byte, error)
}

// errForm is why a text is not edited that says what it says in a rare way.
var errForm = errors.New("it is written in a form that is not edited here")

// A Result is what came of an edit.
type Result struct {
	File    string // that was edited, symbolic links followed
	Backup  string // the copy of how it was; "" if there was nothing to copy
	Changed bool
}

// Install puts the entry into the file, which need not exist. An entry that
// says the same already is left as it is, with what else it says. With force
// another entry of the same name is replaced.
//
// Errors: AlreadyExists for another entry of that name; Config for a file that
// cannot be read or edited; Storage.
func (c Client) Install(file string, e Entry, force bool) (Result, error) {
	return rewrite(file, true, func(text []byte) ([]byte, error) {
		out, err := c.put(text, e, force)
		return out, c.explain(err, file)
	})
}

// Uninstall takes the entry of that name out of the file. If there is none,
// nothing changes. With force, it need not be an entry of ours.
//
// Errors: InvalidState for an entry that starts another program; Config for a
// file that cannot be read or edited; Storage.
func (c Client) Uninstall(file, name string, force bool) (Result, error) {
	return rewrite(file, false, func(text []byte) ([]byte, error) {
		out, err := c.remove(text, name, force)
		return out, c.explain(err, file)
	})
}

// explain gives an error of reading or editing its meaning.
func (c Client) explain(err error, file string) error {
	if err == nil || boxlite.KindOf(err) != boxlite.Internal {
		return err
	}
	hint := fmt.Sprintf("Correct the file, which was not changed, or edit it by hand: %s setup %s prints the entry.", program, c.ID)
	return &boxlite.Error{Op: "edit configuration", Kind: boxlite.Config, Ref: file, Err: err, Hint: hint}
}

func (c Client) put(text []byte, e Entry, force bool) ([]byte, error) {
	doc, err := c.form.decode(text)
	if err != nil {
		return nil, err
	}
	base := text
	if len(doc) == 0 && c.starter != "" {
		base = append(endLine(text), c.starter...)
	}
	want := settings(c.fields(e))
	mine, others, err := c.split(base, e.Name)
	switch {
	case err != nil:
		return nil, err
	case mine != nil && says(mine, want):
		return text, nil
	case mine != nil && !force:
		return nil, &boxlite.Error{Op: "install", Kind: boxlite.AlreadyExists, Ref: fmt.Sprintf("%q", e.Name),
			Err:  fmt.Errorf("the configuration has an entry of that name that differs: %s", summary(mine)),
			Hint: "Replace it with --force (a copy of the file is kept), or choose another name with --name."}
	}
	out, err := c.form.put(base, c.key, e.Name, c.fields(e))
	if err != nil {
		return nil, err
	}
	return out, c.verify(out, e.Name, want, others)
}

func (c Client) remove(text []byte, name string, force bool) ([]byte, error) {
	mine, others, err := c.split(text, name)
	if err != nil || mine == nil {
		return text, err
	}
	if m, ok := mine.(map[string]any); !force && (!ok || !isOurs(m["command"])) {
		return nil, &boxlite.Error{Op: "uninstall", Kind: boxlite.InvalidState, Ref: fmt.Sprintf("%q", name),
			Err:  fmt.Errorf("the entry is not one of %s: %s", program, summary(mine)),
			Hint: "Name the entry to remove with --name, or remove this one all the same with --force."}
	}
	out, err := c.form.remove(text, c.key, name)
	if err != nil {
		return nil, err
	}
	return out, c.verify(out, name, nil, others)
}

func isOurs(command any) bool {
	s, ok := command.(string)
	return ok && filepath.Base(s) == program
}

// verify checks that the text says what it should, and nothing else.
func (c Client) verify(text []byte, name string, want map[string]any, others map[string]any) error {
	mine, rest, err := c.split(text, name)
	if err != nil {
		return fmt.Errorf("%w: the outcome would not be readable: %w", errForm, err)
	}
	same := mine == nil
	if want != nil {
		same = reflect.DeepEqual(mine, any(want))
	}
	if !same || !reflect.DeepEqual(rest, others) {
		return errForm
	}
	return nil
}

// split returns the entry of that name, nil if there is none, and all else that
// the text says. No servers and an empty list of them are the same.
func (c Client) split(text []byte, name string) (mine any, others map[string]any, err error) {
	doc, err := c.form.decode(text)
	if err != nil {
		return nil, nil, err
	}
	others = maps.Clone(doc)
	delete(others, c.key)
	switch servers := doc[c.key].(type) {
	case nil:
	case map[string]any:
		mine = servers[name]
		rest := maps.Clone(servers)
		delete(rest, name)
		if len(rest) > 0 {
			others[c.key] = rest
		}
	case []any:
		var rest []any
		for _, s := range servers {
			if m, ok := s.(map[string]any); !ok || m["name"] != name {
				rest = append(rest, s)
				continue
			}
			if mine != nil {
				return nil, nil, fmt.Errorf("%s has two entries with the name %q", c.key, name)
			}
			mine = withoutName(s)
		}
		if len(rest) > 0 {
			others[c.key] = rest
		}
	default:
		return nil, nil, fmt.Errorf("%s is a %T, not servers", c.key, servers)
	}
	return mine, others, nil
}

// withoutName returns an entry of a list as one of a table would be.
func withoutName(entry any) any {
	m, ok := entry.(map[string]any)
	if !ok {
		return entry
	}
	m = maps.Clone(m)
	delete(m, "name")
	return m
}

// settings returns fields as the formats decode them.
func settings(fields []field) map[string]any {
	m := map[string]any{}
	for _, f := range fields {
		m[f.key] = f.value
		if list, ok := f.value.([]string); ok {
			items := make([]any, len(list))
			for i, s := range list {
				items[i] = s
			}
			m[f.key] = items
		}
	}
	return m
}

// says reports whether an entry says all that is wanted. It may say more, such
// as variables for the server: that is its owner's.
func says(entry any, want map[string]any) bool {
	m, ok := entry.(map[string]any)
	for k, v := range want {
		ok = ok && reflect.DeepEqual(m[k], v)
	}
	return ok
}

// summary returns what an entry starts, cut, for a message.
func summary(entry any) string {
	m, _ := entry.(map[string]any)
	what := fmt.Sprint(m["url"])
	if m["url"] == nil {
		what = fmt.Sprint(m["command"])
		if args, ok := m["args"].([]any); ok {
			what += " " + strings.Trim(fmt.Sprint(args), "[]")
		}
	}
	if r := []rune(what); len(r) > 200 {
		what = string(r[:200]) + "…"
	}
	return what
}

// endLine returns a copy of text that ends with a line break if there is any.
func endLine(text []byte) []byte {
	text = bytes.Clone(text)
	if len(text) > 0 && text[len(text)-1] != '\n' {
		text = append(text, newline(text)...)
	}
	return text
}

// newline returns how the text breaks lines.
func newline(text []byte) string {
	if bytes.Contains(text, []byte("\r\n")) {
		return "\r\n"
	}
	return "\n"
}

// splice returns text with what is between from and to replaced.
func splice(text []byte, from, to int, by string) []byte {
	out := append(bytes.Clone(text[:from]), by...)
	return append(out, text[to:]...)
}

// lineStart returns where the line that has the offset begins.
func lineStart(text []byte, offset int) int { return bytes.LastIndexByte(text[:offset], '\n') + 1 }

// indentOf returns the blanks that the line that has the offset begins with.
func indentOf(text []byte, offset int) string {
	line := text[lineStart(text, offset):]
	return string(line[:len(line)-len(bytes.TrimLeft(line, " \t"))])
}
