package boxlite

import (
	"crypto/rand"
	"encoding/hex"
	"strings"
)

// base62 is the alphabet of a [BoxID], in ASCII order.
const base62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

const (
	boxIDLen  = 12 // log2(62^12) = 71 bits
	ulidLen   = 26
	shortID   = 8
	ulidChars = "0123456789ABCDEFGHJKMNPQRSTVWXYZ" // Crockford's Base32, as in the ULID specification
)

// A BoxID names a box for ever: 12 Base62 characters, about 71 bits from the
// system's random source. [ParseBoxID] also reads the 26 characters of a ULID,
// which older homes contain. The zero value names no box.
type BoxID string

// NewBoxID returns a fresh identifier.
func NewBoxID() BoxID { return BoxID(randomBase62(boxIDLen)) }

// ParseBoxID returns s as a BoxID.
//
// Errors: [InvalidArgument] if s is neither 12 Base62 characters nor a ULID.
func ParseBoxID(s string) (BoxID, error) {
	switch {
	case len(s) == boxIDLen && consistsOf(s, base62), len(s) == ulidLen && consistsOf(s, ulidChars):
		return BoxID(s), nil
	}
	return "", &Error{Op: "parse box id", Kind: InvalidArgument, Ref: quote(s),
		Hint: "A box id is 12 letters and digits, such as aB3cD4eF5gH6."}
}

// String returns the whole identifier.
func (id BoxID) String() string { return string(id) }

// Short returns the first eight characters, for people.
func (id BoxID) Short() string { return id.prefix(shortID) }

func (id BoxID) prefix(n int) string {
	if len(id) < n {
		return string(id)
	}
	return string(id[:n])
}

// A ContainerID names one start of a box: 64 lower case hexadecimal digits, as
// OCI runtimes use. A box gets a new one at each start.
type ContainerID string

// NewContainerID returns a fresh identifier of 256 random bits.
func NewContainerID() ContainerID {
	var b [32]byte
	rand.Read(b[:]) // never fails: crypto/rand aborts the program instead
	return ContainerID(hex.EncodeToString(b[:]))
}

// ParseContainerID returns s as a ContainerID.
//
// Errors: [InvalidArgument] if s is not 64 lower case hexadecimal digits.
func ParseContainerID(s string) (ContainerID, error) {
	if !ContainerID(s).IsValid() {
		return "", &Error{Op: "parse container id", Kind: InvalidArgument, Ref: quote(s),
			Hint: "A container id is 64 lower case hexadecimal digits."}
	}
	return ContainerID(s), nil
}

// IsValid reports whether id is 64 lower case hexadecimal digits.
func (id ContainerID) IsValid() bool {
	return len(id) == 64 && consistsOf(string(id), "0123456789abcdef")
}

// String returns the whole identifier.
func (id ContainerID) String() string { return string(id) }

// Short returns the first twelve digits, for people.
func (id ContainerID) Short() string {
	if len(id) < 12 {
		return string(id)
	}
	return string(id[:12])
}

// An ExecutionID names one run of a command in a box: the box's identifier, a
// dash and eight Base62 characters, so that the box can be found from it. It is
// a handle, never an authorisation.
type ExecutionID string

// NewExecutionID returns a fresh identifier for an execution in the given box.
func NewExecutionID(box BoxID) ExecutionID {
	return ExecutionID(string(box) + "-" + NewExecutionKey())
}

// executionKeyLen is the number of characters that tell the executions of a
// box apart.
const executionKeyLen = 8

// NewExecutionKey returns a fresh [Command.Key]: the end of an ExecutionID.
func NewExecutionKey() string { return randomBase62(executionKeyLen) }

func isExecutionKey(s string) bool { return len(s) == executionKeyLen && consistsOf(s, base62) }

// ParseExecutionID returns s as an ExecutionID.
//
// Errors: [InvalidArgument] if s is not a box id, a dash and eight Base62
// characters.
func ParseExecutionID(s string) (ExecutionID, error) {
	box, run, ok := strings.Cut(s, "-")
	if _, err := ParseBoxID(box); ok && err == nil && isExecutionKey(run) {
		return ExecutionID(s), nil
	}
	return "", &Error{Op: "parse execution id", Kind: InvalidArgument, Ref: quote(s),
		Hint: "An execution id looks like aB3cD4eF5gH6-x7Y8z9A0."}
}

// Box returns the identifier of the box that the execution runs in.
func (id ExecutionID) Box() BoxID {
	box, _, _ := strings.Cut(string(id), "-")
	return BoxID(box)
}

// String returns the whole identifier.
func (id ExecutionID) String() string { return string(id) }

// randomBase62 returns n characters, each uniform over the alphabet: bytes of
// 248 and above are drawn again, because 256 is no multiple of 62.
func randomBase62(n int) string {
	out := make([]byte, 0, n)
	var buf [16]byte
	for len(out) < n {
		rand.Read(buf[:])
		for _, b := range buf {
			if b < 248 && len(out) < n {
				out = append(out, base62[b%62])
			}
		}
	}
	return string(out)
}

func consistsOf(s, alphabet string) bool {
	for i := range len(s) {
		if strings.IndexByte(alphabet, s[i]) < 0 {
			return false
		}
	}
	return true
}
