//go:build clients

// The tests of this file are inside the package: they serve in this process, and
// run other people's programs against it. scripts/conformance says where those
// are.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// clients is the folder of other people's clients, as npm installed them.
func clients(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("BOXLITE_CLIENTS")
	if dir == "" {
		t.Fatal("BOXLITE_CLIENTS is not set; run scripts/conformance")
	}
	return dir
}

// serve serves the fixtures until the test ends.
func serve(t *testing.T) (addr, token string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr = l.Addr().String()
	l.Close()
	ctx, cancel := context.WithCancel(context.Background())
	r, w := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		err := run(ctx, []string{addr}, w, t.Output())
		w.CloseWithError(err)
		ended <- err
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error("the server ended with", err)
		}
	})
	token, err = bufio.NewReader(r).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return addr, strings.TrimSpace(token)
}

// node runs a program of the clients' against the server.
func node(t *testing.T, token string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(clients(t), "node"), args...)
	cmd.Dir, cmd.Env = clients(t), append(os.Environ(), "BOXLITE_TOKEN="+token, "NO_COLOR=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// The suite's own verdict is on what a revision requires; what it lists beside
// that is counted too, except for what this server does not offer.
func TestConformanceSuite(t *testing.T) {
	addr, token := serve(t)
	for revision, least := range map[string]int{"2025-11-25": 80, "2026-07-28": 149} {
		t.Run(revision, func(t *testing.T) {
			results := t.TempDir()
			out := node(t, token, "--import", "./bearer.mjs", "node_modules/@modelcontextprotocol/conformance/dist/index.js", "server",
				"--url", "http://"+addr+"/mcp", "--requirements", revision, "--expected-failures", "baseline.yml", "-o", results)
			passed, failed := count(t, results)
			t.Logf("%d checks passed, %d failed or warned: %s", passed, len(failed), strings.Join(failed, ", "))
			if passed < least {
				t.Errorf("%d checks passed, want at least %d\n%s", passed, least, out)
			}
			for _, f := range failed {
				if !strings.Contains(baseline(t), "- "+f+"\n") {
					t.Errorf("%s failed, and is not in baseline.yml", f)
				}
			}
		})
	}
}

func baseline(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("clients/baseline.yml")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// count reads the results that the suite wrote, without those about the
// extension for tasks, which is not offered.
func count(t *testing.T, results string) (passed int, failed []string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(results, "server-*", "checks.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no results, %v", err)
	}
	for _, path := range files {
		scenario := strings.TrimPrefix(filepath.Base(filepath.Dir(path)), "server-")
		scenario, _, _ = strings.Cut(scenario, "-20") // the time of the run
		if strings.HasPrefix(scenario, "tasks-") {
			continue
		}
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var checks []struct{ ID, Status, ErrorMessage string }
		if err := json.Unmarshal(text, &checks); err != nil {
			t.Fatal(err)
		}
		for _, c := range checks {
			switch c.Status {
			case "SUCCESS":
				passed++
			case "FAILURE", "WARNING":
				failed = append(failed, scenario+":"+c.ID)
			}
		}
	}
	return passed, failed
}

// Who follows the example gets the SDK that it was tried with.
func TestExampleHasTheSDKThatIsTried(t *testing.T) {
	const sdk = "@modelcontextprotocol/sdk"
	version := func(path string) string {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var p struct{ Dependencies map[string]string }
		if err := json.Unmarshal(text, &p); err != nil {
			t.Fatal(err)
		}
		return p.Dependencies[sdk]
	}
	example, tried := version("../../examples/agent-over-sse-ts/package.json"), version("clients/package.json")
	if example == "" || example != tried {
		t.Errorf("the example wants %q %s, tried is %q", example, sdk, tried)
	}
}

// The inspector judges the schemas of the tools strictly, and calls one a
// thousand times, by each transport and in each era.
func TestInspector(t *testing.T) {
	addr, token := serve(t)
	for _, c := range []struct{ name, url, flags string }{
		{"HTTP", "http://" + addr + "/mcp", "--transport http"},
		{"HTTP_modern", "http://" + addr + "/mcp", "--transport http --protocol-era modern"},
		{"SSE", "http://" + addr + "/sse", "--transport sse"},
		{"SSE_auto", "http://" + addr + "/sse", "--transport sse --protocol-era auto"},
	} {
		t.Run(c.name, func(t *testing.T) {
			inspect := func(v any, more ...string) {
				t.Helper()
				line := append([]string{"node_modules/@modelcontextprotocol/inspector/clients/launcher/build/index.js", "--cli", c.url, "--format", "json", "--quiet",
					"--header", "Authorization: Bearer " + token}, strings.Fields(c.flags)...)
				out := node(t, token, append(line, more...)...)
				if err := json.Unmarshal([]byte(out), &struct{ Result any }{v}); err != nil {
					t.Fatalf("%v: %v: %s", more, err, out)
				}
			}
			var list struct{ Tools []struct{ Name string } }
			if inspect(&list, "--method", "tools/list", "--strict"); len(list.Tools) < 16 || list.Tools[0].Name != "box_create" {
				t.Errorf("tools: %+v", list)
			}
			var prompts struct{ Prompts []struct{ Name string } }
			if inspect(&prompts, "--method", "prompts/list"); len(prompts.Prompts) < 3 {
				t.Errorf("prompts: %+v", prompts)
			}
			var load struct {
				Requests, OK, ToolErrors, Errors int
				LatencyMs                        struct{ P50, P99, Max float64 }
			}
			inspect(&load, "--method", "tools/call", "--tool-name", "test_simple_text", "--load", "--load-requests", "1000", "--load-concurrency", "20")
			if load.OK != 1000 || load.Errors+load.ToolErrors != 0 {
				t.Errorf("under load: %+v", load)
			}
			t.Logf("%+v", load)
		})
	}
}
