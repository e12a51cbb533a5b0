package boxlite

import (
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"
)

// A Secret is a key that programs in a box use without seeing it: they send
// Placeholder, and the egress proxy puts Value in its place on the way out,
// over verified TLS, to the bound hosts only.
type Secret struct {
	Name        string      `json:"name"`
	Hosts       []string    `json:"hosts,omitempty"`       // where it may go: "api.example.com", "*.example.com", each perhaps with a port; none: never substituted
	Placeholder string      `json:"placeholder,omitempty"` // "": DefaultPlaceholder(Name)
	InQuery     bool        `json:"in_query,omitempty"`    // also put into the query of URLs
	InBody      bool        `json:"in_body,omitempty"`     // also put into the bodies of requests
	Value       SecretValue `json:"-"`                     // zero where Name refers to a secret that the runtime knows; never stored with the box
}

// SecretInfo is what can be known of a secret without its value.
type SecretInfo struct {
	Secret
	Source  string    `json:"source"` // where its value is: "vault", "config", "client"
	Updated time.Time `json:"updated"`
}

// ParseSecretName checks the name of a secret: 1 to 64 letters, digits, '-' and
// '_', starting with a letter or '_'.
//
// Errors: [Config].
func ParseSecretName(s string) (string, error) {
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_"
	if s == "" || len(s) > 64 || !consistsOf(s, letters+"0123456789-") || !consistsOf(s[:1], letters) {
		return "", &Error{Op: "parse name of secret", Kind: Config, Ref: quote(s),
			Hint: "Use 1 to 64 letters, digits, '-' and '_', starting with a letter."}
	}
	return s, nil
}

// RefSecrets returns the secrets that a list refers to: "NAME", or
// "NAME@HOST,HOST" to narrow it.
func RefSecrets(list []string) []Secret {
	var secrets []Secret
	for _, s := range list {
		name, hosts, narrow := strings.Cut(s, "@")
		secret := Secret{Name: name}
		if narrow {
			secret.Hosts = strings.Split(hosts, ",")
		}
		secrets = append(secrets, secret)
	}
	return secrets
}

// EnvName returns the name of the environment variable of a box that holds the
// placeholder: "BOXLITE_SECRET_" and the secret's name in capitals, with '_' for
// '-'.
func (s Secret) EnvName() string {
	return "BOXLITE_SECRET_" + strings.ToUpper(strings.ReplaceAll(s.Name, "-", "_"))
}

// DefaultPlaceholder returns what a program in a box sends where the secret of
// that name belongs: "<BOXLITE_SECRET:name>".
func DefaultPlaceholder(name string) string { return "<BOXLITE_SECRET:" + name + ">" }

// A SecretValue is the value of a secret. It cannot be printed, logged,
// marshalled or reached by reflection: only [SecretValue.Reveal] tells it. The
// zero value is no value.
type SecretValue struct {
	// A function, because nothing that walks through values looks inside one.
	reveal func() string
}

// NewSecretValue returns s as a value that cannot be printed.
func NewSecretValue(s string) SecretValue { return SecretValue{func() string { return s }} }

// Reveal returns the value itself, "" for the zero value. Call it where bytes
// leave for the secret's own host or for the encrypted vault, and nowhere else.
func (v SecretValue) Reveal() string {
	if v.reveal == nil {
		return ""
	}
	return v.reveal()
}

// IsZero reports whether there is no value.
func (v SecretValue) IsZero() bool { return v.reveal == nil }

// Equal reports whether two values are the same, in a time that says nothing
// about where they differ.
func (v SecretValue) Equal(o SecretValue) bool {
	return subtle.ConstantTimeCompare([]byte(v.Reveal()), []byte(o.Reveal())) == 1
}

const redacted = "[secret]"

// String returns "[secret]", as every way of printing a value does.
func (v SecretValue) String() string { return redacted }

// GoString returns "[secret]".
func (v SecretValue) GoString() string { return redacted }

// Format prints "[secret]" whatever the verb.
func (v SecretValue) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redacted)) }

// LogValue returns "[secret]".
func (v SecretValue) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText fails: a value is carried by no encoding.
func (v SecretValue) MarshalText() ([]byte, error) {
	return nil, errors.New("a secret value cannot be marshalled")
}
