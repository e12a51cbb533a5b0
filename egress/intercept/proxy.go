package intercept

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/elazarl/goproxy"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/egress"
	"github.com/boxlite-mcp/boxlite-mcp/egress/policy"
	"github.com/boxlite-mcp/boxlite-mcp/secrets"
)

// A proxy carries the requests of one connection of the box to its host. The
// core is goproxy's; what is ours is in the functions that it calls before and
// after.
type proxy struct {
	x      *exchange
	core   *goproxy.ProxyHttpServer
	host   *http.Transport // HTTP/2 where the host speaks it
	legacy *http.Transport // HTTP/1.1 only, for upgrades
}

func (x *exchange) proxy() *proxy {
	p := &proxy{x: x, core: goproxy.NewProxyHttpServer(), host: x.transport(true), legacy: x.transport(false)}
	p.core.Tr, p.core.KeepAcceptEncoding, p.core.Logger = p.host, true, silent{}
	p.core.ConnectDial = func(string, string) (net.Conn, error) { return nil, errors.New("not supported") }
	p.core.OnRequest().DoFunc(p.before)
	p.core.OnResponse().DoFunc(p.after)
	return p
}

// silent is a logger: what there is to say is in the records.
type silent struct{}

func (silent) Printf(string, ...any) {}

// transport returns what reaches the host: dialled by policy, verified, and by
// no other way than that.
func (x *exchange) transport(http2 bool) *http.Transport {
	t := &http.Transport{
		DialContext:     func(ctx context.Context, _, _ string) (net.Conn, error) { return x.flow.Dial(ctx) },
		TLSClientConfig: &tls.Config{ServerName: x.flow.Name, RootCAs: x.i.cfg.RootCAs, MinVersion: tls.VersionTLS12},
		Proxy:           nil, DisableCompression: true, ForceAttemptHTTP2: http2,
		TLSHandshakeTimeout: greetTime, ResponseHeaderTimeout: answerTime, ExpectContinueTimeout: time.Second,
		IdleConnTimeout: quietTime, MaxIdleConnsPerHost: 8, MaxConnsPerHost: 64, MaxResponseHeaderBytes: 4 * maxHead,
	}
	if !http2 {
		t.TLSNextProto = map[string]func(string, *tls.Conn) http.RoundTripper{}
	}
	return t
}

func (p *proxy) close() {
	p.host.CloseIdleConnections()
	p.legacy.CloseIdleConnections()
}

// A request is what is known of one request, from before it is sent until its
// answer has been passed on.
type request struct {
	event     boxlite.NetworkEvent
	update    func(boxlite.NetworkEvent)
	bound     *secrets.Bound
	bodyUsed  func() []string
	upgrade   bool
	refused   bool
	sent, got atomic.Int64
}

// requestKey is where the context of a request has its request.
type requestKey struct{}

func of(r *http.Request) *request {
	q, _ := r.Context().Value(requestKey{}).(*request)
	return q
}

// ServeHTTP serves one request of the box.
func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	q := &request{event: boxlite.NetworkEvent{
		Kind: boxlite.NetRequest, Time: time.Now(), Proto: "tcp", Host: p.x.flow.Name, Port: p.x.flow.Port, Method: r.Method, Path: r.URL.EscapedPath(),
	}}
	out := &flushing{ResponseWriter: w, n: &q.got}
	ctx := context.WithValue(r.Context(), requestKey{}, q)
	r = r.WithContext(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{Got1xxResponse: q.informational(out)}))
	if r.ContentLength == 0 {
		r.Body = http.NoBody // which the transport has to see, to know that there is none
	} else {
		r.Body = &countingBody{r.Body, &q.sent}
	}
	if r.Method == http.MethodConnect {
		q.deny(policy.BadRequest.String(), "", "CONNECT is for proxies, and this is the host")
		p.x.record(q)
		http.Error(w, refusal(q), http.StatusMethodNotAllowed)
		return
	}
	// goproxy serves what has a whole URL.
	asked := *r.URL
	r.URL.Scheme, r.URL.Host = p.scheme(), net.JoinHostPort(p.x.flow.Name, strconv.Itoa(int(p.x.flow.Port)))
	if asked.IsAbs() && !strings.EqualFold(asked.Scheme, p.scheme()) || asked.User != nil {
		q.deny(policy.BadRequest.String(), "", "the request is for another scheme than the connection")
	} else if asked.Host != "" && !p.x.isHost(asked.Host) {
		q.deny(policy.WrongAuthority.String(), "", "the request is for "+printable(asked.Host)+", and the connection for "+p.x.flow.Name)
	}
	p.core.ServeHTTP(out, r)
	q.event.Open = false
	q.finish()
}

