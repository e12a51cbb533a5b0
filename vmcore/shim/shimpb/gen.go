// Package shimpb is the generated form of shim.proto, the conversation between
// the runtime and a box's shim. It has no code of its own.
package shimpb

//go:generate protoc --go_out=. --go_opt=paths=source_relative --go-grpc_out=. --go-grpc_opt=paths=source_relative shim.proto
