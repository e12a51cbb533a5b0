// Package guest is the program inside a box: the other end of package agent's
// connection. It runs commands in namespaces of their own, reads and writes
// files there, and reaps what is left behind.
//
// It holds no secret and decides nothing: a box that takes it over has gained
// only what it had. Still, commands can neither see nor signal nor trace it;
// docs/decisions/0040-box-namespaces.md says how.
//
//	conn, err := guest.Inherited(3)
//	err = guest.Serve(ctx, conn, guest.Options{}) // until conn ends
//
// Serve owns its process: it reaps every child and changes the process's
// limits on who may trace it. Call it once, from a program whose main function
// calls [Main] when it is started as "boxlite-init": Serve does that.
//
// The wire is agent.proto's. On disk it makes /etc/hosts, /etc/hostname and
// /etc/resolv.conf of the box where they are missing or empty.
package guest

import "log/slog"

// Options are how an agent serves. The zero value is the product's.
type Options struct {
	Root      string // directory that becomes the box's root; "": the agent's own
	NoCgroups bool   // walk process trees even where cgroups are there
	Cgroup    string // path, in the cgroup2 hierarchy, below which commands get theirs; "": the agent's own

	Log *slog.Logger // nil discards
}

// The limits of what the host may ask for. It is trusted, but fallible.
const (
	maxMessage  = 1<<20 + 64<<10 // of a request, in bytes; the client's limit and room for its frame
	maxArgs     = 64 << 10       // arguments, and environment variables
	maxArgBytes = 1<<20 + 32<<10 // of both, in bytes
	maxPath     = 4096
	maxEntries  = 100_000 // of a directory
	chunk       = 64 << 10
)
