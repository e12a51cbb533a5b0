package egress_test

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/boxlite-mcp/boxlite-mcp/egress"
)

func TestHostAddressesKnowLoopback(t *testing.T) {
	list, err := egress.HostAddresses()()
	if err != nil {
		t.Fatal(err)
	}
	if want := netip.MustParsePrefix("127.0.0.1/8"); !slices.Contains(list, want) {
		t.Errorf("the host's addresses are %v, without %v", list, want)
	}
}
