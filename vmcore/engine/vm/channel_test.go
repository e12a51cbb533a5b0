package vm

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/boxlite-mcp/boxlite-mcp/agent/vmboot"
)

// guest answers each line that it is sent by what answer returns, "" for
// nothing, after having said hello.
func guest(t *testing.T, hello string, answer func(number, command string) string) net.Conn {
	t.Helper()
	ours, theirs := socketPair(t)
	t.Cleanup(func() { ours.Close(); theirs.Close() })
	go func() { // ends with the pipe
		if _, err := fmt.Fprint(theirs, hello); err != nil {
			return
		}
		for lines := bufio.NewScanner(theirs); lines.Scan(); {
			number, command, _ := strings.Cut(lines.Text(), " ")
			if text := answer(number, command); text != "" {
				if _, err := fmt.Fprint(theirs, text); err != nil {
					return
				}
			}
		}
	}()
	return ours
}

func socketPair(t *testing.T) (a, b net.Conn) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	for i, end := range []*net.Conn{&a, &b} {
		f := os.NewFile(uintptr(fds[i]), "socket")
		if *end, err = net.FileConn(f); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	return a, b
}

func TestHostileChannel(t *testing.T) {
	ready := fmt.Sprintf("ready %d\n", vmboot.Version)
	for name, test := range map[string]struct {
		hello  string
		answer func(number, command string) string
		want   string // of the error; "": none
	}{
		"good":              {ready, func(n, _ string) string { return n + " ok 42\n" }, ""},
		"an old answer":     {ready, func(n, _ string) string { return "0 ok\n" + n + " ok 42\n" }, ""},
		"an error":          {ready, func(n, _ string) string { return n + " error no space\n" }, "no space"},
		"another version":   {"ready 2\n", nil, "greets with"},
		"no greeting":       {"", nil, "deadline"},
		"a long line":       {strings.Repeat("x", 10_000), nil, "more than"},
		"never an answer":   {ready, func(string, string) string { return "" }, "deadline"},
		"other numbers":     {ready, func(string, string) string { return strings.Repeat("99 ok\n", 1000) }, "something else"},
		"a long answer":     {ready, func(n, _ string) string { return n + " ok " + strings.Repeat("x", 1<<20) }, "more than"},
		"no number":         {ready, func(string, string) string { return strings.Repeat("ok\n", 1000) }, "something else"},
		"neither ok nor no": {ready, func(n, _ string) string { return n + " perhaps\n" }, "did not sync"},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
			defer cancel()
			answer := test.answer
			if answer == nil {
				answer = func(string, string) string { return "" }
			}
			c, err := Greet(ctx, guest(t, test.hello, answer))
			var got string
			if err == nil {
				got, err = c.Do(ctx, vmboot.CmdSync)
			}
			switch {
			case test.want == "":
				if err != nil || got != "42" {
					t.Errorf("got %q, %v", got, err)
				}
			case err == nil || !strings.Contains(err.Error(), test.want):
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}

// An answer that nobody waited for any more is not taken for the next one's.
func TestGivenUpCommand(t *testing.T) {
	late := make(chan struct{})
	conn := guest(t, fmt.Sprintf("ready %d\n", vmboot.Version), func(n, command string) string {
		if command == vmboot.CmdSync {
			<-late
		}
		return n + " ok " + command + "\n"
	})
	c, err := Greet(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := c.Do(ctx, vmboot.CmdSync); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v", err)
	}
	close(late)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if got, err := c.Do(t.Context(), vmboot.CmdThaw); err != nil || got != vmboot.CmdThaw {
			t.Errorf("got %q, %v", got, err)
		}
	}()
	<-done
}
