// Package agent is the program inside a box that runs commands and reads and
// writes files there, and the one client for it, whatever engine booted the
// box. The program is [Serve] (and [Main], which cmd/boxlite-agent calls); the
// client is [Client].
//
// It is not a policy, a spool or a timer: who may run what, where output is
// kept and when a command has run for too long is decided by the caller.
//
//	client, err := agent.NewClient(ctx, machine.Control(), agent.Options{})
//	exec, err := client.Start(ctx, agent.ExecSpec{Args: []string{"/bin/echo", "hi"}}, stdout, stderr)
//	status, err := exec.Wait(ctx) // all of "hi\n" is in stdout by now
//
// A Client, its Execs and its file operations may be used concurrently.
//
// The bytes: gRPC (agentpb/agent.proto) over one connection whose only HTTP/2
// session starts with a Hello call that names the protocol version. The client
// takes the guest for hostile: messages are at most [MaxMessage] bytes, names
// and lists are bounded, events out of order end the execution they are about,
// and no wait is longer than its context.
//
// In the box, every command runs in PID and mount namespaces that do not
// contain the agent, with Docker's default capabilities; see
// docs/decisions/0040-box-namespaces.md.
package agent

// Protocol is the version of the protocol that this package speaks. It changes
// when an older peer could not follow; a new call or field does not change it.
const Protocol = 1

// The limits that both ends hold.
const (
	MaxMessage   = 1 << 20        // of one message, either way, in bytes
	MaxArgs      = 64 << 10       // arguments, and environment variables
	MaxArgBytes  = 1<<20 - 64<<10 // arguments and environment together, in bytes
	MaxPath      = 4096           // of a path in the box, in bytes
	MaxDirectory = 100_000        // entries that ReadDir returns
	chunk        = 64 << 10       // of output or a file in one message, in bytes
)
