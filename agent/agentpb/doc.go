// Package agentpb is generated from agent.proto: the messages between a box's
// agent and the host. Package agent is what speaks them; nothing else should
// import this.
package agentpb

//go:generate protoc --go_out=. --go_opt=paths=source_relative --go-grpc_out=. --go-grpc_opt=paths=source_relative agent.proto
