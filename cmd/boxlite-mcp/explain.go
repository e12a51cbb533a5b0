package main

import (
	"context"
	"net"
	"net/netip"
	"time"

	"github.com/boxlite-mcp/boxlite-mcp/egress"
	"github.com/boxlite-mcp/boxlite-mcp/egress/gateway"
	"github.com/boxlite-mcp/boxlite-mcp/egress/policy"
	"github.com/boxlite-mcp/boxlite-mcp/internal/cli"
)

// lookupTime bounds one lookup of explain-net.
const lookupTime = 10 * time.Second

// explainNet asks the policy that q describes about a connection.
//
// Errors: Config for a rule or an entry.
func explainNet(ctx context.Context, q cli.NetQuestion) ([]cli.NetStep, error) {
	access, err := policy.ParseAccess(q.Allow)
	if err != nil {
		return nil, err
	}
	var static []policy.Static
	for _, s := range q.Static {
		entry, err := policy.ParseStatic(s)
		if err != nil {
			return nil, err
		}
		static = append(static, entry)
	}
	p, err := policy.New(policy.Config{Access: access, Own: egress.HostAddresses(), Static: static, BoxNets: []netip.Prefix{gateway.BoxNet}})
	if err != nil {
		return nil, err
	}
	var resolve func(string) ([]netip.Addr, error)
	if q.Resolve {
		resolve = func(name string) ([]netip.Addr, error) {
			ctx, cancel := context.WithTimeout(ctx, lookupTime)
			defer cancel()
			list, err := net.DefaultResolver.LookupNetIP(ctx, "ip4", name+".")
			for i := range list {
				list[i] = list[i].Unmap()
			}
			return list, err
		}
	}
	var steps []cli.NetStep
	for _, s := range p.Explain(q.Dest, resolve) {
		d := s.Decision
		steps = append(steps, cli.NetStep{Stage: s.Stage, Subject: s.Subject, Allow: d.Allow, Code: d.Code.String(), Rule: d.Rule, Reason: d.Reason})
	}
	return steps, nil
}
