package main

import (
	"strings"
	"testing"
)

// What go test prints for a package with one test of each fate.
const mixed = `{"Action":"start","Package":"m/p"}
{"Action":"run","Package":"m/p","Test":"TestGood"}
{"Action":"output","Package":"m/p","Test":"TestGood","Output":"=== RUN   TestGood\n"}
{"Action":"pass","Package":"m/p","Test":"TestGood","Elapsed":0.5}
{"Action":"output","Package":"m/p","Test":"TestBad","Output":"    x_test.go:1: no\n"}
{"Action":"fail","Package":"m/p","Test":"TestBad","Elapsed":0}
{"Action":"output","Package":"m/p","Test":"TestNone","Output":"    x_test.go:2: not here\n"}
{"Action":"skip","Package":"m/p","Test":"TestNone","Elapsed":0}
{"Action":"output","Package":"m/p","Output":"FAIL\n"}
{"Action":"fail","Package":"m/p","Elapsed":1.25}
`

func TestSummary(t *testing.T) {
	const good = `{"Action":"pass","Package":"p","Test":"TestA"}
{"Action":"skip","Package":"p","Test":"TestB"}
{"Action":"output","Package":"p","Output":"ok p\n"}
{"Action":"pass","Package":"p","Elapsed":2}
{"Action":"skip","Package":"no test files"}
`
	for name, c := range map[string]struct {
		in     string
		noskip bool
		ok     bool
		want   string
	}{
		"mixed": {mixed, false, false, "--- FAIL: m/p TestBad\n    x_test.go:1: no\nFAIL  m/p (1.2 s)\nFAIL\n1 passed, 2 failed, 1 skipped\n"},
		"mixed, no skips": {mixed, true, false, "--- FAIL: m/p TestBad\n    x_test.go:1: no\n--- SKIP: m/p TestNone\n    x_test.go:2: not here\n" +
			"FAIL  m/p (1.2 s)\nFAIL\n1 passed, 3 failed\n"},
		"good":           {good, false, true, "ok    p (2.0 s)\n1 passed, 0 failed, 1 skipped\n"},
		"good, no skips": {good, true, false, "--- SKIP: p TestB\nok    p (2.0 s)\n1 passed, 1 failed\n"},
		"nothing":        {"", false, false, "no test has run\n0 passed, 1 failed\n"},
		"killed":         {`{"Action":"output","Package":"p","Test":"TestA","Output":"=== RUN\n"}`, false, false, "--- UNFINISHED: p TestA\n=== RUN\nno test has run\n0 passed, 2 failed\n"},
		"build":          {`{"ImportPath":"p","Action":"build-output","Output":"p.go:1: broken\n"}` + "\ngo: warning\n", false, false, "p.go:1: broken\ngo: warning\nno test has run\n0 passed, 1 failed\n"},
	} {
		var out strings.Builder
		s := summary{out: &out, noskip: c.noskip, output: map[test]*strings.Builder{}}
		if err := s.read(strings.NewReader(c.in)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if ok := s.close(); ok != c.ok || out.String() != c.want {
			t.Errorf("%s: %v, and\n%s\nwant %v, and\n%s", name, ok, &out, c.ok, c.want)
		}
	}
}
