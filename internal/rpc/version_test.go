package rpc // checkProtocol is not exported

import (
	"errors"
	"strings"
	"testing"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
)

func TestNewer(t *testing.T) {
	inOrder := []string{"v0.0.0-20250101000000-abcdefabcdef", "v0.0.0-20260101000000-abcdefabcdef", "v0.1.0-alpha", "v0.1.0-alpha.1",
		"v0.1.0-alpha.beta", "v0.1.0-beta.2", "v0.1.0-beta.11", "v0.1.0", "v0.1.1-0.20260101000000-abcdefabcdef", "v0.1.1", "v0.10.0", "v1.0.0"}
	for i, a := range inOrder {
		for j, b := range inOrder {
			if got := Newer(a, b); got != (i > j) {
				t.Errorf("Newer(%s, %s) = %v", a, b, got)
			}
		}
		for _, other := range []string{"", "(devel)", "v1", "1.2.3", "v1.2.x", a + "+dirty"} {
			if Newer(a, other) || Newer(other, a) {
				t.Errorf("%s and %q are not equally new", a, other)
			}
		}
	}
}

func TestPeersNeedAProtocolInCommon(t *testing.T) {
	for _, row := range []struct {
		our, ourMin, their, theirMin int32
		ok                           bool
		hint                         string
	}{
		{1, 1, 1, 1, true, ""},
		{2, 1, 1, 1, true, ""},
		{1, 1, 5, 1, true, ""},
		{1, 1, 5, 2, false, "v9"},
		{5, 3, 2, 1, false, "older"},
		{1, 1, 0, 0, false, "older"}, // says nothing
	} {
		err := checkProtocol(row.our, row.ourMin, row.their, row.theirMin, "v9")
		if (err == nil) != row.ok || err != nil && (!errors.Is(err, boxlite.Unsupported) || !strings.Contains(boxlite.HintOf(err), row.hint)) {
			t.Errorf("%+v: %v, hint %q", row, err, boxlite.HintOf(err))
		}
	}
}
