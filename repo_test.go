package boxlite_test

import (
	"bytes"
	"encoding/json"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The rules of the repository that a test can hold.

func TestEveryPackageHasOneComment(t *testing.T) {
	for _, dir := range goFolders(t) {
		name, docs := packageComments(t, dir)
		if len(docs) != 1 {
			t.Errorf("%s: %d files have a package comment, want one: %q", dir, len(docs), docs)
			continue
		}
		want := "Package " + name + " "
		if name == "main" {
			want = "Command " + filepath.Base(dir) + " "
		}
		if !strings.HasPrefix(docs[0], want) {
			t.Errorf("%s: the package comment begins %.40q, want %q", dir, docs[0], want)
		}
	}
}

// goFolders returns the folders with Go files that are not tests.
func goFolders(t *testing.T) []string {
	t.Helper()
	var dirs []string
	for _, path := range repoFiles(t) {
		dir := filepath.Dir(path)
		if strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, "_test.go") &&
			!strings.Contains(path, "testdata/") && !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

func packageComments(t *testing.T, dir string) (name string, docs []string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range files {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.PackageClauseOnly|parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		name = f.Name.Name
		if f.Doc != nil && !strings.HasSuffix(path, ".pb.go") { // there it is about the protocol
			docs = append(docs, f.Doc.Text())
		}
	}
	return name, docs
}

// The project stands alone: it names no machine it was made on and no place it
// happens to be downloaded from. The words are cut so that this file passes.
func TestNoFileNamesAPlaceOutside(t *testing.T) {
	forbidden := []string{
		"proxy.golang" + ".org", "sum.golang" + ".org", "registry.npmjs" + ".org",
		"deb.debian" + ".org", "security.debian" + ".org", "snapshot.debian" + ".org",
		"/work" + "/main", "/work" + "/shared", "/work" + "/.", "../sha" + "red/",
		"/root" + "/go/", "/tmp" + "/brief",
	}
	for path, text := range repoTexts(t) {
		for _, word := range forbidden {
			if before, _, found := bytes.Cut(text, []byte(word)); found {
				t.Errorf("%s:%d: names %s", path, 1+bytes.Count(before, []byte("\n")), word)
			}
		}
	}
}

func TestNoFileHoldsACredential(t *testing.T) {
	credential := regexp.MustCompile(`AKIA[0-9A-Z]{16}|gh[pousr]_[0-9A-Za-z]{36}|github_pat_[0-9A-Za-z_]{60}|` +
		`xox[abps]-[0-9A-Za-z-]{20}|sk-[0-9A-Za-z_-]{32}|AIza[0-9A-Za-z_-]{35}|-----BEGIN [A-Z ]*PRIVATE KEY-----\n[A-Za-z0-9+/]{40}`)
	if !credential.MatchString("AKIA" + "ABCDEFGHIJKLMNOP") {
		t.Fatal("the pattern finds nothing")
	}
	for path, text := range repoTexts(t) {
		if at := credential.FindIndex(text); at != nil {
			t.Errorf("%s:%d: looks like a credential: %.12s…", path, 1+bytes.Count(text[:at[0]], []byte("\n")), text[at[0]:])
		}
	}
}

// A module file as "go mod edit -json" prints it.
type moduleFile struct {
	Module  struct{ Path string }
	Go      string
	Require []struct {
		Path, Version string
		Indirect      bool
	}
	Replace, Exclude []any
}

func readModuleFile(t *testing.T, name string) moduleFile {
	t.Helper()
	out, err := exec.Command("go", "mod", "edit", "-json", name).Output()
	if err != nil {
		t.Fatalf("go mod edit -json %s: %v", name, err)
	}
	var m moduleFile
	if err := json.Unmarshal(out, &m); err != nil {
		t.Fatal(err)
	}
	return m
}

func TestModuleFilePins(t *testing.T) {
	m := readModuleFile(t, "go.mod")
	if m.Module.Path != module {
		t.Errorf("the module is %s, want %s", m.Module.Path, module)
	}
	if len(m.Replace)+len(m.Exclude) != 0 {
		t.Errorf("go.mod replaces or excludes modules, so that it cannot be installed by go install")
	}
	versions := map[string]string{}
	for _, r := range m.Require {
		versions[r.Path] = r.Version
	}
	// Versions that must not move by themselves, and why.
	for path, want := range map[string]string{
		"gvisor.dev/gvisor":                      "v0.0.0-20260905035102-160fafc42237", // its API is not stable
		"github.com/opencontainers/runtime-spec": "v1.2.1",                             // the one that gVisor compiles with
	} {
		if versions[path] != want {
			t.Errorf("%s is at %s, want %s: moving it is a change of its own", path, versions[path], want)
		}
	}
	if tools := readModuleFile(t, "tools.mod"); tools.Go != m.Go || tools.Module.Path != m.Module.Path {
		t.Errorf("tools.mod is for %s and Go %s, go.mod for %s and Go %s", tools.Module.Path, tools.Go, m.Module.Path, m.Go)
	}
}

// Every dependency has somebody who said why.
func TestEveryDependencyHasADecision(t *testing.T) {
	var all []byte
	for _, path := range decisions(t) {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, text...)
	}
	for _, r := range readModuleFile(t, "go.mod").Require {
		if !r.Indirect && !bytes.Contains(all, []byte(r.Path)) {
			t.Errorf("%s is in go.mod and on no page of docs/decisions", r.Path)
		}
	}
}

func TestDecisionsSayWhyAndWhatWouldChangeThem(t *testing.T) {
	name := regexp.MustCompile(`^\d{4}-[a-z0-9-]+\.md$`)
	seen := map[string]string{}
	for _, path := range decisions(t) {
		base := filepath.Base(path)
		if !name.MatchString(base) {
			t.Errorf("%s: name it NNNN-title.md", path)
			continue
		}
		if other, ok := seen[base[:4]]; ok {
			t.Errorf("%s and %s have the same number", path, other)
		}
		seen[base[:4]] = path
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.HasPrefix(text, []byte("# ")) {
			t.Errorf("%s: begins without a title", path)
		}
		lower := strings.ToLower(string(text))
		for _, part := range []string{"decision", "why|problem", "change our mind"} {
			if !regexp.MustCompile(part).MatchString(lower) {
				t.Errorf("%s: has no part about %q", path, part)
			}
		}
		if lines := strings.Count(lower, "\n"); lines > 120 {
			t.Errorf("%s: %d lines are more than a page", path, lines)
		}
	}
}

func decisions(t *testing.T) []string {
	t.Helper()
	pages, err := filepath.Glob("docs/decisions/*.md")
	if err != nil || len(pages) == 0 {
		t.Fatalf("no decisions: %v", err)
	}
	return slices.DeleteFunc(pages, func(p string) bool { return filepath.Base(p) == "README.md" })
}

// Links between documents lead somewhere.
func TestLinksInDocumentsResolve(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)#\s]+)[^)]*\)`)
	for path, text := range repoTexts(t) {
		if !strings.HasSuffix(path, ".md") {
			continue
		}
		for _, m := range link.FindAllSubmatch(text, -1) {
			to := string(m[1])
			if strings.Contains(to, "://") || strings.HasPrefix(to, "mailto:") {
				continue
			}
			if _, err := os.Stat(filepath.Join(filepath.Dir(path), to)); err != nil {
				t.Errorf("%s: the link to %s leads nowhere", path, to)
			}
		}
	}
}

// repoFiles returns the files of the repository, tracked or about to be, as
// git sees them, or all that are not products where there is no git.
func repoFiles(t *testing.T) []string {
	t.Helper()
	out, err := exec.Command("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard").Output()
	if err == nil {
		var files []string
		for name := range strings.SplitSeq(strings.TrimRight(string(out), "\x00"), "\x00") {
			if _, err := os.Lstat(name); err == nil { // not one that was just removed
				files = append(files, name)
			}
		}
		return files
	}
	var files []string
	err = filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && slices.Contains([]string{".git", "bin", "build"}, path) {
			return filepath.SkipDir
		}
		if d.Type().IsRegular() {
			files = append(files, path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// repoTexts returns the contents of all files of the repository.
func repoTexts(t *testing.T) map[string][]byte {
	t.Helper()
	texts := map[string][]byte{}
	for _, path := range repoFiles(t) {
		if info, err := os.Lstat(path); err != nil || !info.Mode().IsRegular() {
			continue
		}
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		texts[path] = text
	}
	if len(texts) < 20 {
		t.Fatalf("only %d files", len(texts))
	}
	return texts
}
