package policy

import (
	"fmt"
	"slices"
	"strings"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
)

// maxRules bounds the rules of a box: each is looked at for each connection.
const maxRules = 1000

// maxShown bounds what an error shows of a ceiling, in bytes.
const maxShown = 400

// A Mode says how much of the network a box has.
type Mode uint8

// The modes.
const (
	Disabled       Mode = iota // no NIC
	PublicInternet             // all public hosts, TCP and UDP
	List                       // what the rules name
)

var modeNames = [...]string{Disabled: "disabled", PublicInternet: "public", List: "list"}

// String returns "disabled", "public" or "list".
func (m Mode) String() string {
	if int(m) < len(modeNames) {
		return modeNames[m]
	}
	return fmt.Sprintf("Mode(%d)", uint8(m))
}

// MarshalText returns the mode's name.
func (m Mode) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText reads a mode's name.
func (m *Mode) UnmarshalText(text []byte) error {
	for i, name := range modeNames {
		if name == string(text) {
			*m = Mode(i)
			return nil
		}
	}
	return &boxlite.Error{Op: "parse network mode", Kind: boxlite.Config, Ref: quote(string(text)), Hint: `Write "disabled", "public" or "list".`}
}

// An Access is what a box may reach, as it was asked for, or what an operator
// lets boxes ask for: the ceiling. The zero Access is nothing.
type Access struct {
	Mode  Mode   `json:"mode"`
	Rules []Rule `json:"allow_net,omitempty"` // of a List; one without rules reaches nothing
}

// ParseAccess reads the allow_net of a box whose network is enabled. An empty
// list is the public Internet.
//
// Errors: [boxlite.Config] as by [ParseRule], or if there are too many entries
// or the same twice.
func ParseAccess(allowNet []string) (Access, error) {
	if len(allowNet) == 0 {
		return Access{Mode: PublicInternet}, nil
	}
	rules, err := ParseRules(allowNet)
	if err != nil {
		return Access{}, err
	}
	return Access{List, rules}, nil
}

// ParseRules reads a list of rules, of which none appears twice.
//
// Errors: as [ParseAccess].
func ParseRules(entries []string) ([]Rule, error) {
	const op = "parse allow_net"
	if len(entries) > maxRules {
		return nil, &boxlite.Error{Op: op, Kind: boxlite.Config, Hint: `Cover hosts of a domain by one entry, such as "*.example.com".`,
			Err: fmt.Errorf("%d entries are more than %d", len(entries), maxRules)}
	}
	seen := map[Rule]string{}
	rules := make([]Rule, 0, len(entries))
	for _, s := range entries {
		r, err := ParseRule(s)
		if err != nil {
			return nil, err
		}
		if first, twice := seen[r]; twice {
			return nil, &boxlite.Error{Op: op, Kind: boxlite.Config, Ref: quote(s), Hint: "Leave out one of them.", Err: fmt.Errorf("it says the same as %s", quote(first))}
		}
		seen[r] = s
		rules = append(rules, r)
	}
	if f := checkNoMask(rules); f != nil {
		return nil, f.err(op, "")
	}
	return rules, nil
}

// effective returns the rules that say the same as the Access.
func (a Access) effective() []Rule {
	switch a.Mode {
	case PublicInternet:
		return []Rule{{kind: anything, proto: TCP}, {kind: anything, proto: UDP}}
	case List:
		return a.Rules
	default:
		return nil
	}
}

// ReadsHTTP reports whether there are HTTP rules, for which connections have to
// be read.
func (a Access) ReadsHTTP() bool {
	return slices.ContainsFunc(a.Rules, func(r Rule) bool { return r.http.scheme != "" })
}

// Strings returns the rules in their canonical form.
func (a Access) Strings() []string {
	list := make([]string, len(a.Rules))
	for i, r := range a.Rules {
		list[i] = r.String()
	}
	return list
}

// String returns the access in a few words.
func (a Access) String() string {
	switch {
	case a.Mode == PublicInternet:
		return "the public Internet"
	case a.Mode != List || len(a.Rules) == 0:
		return "nothing"
	}
	return strings.Join(a.Strings(), ", ")
}

// Within returns nil if everything that a allows, the ceiling allows too: for
// what a caller asks for, the ceiling is the operator's; to narrow a box's
// access while it runs, it is the access the box has. Each rule must lie within
// one rule of the ceiling, so an answer of no may be wrong, and a yes is not.
//
// Errors: [boxlite.Denied], with the rule and the ceiling.
func (a Access) Within(ceiling Access) error {
	limits := ceiling.effective()
next:
	for _, r := range a.effective() {
		for _, limit := range limits {
			if limit.Covers(r) {
				continue next
			}
		}
		return a.exceeds(r, ceiling)
	}
	return nil
}

// Narrow returns what both a and the ceiling allow, as far as it can be said in
// their rules: those of each that lie within one of the other. It allows nothing
// that not both allow.
func (a Access) Narrow(ceiling Access) Access {
	narrow := Access{Mode: List}
	keep := func(rules, within []Rule) {
		for _, r := range rules {
			if !slices.Contains(narrow.Rules, r) && slices.ContainsFunc(within, func(w Rule) bool { return w.Covers(r) }) {
				narrow.Rules = append(narrow.Rules, r)
			}
		}
	}
	keep(a.effective(), ceiling.effective())
	keep(ceiling.effective(), a.effective())
	return narrow
}

func (a Access) exceeds(r Rule, ceiling Access) error {
	what := "rule " + r.String()
	if a.Mode == PublicInternet {
		what = "the public Internet (" + r.String() + ")"
	}
	allowed := ceiling.String()
	if len(allowed) > maxShown {
		allowed = fmt.Sprintf("%s... (%d rules)", allowed[:maxShown], len(ceiling.Rules))
	}
	return &boxlite.Error{Op: "limit network access", Kind: boxlite.Denied, Ref: quote(r.String()),
		Hint: "Ask only for what is within: " + allowed + ".",
		Err:  fmt.Errorf("%s is not within the ceiling: %s", what, allowed)}
}
