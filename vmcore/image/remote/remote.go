// Package remote speaks the part of the registry protocol that a pull needs:
// manifests, blobs with resumption, and logging in.
//
// It stores nothing and decides nothing about images. It does not read the
// environment: no proxies, no credential files.
//
//	c := remote.New(remote.Options{Host: "registry.example.com"})
//	defer c.Close()
//	m, err := c.Manifest(ctx, "team/app", "latest")
//	body, from, err := c.Blob(ctx, "team/app", digest, resumeAt, size)
//
// A Client may be used concurrently.
package remote

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
)

// MaxManifest is the most bytes that a manifest may have.
const MaxManifest = 8 << 20

// Options say how to reach a registry.
type Options struct {
	Host       string // host[:port], as in references; docker.io means its API's host
	HTTP       bool   // plain HTTP instead of HTTPS
	SkipVerify bool   // accept any certificate from Host

	Username, Password string // to log in with; empty: anonymous
	Token              string // a ready bearer token

	RootCAs *x509.CertPool // nil: the system's
	// Dial connects to host:port, for redirects and token servers too. nil: a
	// net.Dialer.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Idle is how long the registry may be silent. 0: 30 seconds.
	Idle time.Duration
	// Agent is the User-Agent. "": boxlite-mcp.
	Agent string
}

// A Client talks to one registry.
type Client struct {
	opts Options
	host string // where the API is
	http *http.Client
	ours *http.Transport // for the registry itself
	rest *http.Transport // for where it sends us

	mu     sync.Mutex
	logins map[string]string // Authorization header per repository; guarded by mu
}

// New returns a client. It does not connect.
func New(o Options) *Client {
	if o.Idle == 0 {
		o.Idle = 30 * time.Second
	}
	if o.Agent == "" {
		o.Agent = "boxlite-mcp"
	}
	if o.Dial == nil {
		o.Dial = (&net.Dialer{Timeout: min(o.Idle, 10*time.Second), KeepAlive: 30 * time.Second}).DialContext
	}
	c := &Client{opts: o, host: o.Host, logins: map[string]string{}}
	if c.host == "docker.io" {
		c.host = "registry-1.docker.io"
	}
	c.ours, c.rest = o.transport(o.SkipVerify), o.transport(false)
	c.http = &http.Client{Transport: roundTripper(c.roundTrip), CheckRedirect: c.redirect}
	return c
}

func (o Options) transport(skipVerify bool) *http.Transport {
	return &http.Transport{
		Proxy:                  nil,
		DialContext:            o.Dial,
		TLSClientConfig:        &tls.Config{RootCAs: o.RootCAs, InsecureSkipVerify: skipVerify, MinVersion: tls.VersionTLS12}, //nolint:gosec // the operator asked for it, for this host
		TLSHandshakeTimeout:    min(o.Idle, 10*time.Second),
		ResponseHeaderTimeout:  o.Idle,
		IdleConnTimeout:        30 * time.Second,
		MaxIdleConnsPerHost:    8,
		MaxResponseHeaderBytes: 256 << 10,
		ForceAttemptHTTP2:      true,
		DisableCompression:     true,
		WriteBufferSize:        4 << 10,
		ReadBufferSize:         256 << 10,
	}
}

// Close lets go of idle connections.
func (c *Client) Close() {
	c.ours.CloseIdleConnections()
	c.rest.CloseIdleConnections()
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// roundTrip keeps SkipVerify to the registry itself, and https to https.
func (c *Client) roundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme != "https" && (r.URL.Scheme != "http" || !c.opts.HTTP) {
		return nil, fmt.Errorf("the registry leads to %s://%s, which is not https", r.URL.Scheme, r.URL.Host)
	}
	if r.URL.Host == c.host {
		return c.ours.RoundTrip(r)
	}
	return c.rest.RoundTrip(r)
}

// redirect forgets who we are when the registry sends us elsewhere.
func (c *Client) redirect(r *http.Request, via []*http.Request) error {
	if len(via) >= 10 {
		return errors.New("the registry redirects without end")
	}
	if r.URL.Host != via[0].URL.Host || r.URL.Scheme != via[0].URL.Scheme {
		r.Header.Del("Authorization")
	}
	r.Header.Del("Referer")
	return nil
}

// A StatusError is an answer that is not what was asked for.
type StatusError struct {
	Status  int
	Message string // of the registry, at most a few hundred bytes
	After   time.Duration
}

func (e *StatusError) Error() string {
	s := fmt.Sprintf("the registry answers %d %s", e.Status, http.StatusText(e.Status))
	if e.Message != "" {
		s += ": " + e.Message
	}
	return s
}

// ErrIdle is the cause of a transfer that made no progress for too long.
var ErrIdle = errors.New("the registry has stopped sending")

// ErrTooBig is an answer beyond its limit.
var ErrTooBig = errors.New("the answer is too big")

// IsTransient reports whether trying again may help.
func IsTransient(err error) bool {
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, ErrTooBig) {
		return false
	}
	if s, ok := errors.AsType[*StatusError](err); ok {
		return s.Status >= 500 || s.Status == http.StatusTooManyRequests || s.Status == http.StatusRequestTimeout
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return false
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return false
	}
	_, isRequest := errors.AsType[*url.Error](err)
	_, isTransfer := errors.AsType[*TransferError](err)
	return isRequest || isTransfer || errors.Is(err, ErrIdle)
}

// A TransferError is a response that broke off.
type TransferError struct{ Err error }

func (e *TransferError) Error() string { return "transfer broke off: " + e.Err.Error() }

// Unwrap returns the cause.
func (e *TransferError) Unwrap() error { return e.Err }

