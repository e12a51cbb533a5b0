package boxlite_test

import (
	"strings"
	"testing"

	"github.com/boxlite-mcp/boxlite-mcp"
)

func TestNewIDsParse(t *testing.T) {
	seen := map[string]bool{}
	for range 1000 {
		box := boxlite.NewBoxID()
		exec := boxlite.NewExecutionID(box)
		container := boxlite.NewContainerID()
		for _, s := range []string{box.String(), exec.String(), container.String()} {
			if seen[s] {
				t.Fatalf("%q was handed out twice", s)
			}
			seen[s] = true
		}
		if got, err := boxlite.ParseBoxID(box.String()); got != box || err != nil {
			t.Fatalf("ParseBoxID(%q) = %q, %v", box, got, err)
		}
		if got, err := boxlite.ParseExecutionID(exec.String()); got != exec || err != nil {
			t.Fatalf("ParseExecutionID(%q) = %q, %v", exec, got, err)
		}
		if got := exec.Box(); got != box {
			t.Fatalf("%q.Box() = %q, want %q", exec, got, box)
		}
		if got, err := boxlite.ParseContainerID(container.String()); got != container || err != nil {
			t.Fatalf("ParseContainerID(%q) = %q, %v", container, got, err)
		}
	}
}

// Were a character of the alphabet never drawn, or one drawn twice as often,
// an identifier would have fewer than the 71 bits it promises.
func TestBoxIDUsesItsWholeAlphabetEvenly(t *testing.T) {
	const ids = 20_000
	count := map[rune]int{}
	for range ids {
		for _, r := range boxlite.NewBoxID().String() {
			count[r]++
		}
	}
	if len(count) != 62 {
		t.Errorf("%d different characters, want 62", len(count))
	}
	const want = ids * 12 / 62
	for r, n := range count { // 10 % is more than six standard deviations
		if n < want*9/10 || n > want*11/10 {
			t.Errorf("%q was drawn %d times, want about %d", r, n, want)
		}
	}
}

func TestParseBoxID(t *testing.T) {
	for s, ok := range map[string]bool{
		"aB3cD4eF5gH6":                true,
		"000000000000":                true,
		"01ARZ3NDEKTSV4RRFFQ69G5FAV":  true, // a ULID
		"":                            false,
		"aB3cD4eF5gH":                 false,
		"aB3cD4eF5gH6x":               false,
		"aB3cD4eF5gH-":                false,
		"aB3cD4eF5g\x00\x00":          false,
		"aB3cD4eF5gé":                 false, // 12 bytes
		" B3cD4eF5gH6":                false,
		"../../../etc":                false, // 12 bytes
		"01arz3ndektsv4rrffq69g5fav":  false,
		"01ARZ3NDEKTSV4RRFFQ69G5FAU":  false, // U is not in Crockford's alphabet
		"01ARZ3NDEKTSV4RRFFQ69G5FAV0": false,
	} {
		got, err := boxlite.ParseBoxID(s)
		if ok && (err != nil || got.String() != s) {
			t.Errorf("ParseBoxID(%q) = %q, %v; want it unchanged", s, got, err)
		}
		if !ok {
			wantInvalid(t, "ParseBoxID("+s+")", string(got), err)
		}
	}
}

func TestParseContainerID(t *testing.T) {
	good := strings.Repeat("0123456789abcdef", 4)
	if got, err := boxlite.ParseContainerID(good); string(got) != good || err != nil {
		t.Errorf("ParseContainerID(%q) = %q, %v", good, got, err)
	}
	for _, s := range []string{"", good[1:], good + "0", strings.ToUpper(good), strings.Repeat("g", 64), strings.Repeat(".", 64)} {
		got, err := boxlite.ParseContainerID(s)
		wantInvalid(t, "ParseContainerID("+s+")", string(got), err)
	}
}

func TestParseExecutionID(t *testing.T) {
	for _, s := range []string{
		"", "-", "aB3cD4eF5gH6", "aB3cD4eF5gH6-", "aB3cD4eF5gH6-x7Y8z9A", "aB3cD4eF5gH6-x7Y8z9A01",
		"aB3cD4eF5gH6-x7Y8-9A0", "-x7Y8z9A0", "aB3cD4eF5gH6--x7Y8z9A0", "aB3cD4eF5gH/-x7Y8z9A0",
	} {
		got, err := boxlite.ParseExecutionID(s)
		wantInvalid(t, "ParseExecutionID("+s+")", string(got), err)
	}
	const ulid = "01ARZ3NDEKTSV4RRFFQ69G5FAV-x7Y8z9A0"
	if got, err := boxlite.ParseExecutionID(ulid); string(got) != ulid || err != nil {
		t.Errorf("ParseExecutionID(%q) = %q, %v", ulid, got, err)
	}
}

func TestShortIDs(t *testing.T) {
	for _, row := range []struct{ got, want string }{
		{boxlite.BoxID("aB3cD4eF5gH6").Short(), "aB3cD4eF"},
		{boxlite.BoxID("abc").Short(), "abc"},
		{boxlite.BoxID("").Short(), ""},
		{boxlite.ContainerID(strings.Repeat("0a", 32)).Short(), "0a0a0a0a0a0a"},
		{boxlite.ContainerID("0a").Short(), "0a"},
		{boxlite.ExecutionID("nodash").Box().String(), "nodash"},
	} {
		if row.got != row.want {
			t.Errorf("got %q, want %q", row.got, row.want)
		}
	}
}

// wantInvalid fails unless a parser refused: no value, InvalidArgument, and a
// hint that says what is expected.
func wantInvalid(t *testing.T, call, got string, err error) {
	t.Helper()
	if got != "" || boxlite.KindOf(err) != boxlite.InvalidArgument || err == nil {
		t.Errorf("%s = %q, %v; want an invalid argument and no value", call, got, err)
	} else if boxlite.HintOf(err) == "" {
		t.Errorf("%s: %v has no hint", call, err)
	}
}

func FuzzIDs(f *testing.F) {
	f.Add("aB3cD4eF5gH6")
	f.Add("01ARZ3NDEKTSV4RRFFQ69G5FAV-x7Y8z9A0")
	f.Add(strings.Repeat("0a", 32))
	f.Add("aB3cD4eF5gH6-../../x")
	f.Fuzz(func(t *testing.T, s string) {
		check := func(what, got string, err error) {
			if err != nil {
				wantInvalid(t, what, got, err)
				return
			}
			if got != s {
				t.Errorf("%s(%q) = %q, want it unchanged", what, s, got)
			}
			// Identifiers become file names, map keys and log fields.
			if strings.ContainsFunc(s, func(r rune) bool { return r > 'z' || r < '-' || r == '.' || r == '/' }) {
				t.Errorf("%s(%q) took a character that no identifier has", what, s)
			}
		}
		box, err := boxlite.ParseBoxID(s)
		check("ParseBoxID", box.String(), err)
		exec, err := boxlite.ParseExecutionID(s)
		check("ParseExecutionID", exec.String(), err)
		if err == nil {
			if _, err := boxlite.ParseBoxID(exec.Box().String()); err != nil {
				t.Errorf("%q.Box() is no box id: %v", exec, err)
			}
		}
		container, err := boxlite.ParseContainerID(s)
		check("ParseContainerID", container.String(), err)
	})
}
