package shim

import (
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/agent"
	"github.com/boxlite-mcp/boxlite-mcp/egress"
	"github.com/boxlite-mcp/boxlite-mcp/egress/gateway"
	"github.com/boxlite-mcp/boxlite-mcp/egress/gateway/link"
	"github.com/boxlite-mcp/boxlite-mcp/egress/policy"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/engine"
)

// A Network is the network that a box gets.
type Network struct {
	AllowNet []string `json:"allow_net,omitempty"` // as in a [boxlite.NetworkSpec]
	Static   []string `json:"static,omitempty"`    // the operator's entries, as [policy.ParseStatic] reads them
}

// policy returns what the box may reach.
//
// Errors: Config.
func (n *Network) policy() (*policy.Policy, error) {
	access, err := policy.ParseAccess(n.AllowNet)
	if err != nil {
		return nil, err
	}
	cfg := policy.Config{Access: access, Own: egress.HostAddresses(), BoxNets: []netip.Prefix{gateway.BoxNet}}
	for _, s := range n.Static {
		entry, err := policy.ParseStatic(s)
		if err != nil {
			return nil, err
		}
		cfg.Static = append(cfg.Static, entry)
	}
	return policy.New(cfg)
}

// openNetwork starts the gateway, before there is anything that could send a
// frame, and returns the interface for the machine. Whatever fails here fails
// the start of the box.
//
// Errors: Config, Network, Storage.
func (s *server) openNetwork() (*engine.NIC, error) {
	n := s.cfg.Network
	if n == nil {
		return nil, nil
	}
	p, err := n.policy()
	if err != nil {
		return nil, err
	}
	if s.netLog, err = openNetworkLog(NetworkLogPath(s.cfg.Dir)); err != nil {
		return nil, &boxlite.Error{Op: "open network log", Kind: boxlite.Storage, Ref: string(s.cfg.Box), Err: err}
	}
	ours, theirs, err := link.Pair()
	if err != nil {
		return nil, &boxlite.Error{Op: "open network", Kind: boxlite.Network, Ref: string(s.cfg.Box), Err: err}
	}
	s.gateway, err = gateway.New(gateway.Config{
		Box: s.cfg.Box, Policy: p, Record: s.netLog.add, FirstSeq: s.netLog.next(), Log: s.log,
	}, ours)
	if err != nil {
		theirs.Close()
		return nil, err
	}
	return &engine.NIC{
		Socket: theirs, MAC: gateway.BoxMAC(), MTU: gateway.MTU,
		Address: gateway.BoxAddress, Gateway: gateway.Address, DNS: []netip.Addr{gateway.Address},
	}, nil
}

// closeNetwork ends what openNetwork began. It may be called at any time, once.
func (s *server) closeNetwork() {
	if s.gateway != nil {
		_ = s.gateway.Close()
	}
	if s.netLog != nil {
		if err := s.netLog.close(); err != nil {
			s.log.Error("the network log was not written to its end", "err", err)
		}
	}
}

// watchNetwork stops the box when its gateway fails: with one that does not
// answer, programs in it would only hang.
func (s *server) watchNetwork() {
	if s.gateway == nil {
		return
	}
	select {
	case <-s.gateway.Done():
		reason := "its network failed"
		if err := s.gateway.Err(); err != nil {
			reason += ": " + err.Error()
		}
		s.stop(reason, 0)
	case <-s.stopped:
	}
}

// setUpNetwork tells the box's programs how to resolve names.
func (s *server) setUpNetwork(ctx context.Context) error {
	if s.gateway == nil {
		return nil
	}
	const path = "/etc/resolv.conf"
	text := fmt.Sprintf("# Written by boxlite-mcp at each start.\nnameserver %s\noptions timeout:5 attempts:2\n", gateway.Address)
	opts := agent.WriteOptions{Mode: 0o644, User: "0:0", CreateParents: true}
	if _, err := s.agent.WriteFile(ctx, path, strings.NewReader(text), opts); err != nil {
		return fmt.Errorf("write %s in the box: %w", path, err)
	}
	return nil
}

// NetworkLogPath returns the path of the network log of the box in dir.
func NetworkLogPath(dir string) string { return filepath.Join(dir, "log", "network.jsonl") }
