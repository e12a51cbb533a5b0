package vmcore

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"syscall"
	"time"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/egress"
	"github.com/boxlite-mcp/boxlite-mcp/egress/gateway"
	"github.com/boxlite-mcp/boxlite-mcp/egress/policy"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/image"
)

// named are the registries that a person has named, who may mean one in a
// private network. Where such a registry sends us (redirects, token servers) is
// not among them.
func (rt *Runtime) named(lists ...[]image.Registry) {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	for _, list := range lists {
		for _, r := range list {
			host, _, _ := strings.Cut(r.Host, "/")
			if _, _, err := net.SplitHostPort(host); err != nil {
				port := "443"
				if r.HTTP {
					port = "80"
				}
				host = net.JoinHostPort(host, port)
			}
			rt.registries[host] = true
		}
	}
}

// dialRegistry connects to a registry, or to where one sends us: only to public
// addresses, unless a person has named it; never to what no box may reach. Each
// attempt is a record.
func (rt *Runtime) dialRegistry(ctx context.Context, network, address string) (net.Conn, error) {
	rt.mu.Lock()
	byName := rt.registries[address]
	rt.mu.Unlock()
	host, portText, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return nil, err
	}
	e := boxlite.NetworkEvent{Kind: boxlite.NetPull, Time: time.Now().UTC(), Proto: "tcp", Host: host, Port: uint16(port),
		Allowed: true, Code: policy.Allowed.String(), Reason: "an image is pulled"}
	d := net.Dialer{ControlContext: func(_ context.Context, _, to string, _ syscall.RawConn) error {
		at, err := netip.ParseAddrPort(to)
		if err != nil {
			return err
		}
		e.Addr = netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
		if verdict := decidePull(byName, host, e.Addr); !verdict.Allow {
			e.Allowed, e.Code, e.Reason = false, verdict.Code.String(), verdict.Reason
			return &boxlite.Error{Op: "pull image", Kind: boxlite.Denied, Ref: address, Err: fmt.Errorf("%s", verdict.Reason),
				Hint: "If it is a registry of yours, name it with --registry " + address + "."}
		}
		return nil
	}}
	c, err := d.DialContext(ctx, strings.TrimSuffix(network, "6"), address)
	if err != nil && e.Allowed {
		e.Code, e.Reason = egress.CodeUnreachable, err.Error()
	}
	if noted := rt.audit.note(context.WithoutCancel(ctx), e); noted != nil {
		rt.log.Warn("a pull was not recorded", "host", host, "err", noted)
	}
	return c, err
}

// decidePull judges the very address that is about to be dialled.
func decidePull(byName bool, host string, to netip.AddrPort) policy.Decision {
	access := policy.Access{Mode: policy.PublicInternet}
	p, err := policy.New(policy.Config{Access: access, Own: func() ([]netip.Prefix, error) { return nil, nil }, BoxNets: []netip.Prefix{gateway.BoxNet}})
	if err != nil {
		return policy.Decision{Code: policy.Undecided, Reason: err.Error()}
	}
	d := p.DecideAddr(policy.TCP, to.Addr(), to.Port())
	special := d.Code == policy.SpecialAddress || d.Code == policy.IPv6
	if special && (byName || d.Code == policy.IPv6 && to.Addr().IsGlobalUnicast() && !to.Addr().IsPrivate()) {
		return policy.Decision{Allow: true, Code: policy.Allowed, Reason: "registry " + host + " is configured"}
	}
	return d
}
