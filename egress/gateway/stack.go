package gateway

import (
	"errors"
	"net"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// nic is the one interface of the stack.
const nic = 1

// tcpBuffer bounds what the stack holds of one direction of a connection, in
// bytes: on this link a round trip takes microseconds, so more would not make
// it faster.
const tcpBuffer = 1 << 20

// openStack makes the stack on the link. It takes packets for any address: what
// the box means by an address is for the handlers to find out.
func (g *Gateway) openStack() error {
	g.stack = stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, arp.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4},
	})
	s := g.stack
	steps := []func() tcpip.Error{
		func() tcpip.Error { return s.CreateNIC(nic, g.link) },
		func() tcpip.Error {
			return s.AddProtocolAddress(nic, tcpip.ProtocolAddress{
				Protocol:          ipv4.ProtocolNumber,
				AddressWithPrefix: tcpip.AddressWithPrefix{Address: address(Address), PrefixLen: BoxAddress.Bits()},
			}, stack.AddressProperties{})
		},
		func() tcpip.Error {
			return s.AddStaticNeighbor(nic, ipv4.ProtocolNumber, address(BoxAddress.Addr()), tcpip.LinkAddress(boxMAC))
		},
		func() tcpip.Error { return s.SetPromiscuousMode(nic, true) },
		func() tcpip.Error { return s.SetSpoofing(nic, true) },
		func() tcpip.Error {
			v := tcpip.TCPSACKEnabled(true)
			return s.SetTransportProtocolOption(tcp.ProtocolNumber, &v)
		},
		func() tcpip.Error {
			v := tcpip.TCPReceiveBufferSizeRangeOption{Min: tcp.MinBufferSize, Default: tcpBuffer, Max: tcpBuffer}
			return s.SetTransportProtocolOption(tcp.ProtocolNumber, &v)
		},
		func() tcpip.Error {
			v := tcpip.TCPSendBufferSizeRangeOption{Min: tcp.MinBufferSize, Default: tcpBuffer, Max: tcpBuffer}
			return s.SetTransportProtocolOption(tcp.ProtocolNumber, &v)
		},
	}
	for _, step := range steps {
		if err := step(); err != nil {
			s.Destroy()
			return errors.New(err.String())
		}
	}
	s.SetRouteTable([]tcpip.Route{{Destination: header.IPv4EmptySubnet, NIC: nic}})
	if err := g.serveDNS(); err != nil {
		s.Destroy()
		return err
	}
	s.SetTransportProtocolHandler(tcp.ProtocolNumber, tcp.NewForwarder(s, 0, g.cfg.Limits.Connections, g.acceptTCP).HandlePacket)
	s.SetTransportProtocolHandler(udp.ProtocolNumber, udp.NewForwarder(s, g.acceptUDP).HandlePacket)
	return nil
}

func address(a netip.Addr) tcpip.Address { return tcpip.AddrFrom4(a.As4()) }

func addrPort(a tcpip.Address, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4(a.As4()), port)
}

// dest and guest return the ends of a connection of the box.
func dest(id stack.TransportEndpointID) netip.AddrPort {
	return addrPort(id.LocalAddress, id.LocalPort)
}
func guest(id stack.TransportEndpointID) netip.AddrPort {
	return addrPort(id.RemoteAddress, id.RemotePort)
}

// handshake completes a connection of the box; nil if the box did not.
func handshake(req *tcp.ForwarderRequest) net.Conn {
	var wq waiter.Queue
	ep, err := req.CreateEndpoint(&wq)
	if err != nil {
		req.Complete(true)
		return nil
	}
	req.Complete(false)
	ep.SocketOptions().SetKeepAlive(true)
	return gonet.NewTCPConn(&wq, ep)
}
