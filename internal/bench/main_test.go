package main

import (
	"errors"
	"math"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/boxlite-mcp/boxlite-mcp/internal/testbin"
)

// Once and little of everything: that it can be measured, and that what comes
// of it can be true. How fast it is no test says, as hosts differ.
func TestQuick(t *testing.T) {
	server := filepath.Join(testbin.All(t), "boxlite-mcp")
	root, err := testbin.ModuleRoot()
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"-quick", "-server", server, "-cache", filepath.Join(root, "build", "testimage")}
	r, err := run(t.Context(), args, t.Output())
	if err != nil {
		t.Fatal(err)
	}
	if r.met+r.missed != 9 {
		t.Errorf("%d aims were looked at, want 9", r.met+r.missed)
	}
	// Wide bounds: beyond them something else was measured.
	for _, c := range []struct {
		chapter, name string
		least, most   float64
	}{
		{"create → first output", "bare engine", 5, 30_000},
		{"create → first output", "MCP", 5, 30_000},
		{"exec round trip", "MCP", 0.1, 10_000},
		{"memory of an idle box", "guest", 1, 512},
		{"memory of an idle box", "shim", 1, 200},
		{"memory of an idle box", "beyond what it was given", 2, 500},
		{"image import", "size of the flattened image", 50, 1000},
		{"image import", "ours / skopeo + umoci", 0.001, 100},
		{"list", "runtime, all", 0.001, 10_000},
	} {
		if x, ok := r.find(c.chapter, c.name); !ok {
			t.Errorf("%s: %s: was not measured", c.chapter, c.name)
		} else if m := x.values.median(); m < c.least || m > c.most {
			t.Errorf("%s: %s: %g %s is not between %g and %g", c.chapter, c.name, m, x.unit, c.least, c.most)
		}
	}
}

func TestNonsenseIsAFailure(t *testing.T) {
	for name, x := range map[string]result{
		"nothing":   {},
		"zero":      {values: series{1, 0}},
		"negative":  {values: series{-1}},
		"no number": {values: series{math.NaN()}},
		"infinite":  {values: series{math.Inf(1)}, signed: true},
	} {
		r := &report{out: t.Output()}
		x.name = name
		r.add(x)
		if err := r.nonsense(); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%v: %v, want an error that names it", x, err)
		}
	}
	r := &report{out: t.Output()}
	r.add(result{name: "fine", values: series{1, 2}})
	r.add(result{name: "difference", values: series{-1, 2}, signed: true})
	if err := r.nonsense(); err != nil {
		t.Error(err)
	}
}

func TestAims(t *testing.T) {
	var out strings.Builder
	r := &report{out: &out}
	r.add(result{name: "a", unit: "ms", values: series{9, 1, 2}, below: 3})
	r.add(result{name: "b", unit: "ms", values: series{3}, below: 3})
	if r.met != 1 || r.missed != 1 {
		t.Errorf("%d met and %d missed, want 1 and 1", r.met, r.missed)
	}
	for _, want := range []string{"2.00 ms", "n=3", "aim < 3.00 ms: met", "aim < 3.00 ms: missed"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in the report:\n%s", want, out.String())
		}
	}
}

func TestSeries(t *testing.T) {
	var s series
	for _, d := range []time.Duration{4 * time.Millisecond, time.Millisecond, 2 * time.Millisecond, 3 * time.Millisecond} {
		s.add(d)
	}
	if a, b, c := s.spread(); a != 1 || b != 2.5 || c != 4 {
		t.Errorf("spread of %v: %g %g %g", s, a, b, c)
	}
	if s[0] != 4 {
		t.Errorf("the order of measuring was lost: %v", s)
	}
	if got := over(series{4, 9}, series{2, 3, 1}); len(got) != 2 || got[0] != 2 || got[1] != 3 {
		t.Errorf("ratios: %v", got)
	}
	if got := beyond(series{4, 1}, series{2, 3}); got[0] != 2 || got[1] != -2 {
		t.Errorf("differences: %v", got)
	}
}

func TestRefusesWhatItDoesNotKnow(t *testing.T) {
	for _, args := range [][]string{{"-only", "("}, {"-only", "nothing"}, {"-x"}, {"-quick", "more"}} {
		if _, err := parse(args, t.Output()); err == nil {
			t.Errorf("%q was taken", args)
		}
	}
	if _, err := run(t.Context(), []string{"-server", filepath.Join(t.TempDir(), "none")}, t.Output()); err == nil {
		t.Error("a server that is not there was measured")
	}
}

var errPrint = errors.New("no")

func TestRate(t *testing.T) {
	var s series
	if err := s.rate(1, func(int64) error { return errPrint }); !errors.Is(err, errPrint) || len(s) != 0 {
		t.Errorf("%v %v", err, s)
	}
}
