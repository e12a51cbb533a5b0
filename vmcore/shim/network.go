package shim

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/agent"
	"github.com/boxlite-mcp/boxlite-mcp/egress"
	"github.com/boxlite-mcp/boxlite-mcp/egress/gateway"
	"github.com/boxlite-mcp/boxlite-mcp/egress/gateway/link"
	"github.com/boxlite-mcp/boxlite-mcp/egress/intercept"
	"github.com/boxlite-mcp/boxlite-mcp/egress/policy"
	"github.com/boxlite-mcp/boxlite-mcp/secrets"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/engine"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/shim/shimpb"
)

// A Network is the network that a box gets, or has from now on.
type Network struct {
	Off      bool     `json:"off,omitempty"`       // nothing is reached, although there is an interface
	AllowNet []string `json:"allow_net,omitempty"` // as in a [boxlite.NetworkSpec]
	Static   []string `json:"static,omitempty"`    // the operator's entries, as [policy.ParseStatic] reads them
	RootCAs  []byte   `json:"root_cas,omitempty"`  // PEM; verify hosts beside the system's, for connections that are read
	Secrets  []Grant  `json:"secrets,omitempty"`

	Limits gateway.Limits `json:"limits,omitzero"` // of what it gets; they stay as they are until it stops
}

// A Grant is a secret with its value, on the pipe or socket between the runtime
// and a shim. It prints as a [boxlite.Secret] does; only its JSON has the value.
type Grant struct{ boxlite.Secret }

type wireGrant struct {
	boxlite.Secret
	Plain string `json:"value"`
}

// MarshalJSON returns the secret with its value.
func (g Grant) MarshalJSON() ([]byte, error) {
	return json.Marshal(wireGrant{g.Secret, g.Value.Reveal()})
}

// UnmarshalJSON reads the secret with its value.
func (g *Grant) UnmarshalJSON(data []byte) error {
	var w wireGrant
	if err := json.Unmarshal(data, &w); err != nil {
		return errors.New("a secret cannot be read") // an error of the parser might quote it
	}
	g.Secret = w.Secret
	g.Value = boxlite.NewSecretValue(w.Plain)
	return nil
}

// readsHTTP reports whether some connections of the box are read, so that it has
// to trust our authority.
func (n *Network) readsHTTP() bool {
	access, err := policy.ParseAccess(n.AllowNet)
	return len(n.Secrets) > 0 || err == nil && access.ReadsHTTP()
}

// secretSet returns the secrets as the interceptor has them.
func (n *Network) secretSet() (*secrets.Set, error) {
	var list []boxlite.Secret
	for _, g := range n.Secrets {
		list = append(list, g.Secret)
	}
	return secrets.NewSet(list)
}

// policy returns what the box may reach.
//
// Errors: Config.
func (n *Network) policy(intercepts func(name string) bool) (*policy.Policy, error) {
	access, err := policy.ParseAccess(n.AllowNet)
	if err != nil {
		return nil, err
	}
	if n.Off {
		access = policy.Access{Mode: policy.List}
	}
	cfg := policy.Config{Access: access, Own: egress.HostAddresses(), BoxNets: []netip.Prefix{gateway.BoxNet}, Intercepts: intercepts}
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
	set, err := n.secretSet()
	if err != nil {
		return nil, err
	}
	authority, err := intercept.NewAuthority("boxlite-mcp box " + string(s.cfg.Box))
	if err != nil {
		return nil, &boxlite.Error{Op: "open network", Kind: boxlite.Network, Ref: string(s.cfg.Box), Err: err}
	}
	s.trust.set(authority)
	roots, err := rootCAs(n.RootCAs)
	if err != nil {
		return nil, err
	}
	s.interceptor = intercept.New(intercept.Config{Authority: authority, Secrets: set, RootCAs: roots, Log: s.log})
	p, err := n.policy(s.readsQUIC)
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
		Box: s.cfg.Box, Policy: p, Interceptor: s.interceptor, Record: s.netLog.add, FirstSeq: s.netLog.next(), Limits: n.Limits, Log: s.log,
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

// readsQUIC reports whether HTTP/3 to a host would pass what reads HTTP.
func (s *server) readsQUIC(name string) bool { return s.interceptor.Intercepts(name, 443) }

// rootCAs returns the host's authorities and the operator's.
func rootCAs(pem []byte) (*x509.CertPool, error) {
	if len(pem) == 0 {
		return nil, nil
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool() // a host without any; the operator's are enough
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, &boxlite.Error{Op: "read root certificates", Kind: boxlite.Config, Err: errors.New("there is no certificate in them"), Hint: "Give a file of PEM certificates."}
	}
	return pool, nil
}

// SetNetwork replaces what the box may reach, and its secrets.
func (s *server) SetNetwork(ctx context.Context, req *shimpb.Words) (*shimpb.Empty, error) {
	var n Network
	if err := json.Unmarshal(req.Json, &n); err != nil {
		return nil, &boxlite.Error{Op: "set network", Kind: boxlite.InvalidArgument, Err: errors.New("the network cannot be read")}
	}
	if s.gateway == nil {
		return nil, &boxlite.Error{Op: "set network", Kind: boxlite.InvalidState, Ref: string(s.cfg.Box),
			Err: errors.New("the box was started without a network"), Hint: "Stop the box and start it again."}
	}
	set, err := n.secretSet()
	if err != nil {
		return nil, err
	}
	p, err := n.policy(s.readsQUIC)
	if err != nil {
		return nil, err
	}
	s.interceptor.SetSecrets(set)
	s.gateway.SetPolicy(p)
	if n.readsHTTP() {
		return &shimpb.Empty{}, s.trustAuthority(ctx)
	}
	return &shimpb.Empty{}, nil
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
	if s.cfg.Network.readsHTTP() {
		return s.trustAuthority(ctx)
	}
	return nil
}

// NetworkLogPath returns the path of the network log of the box in dir.
func NetworkLogPath(dir string) string { return filepath.Join(dir, "log", "network.jsonl") }
