package tools

import (
	"context"
	"encoding/json"
)

// A tool is one MCP tool: what clients are told of it, and what it does.
type tool struct {
	spec
	input  json.RawMessage // JSON Schema of the arguments
	output json.RawMessage // JSON Schema of the structured result, or of an error

	// call binds the arguments and runs the function.
	call func(ctx context.Context, c *call, raw json.RawMessage) (result, error)
}

// A spec is the part of a tool that is written by hand.
type spec struct {
	name        string // noun_verb
	title       string // for people
	set         string // toolset: boxes, exec, files, images or network
	description string // for a new colleague; at most 600 characters

	readOnly    bool // changes nothing
	destructive bool // may destroy what was there
	idempotent  bool // a second call with the same arguments changes nothing more
	openWorld   bool // reaches beyond this host
}

// A result is what a tool answers: text for the model, and the same facts for
// programs.
type result struct {
	text       string
	structured any
	isError    bool
}

// define makes a tool of a function. A and R are structs whose fields' tags
// describe the arguments and the structured result, see [fieldsOf].
//
// It panics if they cannot be described: a programmer's mistake.
func define[A, R any](s spec, fn func(ctx context.Context, c *call, args A) (string, R, error)) tool {
	args := fieldsOf[A]()
	return tool{
		spec:   s,
		input:  inputSchema(args),
		output: outputSchema(fieldsOf[R]()),
		call: func(ctx context.Context, c *call, raw json.RawMessage) (result, error) {
			var a A
			if err := bind(s.name, args, raw, &a); err != nil {
				return result{}, err
			}
			text, structured, err := fn(ctx, c, a)
			return result{text: text, structured: structured}, err
		},
	}
}

// Toolsets are the names that [Options].Toolsets may contain.
var Toolsets = []string{"boxes", "exec", "files", "images", "network"}

// all returns every tool, in the order in which clients see them.
func all() []tool {
	return []tool{
		boxCreate(), boxList(), boxGet(), boxStart(), boxStop(), boxRemove(),
		boxExec(), execRead(), execWrite(), execStop(),
		fileRead(), fileWrite(),
		imageList(),
		boxUpdate(), networkLog(), secretsList(),
	}
}
