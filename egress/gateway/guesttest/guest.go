// Package guesttest is a box's end of the link for tests: a network stack of its
// own in the test's process, and frames that no stack would send.
package guesttest

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"github.com/boxlite-mcp/boxlite-mcp/egress/gateway"
	"github.com/boxlite-mcp/boxlite-mcp/egress/gateway/link"
)

// GatewayMAC is the MAC address of the gateway, as a guest learns it by ARP.
var GatewayMAC = net.HardwareAddr{0x02, 0xb0, 0x11, 0, 0, 1}

// An Address is where a guest is on its link.
type Address struct {
	MAC     net.HardwareAddr
	Prefix  netip.Prefix // its address and subnet
	Gateway netip.Addr   // also its resolver
}

// A Guest is a box's network.
type Guest struct {
	at     Address
	stack  *stack.Stack
	link   *link.Endpoint
	raw    net.Conn // the same socket, for frames of the test's own
	served chan struct{}

	mu   sync.Mutex
	seen [][]byte // guarded by mu; frames that came in
}

// New returns a guest of package gateway's on socket, which it takes over, and
// closes both when the test ends.
func New(tb testing.TB, socket *os.File) *Guest {
	tb.Helper()
	g, err := Open(socket, Address{gateway.BoxMAC(), gateway.BoxAddress, gateway.Address})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(g.Close)
	return g
}

// Open returns a guest at an address on socket, which it takes over also when it
// fails.
func Open(socket *os.File, at Address) (*Guest, error) {
	g := &Guest{at: at, served: make(chan struct{}), stack: stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, arp.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4},
	})}
	var err error
	if g.raw, err = net.FileConn(socket); err != nil {
		socket.Close()
		return nil, err
	}
	if g.link, err = link.New(socket, at.MAC, gateway.MTU, g.see); err != nil {
		g.raw.Close()
		return nil, err
	}
	sack := tcpip.TCPSACKEnabled(true)
	buffer := tcpip.TCPReceiveBufferSizeRangeOption{Min: 4096, Default: 1 << 20, Max: 4 << 20}
	for _, step := range []func() tcpip.Error{
		func() tcpip.Error { return g.stack.CreateNIC(1, g.link) },
		func() tcpip.Error {
			return g.stack.AddProtocolAddress(1, tcpip.ProtocolAddress{Protocol: ipv4.ProtocolNumber, AddressWithPrefix: tcpip.AddressWithPrefix{
				Address: tcpip.AddrFrom4(at.Prefix.Addr().As4()), PrefixLen: at.Prefix.Bits(),
			}}, stack.AddressProperties{})
		},
		func() tcpip.Error { return g.stack.SetTransportProtocolOption(tcp.ProtocolNumber, &sack) },
		func() tcpip.Error { return g.stack.SetTransportProtocolOption(tcp.ProtocolNumber, &buffer) },
	} {
		if err := step(); err != nil {
			g.link.Close()
			g.raw.Close()
			return nil, errors.New(err.String())
		}
	}
	g.stack.SetRouteTable([]tcpip.Route{
		{Destination: subnet(at.Prefix), NIC: 1},
		{Destination: header.IPv4EmptySubnet, Gateway: tcpip.AddrFrom4(at.Gateway.As4()), NIC: 1},
	})
	go func() { defer close(g.served); _ = g.link.Serve() }()
	return g, nil
}

func subnet(p netip.Prefix) tcpip.Subnet {
	return tcpip.AddressWithPrefix{Address: tcpip.AddrFrom4(p.Masked().Addr().As4()), PrefixLen: p.Bits()}.Subnet()
}

// Close ends the guest.
func (g *Guest) Close() {
	g.link.Close()
	g.raw.Close()
	<-g.served
	g.stack.Destroy()
}

// see keeps a frame that came in.
func (g *Guest) see(frame []byte) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.seen) < 1000 {
		g.seen = append(g.seen, append([]byte(nil), frame...))
	}
	return true
}

// Frames returns the frames that came in since the last call, at most 1000.
func (g *Guest) Frames() [][]byte {
	g.mu.Lock()
	defer g.mu.Unlock()
	list := g.seen
	g.seen = nil
	return list
}

// Send sends a frame as it is. It panics if the link is closed.
func (g *Guest) Send(frame []byte) {
	if _, err := g.raw.Write(frame); err != nil {
		panic(err)
	}
}

