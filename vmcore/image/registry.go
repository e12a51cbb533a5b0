package image

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
)

// A Registry says how images are pulled from a host. Images are only pulled
// from hosts that are configured.
type Registry struct {
	// Host is HOST[:PORT], or HOST[:PORT]/PREFIX. The prefix counts for
	// unqualified names; transport, TLS and credentials are the host's.
	Host string
	// HTTP speaks plain HTTP. The default is HTTPS.
	HTTP bool
	// SkipVerify accepts any certificate from Host, and from Host only.
	SkipVerify bool
	// Search tries unqualified names here, in the order of the list.
	Search bool
	// Auth is sent to Host, and to the token server that it names if that
	// belongs to the same domain. The zero Auth is anonymous.
	Auth Auth
}

// Name returns the registry's host as references have it, without a prefix.
func (r Registry) Name() string {
	host, _, _ := strings.Cut(r.Host, "/")
	if name, hint := parseHost(host); hint == "" {
		return name
	}
	return host
}

// An Auth is how to log in. It does not print.
type Auth struct{ username, password, token string }

// Basic returns a login with name and password.
func Basic(username, password string) Auth { return Auth{username: username, password: password} }

// Bearer returns a login with a ready token.
func Bearer(token string) Auth { return Auth{token: token} }

// Format prints what kind of login it is, whatever the verb.
func (a Auth) Format(f fmt.State, _ rune) {
	switch {
	case a.token != "":
		fmt.Fprint(f, "bearer [redacted]")
	case a.username != "":
		fmt.Fprint(f, "basic [redacted]")
	default:
		fmt.Fprint(f, "anonymous")
	}
}

// MarshalText returns what Format prints.
func (a Auth) MarshalText() ([]byte, error) { return fmt.Append(nil, a), nil }

// ParseRegistry reads [http://|https://]HOST[:PORT][/PREFIX].
//
// Errors: InvalidArgument.
func ParseRegistry(s string) (Registry, error) {
	host, isHTTP := strings.CutPrefix(s, "http://")
	r := Registry{Host: strings.TrimSuffix(strings.TrimPrefix(host, "https://"), "/"), HTTP: isHTTP}
	if _, err := parseEntry(r); err != nil {
		return Registry{}, err
	}
	return r, nil
}

// An entry is a Registry in parts.
type entry struct {
	Registry
	host   string
	prefix string // without slashes at its ends; may be empty
}

func parseEntry(r Registry) (entry, error) {
	host, prefix, slash := strings.Cut(r.Host, "/")
	host, hint := parseHost(host)
	if hint == "" && slash && !repoPattern.MatchString(prefix) {
		hint = "A prefix has lower-case letters, digits, '.', '_', '-' and '/'."
	}
	if hint != "" {
		return entry{}, &boxlite.Error{Op: "read registry configuration", Kind: boxlite.InvalidArgument, Ref: short(r.Host), Hint: hint}
	}
	return entry{r, host, prefix}, nil
}

// A registries is the configured list.
type registries []entry

func parseRegistries(list []Registry) (registries, error) {
	if len(list) == 0 {
		list = []Registry{{Host: dockerHub, Search: true}}
	}
	var all registries
	for _, r := range list {
		e, err := parseEntry(r)
		if err != nil {
			return nil, err
		}
		all = append(all, e)
	}
	return all, nil
}

// find returns how to reach r's registry. Of several entries for the host it
// is the one with the longest prefix of the name, else the first.
//
// Errors: Denied with a hint if there is none.
func (rs registries) find(r Reference) (entry, error) {
	best, length := -1, -1
	for i, e := range rs {
		if e.host != r.Registry {
			continue
		}
		fits := strings.HasPrefix(r.Repository, e.prefix+"/")
		switch {
		case fits && len(e.prefix) > length:
			best, length = i, len(e.prefix)
		case best < 0:
			best = i
		}
	}
	if best < 0 {
		return entry{}, &boxlite.Error{Op: "pull image", Kind: boxlite.Denied, Ref: r.String(),
			Hint: fmt.Sprintf("Ask the operator to allow it with --registry %s, or use an image from %s.", r.Registry, rs.hosts()),
			Err:  fmt.Errorf("registry %s is not configured", r.Registry)}
	}
	return rs[best], nil
}

// hosts lists the hosts for a message.
func (rs registries) hosts() string {
	var hosts []string
	for _, e := range rs {
		if !slices.Contains(hosts, e.host) {
			hosts = append(hosts, e.host)
		}
	}
	return strings.Join(hosts, ", ")
}

// candidates returns the qualified references that r may mean, in the order in
// which they are tried. Tag and digest are kept.
//
// Errors: Denied with a hint if nothing is configured for r.
func (rs registries) candidates(r Reference) ([]Reference, error) {
	if r.Registry != "" {
		_, err := rs.find(r)
		return []Reference{r}, err
	}
	var found []Reference
	for _, e := range rs {
		if e.Search {
			found = append(found, e.qualify(r))
		}
	}
	if i := slices.IndexFunc(rs, func(e entry) bool { return e.host == dockerHub }); len(found) == 0 && i >= 0 {
		found = append(found, rs[i].qualify(r))
	}
	if len(found) == 0 {
		return nil, &boxlite.Error{Op: "pull image", Kind: boxlite.Denied, Ref: r.String(),
			Hint: "Write the registry before the name, one of " + rs.hosts() + ".",
			Err:  errors.New("no registry is configured to search for names without one")}
	}
	return found, nil
}

// qualify returns what the unqualified r means at e: below the prefix if there
// is one; else one-part names are in library/.
func (e entry) qualify(r Reference) Reference {
	r.Registry = e.host
	switch {
	case e.prefix != "":
		r.Repository = e.prefix + "/" + r.Repository
	case !strings.Contains(r.Repository, "/"):
		r.Repository = "library/" + r.Repository
	}
	return r
}
