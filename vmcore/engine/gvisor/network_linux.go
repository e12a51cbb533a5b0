package gvisor

import (
	"net"
	"net/netip"
	"os"

	"github.com/boxlite-mcp/boxlite-mcp/vmcore/engine"
)

// The words in which a sandbox is told its network, gVisor's
// boot.CreateLinksAndRoutesArgs as JSON.
type (
	links struct {
		LoopbackLinks    []loopbackLink
		FDBasedLinks     []fdLink
		Defaultv4Gateway defaultRoute
		Defaultv6Gateway defaultRoute
	}
	loopbackLink struct {
		Name      string
		Addresses []address
		Routes    []route
	}
	fdLink struct {
		Name              string
		MTU               int
		Addresses         []address
		Routes            []route
		RXChecksumOffload bool
		LinkAddress       net.HardwareAddr
		NumChannels       int
	}
	address struct {
		Address   net.IP
		PrefixLen int
	}
	route struct {
		Destination net.IPNet
		Gateway     net.IP
	}
	defaultRoute struct {
		Route route
		Name  string
	}
)

// networkArgs returns a loopback interface, and eth0 if there is a NIC.
func networkArgs(nic *engine.NIC) links {
	l := links{LoopbackLinks: []loopbackLink{{
		Name: "lo",
		Addresses: []address{
			{net.IPv4(127, 0, 0, 1).To4(), 8},
			{net.IPv6loopback, 128},
		},
		Routes: []route{
			{Destination: net.IPNet{IP: net.IPv4(127, 0, 0, 0).To4(), Mask: net.CIDRMask(8, 32)}},
			{Destination: net.IPNet{IP: net.IPv6loopback, Mask: net.CIDRMask(128, 128)}},
		},
	}}}
	if nic == nil {
		return l
	}
	subnet := nic.Address.Masked()
	l.FDBasedLinks = []fdLink{{
		Name:              "eth0",
		MTU:               nic.MTU,
		Addresses:         []address{{ip(nic.Address.Addr()), nic.Address.Bits()}},
		Routes:            []route{{Destination: net.IPNet{IP: ip(subnet.Addr()), Mask: net.CIDRMask(subnet.Bits(), subnet.Addr().BitLen())}}},
		RXChecksumOffload: true, // the socket is not a wire: nothing flips bits
		LinkAddress:       nic.MAC,
		NumChannels:       1,
	}}
	if nic.Gateway.IsValid() {
		bits := 8 * len(ip(nic.Gateway))
		r := defaultRoute{Name: "eth0", Route: route{
			Destination: net.IPNet{IP: make(net.IP, bits/8), Mask: net.CIDRMask(0, bits)},
			Gateway:     ip(nic.Gateway),
		}}
		if nic.Gateway.Unmap().Is4() {
			l.Defaultv4Gateway = r
		} else {
			l.Defaultv6Gateway = r
		}
	}
	return l
}

func ip(a netip.Addr) net.IP { return a.Unmap().AsSlice() }

func nicFiles(nic *engine.NIC) []*os.File {
	if nic == nil {
		return nil
	}
	return []*os.File{nic.Socket}
}
