package policy

import (
	"fmt"
	"strconv"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
)

// A Decision says whether something is allowed, and why. The zero Decision
// denies.
type Decision struct {
	Allow   bool   `json:"allow"`
	Code    Code   `json:"code"`
	Rule    string `json:"rule,omitempty"`    // the rule that allows it, or that came nearest; may be empty
	Inspect bool   `json:"inspect,omitempty"` // allowed only as far as DecideRequest allows each request
	Reason  string `json:"reason"`            // one line for people; what a guest chose is escaped and cut
}

// deny returns a denial.
func deny(code Code, rule, format string, args ...any) Decision {
	return Decision{Code: code, Rule: rule, Reason: fmt.Sprintf(format, args...)}
}

// String returns "allow: reason" or "deny: reason".
func (d Decision) String() string {
	if d.Allow {
		return "allow: " + d.Reason
	}
	return "deny: " + d.Reason
}

// A Code says in one word why something was decided. Its names are stored and
// told, so they do not change.
type Code uint8

// The codes.
const (
	Undecided      Code = iota // nothing decided yet; denies
	Allowed                    // a rule allows it
	NoNetwork                  // the box has no network
	NoRule                     // no rule is about the host or address
	WrongPort                  // a rule is about the host, but not about the port
	WrongProtocol              // a rule is about the host, but not about the protocol
	BadName                    // not a host name
	SpecialName                // a name that means the box itself or its own link: localhost, .local, .arpa
	SpecialAddress             // a special range without a rule inside it, or behind a name
	LinkLocal                  // 169.254.0.0/16
	Metadata                   // a cloud's metadata service, by name or address
	Reserved                   // an address that is no host: unspecified, multicast, broadcast, reserved
	IPv6                       // not IPv4
	BoxSubnet                  // the network of the boxes
	HostAddress                // an address of the host's interfaces
	Listener                   // one of our own listeners
	QUIC                       // HTTP/3 where HTTP is inspected
	StaticEntry                // the static entry for the name says something else
	OtherAddress               // not the address or port that was asked for
	NoAddress                  // the name does not resolve; only Explain says so
	WrongScheme                // a rule is about the host's requests by the other of http and https
	WrongMethod                // a rule is about the host's requests, but not about the method
	BadPath                    // a path that servers read in different ways
	WrongPath                  // a rule is about the host's requests and the method, but not about the path
	BadRequest                 // not HTTP, or HTTP that is read in different ways
	WrongAuthority             // the request names another host than the connection
	numCodes
)

var codeNames = [numCodes]string{
	Undecided: "undecided", Allowed: "allowed", NoNetwork: "no_network", NoRule: "no_rule",
	WrongPort: "wrong_port", WrongProtocol: "wrong_protocol",
	BadName: "bad_name", SpecialName: "special_name", SpecialAddress: "special_address",
	LinkLocal: "link_local", Metadata: "metadata", Reserved: "reserved_address", IPv6: "ipv6",
	BoxSubnet: "box_subnet", HostAddress: "host_address", Listener: "listener",
	QUIC: "quic", StaticEntry: "static_entry", OtherAddress: "other_address", NoAddress: "no_address",
	WrongScheme: "wrong_scheme", WrongMethod: "wrong_method", BadPath: "bad_path", WrongPath: "wrong_path",
	BadRequest: "bad_request", WrongAuthority: "wrong_authority",
}

// String returns the code's name, such as "no_rule".
func (c Code) String() string {
	if c < numCodes {
		return codeNames[c]
	}
	return "Code(" + strconv.Itoa(int(c)) + ")"
}

// MarshalText returns the code's name.
func (c Code) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// UnmarshalText reads a code's name. One that is not known, of a newer program,
// is Undecided.
func (c *Code) UnmarshalText(text []byte) error {
	*c = Undecided
	for k := range numCodes {
		if codeNames[k] == string(text) {
			*c = k
		}
	}
	return nil
}

// quote returns s escaped, and cut to a length that fits a message.
func quote(s string) string {
	const limit = 80
	if len(s) > limit {
		return strconv.QuoteToASCII(s[:limit]) + "..."
	}
	return strconv.QuoteToASCII(s)
}

// A fault is what is wrong with a text.
type fault struct {
	text string // what is wrong
	hint string // one imperative sentence; may be empty
	try  string // what was meant, perhaps: to be suggested if it is right; may be empty
}

func (f *fault) err(op, ref string) error {
	return &boxlite.Error{Op: op, Kind: boxlite.Config, Ref: quote(ref), Hint: f.hint, Err: fmt.Errorf("%s", f.text)}
}