func (p *proxy) scheme() string {
	if p.x.secure {
		return "https"
	}
	return "http"
}

// isHost reports whether what a request calls its host is the connection's.
func (x *exchange) isHost(s string) bool {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		host, port = s, ""
	}
	name, err := policy.CanonicalName(host)
	return err == nil && name == x.flow.Name && (port == "" || port == strconv.Itoa(int(x.flow.Port)))
}

// before judges a request and makes it ready to be sent. If it returns an
// answer, that is what the box gets.
func (p *proxy) before(r *http.Request, ctx *goproxy.ProxyCtx) (*http.Request, *http.Response) {
	q, x := of(r), p.x
	if q.event.Code == "" { // not refused already
		x.judge(q, r)
	}
	if q.refused {
		x.record(q)
		return r, answer(r, q.status(), q)
	}
	cleanHeaders(r)
	if q.upgrade = isUpgrade(r); q.upgrade {
		ctx.RoundTripper = goproxy.RoundTripperFunc(func(r *http.Request, _ *goproxy.ProxyCtx) (*http.Response, error) { return p.legacy.RoundTrip(r) })
	}
	if x.secure {
		q.bound = x.i.secrets.Load().For(x.flow.Name, x.flow.Port)
	}
	if q.bound != nil {
		if err := x.putSecrets(q, r); err != nil {
			q.deny(egress.CodeLimit, "", err.Error())
			x.record(q)
			return r, answer(r, http.StatusRequestHeaderFieldsTooLarge, q)
		}
	}
	q.event.Open = true
	x.record(q)
	return r, nil
}

// status is what the box is told of a refusal.
func (q *request) status() int {
	switch q.event.Code {
	case policy.WrongAuthority.String():
		return http.StatusMisdirectedRequest
	case policy.BadRequest.String():
		return http.StatusBadRequest
	}
	return http.StatusForbidden
}

// judge asks policy about a request, and puts the path in the form that was
// judged.
func (x *exchange) judge(q *request, r *http.Request) {
	hosts := r.Header["Host"] // of HTTP/2, beside :authority
	if !x.isHost(r.Host) || len(hosts) > 1 || len(hosts) == 1 && !x.isHost(hosts[0]) {
		q.deny(policy.WrongAuthority.String(), "", "the request is for "+printable(r.Host)+", and the connection for "+x.flow.Name)
		return
	}
	r.Header.Del("Host")
	d, forward := x.flow.Policy().DecideRequest(policy.Request{
		Secure: x.secure, Host: x.flow.Name, Port: x.flow.Port, Method: r.Method, Path: r.URL.EscapedPath(),
	})
	q.event.Allowed, q.event.Code, q.event.Rule, q.event.Reason, q.refused = d.Allow, d.Code.String(), d.Rule, d.Reason, !d.Allow
	if !d.Allow {
		return
	}
	if plain, err := url.PathUnescape(forward); err == nil {
		r.URL.Path, r.URL.RawPath = plain, forward
	}
	if d.Inspect { // a rule about methods means the one that the host acts on
		for _, name := range []string{"X-Http-Method-Override", "X-Http-Method", "X-Method-Override"} {
			r.Header.Del(name)
		}
	}
}

func (q *request) deny(code, rule, reason string) {
	q.event.Allowed, q.event.Code, q.event.Rule, q.event.Reason, q.refused = false, code, rule, reason, true
}

// cleanHeaders removes what is between the box and us only.
func cleanHeaders(r *http.Request) {
	for _, list := range r.Header["Connection"] {
		for name := range strings.SplitSeq(list, ",") {
			if name = textproto.TrimString(name); !strings.EqualFold(name, "Upgrade") && !strings.EqualFold(name, "Te") {
				r.Header.Del(name)
			}
		}
	}
	if !isUpgrade(r) {
		r.Header.Del("Upgrade")
	}
	for _, name := range []string{"Keep-Alive", "Http2-Settings", "Alt-Used", "Proxy-Connection"} {
		r.Header.Del(name)
	}
	if te := r.Header.Get("Te"); te != "" && !strings.EqualFold(te, "trailers") {
		r.Header.Del("Te")
	}
}

