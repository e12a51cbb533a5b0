package egress

// The words for decisions of the gateway's own, in the Code of a record. Those
// of the policy are [policy.Code]'s.
const (
	CodeLimit       = "limit"        // a budget of the box is spent: connections, lookups, bytes
	CodeSNI         = "sni"          // the TLS name is not the one that was looked up
	CodeNoName      = "no_name"      // an address of a name that was never looked up, or was forgotten
	CodeUnreachable = "unreachable"  // policy allows it, and the host did not answer
	CodeNotResolved = "not_resolved" // policy allows it, and the name has no IPv4 address
	CodeFrame       = "frame"        // frames that are no traffic of this box
	CodeProtocol    = "protocol"     // what was sent is not what this connection may carry
	CodeHTTPRule    = "http_rule"    // an HTTP rule would have to read the connection, and nothing can
	CodeRevoked     = "revoked"      // policy changed while it was under way
	CodeGap         = "gap"          // records were lost
)
