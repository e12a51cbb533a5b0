package rpc

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
)

// checkProtocol reports whether two peers have a protocol in common, of which
// each speaks those from min to max.
//
// Errors: Unsupported, with a hint what to replace.
func checkProtocol(our, ourMin, their, theirMin int32, theirVersion string) error {
	if min(our, their) >= max(ourMin, theirMin) {
		return nil
	}
	e := &boxlite.Error{Op: "connect to daemon", Kind: boxlite.Unsupported,
		Hint: fmt.Sprintf("Use version %s or newer of boxlite-mcp: a newer one owns this home.", theirVersion),
		Err:  fmt.Errorf("the daemon speaks protocols %d to %d, this program %d to %d", theirMin, their, ourMin, our)}
	if our > their {
		e.Hint = "Stop the daemon, which is older: the next call starts this version."
	}
	return e
}

// Newer reports whether version a is newer than b. Both are semantic versions
// with a leading "v", such as the go command records; of two others, such as
// "(devel)", none is newer.
func Newer(a, b string) bool {
	va, ok := parseVersion(a)
	vb, ok2 := parseVersion(b)
	return ok && ok2 && va.compare(vb) > 0
}

// A version is a parsed semantic version, https://semver.org §11; build
// metadata does not count.
type version struct {
	core [3]uint64
	pre  []string // nil: a release
}

func parseVersion(s string) (version, bool) {
	s, ok := strings.CutPrefix(s, "v")
	s, _, _ = strings.Cut(s, "+")
	core, pre, isPre := strings.Cut(s, "-")
	parts := strings.Split(core, ".")
	if !ok || len(parts) != 3 {
		return version{}, false
	}
	var v version
	for i, p := range parts {
		n, err := strconv.ParseUint(p, 10, 32)
		if err != nil {
			return version{}, false
		}
		v.core[i] = n
	}
	if isPre {
		v.pre = strings.Split(pre, ".")
	}
	return v, true
}

func (v version) compare(w version) int {
	for i := range v.core {
		if c := cmp.Compare(v.core[i], w.core[i]); c != 0 {
			return c
		}
	}
	if v.pre == nil || w.pre == nil { // a release follows what was before it
		return cmp.Compare(len(w.pre), len(v.pre))
	}
	for i := range min(len(v.pre), len(w.pre)) {
		if c := comparePre(v.pre[i], w.pre[i]); c != 0 {
			return c
		}
	}
	return cmp.Compare(len(v.pre), len(w.pre))
}

// comparePre compares one identifier: numbers by value and before words.
func comparePre(a, b string) int {
	na, errA := strconv.ParseUint(a, 10, 64)
	nb, errB := strconv.ParseUint(b, 10, 64)
	switch {
	case errA == nil && errB == nil:
		return cmp.Compare(na, nb)
	case errA == nil:
		return -1
	case errB == nil:
		return 1
	}
	return strings.Compare(a, b)
}
