package gateway

import (
	"net/netip"
	"sync"
	"time"
)

// mostNames bounds the names that a box is remembered to have looked up.
const mostNames = 16384

// names gives each name that the box may look up an address of its own. Nothing
// is decided by it: a connection to an address is judged by the name that it
// stands for now.
type names struct {
	net netip.Prefix

	mu     sync.Mutex
	byName map[string]*entry     // guarded by mu
	byAddr map[netip.Addr]*entry // guarded by mu
	next   netip.Addr            // guarded by mu; the one given out last
}

type entry struct {
	name string
	addr netip.Addr
	used time.Time // last looked up or dialled
}

func newNames(net netip.Prefix) *names {
	return &names{net: net, byName: map[string]*entry{}, byAddr: map[netip.Addr]*entry{}, next: net.Addr()}
}

// address returns the name's address. Of too many names the one that was used
// longest ago is forgotten; its address is the last to be given out again.
func (n *names) address(name string) netip.Addr {
	n.mu.Lock()
	defer n.mu.Unlock()
	now := time.Now()
	if e := n.byName[name]; e != nil {
		e.used = now
		return e.addr
	}
	if len(n.byName) >= mostNames {
		n.forgetOldest()
	}
	for {
		n.next = n.next.Next()
		if !n.net.Contains(n.next) {
			n.next = n.net.Addr().Next()
		}
		b := n.next.As4()
		if last := b[3]; n.byAddr[n.next] == nil && last != 0 && last != 255 { // programs take these for networks and broadcasts
			break
		}
	}
	e := &entry{name, n.next, now}
	n.byName[name], n.byAddr[e.addr] = e, e
	return e.addr
}

func (n *names) forgetOldest() {
	var oldest *entry
	for _, e := range n.byName {
		if oldest == nil || e.used.Before(oldest.used) {
			oldest = e
		}
	}
	delete(n.byName, oldest.name)
	delete(n.byAddr, oldest.addr)
}

// name returns the name that the address stands for.
func (n *names) name(a netip.Addr) (string, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	e := n.byAddr[a]
	if e == nil {
		return "", false
	}
	e.used = time.Now()
	return e.name, true
}