// A Manifest is a manifest or index as the registry sent it.
type Manifest struct {
	Bytes     []byte // empty after Head
	MediaType string // as the registry says; may be empty
	Digest    string // sha256:…; of Bytes, or as the registry says after Head, where it may be empty
}

const acceptManifests = "application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.list.v2+json, " +
	"application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json"

// Head asks for the digest of a tag.
func (c *Client) Head(ctx context.Context, repo, ref string) (Manifest, error) {
	resp, err := c.do(ctx, http.MethodHead, repo, "manifests/"+ref, http.Header{"Accept": {acceptManifests}})
	if err != nil {
		return Manifest{}, err
	}
	resp.Body.Close()
	return Manifest{MediaType: resp.Header.Get("Content-Type"), Digest: resp.Header.Get("Docker-Content-Digest")}, nil
}

// Manifest fetches a manifest or index by tag or digest. The caller verifies
// the digest.
func (c *Client) Manifest(ctx context.Context, repo, ref string) (Manifest, error) {
	resp, err := c.do(ctx, http.MethodGet, repo, "manifests/"+ref, http.Header{"Accept": {acceptManifests}})
	if err != nil {
		return Manifest{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, MaxManifest+1))
	if err != nil {
		return Manifest{}, err
	}
	if len(body) > MaxManifest {
		return Manifest{}, fmt.Errorf("manifest of more than %d bytes: %w", MaxManifest, ErrTooBig)
	}
	sum := sha256.Sum256(body)
	return Manifest{body, resp.Header.Get("Content-Type"), "sha256:" + hex.EncodeToString(sum[:])}, nil
}

// Blob returns the bytes of a blob of the given size beginning with the one at
// from: that which was asked for, or 0 if the registry does not resume. The
// caller verifies size and digest.
func (c *Client) Blob(ctx context.Context, repo, digest string, at, size int64) (body io.ReadCloser, from int64, err error) {
	h := http.Header{}
	if at > 0 { // with an end, which some registries insist on
		h.Set("Range", fmt.Sprintf("bytes=%d-%d", at, size-1))
	}
	resp, err := c.do(ctx, http.MethodGet, repo, "blobs/"+digest, h)
	if err != nil {
		if s, ok := errors.AsType[*StatusError](err); ok && at > 0 && s.Status == http.StatusRequestedRangeNotSatisfiable {
			return c.Blob(ctx, repo, digest, 0, size)
		}
		return nil, 0, err
	}
	if resp.StatusCode == http.StatusPartialContent {
		if !strings.HasPrefix(resp.Header.Get("Content-Range"), "bytes "+strconv.FormatInt(at, 10)+"-") {
			resp.Body.Close()
			return nil, 0, fmt.Errorf("the registry resumes at the wrong place: %.80q", resp.Header.Get("Content-Range"))
		}
		return resp.Body, at, nil
	}
	return resp.Body, 0, nil
}

// do sends a request, logging in if the registry wants that. The response has
// a 2xx status, and its body ends with ErrIdle when the registry falls silent.
func (c *Client) do(ctx context.Context, method, repo, path string, h http.Header) (*http.Response, error) {
	for attempt := 0; ; attempt++ {
		resp, err := c.send(ctx, method, c.scheme()+"://"+c.host+"/v2/"+repo+"/"+path, h, c.login(repo))
		if err != nil {
			return nil, err
		}
		if resp.StatusCode/100 == 2 {
			return resp, nil
		}
		refused := statusError(resp)
		if resp.StatusCode != http.StatusUnauthorized || attempt > 0 {
			return nil, refused
		}
		if err := c.logIn(ctx, repo, resp.Header.Values("WWW-Authenticate")); err != nil {
			return nil, errors.Join(refused, err)
		}
	}
}

func (c *Client) scheme() string {
	if c.opts.HTTP {
		return "http"
	}
	return "https"
}

func (c *Client) send(ctx context.Context, method, target string, h http.Header, authorization string) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	idle := time.AfterFunc(c.opts.Idle, func() { cancel(ErrIdle) })
	r, err := http.NewRequestWithContext(ctx, method, target, nil)
	if err != nil {
		cancel(err)
		return nil, err
	}
	maps.Copy(r.Header, h)
	r.Header.Set("User-Agent", c.opts.Agent)
	if authorization != "" {
		r.Header.Set("Authorization", authorization)
	}
	resp, err := c.http.Do(r)
	if err != nil {
		idle.Stop()
		defer cancel(err)
		if cause := context.Cause(ctx); cause != nil {
			return nil, cause
		}
		return nil, err
	}
	resp.Body = &watchedBody{resp.Body, ctx, cancel, idle, c.opts.Idle}
	return resp, nil
}

// statusError reads the message of a failed request, and closes it.
func statusError(resp *http.Response) error {
	defer resp.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	e := &StatusError{Status: resp.StatusCode, Message: message(body)}
	if s, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && s > 0 {
		e.After = time.Duration(min(s, 3600)) * time.Second
	}
	return e
}

// A watchedBody is a response that must keep coming.
type watchedBody struct {
	io.ReadCloser
	ctx    context.Context //nolint:containedctx // of this one response
	cancel context.CancelCauseFunc
	timer  *time.Timer
	idle   time.Duration
}

func (b *watchedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if n > 0 {
		b.timer.Reset(b.idle)
	}
	if err != nil && err != io.EOF {
		if cause := context.Cause(b.ctx); cause != nil {
			return n, cause
		}
		err = &TransferError{err}
	}
	return n, err
}

func (b *watchedBody) Close() error {
	b.timer.Stop()
	b.cancel(context.Canceled)
	return b.ReadCloser.Close()
}
