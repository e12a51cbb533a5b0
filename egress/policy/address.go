package policy

import "net/netip"

// An addrRange is a range of addresses that is not simply the Internet.
type addrRange struct {
	net  netip.Prefix
	code Code
	what string // "an address of ..."
}

func ranges(code Code, what string, nets ...string) []addrRange {
	var all []addrRange
	for _, n := range nets {
		all = append(all, addrRange{netip.MustParsePrefix(n), code, what})
	}
	return all
}

func concat(lists ...[]addrRange) (all []addrRange) {
	for _, l := range lists {
		all = append(all, l...)
	}
	return all
}

// neverRanges are reached by no rule. The first that matches gives the reason.
// All of IPv6 is refused, so its rows only give better reasons.
var neverRanges = concat(
	ranges(Metadata, "a cloud's metadata service",
		"169.254.169.254/32",     // nearly all
		"169.254.170.2/32",       // AWS, containers
		"169.254.170.23/32",      // AWS, pods
		"169.254.0.23/32",        // Tencent
		"100.100.100.200/32",     // Alibaba
		"168.63.129.16/32",       // Azure
		"192.0.0.192/32",         // Oracle
		"fd00:ec2::254/128",      // AWS
		"fd00:ec2::23/128",       // AWS, pods
		"fd20:ce::254/128",       // Google
		"fd00:c1::a9fe:a9fe/128", // Oracle
	),
	ranges(LinkLocal, "link-local", "169.254.0.0/16", "fe80::/10"),
	ranges(Reserved, "unspecified (this network)", "0.0.0.0/8", "::/128"),
	ranges(Reserved, "multicast", "224.0.0.0/4", "ff00::/8"),
	ranges(Reserved, "the broadcast address", "255.255.255.255/32"),
	ranges(Reserved, "reserved", "240.0.0.0/4"),
	ranges(Reserved, "a relay for 6to4", "192.88.99.0/24"),
	ranges(IPv6, "the loopback address of IPv6", "::1/128"),
	ranges(IPv6, "IPv4 mapped into IPv6", "::ffff:0:0/96", "::ffff:0:0:0/96", "::/96"),
	ranges(IPv6, "IPv4 behind NAT64", "64:ff9b::/96", "64:ff9b:1::/48"),
	ranges(IPv6, "IPv4 behind 6to4", "2002::/16"),
	ranges(IPv6, "IPv4 behind Teredo", "2001::/32"),
)

// specialRanges are reached only by an address rule inside them: the IANA
// registry of special-purpose addresses, RFC 6890, without what is global.
// None overlaps another.
var specialRanges = concat(
	ranges(SpecialAddress, "a private address", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"),
	ranges(SpecialAddress, "a loopback address", "127.0.0.0/8"),
	ranges(SpecialAddress, "a shared address (carrier-grade NAT)", "100.64.0.0/10"),
	ranges(SpecialAddress, "reserved for protocols", "192.0.0.0/24"),
	ranges(SpecialAddress, "reserved for documentation", "192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24"),
	ranges(SpecialAddress, "reserved for benchmarks", "198.18.0.0/15"),
)

// inRanges returns the first range that a lies in.
func inRanges(table []addrRange, a netip.Addr) (addrRange, bool) {
	for _, r := range table {
		if r.net.Contains(a.WithZone("")) { // a mapped address is in no range of IPv4
			return r, true
		}
	}
	return addrRange{}, false
}

// inside returns the first range that all of n lies in.
func inside(table []addrRange, n netip.Prefix) (addrRange, bool) {
	for _, r := range table {
		if includes(r.net, n) {
			return r, true
		}
	}
	return addrRange{}, false
}

// includes reports whether all of n lies in outer.
func includes(outer, n netip.Prefix) bool {
	return outer.Bits() <= n.Bits() && outer.Contains(n.Addr())
}

// lastOf returns the last address of an IPv4 network.
func lastOf(n netip.Prefix) netip.Addr {
	a := n.Masked().Addr().As4()
	for bit := n.Bits(); bit < 32; bit++ {
		a[bit/8] |= 0x80 >> (bit % 8)
	}
	return netip.AddrFrom4(a)
}
