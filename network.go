package boxlite

import (
	"fmt"
	"net/netip"
	"time"
)

// A NetworkSpec says what network a box has. The zero value is none: a box
// without a network interface.
type NetworkSpec struct {
	Enabled bool `json:"enabled,omitempty"`
	// AllowNet lists what the box may reach, as package egress/policy reads
	// it: hosts, "*.hosts", addresses and CIDRs, each perhaps with a port and a
	// protocol. Empty: the public Internet.
	AllowNet []string `json:"allow_net,omitempty"`
}

// A NetworkLogRequest selects records of a box.
type NetworkLogRequest struct {
	Box    string    `json:"box,omitempty"` // id, name or unique prefix; "": all of the caller's, also those that are gone, some seconds late
	Since  time.Time `json:"since,omitzero"`
	Denied bool      `json:"denied,omitempty"` // only what was refused, or did not work
	Recent bool      `json:"recent,omitempty"` // look no further back than some hundred records, which is quick
	Limit  int       `json:"limit,omitempty"`  // the newest of more; 0: 100; at most 10000
}

// A NetworkLog is a part of what a box tried to reach.
type NetworkLog struct {
	Events []NetworkEvent `json:"events"`         // oldest first
	More   bool           `json:"more,omitempty"` // there are older ones that match
}

// A NetworkEvent is the record of one attempt of a box to reach something: a
// name that was looked up, a connection, a request inside an intercepted
// connection, a datagram flow. What a guest chose is escaped and cut.
type NetworkEvent struct {
	Principal string `json:"principal,omitempty"` // whose box it is; in records of several boxes

	Seq  uint64       `json:"seq"` // of the box, without holes; a later record with the same Seq replaces the earlier one
	Box  BoxID        `json:"box,omitempty"`
	Exec ExecutionID  `json:"exec,omitempty"` // where it is known which command did it
	Time time.Time    `json:"time"`
	Kind NetEventKind `json:"kind"`

	Proto  string         `json:"proto,omitempty"` // "tcp", "udp", "icmp", "arp", "ipv6", …
	Host   string         `json:"host,omitempty"`  // the name the box asked for; "": it used an address
	Addr   netip.AddrPort `json:"addr,omitzero"`   // the host's address that was dialled, or that the box aimed at
	Port   uint16         `json:"port,omitempty"`
	Method string         `json:"method,omitempty"` // of an HTTP request
	Path   string         `json:"path,omitempty"`   // without its query
	Status int            `json:"status,omitempty"` // the HTTP answer's

	Allowed bool   `json:"allowed"`
	Code    string `json:"code"`           // egress/policy's word for the decision, such as "no_rule"
	Rule    string `json:"rule,omitempty"` // the rule that allowed it or came nearest
	Reason  string `json:"reason"`         // one line for people

	Open     bool     `json:"open,omitempty"` // still under way; a record with the same Seq follows
	Sent     int64    `json:"sent"`           // bytes from the box
	Received int64    `json:"received"`       // bytes to the box
	Duration Seconds  `json:"duration_seconds,omitempty"`
	Secrets  []string `json:"secrets,omitempty"` // names of the secrets that were put in
	Count    int64    `json:"count,omitempty"`   // attempts like this one that the record stands for, or records lost in a gap; 0: one
}

// Failed reports whether what was allowed did not work: the host was not
// reached, or its name not found.
func (e NetworkEvent) Failed() bool {
	return e.Allowed && (e.Code == "unreachable" || e.Code == "not_resolved")
}

// Target returns what the event is about: "GET host:443/path", "host:443",
// "udp/host:123", or a name alone.
func (e NetworkEvent) Target() string {
	host := e.Host
	if host == "" && e.Addr.IsValid() {
		host = e.Addr.Addr().String()
	}
	switch {
	case e.Kind == NetRequest && e.Method != "":
		return fmt.Sprintf("%s %s:%d%s", e.Method, host, e.Port, e.Path)
	case e.Port == 0:
		return host
	case e.Proto == "udp":
		host = "udp/" + host
	}
	return fmt.Sprintf("%s:%d", host, e.Port)
}

// A NetEventKind says what a [NetworkEvent] is about.
type NetEventKind string

// The kinds of network events.
const (
	NetLookup  NetEventKind = "dns"     // a name was asked for
	NetConnect NetEventKind = "connect" // a TCP connection
	NetFlow    NetEventKind = "flow"    // UDP datagrams between two ports
	NetRequest NetEventKind = "request" // an HTTP request in an intercepted connection
	NetDrop    NetEventKind = "drop"    // frames that are no traffic of this box: spoofed, IPv6, another EtherType
	NetGap     NetEventKind = "gap"     // Count records were lost here
	NetPull    NetEventKind = "pull"    // a registry's host was contacted for an image
)
