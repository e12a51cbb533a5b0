package egress

import (
	"net"
	"net/netip"
	"sync"
	"time"
)

// addressAge is how old what is known of the host's addresses may get.
const addressAge = time.Second

// HostAddresses returns a function for the Own of a [policy.Config]: the
// addresses of the host's interfaces, each with the length of its network, as
// they were at most a second ago. If they cannot be read it fails rather than
// return old ones. It may be called concurrently.
func HostAddresses() func() ([]netip.Prefix, error) {
	var (
		mu   sync.Mutex
		list []netip.Prefix // guarded by mu; replaced, never changed
		read time.Time      // guarded by mu
	)
	return func() ([]netip.Prefix, error) {
		mu.Lock()
		defer mu.Unlock()
		if list != nil && time.Since(read) < addressAge {
			return list, nil
		}
		fresh, err := interfaceAddresses()
		if err != nil {
			list = nil
			return nil, err
		}
		list, read = fresh, time.Now()
		return list, nil
	}
}

func interfaceAddresses() ([]netip.Prefix, error) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	list := make([]netip.Prefix, 0, len(addrs))
	for _, a := range addrs {
		n, ok := a.(*net.IPNet)
		if !ok {
			continue
		}
		addr, ok := netip.AddrFromSlice(n.IP)
		if ones, bits := n.Mask.Size(); ok && bits != 0 {
			list = append(list, netip.PrefixFrom(addr.Unmap(), ones))
		}
	}
	return list, nil
}
