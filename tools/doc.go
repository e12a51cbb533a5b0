// Package tools is the MCP face of the system: thirteen tools with which a
// language model creates boxes, runs commands in them, reads what they print
// and removes them. It turns arguments into calls of a [boxlite.Service] and
// what comes back into short text and structured results.
//
// It holds no state that anybody would miss: boxes and executions belong to the
// service, and their identifiers are all that a caller has to keep. It knows
// neither sockets nor processes.
//
//	srv := tools.NewServer(tools.Once(dial), tools.Options{Version: "1.0.0", Log: log})
//	defer srv.Close()
//	err := srv.ServeStdio(ctx, os.Stdin, os.Stdout)
//
// Each tool is a plain function in the file of its name; mcp-go appears in
// adapter.go only. A Server may serve any number of transports at once, and
// every call runs on its own goroutine.
//
// # What is promised of every call
//
// It answers within 50 seconds, whatever the box does; work that takes longer
// goes on, and the answer says which call asks for the rest. What a box or a
// file contains is made printable, capped, and put between fences that do not
// occur in it. A command that fails is a result; a tool that fails is an error
// result with the next step in it.
//
// # Bytes on the wire
//
// On standard input and output: one JSON-RPC 2.0 message, or one batch, a line,
// in UTF-8, of at most 8 MiB, 64 levels and 100,000 values.
package tools
