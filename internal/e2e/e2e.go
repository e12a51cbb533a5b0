// Package e2e holds tests of the whole system: the real programs, as a client
// starts them and a person types them, a real registry, MCP clients over
// stdio, and machines of the engine that this host gets. What is asserted is
// what is left afterwards: answers, records, processes, files, mounts, sockets
// and control groups.
//
// It has no code for programs, and it is no place for tests of one package:
// those are beside the package. Here something is killed, filled up, damaged or
// done by many at once.
//
//	go test ./internal/e2e                                     a few minutes
//	go test ./internal/e2e -run Kill/daemon/exec               one combination
//	BOXLITE_SOAK=1 go test -run Soak -timeout 12h ./internal/e2e
//
// Every test has a home of its own, which it audits when it ends: see world.
// Tests run beside each other; nothing is written outside the test's directory.
package e2e
