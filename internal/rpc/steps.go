package rpc

import (
	"context"
	"sync"

	"google.golang.org/grpc"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/internal/rpc/rpcpb"
)

// steps calls fn, sends what it reports while it runs, and then its result.
func steps(stream grpc.ServerStreamingServer[rpcpb.Step], fn func(context.Context, func(boxlite.Progress)) (any, error)) error {
	var box mailbox
	box.filled = make(chan struct{}, 1)
	ctx, cancel := context.WithCancel(stream.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-box.filled:
				if sendAll(stream, box.take()) != nil {
					return // the client is gone, of which ctx tells fn
				}
			case <-ctx.Done():
				return
			}
		}
	})
	v, err := call(stream.Context(), fn, box.put)
	cancel()
	wg.Wait()
	if err != nil {
		return err
	}
	b, err := encode(v)
	if err != nil {
		return err
	}
	if err := sendAll(stream, box.take()); err != nil {
		return err
	}
	return stream.Send(&rpcpb.Step{Of: &rpcpb.Step_Json{Json: b}})
}

// call turns a panic of fn into an error while the goroutine above still runs
// and must be waited for.
func call(ctx context.Context, fn func(context.Context, func(boxlite.Progress)) (any, error), report func(boxlite.Progress)) (v any, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = panicError(p)
		}
	}()
	return fn(ctx, report)
}

func sendAll(stream grpc.ServerStreamingServer[rpcpb.Step], all []boxlite.Progress) error {
	for _, p := range all {
		m := &rpcpb.Progress{Phase: []byte(p.Phase), Current: p.Current, Total: p.Total}
		if err := stream.Send(&rpcpb.Step{Of: &rpcpb.Step_Progress{Progress: m}}); err != nil {
			return err
		}
	}
	return nil
}

// A mailbox holds progress that was not sent yet: of each run of one phase the
// latest, so that whoever reports never waits for whoever reads.
type mailbox struct {
	filled chan struct{} // capacity 1: there is something to take

	mu  sync.Mutex
	all []boxlite.Progress // guarded by mu
}

// mostPhases is how many phases a mailbox holds; older ones are dropped.
const mostPhases = 64

func (m *mailbox) put(p boxlite.Progress) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if n := len(m.all); n > 0 && m.all[n-1].Phase == p.Phase {
		m.all[n-1] = p
	} else if m.all = append(m.all, p); len(m.all) > mostPhases {
		m.all = m.all[1:]
	}
	select {
	case m.filled <- struct{}{}:
	default:
	}
}

func (m *mailbox) take() []boxlite.Progress {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := m.all
	m.all = nil
	return all
}
