package vm

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/jsimonetti/rtnetlink/v2"
	"golang.org/x/sys/unix"

	"github.com/boxlite-mcp/boxlite-mcp/agent/vmboot"
)

// setUpNetwork brings up the loopback, and the one other interface where the
// machine is to have one.
func setUpNetwork(nic *vmboot.NIC) error {
	conn, err := rtnetlink.Dial(nil)
	if err != nil {
		return fmt.Errorf("set up the network: %w", err)
	}
	defer conn.Close()
	if err := bringUp(conn, "lo", 0); err != nil {
		return err
	}
	if nic == nil {
		return nil
	}
	const name = "eth0"
	if err := await("the interface "+name, func() error { _, err := net.InterfaceByName(name); return err }); err != nil {
		return err
	}
	// The gateway has no IPv6: do not let the kernel look for neighbours there.
	if err := os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/disable_ipv6", []byte("1"), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("turn IPv6 off: %w", err)
	}
	if err := bringUp(conn, name, nic.MTU); err != nil {
		return err
	}
	link, err := net.InterfaceByName(name)
	if err != nil {
		return err
	}
	address := nic.Address.Addr().AsSlice()
	err = conn.Address.New(&rtnetlink.AddressMessage{
		Family: unix.AF_INET, PrefixLength: uint8(nic.Address.Bits()), Scope: unix.RT_SCOPE_UNIVERSE, Index: uint32(link.Index),
		Attributes: &rtnetlink.AddressAttributes{Address: address, Local: address, Broadcast: broadcast(nic.Address)},
	})
	if err != nil {
		return fmt.Errorf("set the address of %s: %w", name, err)
	}
	err = conn.Route.Add(&rtnetlink.RouteMessage{
		Family: unix.AF_INET, Table: unix.RT_TABLE_MAIN, Protocol: unix.RTPROT_BOOT, Scope: unix.RT_SCOPE_UNIVERSE, Type: unix.RTN_UNICAST,
		Attributes: rtnetlink.RouteAttributes{Gateway: nic.Gateway.AsSlice(), OutIface: uint32(link.Index)},
	})
	if err != nil {
		return fmt.Errorf("set the route by %s: %w", name, err)
	}
	return nil
}

func bringUp(conn *rtnetlink.Conn, name string, mtu int) error {
	link, err := net.InterfaceByName(name)
	if err != nil {
		return fmt.Errorf("set up the network: %w", err)
	}
	var attributes *rtnetlink.LinkAttributes
	if mtu > 0 {
		attributes = &rtnetlink.LinkAttributes{MTU: uint32(mtu)}
	}
	err = conn.Link.Set(&rtnetlink.LinkMessage{Index: uint32(link.Index), Flags: unix.IFF_UP, Change: unix.IFF_UP, Attributes: attributes})
	if err != nil {
		return fmt.Errorf("bring up %s: %w", name, err)
	}
	return nil
}

// broadcast returns the last address of a subnet.
func broadcast(p netip.Prefix) net.IP {
	ip := net.IP(p.Masked().Addr().AsSlice())
	for i, m := range net.CIDRMask(p.Bits(), len(ip)*8) {
		ip[i] |= ^m
	}
	return ip
}
