package shim

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/agent"
	"github.com/boxlite-mcp/boxlite-mcp/egress/intercept"
)

// authorityPath is where the box's authority lies alone: where Debian and Alpine
// look for more authorities when they make their bundles anew.
const authorityPath = "/usr/local/share/ca-certificates/boxlite-mcp.crt"

// bundles are the files of authorities that distributions have. The first one
// is made where an image has none.
var bundles = []string{
	"/etc/ssl/certs/ca-certificates.crt",                // Debian, Alpine, Arch
	"/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", // Fedora, RHEL
	"/etc/pki/tls/certs/ca-bundle.crt",                  // older ones of these
	"/etc/ssl/ca-bundle.pem",                            // SUSE
	"/etc/ssl/cert.pem",                                 // Alpine, OpenSSL's own
}

// maxBundle bounds what is read of a bundle, in bytes.
const maxBundle = 4 << 20

// What stands around our authority in a bundle, so that the next start replaces
// it.
const beginMark, endMark = "# BEGIN boxlite-mcp\n", "# END boxlite-mcp\n"

// trust is what the box's programs are told of its authority.
type trust struct {
	mu        sync.Mutex
	authority *intercept.Authority // guarded by mu; nil: the box has no network
	bundle    string               // guarded by mu; path of a bundle with the authority in it; "": none
}

func (t *trust) set(a *intercept.Authority) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.authority = a
}

func (t *trust) get() *intercept.Authority {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.authority
}

// env returns variables for programs that have a bundle of their own, or none.
// They name a bundle of all that the image trusts and the box's authority, which
// nothing of the image's own is left out of. What the image or the box sets
// itself comes later and wins.
func (t *trust) env() []boxlite.Env {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.bundle == "" {
		return nil
	}
	env := []boxlite.Env{{Name: "NODE_EXTRA_CA_CERTS", Value: authorityPath}}
	for _, name := range []string{
		"SSL_CERT_FILE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "GIT_SSL_CAINFO", "PIP_CERT", "AWS_CA_BUNDLE",
		"CARGO_HTTP_CAINFO", "DENO_CERT", "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", "HEX_CACERTS_PATH",
	} {
		env = append(env, boxlite.Env{Name: name, Value: t.bundle})
	}
	return env
}

// trustAuthority makes the box trust the authority that signs for hosts whose
// connections are read: in every bundle that it has, beside what is there.
//
// Errors: those of the agent.
func (s *server) trustAuthority(ctx context.Context) error {
	pem := s.trust.get().PEM()
	if err := s.putFile(ctx, authorityPath, pem); err != nil {
		return err
	}
	first := ""
	for _, path := range bundles {
		old, err := s.getFile(ctx, path)
		if boxlite.KindOf(err) == boxlite.NotFound {
			continue
		}
		if err == nil {
			err = s.putFile(ctx, path, merge(old, pem))
		}
		if err != nil {
			return err
		}
		if first == "" {
			first = path
		}
	}
	if first == "" {
		first = bundles[0]
		if err := s.putFile(ctx, first, merge(nil, pem)); err != nil {
			return err
		}
	}
	if err := s.trustInJava(ctx); err != nil {
		s.log.Warn("java in the box does not trust the box's authority", "err", err)
	}
	s.trust.mu.Lock()
	defer s.trust.mu.Unlock()
	s.trust.bundle = first
	return nil
}

// renewBefore is how long before its end an authority is replaced.
const renewBefore = 30 * 24 * time.Hour

// renewAuthority replaces the authority of a box that runs for so long that the
// one it was started with would expire.
func (s *server) renewAuthority() {
	for a := s.trust.get(); a != nil; a = s.trust.get() {
		select {
		case <-time.After(time.Until(a.Expires()) - renewBefore):
		case <-s.stopped:
			return
		}
		next, err := intercept.NewAuthority("boxlite-mcp box " + string(s.cfg.Box))
		if err != nil {
			s.log.Error("the box's authority was not renewed", "err", err)
			return
		}
		s.trust.set(next)
		if s.trusted() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			err = s.trustAuthority(ctx)
			cancel()
		}
		if err != nil {
			s.log.Error("the box does not trust its next authority", "err", err)
			return
		}
		s.interceptor.SetAuthority(next)
	}
}

// trusted reports whether the box has been told of its authority.
func (s *server) trusted() bool {
	s.trust.mu.Lock()
	defer s.trust.mu.Unlock()
	return s.trust.bundle != ""
}

// merge returns a bundle with the authority in it, in place of an earlier one.
func merge(bundle, pem []byte) []byte {
	if before, rest, ok := bytes.Cut(bundle, []byte(beginMark)); ok {
		if _, after, ok := bytes.Cut(rest, []byte(endMark)); ok {
			bundle = append(bytes.Clone(before), after...)
		}
	}
	if len(bundle) > 0 && bundle[len(bundle)-1] != '\n' {
		bundle = append(bundle, '\n')
	}
	return append(append(append(bytes.Clone(bundle), beginMark...), pem...), endMark...)
}

func (s *server) getFile(ctx context.Context, path string) ([]byte, error) {
	var buf bytes.Buffer
	_, err := s.agent.ReadFile(ctx, path, agent.ReadOptions{Limit: maxBundle + 1}, &buf)
	if err == nil && buf.Len() > maxBundle {
		err = fmt.Errorf("%s in the box has more than %d bytes", path, maxBundle)
	}
	return buf.Bytes(), err
}

func (s *server) putFile(ctx context.Context, path string, data []byte) error {
	opts := agent.WriteOptions{Mode: 0o644, User: "0:0", CreateParents: true}
	if _, err := s.agent.WriteFile(ctx, path, bytes.NewReader(data), opts); err != nil {
		return fmt.Errorf("write %s in the box: %w", path, err)
	}
	return nil
}

// trustInJava puts the authority into Java's own bundle, by Java's own tool,
// where the image has it. It takes a second or two, which only such images wait
// for.
func (s *server) trustInJava(ctx context.Context) error {
	const script = `k=$(command -v keytool) || exit 0
"$k" -delete -noprompt -cacerts -storepass changeit -alias boxlite-mcp >/dev/null 2>&1
exec "$k" -importcert -noprompt -cacerts -storepass changeit -alias boxlite-mcp -file ` + authorityPath
	if _, err := s.agent.Stat(ctx, "/bin/sh", ""); err != nil {
		return nil //nolint:nilerr // an image without a shell has no Java that a tool could be found of
	}
	var out bytes.Buffer
	run, err := s.agent.Start(ctx, agent.ExecSpec{Args: []string{"/bin/sh", "-c", script}, User: "0:0", Dir: "/", Env: []string{"PATH=" + s.path()}}, &out, &out)
	if err != nil {
		return err
	}
	st, err := run.Wait(ctx)
	if err == nil && st.Code != 0 {
		err = fmt.Errorf("keytool ended with %d: %.300s", st.Code, out.String())
	}
	return err
}

// path returns the PATH that commands in the box have.
func (s *server) path() string {
	path := "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	for _, e := range s.cfg.Env {
		if e.Name == "PATH" {
			path = e.Value
		}
	}
	return strings.TrimSpace(path)
}
