package rpc_test

import (
	"io"
	"path/filepath"
	"runtime"
	"sync"
	"testing"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/internal/rpc"
	"github.com/boxlite-mcp/boxlite-mcp/internal/unixsocket"
)

// BenchmarkBareSocket is what a round trip costs without gRPC, between two
// goroutines: what the others are to be compared with on the same host.
func BenchmarkBareSocket(b *testing.B) {
	path := filepath.Join(b.TempDir(), "s")
	l, err := unixsocket.Listen(path)
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	client, err := unixsocket.Dial(b.Context(), path)
	if err != nil {
		b.Fatal(err)
	}
	server, err := l.Accept()
	if err != nil {
		b.Fatal(err)
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer client.Close()
	wg.Go(func() { io.Copy(server, server); server.Close() })
	buf := make([]byte, 128)
	for b.Loop() {
		if _, err := client.Write(buf); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(client, buf); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkRoundTrip is a call that carries nothing to speak of.
func BenchmarkRoundTrip(b *testing.B) {
	c := dial(b, start(b, memory{}), rpc.Options{})
	for b.Loop() {
		if _, err := c.WriteStdin(b.Context(), "id", nil, false); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkOutputRoundTrip(b *testing.B) {
	c := dial(b, start(b, memory{}), rpc.Options{})
	for b.Loop() {
		if _, err := c.Output(b.Context(), "id", boxlite.OutputRequest{}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkGetBox(b *testing.B) {
	c := dial(b, start(b, memory{}), rpc.Options{})
	for b.Loop() {
		if _, err := c.GetBox(b.Context(), "b"); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkOutput moves 64 MiB an operation, 1 MiB a call.
func BenchmarkOutput(b *testing.B) {
	const size = 64 << 20
	c := dial(b, start(b, streaming{size: size}), rpc.Options{})
	window()
	runtime.GC()
	b.SetBytes(size)
	for b.Loop() {
		readAll(b, c, func(boxlite.OutputChunk) {})
	}
}

// BenchmarkConnect is a connection with its hello.
func BenchmarkConnect(b *testing.B) {
	home := start(b, memory{})
	for b.Loop() {
		c, err := rpc.Dial(b.Context(), rpc.Options{Socket: rpc.Socket(home), Principal: "p"})
		if err != nil {
			b.Fatal(err)
		}
		c.Close()
	}
}
