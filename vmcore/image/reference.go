package image

import (
	"fmt"
	"path"
	"regexp"
	"strconv"
	"strings"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
)

// A Transport says where an image comes from.
type Transport string

// The transports. The local ones are read from the host's files.
const (
	FromRegistry      Transport = ""               // [HOST[:PORT]/]NAME[:TAG][@DIGEST]
	FromLayout        Transport = "oci"            // oci:DIR[:TAG], an OCI image layout
	FromDockerArchive Transport = "docker-archive" // docker-archive:FILE[:TAG], made by docker save
	FromOCIArchive    Transport = "oci-archive"    // oci-archive:FILE[:TAG], a layout in a tar file
	FromDirectory     Transport = "dir"            // dir:ROOT, an already prepared root directory
)

// A Reference names an image. Of its fields, Registry, Repository, Tag and
// Digest belong to registries, Path and Tag to local transports.
type Reference struct {
	Transport  Transport
	Registry   string // host[:port]; "" if the name is unqualified and the search list decides
	Repository string // such as library/alpine
	Tag        string // "" only beside a Digest, or in a local reference
	Digest     string // sha256:… or ""
	Path       string // on the host
}

const (
	dockerHub  = "docker.io"
	defaultTag = "latest"
)

var (
	hostPattern   = regexp.MustCompile(`^(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?$`)
	repoPattern   = regexp.MustCompile(`^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*$`)
	tagPattern    = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$`)
	digestPattern = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)
)

// ParseReference reads a reference in one of the forms above. A registry
// reference without tag and digest means the tag latest; docker.io's official
// images get their library/.
//
// Errors: InvalidArgument.
func ParseReference(s string) (Reference, error) {
	r, hint := parseLocal(s)
	if r.Transport == FromRegistry && hint == "" {
		r, hint = parseRegistry(s)
	}
	if hint != "" {
		return Reference{}, &boxlite.Error{Op: "parse image reference", Kind: boxlite.InvalidArgument, Ref: short(s), Hint: hint}
	}
	return r, nil
}

// parseLocal returns the zero Reference if s names no local transport.
func parseLocal(s string) (r Reference, hint string) {
	scheme, rest, _ := strings.Cut(s, ":")
	switch t := Transport(scheme); t {
	case FromDirectory:
		r = Reference{Transport: t, Path: rest}
	case FromLayout, FromDockerArchive, FromOCIArchive:
		p, tag, tagged := strings.Cut(rest, ":")
		r = Reference{Transport: t, Path: p, Tag: tag}
		if tagged && !validLocalTag(tag) {
			return r, "Write the tag after the path, as in " + scheme + ":/path:tag."
		}
	default:
		return r, ""
	}
	if r.Path == "" || strings.ContainsRune(r.Path, 0) || len(r.Path) > 4096 {
		return r, "Write the path after " + scheme + ":."
	}
	r.Path = path.Clean(r.Path)
	return r, ""
}

// validLocalTag accepts what archives and layouts call an image: a tag or a
// whole name.
func validLocalTag(s string) bool {
	return s != "" && len(s) <= 512 && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' })
}

func parseRegistry(s string) (r Reference, hint string) {
	rest, digest, hasDigest := strings.Cut(s, "@")
	if hasDigest && !digestPattern.MatchString(digest) {
		return r, "A digest is sha256: and 64 lower-case hexadecimal digits."
	}
	r.Digest = digest
	if host, name, ok := strings.Cut(rest, "/"); ok && isHost(host) {
		if r.Registry, hint = parseHost(host); hint != "" {
			return r, hint
		}
		rest = name
	}
	tagged := false
	if r.Repository, r.Tag, tagged = strings.Cut(rest, ":"); !tagged && !hasDigest {
		r.Tag = defaultTag
	}
	if r.Registry == dockerHub && !strings.Contains(r.Repository, "/") {
		r.Repository = "library/" + r.Repository
	}
	switch {
	case len(r.Repository) > 255 || !repoPattern.MatchString(r.Repository):
		return r, "Write [HOST/]NAME[:TAG][@DIGEST] with a name of lower-case letters, digits, '.', '_', '-' and '/'."
	case r.Registry == "" && isHost(firstPart(r.Repository)) && strings.Contains(r.Repository, "/"):
		return r, "Write [HOST/]NAME[:TAG][@DIGEST]."
	case tagged && !tagPattern.MatchString(r.Tag):
		return r, "A tag has at most 128 letters, digits, '_', '.' and '-'."
	}
	return r, ""
}

func firstPart(s string) string { part, _, _ := strings.Cut(s, "/"); return part }

// isHost tells a registry from the first part of a name, as Docker does, but
// that a host of one part has a port: what is written back must stay a host.
func isHost(s string) bool {
	return strings.ContainsAny(s, ".:[") || strings.EqualFold(s, "localhost")
}

// parseHost returns the canonical form of host[:port].
func parseHost(s string) (host, hint string) {
	s = strings.ToLower(s)
	if !hostPattern.MatchString(s) || len(s) > 255 {
		return "", "A registry is written HOST or HOST:PORT, without a scheme."
	}
	if i := strings.LastIndexByte(s, ':'); i > strings.LastIndexByte(s, ']') {
		if port, err := strconv.Atoi(s[i+1:]); err != nil || port < 1 || port > 65535 {
			return "", "A port is a number from 1 to 65535."
		}
	}
	if s == "index.docker.io" || s == "registry-1.docker.io" {
		return dockerHub, ""
	}
	return s, ""
}

// IsLocal reports whether the image comes from the host's files.
func (r Reference) IsLocal() bool { return r.Transport != FromRegistry }

// String returns the canonical form: [ParseReference] reads it back as r.
func (r Reference) String() string {
	if r.IsLocal() {
		s := string(r.Transport) + ":" + r.Path
		if r.Tag != "" {
			s += ":" + r.Tag
		}
		return s
	}
	s := r.Repository
	if r.Registry != "" {
		s = r.Registry + "/" + s
	}
	if r.Tag != "" {
		s += ":" + r.Tag
	}
	if r.Digest != "" {
		s += "@" + r.Digest
	}
	return s
}

// manifest returns what to ask the registry for.
func (r Reference) manifest() string {
	if r.Digest != "" {
		return r.Digest
	}
	return r.Tag
}

// short returns s quoted, cut to what fits a message.
func short(s string) string {
	if len(s) > 120 {
		return fmt.Sprintf("%.120q…", s)
	}
	return strconv.Quote(s)
}
