// Command testsum turns the output of "go test -json" on its standard input
// into what a person wants to read: a line for each package, the whole output
// of each test that failed, and a closing line with the counts.
//
//	go test -json ./... | go run ./internal/testsum [-noskip]
//
// It ends with status 1 if a test or package failed, and with -noskip also if
// a test was skipped.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
)

func main() {
	noskip := flag.Bool("noskip", false, "count a skipped test as failed")
	flag.Parse()
	s := summary{out: os.Stdout, noskip: *noskip, output: map[test]*strings.Builder{}}
	if err := s.read(os.Stdin); err != nil {
		fmt.Fprintln(os.Stderr, "testsum:", err)
		os.Exit(2)
	}
	if !s.close() {
		os.Exit(1)
	}
}

// An event is a line of "go test -json", see "go doc test2json".
type event struct {
	Action     string
	Package    string
	ImportPath string // of a build
	Test       string
	Output     string
	Elapsed    float64
}

// A test is one test or, without a name, the package as a whole.
type test struct{ pkg, name string }

// A summary counts as it reads.
type summary struct {
	out                     io.Writer
	noskip                  bool
	output                  map[test]*strings.Builder // of what has not ended
	passed, failed, skipped int
}

func (s *summary) read(in io.Reader) error {
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var e event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			fmt.Fprintln(s.out, lines.Text()) // of the go command itself
			continue
		}
		s.take(e)
	}
	return lines.Err()
}

func (s *summary) take(e event) {
	key := test{e.Package, e.Test}
	switch e.Action {
	case "output":
		if s.output[key] == nil {
			s.output[key] = &strings.Builder{}
		}
		s.output[key].WriteString(e.Output)
	case "build-output":
		fmt.Fprint(s.out, e.Output)
	case "pass", "fail", "skip":
		s.end(key, e)
	}
}

func (s *summary) end(key test, e event) {
	said := ""
	if b := s.output[key]; b != nil {
		said = b.String()
	}
	delete(s.output, key)
	name := strings.TrimPrefix(key.pkg, "github.com/boxlite-mcp/boxlite-mcp/")
	if key.name == "" {
		s.endPackage(name, said, e)
		return
	}
	switch {
	case e.Action == "pass":
		s.passed++
	case e.Action == "skip" && !s.noskip:
		s.skipped++
	default:
		s.failed++
		fmt.Fprintf(s.out, "--- %s: %s %s\n%s", strings.ToUpper(e.Action), name, key.name, said)
	}
}

func (s *summary) endPackage(name, said string, e event) {
	switch e.Action {
	case "fail":
		s.failed++ // also where no test failed: it did not compile, or it died
		fmt.Fprintf(s.out, "FAIL  %s (%.1f s)\n%s", name, e.Elapsed, said)
	case "pass":
		fmt.Fprintf(s.out, "ok    %s (%.1f s)\n", name, e.Elapsed)
	}
}

// close prints the counts and reports whether nothing failed.
func (s *summary) close() bool {
	for key, said := range s.output { // the go command itself was ended
		s.failed++
		fmt.Fprintf(s.out, "--- UNFINISHED: %s %s\n%s", key.pkg, key.name, said)
	}
	if s.passed == 0 {
		fmt.Fprintln(s.out, "no test has run")
		s.failed++
	}
	skipped := ""
	if s.skipped > 0 {
		skipped = fmt.Sprintf(", %d skipped", s.skipped)
	}
	fmt.Fprintf(s.out, "%d passed, %d failed%s\n", s.passed, s.failed, skipped)
	return s.failed == 0
}
