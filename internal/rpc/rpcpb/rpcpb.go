// Package rpcpb is generated from daemon.proto: the messages between a home's
// daemon and its clients. Package rpc is what speaks them; nothing else should
// import this. It has no code of its own.
package rpcpb

//go:generate protoc --go_out=. --go_opt=paths=source_relative --go-grpc_out=. --go-grpc_opt=paths=source_relative daemon.proto
