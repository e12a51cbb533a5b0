package gateway

import (
	"bytes"
	"encoding/binary"
	"net/netip"
)

// A filter looks at each frame of the box before anything else does.
type filter struct {
	drop func(what string) // told why a frame was dropped
}

const (
	typeIPv4, typeARP, typeIPv6   = 0x0800, 0x0806, 0x86dd
	protoICMP, protoTCP, protoUDP = 1, 6, 17
)

// accept reports whether the stack gets the frame: ARP for the gateway's
// address, and unfragmented IPv4 from the box's own addresses with TCP, UDP or
// an echo request to the gateway. Frames are short: a link layer of their own is
// not worth having, and every one that is not plainly right is dropped.
func (f *filter) accept(frame []byte) bool {
	what := check(frame)
	if what != "" {
		f.drop(what)
	}
	return what == ""
}

// broadcastMAC is everyone on the link.
var broadcastMAC = []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// check returns what a frame is if it is not to be accepted.
func check(frame []byte) string {
	if len(frame) < 14 {
		return "runt"
	}
	dst, src, payload := frame[:6], frame[6:12], frame[14:]
	if !bytes.Equal(src, boxMAC) {
		return "spoofed MAC address"
	}
	switch binary.BigEndian.Uint16(frame[12:]) {
	case typeIPv4:
		if dst[0]&1 != 0 {
			return "multicast or broadcast"
		}
		if !bytes.Equal(dst, mac) {
			return "for another MAC address"
		}
		return checkIPv4(payload)
	case typeARP:
		if !bytes.Equal(dst, mac) && !bytes.Equal(dst, broadcastMAC) {
			return "for another MAC address"
		}
		return checkARP(payload)
	case typeIPv6:
		return "IPv6"
	}
	return "another EtherType"
}

// checkARP accepts a request of the box for the gateway's address.
func checkARP(p []byte) string {
	const request = 1
	if len(p) < 28 || !bytes.Equal(p[:6], []byte{0, 1, 8, 0, 6, 4}) || binary.BigEndian.Uint16(p[6:]) != request {
		return "ARP that is no request"
	}
	sender := netip.AddrFrom4([4]byte(p[14:]))
	if !bytes.Equal(p[8:14], boxMAC) || sender != BoxAddress.Addr() && sender != netip.IPv4Unspecified() {
		return "spoofed ARP"
	}
	if netip.AddrFrom4([4]byte(p[24:])) != Address {
		return "ARP for another address"
	}
	return ""
}

func checkIPv4(p []byte) string {
	if len(p) < 20 || p[0] != 0x45 { // version 4, no options: they are of no use but to attack routers
		return "not plain IPv4"
	}
	length := int(binary.BigEndian.Uint16(p[2:]))
	fragment := binary.BigEndian.Uint16(p[6:])
	src, dst := netip.AddrFrom4([4]byte(p[12:])), netip.AddrFrom4([4]byte(p[16:]))
	switch {
	case length < 20 || length > len(p):
		return "not plain IPv4"
	case fragment&0x3fff != 0: // more fragments, or an offset
		return "a fragment"
	case src != BoxAddress.Addr():
		return "spoofed IP address"
	case dst.IsLoopback():
		return "for loopback"
	case dst.IsMulticast(), dst == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return "multicast or broadcast"
	}
	switch p[9] {
	case protoTCP, protoUDP:
		return ""
	case protoICMP:
		if dst == Address && length >= 28 && p[20] == 8 { // an echo request
			return ""
		}
		return "ICMP"
	}
	return "another protocol than TCP and UDP"
}
