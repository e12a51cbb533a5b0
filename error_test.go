package boxlite_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"

	"github.com/boxlite-mcp/boxlite-mcp"
)

func TestErrorText(t *testing.T) {
	cause := errors.New("boom")
	for _, row := range []struct {
		err  *boxlite.Error
		want string
	}{
		{&boxlite.Error{}, "internal error"},
		{&boxlite.Error{Op: "start box"}, "start box: internal error"},
		{&boxlite.Error{Ref: "web"}, "web: internal error"},
		{&boxlite.Error{Op: "get box", Kind: boxlite.NotFound, Ref: "web"}, "get box web: not found"},
		{&boxlite.Error{Op: "pull image", Kind: boxlite.Image, Ref: "a:b", Err: cause}, "pull image a:b: image error: boom"},
		{&boxlite.Error{Kind: boxlite.Denied, Hint: "Ask the operator.", Err: cause}, "denied by policy: boom"},
		{&boxlite.Error{Op: "x", Kind: 200}, "x: Kind(200)"},
	} {
		if got := row.err.Error(); got != row.want {
			t.Errorf("%#v prints %q, want %q", row.err, got, row.want)
		}
	}
}

func TestKindOf(t *testing.T) {
	inner := &boxlite.Error{Op: "read record", Kind: boxlite.Database, Err: fs.ErrNotExist}
	outer := &boxlite.Error{Op: "get box", Kind: boxlite.NotFound, Err: inner}
	for _, row := range []struct {
		err  error
		want boxlite.Kind
	}{
		{nil, boxlite.Internal},
		{errors.New("x"), boxlite.Internal},
		{fs.ErrNotExist, boxlite.Internal}, // may be about the host
		{inner, boxlite.Database},
		{outer, boxlite.NotFound}, // the outermost decides
		{fmt.Errorf("while listing: %w", outer), boxlite.NotFound},
		{errors.Join(errors.New("x"), inner), boxlite.Database},
		{boxlite.Exhausted, boxlite.Exhausted}, // a kind is an error
		{fmt.Errorf("full: %w", boxlite.Exhausted), boxlite.Exhausted},
		{context.Canceled, boxlite.Canceled},
		{fmt.Errorf("dial: %w", context.DeadlineExceeded), boxlite.Timeout},
		{&boxlite.Error{Err: context.Canceled}, boxlite.Internal}, // classified, if badly
	} {
		if got := boxlite.KindOf(row.err); got != row.want {
			t.Errorf("KindOf(%v) = %v, want %v", row.err, got, row.want)
		}
	}
	if !errors.Is(fmt.Errorf("while listing: %w", outer), boxlite.NotFound) {
		t.Errorf("errors.Is does not find the kind of a wrapped error")
	}
	if errors.Is(outer, boxlite.Timeout) {
		t.Errorf("errors.Is finds a kind that is not there")
	}
	if !errors.Is(outer, fs.ErrNotExist) {
		t.Errorf("errors.Is does not reach the cause")
	}
}

func TestHintOf(t *testing.T) {
	inner := &boxlite.Error{Kind: boxlite.Storage, Hint: "Free some space."}
	for _, row := range []struct {
		err  error
		want string
	}{
		{nil, ""},
		{errors.New("x"), ""},
		{inner, "Free some space."},
		{&boxlite.Error{Op: "start box", Err: fmt.Errorf("disk: %w", inner)}, "Free some space."},
		{&boxlite.Error{Hint: "Call box_list.", Err: inner}, "Call box_list."},
		{&boxlite.Error{Op: "start box"}, ""},
	} {
		if got := boxlite.HintOf(row.err); got != row.want {
			t.Errorf("HintOf(%v) = %q, want %q", row.err, got, row.want)
		}
	}
}

func TestErrorf(t *testing.T) {
	cause := errors.New("boom")
	err := boxlite.Errorf(boxlite.Config, "read config", "policy.json", "line %d: %w", 7, cause)
	if want := "read config policy.json: configuration error: line 7: boom"; err.Error() != want {
		t.Errorf("got %q, want %q", err, want)
	}
	if !errors.Is(err, cause) {
		t.Errorf("the cause is lost")
	}
}

// Kind names are on the wire: their list is API.
func TestKindNamesAreAsPublished(t *testing.T) {
	var b strings.Builder
	seen := map[string]bool{}
	for k := boxlite.Internal; k <= boxlite.Canceled; k++ {
		name := k.String()
		if seen[name] || name == "" {
			t.Errorf("kind %d is called %q, as another is", k, name)
		}
		seen[name] = true
		if got := boxlite.ParseKind(name); got != k {
			t.Errorf("ParseKind(%q) = %d, want %d", name, got, k)
		}
		fmt.Fprintf(&b, "%-18s %s\n", name, k.Error())
	}
	golden(t, "kinds.golden", b.String())
	if last := boxlite.Canceled + 1; !strings.HasPrefix(last.String(), "Kind(") {
		t.Errorf("the kind after Canceled is called %q: the loop above misses it", last)
	}
	for _, s := range []string{"", "Internal", "no such kind", "Kind(200)"} {
		if got := boxlite.ParseKind(s); got != boxlite.Internal {
			t.Errorf("ParseKind(%q) = %v, want internal", s, got)
		}
	}
}

// No message carries more of what a stranger sent than fits a line.
func TestErrorsQuoteAndCutWhatTheyCite(t *testing.T) {
	_, err := boxlite.ParseBoxID("\x1b[2J" + strings.Repeat("x", 1<<20))
	if text := err.Error(); len(text) > 200 || strings.Contains(text, "\x1b") {
		t.Errorf("a message of %d bytes: %.200q", len(text), text)
	}
}