// isUpgrade reports whether a request asks for a WebSocket.
func isUpgrade(r *http.Request) bool {
	return r.ProtoMajor == 1 && strings.EqualFold(r.Header.Get("Upgrade"), "websocket") && strings.Contains(strings.ToLower(r.Header.Get("Connection")), "upgrade")
}

// putSecrets puts values into a request, of which the answer must be readable.
func (x *exchange) putSecrets(q *request, r *http.Request) error {
	used := q.bound.PutHeaders(r.Header)
	raw, inQuery := q.bound.PutQuery(r.URL.RawQuery)
	r.URL.RawQuery = raw
	q.event.Secrets = merge(used, inQuery)
	if q.bound.PutsBody() && r.ContentLength != 0 && !q.upgrade {
		var body io.Reader
		body, q.bodyUsed = q.bound.PutBody(r.Body)
		r.Body = struct {
			io.Reader
			io.Closer
		}{body, r.Body}
		r.ContentLength = -1
		r.Header.Del("Content-Length")
	}
	r.Header.Set("Accept-Encoding", "identity")
	size := len(r.URL.RawQuery)
	for name, values := range r.Header {
		for _, v := range values {
			size += len(name) + len(v) + 4
		}
	}
	if size > maxHead {
		return fmt.Errorf("with the secrets in it the head has %d bytes, more than %d", size, maxHead)
	}
	return nil
}

func merge(a, b []string) []string {
	n := map[string]bool{}
	var list []string
	for _, s := range append(append([]string(nil), a...), b...) {
		if !n[s] {
			n[s] = true
			list = append(list, s)
		}
	}
	return list
}

// after makes an answer ready to be passed on. resp is nil if there was none.
func (p *proxy) after(resp *http.Response, ctx *goproxy.ProxyCtx) *http.Response {
	q := of(ctx.Req)
	if q.refused {
		return resp
	}
	if resp == nil {
		reason := "the host was not reached: " + q.redact(cause(ctx.Error))
		q.event.Code, q.event.Reason, q.refused = egress.CodeUnreachable, reason, true
		switch boxlite.KindOf(ctx.Error) {
		case boxlite.Denied:
			q.event.Allowed = false
		case boxlite.Exhausted:
			q.event.Allowed, q.event.Code = false, egress.CodeLimit
		}
		return answer(ctx.Req, http.StatusBadGateway, q)
	}
	q.event.Status = resp.StatusCode
	if why := q.unreadable(resp); why != "" {
		resp.Body.Close()
		q.deny(egress.CodeProtocol, q.event.Rule, why)
		return answer(ctx.Req, http.StatusBadGateway, q)
	}
	resp.Header.Del("Alt-Svc")                                         // QUIC to the host is refused
	if q.upgrade && resp.StatusCode != http.StatusSwitchingProtocols { // what follows on the connection was not filtered
		resp.Header.Set("Connection", "close")
	}
	if q.bound != nil {
		q.bound.RedactHeaders(resp.Header)
		if hasBody(resp) {
			resp.Body = &redacted{resp: resp, r: q.bound.Redact(resp.Body), Closer: resp.Body, bound: q.bound}
		}
	}
	return resp
}

// unreadable returns why an answer cannot be passed on, or "".
func (q *request) unreadable(resp *http.Response) string {
	if resp.StatusCode == http.StatusSwitchingProtocols && (!q.upgrade || !strings.EqualFold(resp.Header.Get("Upgrade"), "websocket")) {
		return "the host changes to a protocol that was not asked for"
	}
	if q.bound == nil || resp.StatusCode == http.StatusSwitchingProtocols {
		return ""
	}
	for _, list := range resp.Header["Content-Encoding"] {
		for coding := range strings.SplitSeq(list, ",") {
			if coding = strings.ToLower(strings.TrimSpace(coding)); coding != "" && coding != "identity" {
				return "the answer is coded (" + printable(coding) + "), although it was asked for as it is, so secrets in it would not be seen"
			}
		}
	}
	return ""
}

