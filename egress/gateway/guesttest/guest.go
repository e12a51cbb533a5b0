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

// A Guest is a box's network.
type Guest struct {
	tb    testing.TB
	stack *stack.Stack
	link  *link.Endpoint
	raw   net.Conn // the same socket, for frames of the test's own

	mu   sync.Mutex
	seen [][]byte // guarded by mu; frames that came in
}

// New returns a guest on socket, which it takes over, and closes both when the
// test ends.
func New(tb testing.TB, socket *os.File) *Guest {
	tb.Helper()
	g := &Guest{tb: tb, stack: stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, arp.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4},
	})}
	raw, err := net.FileConn(socket)
	if err != nil {
		tb.Fatal(err)
	}
	g.raw = raw
	if g.link, err = link.New(socket, gateway.BoxMAC(), gateway.MTU, g.see); err != nil {
		tb.Fatal(err)
	}
	must := func(err tcpip.Error) {
		if err != nil {
			tb.Fatal(err)
		}
	}
	must(g.stack.CreateNIC(1, g.link))
	must(g.stack.AddProtocolAddress(1, tcpip.ProtocolAddress{Protocol: ipv4.ProtocolNumber, AddressWithPrefix: tcpip.AddressWithPrefix{
		Address: tcpip.AddrFrom4(gateway.BoxAddress.Addr().As4()), PrefixLen: gateway.BoxAddress.Bits(),
	}}, stack.AddressProperties{}))
	sack := tcpip.TCPSACKEnabled(true)
	must(g.stack.SetTransportProtocolOption(tcp.ProtocolNumber, &sack))
	g.stack.SetRouteTable([]tcpip.Route{{Destination: header.IPv4EmptySubnet, Gateway: tcpip.AddrFrom4(gateway.Address.As4()), NIC: 1}})
	served := make(chan struct{})
	go func() { defer close(served); _ = g.link.Serve() }()
	tb.Cleanup(func() {
		g.link.Close()
		g.raw.Close()
		<-served
		g.stack.Destroy()
	})
	return g
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

// Send sends a frame as it is.
func (g *Guest) Send(frame []byte) {
	g.tb.Helper()
	if _, err := g.raw.Write(frame); err != nil {
		g.tb.Fatal(err)
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
	g.tb.Helper()
	reply, err := g.Ask(Question(g.tb, name, dnsmessage.TypeA))
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
	n, err := dnsmessage.NewName(name + ".")
	if err != nil {
		tb.Fatal(err)
	}
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: 7, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: n, Type: kind, Class: dnsmessage.ClassINET}},
	}
	b, err := m.Pack()
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// Ask sends a DNS message by UDP and returns what it says.
func (g *Guest) Ask(msg []byte) (reply dnsmessage.Message, err error) {
	c, err := g.DialUDP(netip.AddrPortFrom(gateway.Address, 53))
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
