package tools // the inside: what a box chose is shown by unexported functions

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
)

func TestVisible(t *testing.T) {
	for in, want := range map[string]string{
		"plain\ttext\n":        "plain\ttext\n",
		"a\r\nb\rc":            "a\nb" + `\rc`,
		"\x1b[31mred\x1b[0m":   `\x1b[31mred\x1b[0m`,
		"nul\x00del\x7f":       `nul\x00del\x7f`,
		"bad\xff\xc3":          `bad\xff\xc3`,
		"é漢👩‍👩":                "é漢👩‍👩",
		"a\u202eb":             `a\u{202e}b`,
		"zero\u200bwidth":      `zero\u{200b}width`,
		"tag\U000e0041":        `tag\u{e0041}`,
		"vs\U000e0100":         `vs\u{e0100}`,
		"\u0085\u2028":         `\u{85}\u{2028}`,
		"bom\ufeff":            `bom\u{feff}`,
		"a real \\x1b is kept": `a real \x1b is kept`,
	} {
		if got := visible([]byte(in)); got != want {
			t.Errorf("visible(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestIncomplete(t *testing.T) {
	for in, want := range map[string]int{
		"": 0, "a": 0, "é": 0, "\xc3": 1, "x\xe2\x82": 2, "\xf0\x9f\x91": 3, "\xff": 0, "\x80\x80\x80\x80": 0, "€": 0,
	} {
		if got := incomplete([]byte(in)); got != want {
			t.Errorf("incomplete(%q) = %d, want %d", in, got, want)
		}
	}
}

func FuzzVisible(f *testing.F) {
	for _, s := range []string{"", "a\r\nb", "\x1b]0;x\a", "\xe2\x82", "\U000e0041", "</stdout 00>"} {
		f.Add([]byte(s), 16)
	}
	f.Fuzz(func(t *testing.T, in []byte, budget int) {
		budget = max(0, budget%200)
		text := visible(in)
		if !utf8.ValidString(text) {
			t.Fatalf("visible(%q) is not UTF-8", in)
		}
		for _, r := range text {
			if r != '\n' && r != '\t' && !shows(r) || unicode.Is(unicode.Cc, r) && r != '\n' && r != '\t' {
				t.Fatalf("visible(%q) shows %U", in, r)
			}
		}
		h, e := head(in, budget), tail(in, budget)
		if len(h.text) > budget || len(e.text) > budget {
			t.Fatalf("%d and %d bytes for a budget of %d", len(h.text), len(e.text), budget)
		}
		if h.from != 0 || h.to > len(in) || e.to != len(in) || e.from < 0 || e.from > len(in) {
			t.Fatalf("windows %+v %+v of %d bytes", h, e, len(in))
		}
		if !strings.HasPrefix(text, h.text) && !bytes.Contains(in, []byte("\r")) {
			t.Fatalf("head %q of %q", h.text, text)
		}
		if e.text != visible(in[e.from:]) {
			t.Fatalf("tail %q is not what bytes from %d show", e.text, e.from)
		}
		if mark := fenceMark(text); strings.Contains(text, mark) {
			t.Fatalf("fence %s occurs in %q", mark, text)
		}
	})
}

// However the output is cut, reading on from each next_offset passes over every
// byte exactly once.
func FuzzPiecesJoin(f *testing.F) {
	f.Add([]byte("héllo\r\nwörld€\xff\x00"), uint8(5), uint8(7))
	f.Fuzz(func(t *testing.T, in []byte, most, budget uint8) {
		chunkSize, share := int(most)%64+1, int(budget)%64+maxEscape+6
		var bytesOut []byte
		for at, n := int64(0), 0; at < int64(len(in)); n++ {
			to := min(len(in), int(at)+chunkSize)
			c := boxlite.OutputChunk{Offset: at, Data: in[at:to], End: int64(len(in)), EOF: to == len(in)}
			v := piece(c, share)
			if v.NextOffset <= at {
				t.Fatalf("stuck at %d of %q with chunks of %d and %d bytes of text", at, in, chunkSize, share)
			}
			if v.Text != visible(in[at:v.NextOffset]) {
				t.Fatalf("text %q for bytes %q", v.Text, in[at:v.NextOffset])
			}
			bytesOut = append(bytesOut, in[at:v.NextOffset]...)
			if v.EOF != (v.NextOffset == int64(len(in))) {
				t.Fatalf("EOF %v at %d of %d", v.EOF, v.NextOffset, len(in))
			}
			at = v.NextOffset
		}
		if !bytes.Equal(bytesOut, in) {
			t.Fatal("bytes are lost")
		}
	})
}

// The parts of an overview never overlap, and what is between them is named.
func FuzzHeadAndTail(f *testing.F) {
	f.Add([]byte(strings.Repeat("line\n", 100)), 64, 64)
	f.Fuzz(func(t *testing.T, in []byte, budget, chunk int) {
		budget, chunk = 16+max(0, budget%200), 16+max(0, chunk%200)
		end := int64(len(in))
		first := boxlite.OutputChunk{Data: in[:min(len(in), chunk)], End: end}
		from := max(0, len(in)-budget/2)
		last := boxlite.OutputChunk{Offset: int64(from), Data: in[from:], End: end, EOF: true}
		v := headAndTail(first, last, budget)
		if len(v.Text)+len(v.Tail) > budget+maxEscape {
			t.Fatalf("%d bytes for a budget of %d", len(v.Text)+len(v.Tail), budget)
		}
		if v.CutFrom == nil {
			return
		}
		if *v.CutFrom >= *v.CutTo || v.NextOffset != end || v.Text != visible(in[:*v.CutFrom]) || v.Tail != visible(in[*v.CutTo:]) {
			t.Fatalf("%+v cut %d to %d of %q", v, *v.CutFrom, *v.CutTo, in)
		}
	})
}

type bindTarget struct {
	Text  string            `json:"text" required:"true"`
	Count int               `json:"count" default:"7" min:"1" max:"100"`
	Big   int64             `json:"big"`
	Flag  bool              `json:"flag" default:"true"`
	List  []string          `json:"list"`
	Map   map[string]string `json:"map"`
	Pick  string            `json:"pick" default:"a" enum:"a,b"`
	Maybe *string           `json:"maybe"`
}

func TestBind(t *testing.T) {
	for _, test := range []struct{ args, want string }{
		{`{"text":"x"}`, `{"text":"x","count":7,"big":0,"flag":true,"list":null,"map":null,"pick":"a","maybe":null}`},
		{`{"text":"x","count":"42","big":"-5","flag":"False","list":"one","map":"{\"A\":1}","pick":"b","maybe":""}`,
			`{"text":"x","count":42,"big":-5,"flag":false,"list":["one"],"map":{"A":"1"},"pick":"b","maybe":""}`},
		{`{"text":17,"count":42.0,"big":1e3,"list":["a",1,true],"map":["A=b=c"],"flag":null}`,
			`{"text":"17","count":42,"big":1000,"flag":true,"list":["a","1","true"],"map":{"A":"b=c"},"pick":"a","maybe":null}`},
		{`"{\"text\":\"x\",\"list\":\"[\\\"ls\\\",\\\"-l\\\"]\"}"`, `{"text":"x","count":7,"big":0,"flag":true,"list":["ls","-l"],"map":null,"pick":"a","maybe":null}`},
		{`{"text":"x","list":"["}`, `{"text":"x","count":7,"big":0,"flag":true,"list":["["],"map":null,"pick":"a","maybe":null}`},
		{`{"text":"\ufffd�"}`, `{"text":"��","count":7,"big":0,"flag":true,"list":null,"map":null,"pick":"a","maybe":null}`},
		{`{"text":"x","big":9223372036854775807}`, `{"text":"x","count":7,"big":9223372036854775807,"flag":true,"list":null,"map":null,"pick":"a","maybe":null}`},
	} {
		var got bindTarget
		if err := bind("t", fieldsOf[bindTarget](), json.RawMessage(test.args), &got); err != nil {
			t.Errorf("bind(%s): %v", test.args, err)
			continue
		}
		if out, _ := json.Marshal(got); string(out) != test.want {
			t.Errorf("bind(%s)\n got %s\nwant %s", test.args, out, test.want)
		}
	}
	for args, says := range map[string]string{
		``:                                       "text is missing",
		`null`:                                   "text is missing",
		`[]`:                                     "not a JSON object",
		`"x"`:                                    "not a JSON object",
		`{"text":"x"`:                            "not valid JSON",
		`{"text":""}`:                            "text is empty",
		`"{\"text\":` + strings.Repeat("[", 100): "not a JSON object",
		`{"text":"x","map":"{\"a\":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + `}"}`: "object of strings",
		`{"text":"x","txet":1}`:            `there is no argument "txet"`,
		`{"text":"x","text":"y"}`:          "given twice",
		`{"text":{}}`:                      "must be a string",
		`{"text":"\ud800"}`:                "surrogate",
		`{"text":"x","count":0}`:           "from 1 to 100, not 0",
		`{"text":"x","count":1.5}`:         "whole number",
		`{"text":"x","count":"0x10"}`:      "whole number",
		`{"text":"x","count":"1_0"}`:       "whole number",
		`{"text":"x","count":true}`:        "whole number",
		`{"text":"x","big":1e300}`:         "whole number",
		`{"text":"x","big":"NaN"}`:         "whole number",
		`{"text":"x","flag":"yes"}`:        "true or false",
		`{"text":"x","flag":1}`:            "true or false",
		`{"text":"x","list":{}}`:           "array of strings",
		`{"text":"x","list":[["x"]]}`:      "array of strings",
		`{"text":"x","list":[null]}`:       "array of strings",
		`{"text":"x","map":{"a":{}}}`:      "object of strings",
		`{"text":"x","map":{"a":1,"a":2}}`: "twice",
		`{"text":"x","map":["novalue"]}`:   "object of strings",
		`{"text":"x","pick":"c"}`:          "one of a, b",
	} {
		var got bindTarget
		err := bind("t", fieldsOf[bindTarget](), json.RawMessage(args), &got)
		if boxlite.KindOf(err) != boxlite.InvalidArgument || !strings.Contains(err.Error(), says) {
			t.Errorf("bind(%s): %v, want %q in it", args, err, says)
		}
	}
}

func FuzzBind(f *testing.F) {
	for _, s := range []string{`{"text":"x","count":"42"}`, `{"list":[1,"2"],"map":{"a":"b"}}`, `"{}"`, `{"text":"\ud83d\ude00"}`, `{"a":1,"a":2}`} {
		f.Add(s)
	}
	fields := fieldsOf[bindTarget]()
	f.Fuzz(func(t *testing.T, args string) {
		var got bindTarget
		err := bind("t", fields, json.RawMessage(args), &got)
		if err != nil {
			if boxlite.KindOf(err) != boxlite.InvalidArgument || !utf8.ValidString(failure(err, "").text) {
				t.Fatalf("%v", err)
			}
			return
		}
		if got.Count < 1 || got.Count > 100 || got.Pick != "a" && got.Pick != "b" {
			t.Fatalf("bind(%q) = %+v", args, got)
		}
		// What was bound binds again to the same.
		out, _ := json.Marshal(got)
		var again bindTarget
		if err := bind("t", fields, out, &again); err != nil && utf8.ValidString(args) {
			t.Fatalf("bind(%s): %v", out, err)
		}
	})
}

func FuzzScanner(f *testing.F) {
	for _, s := range []string{`{"id":1}`, `{"params":{"id":2},"id" : "a\"b" }`, `[{"id":3}]`, `{"x":"\\","id":-1.5e3}`, `{"id":null}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		var s scanner
		s.write(line)
		id := s.messageID()
		if id != nil && !json.Valid(id) {
			t.Fatalf("id %q of %q", id, line)
		}
		var m map[string]json.RawMessage
		if !json.Valid(line) || json.Unmarshal(line, &m) != nil || bytes.ContainsAny(line, `\`) {
			return
		}
		if want, ok := m["id"]; ok && len(want) > 0 && want[0] != '{' && want[0] != '[' && string(want) != "null" && len(want) < mostID && string(id) != string(want) {
			t.Fatalf("id %q of %q, want %q", id, line, want)
		}
	})
}

func TestErrorsSayWhatToDo(t *testing.T) {
	for kind := boxlite.Internal; kind <= boxlite.Canceled; kind++ {
		r := failure(&boxlite.Error{Op: "start box", Ref: "dev", Kind: kind}, "REF")
		if !r.isError || !strings.Contains(r.text, `start box "dev"`) || !strings.Contains(r.text, kind.Error()) {
			t.Errorf("%s: %s", kind, r.text)
		}
	}
	r := failure(&boxlite.Error{Op: "x", Err: &boxlite.Error{Hint: "Do y.", Ref: "inner\x1b"}}, "REF")
	if !strings.HasSuffix(r.text, "Do y.") || strings.Contains(r.text, "inner") {
		t.Errorf("%s", r.text)
	}
}
