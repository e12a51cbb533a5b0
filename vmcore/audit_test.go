package vmcore_test

import (
	"strings"
	"testing"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore"
)

// What a box tried outlives the box.
func TestAuditOutlivesTheBox(t *testing.T) {
	t.Parallel()
	_, box, _ := netWorld(t, "api.good.test:80")
	rt := box.Runtime()
	sh(t, box, "wget -qO- http://api.good.test/; wget -qO- http://evil.test/")
	id := box.ID()
	if err := box.Remove(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	list, err := rt.Audit(100, func(e boxlite.NetworkEvent) bool { return e.Box == id })
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, e := range list {
		seen[string(e.Kind)+" "+e.Host+" "+e.Code] = true
		if e.Open {
			t.Errorf("a connection of a box that is gone is open: %+v", e)
		}
	}
	if !seen["connect api.good.test allowed"] || !seen["dns evil.test no_rule"] {
		t.Errorf("%v", seen)
	}
}

// An image is not pulled from where no box may go, unless a person has named
// it; and each attempt is on record.
func TestPullObeysAddressRules(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	rt := w.open(t)
	for _, c := range []struct {
		ref  string
		name []string // registries that the box's owner has named
		code string
	}{
		{"169.254.169.254:80/x/y:z", []string{"http://169.254.169.254:80"}, "metadata"}, // whoever names it
		{"127.0.0.1:1/x/y:z", []string{"http://127.0.0.1:1"}, "unreachable"},
	} {
		_, err := rt.Pull(t.Context(), vmcore.Owner{Registries: c.name}, c.ref, nil)
		if err == nil {
			t.Errorf("%s was pulled", c.ref)
		}
		list, err := rt.Audit(10, func(e boxlite.NetworkEvent) bool {
			return e.Kind == boxlite.NetPull && strings.HasPrefix(c.ref, e.Host)
		})
		if err != nil || len(list) == 0 || list[0].Code != c.code {
			t.Errorf("%s: %+v, %v", c.ref, list, err)
		}
	}
}
