// Package boxlite holds the words of the system: identifiers, states, options,
// results, sizes, durations and the one error type. Every other package speaks
// in them, so that a box means the same in the database, on the wire, in the
// command line's JSON and in an MCP result.
//
// It does nothing: no I/O, no goroutines, no dependencies beyond the standard
// library. The runtime that acts on these words is package vmcore.
//
//	id := boxlite.NewBoxID()
//	opts := boxlite.BoxOptions{Image: "python:3.12", CPUs: 2, MemoryMiB: 1024}
//	cmd := boxlite.Command{Args: []string{"python3", "-c", "print(1)"}}
//
// All types are plain values; copy them to share them between goroutines.
package boxlite
