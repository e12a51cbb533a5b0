package secrets_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/iotest"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/secrets"
)

const (
	real = `sk-live-0123456789+/"<abc>&xyz`
	ph   = "<BOXLITE_SECRET:key>"
)

func newBound(t testing.TB, edit ...func(*boxlite.Secret)) *secrets.Bound {
	t.Helper()
	s := boxlite.Secret{Name: "key", Hosts: []string{"api.good.test"}, Value: boxlite.NewSecretValue(real)}
	for _, f := range edit {
		f(&s)
	}
	set, err := secrets.NewSet([]boxlite.Secret{s})
	if err != nil {
		t.Fatal(err)
	}
	return set.For("api.good.test", 443)
}

func TestForItsHostsOnly(t *testing.T) {
	set, err := secrets.NewSet([]boxlite.Secret{
		{Name: "a", Hosts: []string{"api.good.test:443"}, Value: boxlite.NewSecretValue("value-of-a")},
		{Name: "b", Hosts: []string{"*.good.test"}, Value: boxlite.NewSecretValue("value-of-b")},
		{Name: "nowhere", Value: boxlite.NewSecretValue("value-of-nowhere")},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		host string
		port uint16
		want string // that placeholders of a, b and nowhere become
	}{
		{"api.good.test", 443, "value-of-a value-of-b <BOXLITE_SECRET:nowhere>"},
		{"API.good.test.", 443, "value-of-a value-of-b <BOXLITE_SECRET:nowhere>"},
		{"api.good.test", 8443, "<BOXLITE_SECRET:a> value-of-b <BOXLITE_SECRET:nowhere>"},
		{"x.y.good.test", 443, "<BOXLITE_SECRET:a> value-of-b <BOXLITE_SECRET:nowhere>"},
		{"good.test", 443, ""},
		{"evilgood.test", 443, ""},
		{"api.good.test.evil.test", 443, ""},
	} {
		b := set.For(c.host, c.port)
		if b == nil {
			if c.want != "" {
				t.Errorf("%s:%d: nothing", c.host, c.port)
			}
			continue
		}
		h := http.Header{"X-Key": {"<BOXLITE_SECRET:a> <BOXLITE_SECRET:b> <BOXLITE_SECRET:nowhere>"}}
		b.PutHeaders(h)
		if got := h.Get("X-Key"); got != c.want {
			t.Errorf("%s:%d: %q, want %q", c.host, c.port, got, c.want)
		}
	}
	var none *secrets.Set
	if none.For("api.good.test", 443) != nil {
		t.Error("a nil set has secrets")
	}
}

// Attacks of family F on where a placeholder may stand.
func TestPutHeaders(t *testing.T) {
	b := newBound(t)
	basic := func(s string) string { return "Basic " + base64.StdEncoding.EncodeToString([]byte(s)) }
	for _, c := range []struct{ name, header, in, want string }{
		{"bearer", "Authorization", "Bearer " + ph, "Bearer " + real},
		{"basic password", "Authorization", basic("user:" + ph), basic("user:" + real)},
		{"basic user", "Authorization", "basic " + basic(ph + ":")[6:], "basic " + basic(real + ":")[6:]},
		{"twice", "X-Api-Key", ph + "," + ph, real + "," + real},
		{"inside", "X-Api-Key", "a" + ph + "b", "a" + real + "b"},
		{"F5 cookie", "Cookie", "k=" + ph, "k=" + ph},
		{"F5 host", "Host", ph, ph},
		{"F6 percent", "X-Api-Key", url.QueryEscape(ph), url.QueryEscape(ph)},
		{"F6 json", "X-Api-Key", `\u003cBOXLITE_SECRET:key>`, `\u003cBOXLITE_SECRET:key>`},
		{"F6 double base64", "Authorization", basic(basic(ph)), basic(basic(ph))},
		{"F6 other case", "X-Api-Key", strings.ToLower(ph), strings.ToLower(ph)},
		{"another secret", "X-Api-Key", "<BOXLITE_SECRET:other>", "<BOXLITE_SECRET:other>"},
	} {
		h := http.Header{c.header: {c.in}}
		used := b.PutHeaders(h)
		if got := h[c.header][0]; got != c.want || (len(used) > 0) != (c.in != c.want) {
			t.Errorf("%s: %q, used %v, want %q", c.name, got, used, c.want)
		}
	}
	h := http.Header{ph: {"x"}}
	if b.PutHeaders(h); h[ph] == nil || len(h) != 1 {
		t.Errorf("F5 header name: %v", h)
	}
}

func TestQueryAndBodyAreOptedInto(t *testing.T) {
	plain, both := newBound(t), newBound(t, func(s *boxlite.Secret) { s.InQuery, s.InBody = true, true })
	raw := "key=" + url.QueryEscape(ph) + "&x=%zz&" + url.QueryEscape(ph) + "=1"
	if got, used := plain.PutQuery(raw); got != raw || used != nil || plain.PutsBody() {
		t.Errorf("without being asked: %q, %v", got, used)
	}
	want := "key=" + url.QueryEscape(real) + "&x=%zz&" + url.QueryEscape(ph) + "=1"
	if got, used := both.PutQuery(raw); got != want || len(used) != 1 {
		t.Errorf("%q, %v, want %q", got, used, want)
	}
	body, used := both.PutBody(iotest.OneByteReader(strings.NewReader("token=" + ph + "&x=<BOXLITE_SECRET:")))
	got, err := io.ReadAll(body)
	if string(got) != "token="+real+"&x=<BOXLITE_SECRET:" || err != nil || len(used()) != 1 {
		t.Errorf("%q, %v, %v", got, err, used())
	}
}

// F16, F17: a value comes back in many forms, and whatever the pieces are, the
// box does not see it.
func TestRedact(t *testing.T) {
	b := newBound(t)
	js, _ := json.Marshal(real)
	rev := []byte(real)
	for i, j := 0, len(rev)-1; i < j; i, j = i+1, j-1 {
		rev[i], rev[j] = rev[j], rev[i]
	}
	var pct strings.Builder
	for i := range len(real) {
		fmt.Fprintf(&pct, "%%%02X", real[i])
	}
	forms := map[string]string{
		"raw": real, "json": string(js), "html": html.EscapeString(real), "hex": hex.EncodeToString([]byte(real)),
		"HEX": strings.ToUpper(hex.EncodeToString([]byte(real))), "query": url.QueryEscape(real), "path": url.PathEscape(real),
		"percent": pct.String(), "reversed": string(rev),
		"base64": base64.StdEncoding.EncodeToString([]byte(real)), "base64url": base64.URLEncoding.EncodeToString([]byte(real)),
		"basic": base64.StdEncoding.EncodeToString([]byte("user:" + real)), "basic, another length": base64.StdEncoding.EncodeToString([]byte("users:" + real)),
		"base64 with more behind": base64.StdEncoding.EncodeToString([]byte("users:" + real + ":tail")),
	}
	for name, form := range forms {
		text := "before " + form + " after"
		for _, r := range []io.Reader{strings.NewReader(text), iotest.OneByteReader(strings.NewReader(text)), iotest.DataErrReader(strings.NewReader(text))} {
			got, err := io.ReadAll(b.Redact(r))
			if err != nil || !strings.Contains(string(got), ph) || !strings.HasPrefix(string(got), "before ") || !strings.HasSuffix(string(got), " after") {
				t.Errorf("%s: %q, %v", name, got, err)
			}
		}
	}
	h := http.Header{"Set-Cookie": {"k=" + real}, "Location": {"https://x.test/?k=" + url.QueryEscape(real)}, real: {"name"}}
	b.RedactHeaders(h)
	for name, values := range h {
		if strings.Contains(name+values[0], "0123456789") {
			t.Errorf("%s: %s", name, values)
		}
	}
}

// What streams is not held back.
func TestRedactDoesNotHoldUp(t *testing.T) {
	pr, pw := io.Pipe()
	defer pw.Close()
	r := newBound(t).Redact(pr)
	go fmt.Fprint(pw, "data: tick\n\n")
	buf := make([]byte, 100)
	n := 0
	for n < 12 {
		k, err := r.Read(buf[n:])
		if err != nil {
			t.Fatal(err)
		}
		n += k
	}
	if string(buf[:n]) != "data: tick\n\n" {
		t.Errorf("%q", buf[:n])
	}
}

func TestValuesThatCannotBe(t *testing.T) {
	for _, c := range []struct{ value, says string }{
		{"", "0 bytes"}, {"short", "too few"}, {strings.Repeat("x", 9000), "more than"},
		{"line\nbreak-in-it", "control"}, {"nul\x00-in-it", "control"}, {"a header\r\nX-Evil: 1", "control"}, {" space-around ", "space"},
	} {
		_, err := secrets.NewSet([]boxlite.Secret{{Name: "k", Value: boxlite.NewSecretValue(c.value)}})
		if boxlite.KindOf(err) != boxlite.Config || !strings.Contains(err.Error(), c.says) || len(c.value) > 4 && strings.Contains(err.Error(), c.value) {
			t.Errorf("%.20q: %v", c.value, err)
		}
	}
	for _, host := range []string{"10.0.0.1", "*", "0.0.0.0/0", "udp/x.test", "GET https://x.test/", "a b"} {
		_, err := secrets.NewSet([]boxlite.Secret{{Name: "k", Hosts: []string{host}, Value: boxlite.NewSecretValue("12345678")}})
		if boxlite.KindOf(err) != boxlite.Config || boxlite.HintOf(err) == "" {
			t.Errorf("%q: %v", host, err)
		}
	}
}

func TestNarrow(t *testing.T) {
	owner := boxlite.Secret{Name: "k", Hosts: []string{"*.good.test:443", "api.other.test"}}
	for _, c := range []struct {
		hosts []string
		ok    bool
	}{
		{nil, true}, {[]string{"api.good.test:443"}, true}, {[]string{"*.a.good.test:443", "api.other.test:8443"}, true},
		{[]string{"api.good.test"}, false}, {[]string{"good.test:443"}, false}, {[]string{"evil.test"}, false}, {[]string{"*.other.test"}, false},
	} {
		got, err := secrets.Narrow(owner, c.hosts)
		if (err == nil) != c.ok || c.ok && c.hosts != nil && fmt.Sprint(got.Hosts) != fmt.Sprint(c.hosts) {
			t.Errorf("%v: %v, %v", c.hosts, got.Hosts, err)
		}
		if err != nil && boxlite.KindOf(err) != boxlite.Denied {
			t.Errorf("%v: %v", c.hosts, err)
		}
	}
}

// Whatever the pieces are, the result is that of looking at all of it at once.
func FuzzReplacer(f *testing.F) {
	f.Add([]byte("abc<BOXLITE_SECRET:key>def"), uint8(3))
	f.Add([]byte("<BOXLITE_SECRET:key<BOXLITE_SECRET:key>>"), uint8(1))
	f.Add(bytes.Repeat([]byte("<BOXLITE"), 20), uint8(7))
	texts := []struct{ text, with string }{
		{"<BOXLITE_SECRET:key>", "12345678"}, {"<BOXLITE_SECRET:key>>", "87654321"}, {"aaaaaaaa", "<BOXLITE_SECRET:key>"}, {"aaaaaaaab", "B"}, {"BOXLITE_", "?"},
	}
	var list []boxlite.Secret
	for i, x := range texts {
		// Backwards and in other encodings are more texts, which only fuzzed bytes
		// that are their like would meet.
		list = append(list, boxlite.Secret{Name: fmt.Sprint("s", i), Hosts: []string{"h.test"}, Placeholder: x.text, InBody: true, Value: boxlite.NewSecretValue(x.with + "-------")})
	}
	set, err := secrets.NewSet(list)
	if err != nil {
		f.Fatal(err)
	}
	b := set.For("h.test", 443)
	f.Fuzz(func(t *testing.T, data []byte, size uint8) {
		body, _ := b.PutBody(&pieces{data, int(size%16) + 1})
		got, err := io.ReadAll(body)
		if err != nil {
			t.Fatal(err)
		}
		var want []byte
		for rest := data; len(rest) > 0; {
			best := -1
			for i, x := range texts {
				if bytes.HasPrefix(rest, []byte(x.text)) && (best < 0 || len(x.text) > len(texts[best].text)) {
					best = i
				}
			}
			if best < 0 {
				want, rest = append(want, rest[0]), rest[1:]
				continue
			}
			want, rest = append(want, texts[best].with+"-------"...), rest[len(texts[best].text):]
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%q in pieces of %d is %q, want %q", data, size%16+1, got, want)
		}
	})
}

// pieces is a reader that returns a few bytes at a time.
type pieces struct {
	data []byte
	size int
}

func (p *pieces) Read(b []byte) (int, error) {
	if len(p.data) == 0 {
		return 0, io.EOF
	}
	n := copy(b, p.data[:min(p.size, len(p.data))])
	p.data = p.data[n:]
	return n, nil
}

// F29: a thousand secrets cost little more than one.
func BenchmarkRedact(b *testing.B) {
	for _, n := range []int{1, 1000} {
		b.Run(fmt.Sprintf("secrets=%d", n), func(b *testing.B) {
			var list []boxlite.Secret
			for i := range n {
				list = append(list, boxlite.Secret{Name: fmt.Sprint("s", i), Hosts: []string{"h.test"}, Value: boxlite.NewSecretValue(fmt.Sprintf("sk-%032x", i*7919))})
			}
			set, err := secrets.NewSet(list)
			if err != nil {
				b.Fatal(err)
			}
			bound := set.For("h.test", 443)
			text := bytes.Repeat([]byte(`{"id":"chatcmpl-123","object":"chat.completion","choices":[{"text":"The quick brown fox"}]}`+"\n"), 10000)
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				io.Copy(io.Discard, bound.Redact(bytes.NewReader(text)))
			}
		})
	}
}
