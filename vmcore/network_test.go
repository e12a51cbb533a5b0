package vmcore // checkNetwork is inside

import (
	"strings"
	"testing"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/egress/policy"
)

func TestCheckNetwork(t *testing.T) {
	ceiling, err := policy.ParseAccess([]string{"*.example.com:443"})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name    string
		spec    boxlite.NetworkSpec
		ceiling *policy.Access
		kind    boxlite.Kind // "": no error
		says    string
	}{
		{name: "none"},
		{name: "none under a ceiling", ceiling: &ceiling},
		{"malformed", boxlite.NetworkSpec{Enabled: true, AllowNet: []string{"https://api.example.com/v1"}}, nil, boxlite.Config, "api.example.com"},
		{"malformed under a ceiling", boxlite.NetworkSpec{Enabled: true, AllowNet: []string{"a b"}}, &ceiling, boxlite.Config, "a b"},
		{"wider than the ceiling", boxlite.NetworkSpec{Enabled: true, AllowNet: []string{"*.example.com"}}, &ceiling, boxlite.Denied, "*.example.com:443"},
		{"the Internet beyond the ceiling", boxlite.NetworkSpec{Enabled: true}, &ceiling, boxlite.Denied, "the public Internet"},
		{"nothing is the ceiling", boxlite.NetworkSpec{Enabled: true}, &policy.Access{}, boxlite.Denied, "nothing"},
		{"within the ceiling", boxlite.NetworkSpec{Enabled: true, AllowNet: []string{"api.example.com:443"}}, &ceiling, boxlite.Unsupported, "no network"},
		{"the Internet", boxlite.NetworkSpec{Enabled: true}, nil, boxlite.Unsupported, "no network"},
	} {
		err := checkNetwork(c.spec, c.ceiling)
		switch {
		case c.says == "" && err != nil:
			t.Errorf("%s: %v", c.name, err)
		case c.says != "" && (err == nil || boxlite.KindOf(err) != c.kind || !strings.Contains(err.Error(), c.says) || boxlite.HintOf(err) == ""):
			t.Errorf("%s: %v (kind %v, hint %q), want %v about %q with a hint", c.name, err, boxlite.KindOf(err), boxlite.HintOf(err), c.kind, c.says)
		}
	}
}
