package vmboot

import (
	"net/netip"
	"reflect"
	"testing"
)

func TestConfigOnCommandLine(t *testing.T) {
	want := Config{Version: Version, Hostname: "a box's \"name\"", Processes: 64, Time: 1 << 60,
		NIC: &NIC{MTU: 9000, Address: netip.MustParsePrefix("10.0.0.2/30"), Gateway: netip.MustParseAddr("10.0.0.1")}}
	got, err := FromCommandLine("quiet " + Parameter + "=" + want.Encode() + " panic=-1 -- vm\n")
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v (%v)", got, want, err)
	}
	for _, line := range []string{"", "quiet", Parameter + "=", Parameter + "=!", Parameter + "=e30"} {
		if c, err := FromCommandLine(line); err == nil {
			t.Errorf("%q: %+v", line, c)
		}
	}
}