func (q *request) redact(s string) string {
	if q.bound == nil {
		return s
	}
	return q.bound.RedactString(s)
}

// cause returns what an error of the transport says without its wrapping.
func cause(err error) string {
	if err == nil {
		return "no answer"
	}
	if e, ok := errors.AsType[*boxlite.Error](err); ok && e.Err != nil {
		return e.Err.Error()
	}
	return err.Error()
}

// hasBody reports whether an answer is followed by a body. Where it is not, its
// length is that of a body that there would be, and stays.
func hasBody(resp *http.Response) bool {
	switch resp.StatusCode {
	case http.StatusSwitchingProtocols, http.StatusNoContent, http.StatusNotModified:
		return false
	}
	return resp.Request.Method != http.MethodHead
}

// A redacted is the body of an answer without values.
type redacted struct {
	io.Closer
	resp  *http.Response
	r     io.Reader
	bound *secrets.Bound
}

func (b *redacted) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if err == io.EOF {
		b.bound.RedactHeaders(b.resp.Trailer)
	}
	return n, err
}

type countingBody struct {
	io.ReadCloser
	n *atomic.Int64
}

func (c *countingBody) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.n.Add(int64(n))
	return n, err
}

// refusal is what the box is told.
func refusal(q *request) string { return "boxlite-mcp: " + q.event.Reason + "\n" }

// answer returns an answer of ours.
func answer(r *http.Request, status int, q *request) *http.Response {
	text := refusal(q)
	q.event.Status = status
	resp := &http.Response{
		Request: r, StatusCode: status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{
			"Content-Type": {"text/plain; charset=utf-8"}, "X-Boxlite-Denied": {q.event.Code},
		},
		ContentLength: int64(len(text)), Body: io.NopCloser(strings.NewReader(text)),
	}
	if r.ProtoMajor == 1 { // the rest of the request is not read
		resp.Header.Set("Connection", "close")
	}
	return resp
}

// record makes the request's first record.
func (x *exchange) record(q *request) { q.update = x.flow.Record(q.event) }

// finish makes its last one, with what there is to say by then.
func (q *request) finish() {
	if q.update == nil {
		return
	}
	q.event.Sent, q.event.Received = q.sent.Load(), q.got.Load()
	q.event.Duration = boxlite.Seconds(time.Since(q.event.Time).Seconds())
	if q.bodyUsed != nil {
		q.event.Secrets = merge(q.event.Secrets, q.bodyUsed())
	}
	q.update(q.event)
}

// informational passes on what a host says before its answer.
func (q *request) informational(w http.ResponseWriter) func(int, textproto.MIMEHeader) error {
	return func(code int, h textproto.MIMEHeader) error {
		if code == http.StatusContinue || code == http.StatusSwitchingProtocols {
			return nil
		}
		header := http.Header(h).Clone()
		if q.bound != nil {
			q.bound.RedactHeaders(header)
		}
		maps.Copy(w.Header(), header)
		w.WriteHeader(code)
		for name := range header {
			w.Header().Del(name)
		}
		return nil
	}
}

// flushing is a response writer that holds nothing back.
type flushing struct {
	http.ResponseWriter
	n *atomic.Int64 // bytes of the answer's body
}

// WriteHeader sends the head at once: a box may wait for it before it sends more.
func (f *flushing) WriteHeader(code int) {
	f.ResponseWriter.WriteHeader(code)
	if code >= 200 {
		f.Flush()
	}
}

func (f *flushing) Write(b []byte) (int, error) {
	n, err := f.ResponseWriter.Write(b)
	f.n.Add(int64(n))
	if err == nil {
		err = http.NewResponseController(f.ResponseWriter).Flush()
	}
	return n, err
}

// Flush implements [http.Flusher].
func (f *flushing) Flush() { _ = http.NewResponseController(f.ResponseWriter).Flush() }

// Hijack implements [http.Hijacker].
func (f *flushing) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return http.NewResponseController(f.ResponseWriter).Hijack()
}

// Unwrap is for [http.ResponseController].
func (f *flushing) Unwrap() http.ResponseWriter { return f.ResponseWriter }
