package agent_test

import (
	"testing"

	"github.com/boxlite-mcp/boxlite-mcp/agent"
)

// BenchmarkExec is a command's whole life, from Start to the end of Wait.
func BenchmarkExec(b *testing.B) {
	r := newRig(b, false)
	for b.Loop() {
		e, err := r.Start(b.Context(), agent.ExecSpec{Args: []string{"/bin/true"}}, nil, nil)
		must(b, err)
		_, err = e.Wait(b.Context())
		must(b, err)
	}
}

// BenchmarkOutput is the rate at which output comes out of a box.
func BenchmarkOutput(b *testing.B) {
	r := newRig(b, false)
	b.SetBytes(64 << 20)
	for b.Loop() {
		var out count
		e, err := r.Start(b.Context(), agent.ExecSpec{Args: []string{"dd", "if=/dev/zero", "bs=1M", "count=64"}}, &out, nil)
		must(b, err)
		_, err = e.Wait(b.Context())
		must(b, err)
		if out.n != 64<<20 {
			b.Fatalf("%d bytes", out.n)
		}
	}
}

// BenchmarkPing is a bare round trip.
func BenchmarkPing(b *testing.B) {
	r := newRig(b, false)
	for b.Loop() {
		must(b, r.Ping(b.Context()))
	}
}
