// Package agentpb is generated from agent.proto: the messages between a box's
// agent and the host. Package agent is what speaks them; nothing else should
// import this.
//
// To generate it takes protoc, protoc-gen-go v1.36.12 and protoc-gen-go-grpc
// v1.6.2 on PATH.
package agentpb

//go:generate protoc --go_out=. --go_opt=paths=source_relative --go-grpc_out=. --go-grpc_opt=paths=source_relative agent.proto
