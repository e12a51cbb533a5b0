# What a person types. Everything here works from a fresh clone on Debian with
# Go, make and git; what else is needed, the targets install.
#
#   make demo     watch an agent's client use boxes, end to end
#   make test     all set-up and all tests, as CI runs them
#   make build    bin/boxlite-mcp and the programs it needs beside it
#   make vm       what boxes in virtual machines need: QEMU and a kernel for guests
#   make conformance  others' clients and test suites against the server
#
# While working: go test -short ./... takes seconds and boots no sandbox.

SHELL  := /bin/bash
GO     ?= go
TOOL   := $(GO) tool -modfile=tools.mod
PROTOS := $(shell find agent vmcore internal -name '*.proto' 2>/dev/null)

# Version information comes from git where git answers.
VCS := $(shell git status --porcelain >/dev/null 2>&1 && echo auto || echo false)

# What a bundle calls itself.
VERSION ?= $(shell git describe --tags --match 'v*' 2>/dev/null || echo v0.0.0-dev)

.PHONY: all build vm mcpb demo test conformance bench soak setup lint fmt generate clean

all: build

# cgo is not needed by any of them, and without it they run on every Linux.
build:
	@mkdir -p bin
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags="-s -w" -buildvcs=$(VCS) -tags grpcnotrace -o bin/ ./cmd/...

# bin/boxlite-mcp.mcpb, which clients install with a click, and bin/server.json,
# which the MCP registry wants.
mcpb: build
	$(GO) run ./internal/mcpb -version $(VERSION) -dir bin

setup:
	scripts/setup test bench

# What boxes in virtual machines need beside: QEMU, and a kernel for the guests.
vm: build
	scripts/setup vm
	scripts/guest-kernel bin/guest

demo:
	scripts/setup demo
	@$(MAKE) --no-print-directory build
	$(GO) run ./examples/demo

test:
	scripts/setup test
	scripts/guest-kernel build/testbin/guest
	scripts/test

# Other people's clients and test suites, from npm, against the server.
conformance:
	scripts/setup conformance
	scripts/conformance

# Ratios against the bare engine and against other tools, in one run.
bench:
	scripts/setup bench
	@$(MAKE) --no-print-directory build
	$(GO) run ./internal/bench

# What takes hours. Put what it printed into docs/soak.md.
soak:
	scripts/setup test
	BOXLITE_SOAK=1 $(GO) test -count=1 -timeout 12h -run Soak ./...

lint:
	$(TOOL) golangci-lint run ./...

fmt:
	$(TOOL) golangci-lint fmt ./...

generate:
	scripts/setup generate
	scripts/generate $(PROTOS)

clean:
	rm -rf bin build