// Dial opens a TCP connection to an address.
func (g *Guest) Dial(to netip.AddrPort) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return gonet.DialContextTCP(ctx, g.stack, full(to), ipv4.ProtocolNumber)
}

// DialUDP opens a UDP socket for an address.
func (g *Guest) DialUDP(to netip.AddrPort) (net.Conn, error) {
	at := full(to)
	return gonet.DialUDP(g.stack, nil, &at, ipv4.ProtocolNumber)
}

// DialName looks a name up and opens a TCP connection to it.
func (g *Guest) DialName(name string, port uint16) (net.Conn, error) {
	addr, err := g.Lookup(name)
	if err != nil {
		return nil, err
	}
	return g.Dial(netip.AddrPortFrom(addr, port))
}

func full(to netip.AddrPort) tcpip.FullAddress {
	return tcpip.FullAddress{NIC: 1, Addr: tcpip.AddrFrom4(to.Addr().As4()), Port: to.Port()}
}

// Lookup asks the gateway's DNS for the address of a name. Its error is the DNS
// code, such as "NXDOMAIN", or "no address".
func (g *Guest) Lookup(name string) (netip.Addr, error) {
	q, err := question(name, dnsmessage.TypeA)
	if err != nil {
		return netip.Addr{}, err
	}
	reply, err := g.Ask(q)
	if err != nil {
		return netip.Addr{}, err
	}
	if reply.RCode != dnsmessage.RCodeSuccess {
		return netip.Addr{}, errors.New(reply.RCode.String())
	}
	for _, a := range reply.Answers {
		if a, ok := a.Body.(*dnsmessage.AResource); ok {
			return netip.AddrFrom4(a.A), nil
		}
	}
	return netip.Addr{}, errors.New("no address")
}

// Question returns a DNS message.
func Question(tb testing.TB, name string, kind dnsmessage.Type) []byte {
	tb.Helper()
	b, err := question(name, kind)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

func question(name string, kind dnsmessage.Type) ([]byte, error) {
	n, err := dnsmessage.NewName(name + ".")
	if err != nil {
		return nil, err
	}
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: 7, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: n, Type: kind, Class: dnsmessage.ClassINET}},
	}
	return m.Pack()
}

// Ask sends a DNS message by UDP and returns what it says.
func (g *Guest) Ask(msg []byte) (reply dnsmessage.Message, err error) {
	c, err := g.DialUDP(netip.AddrPortFrom(g.at.Gateway, 53))
	if err != nil {
		return reply, err
	}
	defer c.Close()
	if _, err = c.Write(msg); err != nil {
		return reply, err
	}
	_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
	buf := make([]byte, 1500)
	n, err := c.Read(buf)
	if err != nil {
		return reply, err
	}
	return reply, reply.Unpack(buf[:n])
}

// IPv4 returns a frame of the guest's with an IPv4 packet, whose checksum is
// right.
func IPv4(proto byte, src, dst netip.Addr, payload []byte) []byte {
	f := Frame(0x0800, make([]byte, 20+len(payload)))
	p := f[14:]
	p[0], p[8], p[9] = 0x45, 64, proto
	binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
	s, d := src.As4(), dst.As4()
	copy(p[12:], s[:])
	copy(p[16:], d[:])
	copy(p[20:], payload)
	h := header.IPv4(p)
	h.SetChecksum(0)
	h.SetChecksum(^h.CalculateChecksum())
	return f
}

// Frame returns a frame from the guest to the gateway.
func Frame(etherType uint16, payload []byte) []byte {
	f := make([]byte, 0, 14+len(payload))
	f = append(f, GatewayMAC...)
	f = append(f, gateway.BoxMAC()...)
	f = binary.BigEndian.AppendUint16(f, etherType)
	return append(f, payload...)
}

// SYN returns the first segment of a TCP connection. Its checksum is left out.
func SYN(from, to uint16) []byte {
	h := make([]byte, 20)
	header.TCP(h).Encode(&header.TCPFields{SrcPort: from, DstPort: to, SeqNum: 1, DataOffset: 20, Flags: header.TCPFlagSyn, WindowSize: 65535})
	return h
}

// UDP returns a datagram without a checksum.
func UDP(from, to uint16, data []byte) []byte {
	h := make([]byte, 8, 8+len(data))
	binary.BigEndian.PutUint16(h, from)
	binary.BigEndian.PutUint16(h[2:], to)
	binary.BigEndian.PutUint16(h[4:], uint16(8+len(data)))
	return append(h, data...)
}
