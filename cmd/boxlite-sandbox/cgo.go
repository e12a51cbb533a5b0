//go:build cgo

package main

// dynamic is set in a program that was built with cgo: it would need a dynamic
// linker in the sandbox's empty root.
const dynamic = true
