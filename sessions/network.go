package sessions

import (
	"context"
	"errors"
	"slices"
	"strings"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/secrets"
)

// The sizes of a piece of a network log.
const (
	defaultEvents = 100
	maxEvents     = 10000
)

// NetworkLog implements boxlite.Networks.
func (s *Session) NetworkLog(_ context.Context, req boxlite.NetworkLogRequest) (boxlite.NetworkLog, error) {
	limit := req.Limit
	if limit <= 0 {
		limit = defaultEvents
	}
	limit = min(limit, maxEvents)
	list, err := s.events(req, limit+1, func(e boxlite.NetworkEvent) bool {
		return !e.Time.Before(req.Since) && !(req.Denied && e.Allowed && !e.Failed())
	})
	log := boxlite.NetworkLog{Events: list, More: len(list) > limit}
	if log.More {
		log.Events = list[1:]
	}
	if log.Events == nil {
		log.Events = []boxlite.NetworkEvent{}
	}
	return log, err
}

// events returns records of a box, or of all that the session sees.
func (s *Session) events(req boxlite.NetworkLogRequest, limit int, match func(boxlite.NetworkEvent) bool) ([]boxlite.NetworkEvent, error) {
	if req.Box == "" {
		return s.rt.Audit(limit, func(e boxlite.NetworkEvent) bool {
			return (s.scope.All || e.Principal == s.scope.Principal && e.Box != "") && match(e)
		})
	}
	box, err := s.rt.Lookup(s.scope, req.Box)
	if err != nil {
		return nil, err
	}
	return box.NetworkLog(limit, req.Recent, match)
}

// ListSecrets implements boxlite.Secrets. Those of the client's configuration
// stand before the operator's of the same name.
func (s *Session) ListSecrets(context.Context) ([]boxlite.SecretInfo, error) {
	list, err := s.rt.Secrets()
	for _, own := range s.secrets {
		list = slices.DeleteFunc(list, func(i boxlite.SecretInfo) bool { return i.Name == own.Name })
		own.Value = boxlite.SecretValue{}
		if own.Placeholder == "" {
			own.Placeholder = boxlite.DefaultPlaceholder(own.Name)
		}
		list = append(list, boxlite.SecretInfo{Secret: own, Source: "client"})
	}
	slices.SortFunc(list, func(a, b boxlite.SecretInfo) int { return strings.Compare(a.Name, b.Name) })
	return list, err
}

// withValues gives the secrets that a box asks for, and that are of the client's
// configuration, their values: they become the box's own.
func (s *Session) withValues(asked []boxlite.Secret) ([]boxlite.Secret, error) {
	list := slices.Clone(asked)
	for i, a := range list {
		for _, own := range s.secrets {
			if own.Name != a.Name || !a.Value.IsZero() {
				continue
			}
			narrow, err := secrets.Narrow(own, a.Hosts)
			if err != nil {
				return nil, err
			}
			list[i] = narrow
		}
	}
	return list, nil
}

// SetSecret implements boxlite.Secrets.
func (s *Session) SetSecret(ctx context.Context, secret boxlite.Secret) (boxlite.SecretInfo, error) {
	if err := s.mustBeOperator("set secret"); err != nil {
		return boxlite.SecretInfo{}, err
	}
	return s.rt.SetSecret(ctx, secret)
}

// RemoveSecret implements boxlite.Secrets.
func (s *Session) RemoveSecret(ctx context.Context, name string) (boxlite.SecretInfo, error) {
	if err := s.mustBeOperator("remove secret"); err != nil {
		return boxlite.SecretInfo{}, err
	}
	return s.rt.RemoveSecret(ctx, name)
}

func (s *Session) mustBeOperator(op string) error {
	if s.scope.All {
		return nil
	}
	return &boxlite.Error{Op: op, Kind: boxlite.Denied, Err: errors.New("only the operator may"), Hint: "Use boxlite-mcp secret on the command line of the host."}
}
