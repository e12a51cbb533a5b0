package boxlite_test

import (
	"strings"
	"testing"
	"time"

	"github.com/boxlite-mcp/boxlite-mcp"
	"github.com/google/go-cmp/cmp"
)

func TestShell(t *testing.T) {
	want := []string{"/bin/sh", "-c", "echo 'a b' | wc"}
	if diff := cmp.Diff(want, boxlite.Shell("echo 'a b' | wc").Args); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestCommandCheck(t *testing.T) {
	ok := boxlite.Command{Args: []string{"sh", "", "\xff"}, Env: []boxlite.Env{{Name: "A", Value: "b=c"}},
		WorkingDir: "/", Timeout: time.Second}
	if err := ok.Check(); err != nil {
		t.Errorf("%+v: %v", ok, err)
	}
	if err := (boxlite.Command{Args: []string{strings.Repeat("x", 1<<20)}}).Check(); err != nil {
		t.Errorf("1 MiB of arguments: %v", err)
	}
	for name, c := range map[string]boxlite.Command{
		"nothing":            {},
		"nameless program":   {Args: []string{""}},
		"NUL in an argument": {Args: []string{"sh", "\x00"}},
		"NUL in a name":      {Args: []string{"sh"}, Env: []boxlite.Env{{Name: "\x00"}}},
		"NUL in a value":     {Args: []string{"sh"}, Env: []boxlite.Env{{Name: "A", Value: "\x00"}}},
		"nameless variable":  {Args: []string{"sh"}, Env: []boxlite.Env{{}}},
		"equals in a name":   {Args: []string{"sh"}, Env: []boxlite.Env{{Name: "A=B"}}},
		"too much":           {Args: []string{"sh", strings.Repeat("x", 1<<20)}},
		"too much together":  {Args: []string{strings.Repeat("x", 1<<19)}, Env: []boxlite.Env{{Name: "A", Value: strings.Repeat("x", 1<<19)}}},
		"relative directory": {Args: []string{"sh"}, WorkingDir: "tmp"},
		"negative timeout":   {Args: []string{"sh"}, Timeout: -1},
		"short key":          {Args: []string{"sh"}, Key: "aB3cD4e"},
		"key with a dash":    {Args: []string{"sh"}, Key: "aB3cD4e-"},
	} {
		wantInvalid(t, name, "", c.Check())
	}
}

func TestKeyEndsTheExecutionID(t *testing.T) {
	box := boxlite.NewBoxID()
	c := boxlite.Command{Args: []string{"sh"}, Key: boxlite.NewExecutionKey()}
	if err := c.Check(); err != nil {
		t.Fatal(err)
	}
	id, err := boxlite.ParseExecutionID(string(c.ExecutionID(box)))
	if err != nil || id.Box() != box || !strings.HasSuffix(string(id), "-"+c.Key) || id != c.ExecutionID(box) {
		t.Errorf("ExecutionID(%s) = %s, %v", box, id, err)
	}
	c.Key = ""
	if a, b := c.ExecutionID(box), c.ExecutionID(box); a == b || a.Box() != box {
		t.Errorf("without a key: %s, %s", a, b)
	}
}

func TestExitCodes(t *testing.T) {
	for _, row := range []struct {
		exit, shell int
		success     bool
	}{{0, 0, true}, {1, 1, false}, {255, 255, false}, {-9, 137, false}, {-15, 143, false}} {
		r := boxlite.ExecResult{ExitCode: row.exit}
		if r.Code() != row.shell || r.Success() != row.success {
			t.Errorf("exit code %d: Code() = %d, Success() = %v; want %d, %v", row.exit, r.Code(), r.Success(), row.shell, row.success)
		}
	}
}

func TestOutputChunkNext(t *testing.T) {
	c := boxlite.OutputChunk{Offset: 10, Data: []byte("abc"), Dropped: 7}
	if got := c.Next(); got != 13 {
		t.Errorf("Next() = %d, want 13", got)
	}
}
