package cli

import (
	"context"
	"errors"
	"sync"
	"time"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
)

// A link is a connection to the home's Service that can be made again. It may
// be used concurrently. Close must be called.
type link struct {
	connect func(context.Context) (boxlite.Service, func() error, error)
	// patience is how long lost connections are made again without one call
	// succeeding in between.
	patience time.Duration

	mu    sync.Mutex
	svc   boxlite.Service // guarded by mu; nil: not connected
	close func() error    // guarded by mu
}

func (a *App) newLink(c Config) *link {
	return &link{patience: 30 * time.Second, connect: func(ctx context.Context) (boxlite.Service, func() error, error) {
		return a.Connect(ctx, c)
	}}
}

// service returns the Service, connecting where that is needed.
func (l *link) service(ctx context.Context) (boxlite.Service, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.svc != nil {
		return l.svc, nil
	}
	svc, closer, err := l.connect(ctx)
	if err != nil {
		return nil, err
	}
	l.svc, l.close = svc, closer
	return svc, nil
}

// drop lets go of a Service whose connection was lost.
func (l *link) drop(lost boxlite.Service) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.svc == lost {
		_ = l.letGo() // it is lost already
	}
}

// letGo needs mu.
func (l *link) letGo() error {
	closer := l.close
	l.svc, l.close = nil, nil
	if closer == nil {
		return nil
	}
	return closer()
}

// Close lets go of the connection.
func (l *link) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.letGo()
}

// once calls fn with the Service.
func (l *link) once(ctx context.Context, fn func(boxlite.Service) error) error {
	svc, err := l.service(ctx)
	if err != nil {
		return err
	}
	err = fn(svc)
	if lost(err) {
		l.drop(svc)
	}
	return err
}

// again calls fn with the Service until the connection is not lost under it.
// fn must be something that may be done twice.
func (l *link) again(ctx context.Context, fn func(boxlite.Service) error) error {
	deadline := time.Now().Add(l.patience)
	for pause := 20 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		err := l.once(ctx, fn)
		if !lost(err) || ctx.Err() != nil || time.Now().Add(pause).After(deadline) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause):
		}
	}
}

// lost reports whether err says that the connection is gone.
func lost(err error) bool { return errors.Is(err, boxlite.RpcTransport) }
