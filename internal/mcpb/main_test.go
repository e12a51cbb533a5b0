package main // build is of the inside

import (
	"archive/zip"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/boxlite-mcp/boxlite-mcp/internal/testbin"
	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// fakePrograms returns a directory with files named like the programs.
func fakePrograms(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range programs {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("program "+name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func readFile(t *testing.T, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestBundleHoldsWhatItNames(t *testing.T) {
	dir := fakePrograms(t)
	digest, err := build(dir, "v1.2.3-rc.1")
	if err != nil {
		t.Fatal(err)
	}
	bundle := readFile(t, filepath.Join(dir, bundleName))
	if sum := sha256.Sum256(bundle); hex.EncodeToString(sum[:]) != digest {
		t.Errorf("the digest is %s", digest)
	}
	z, err := zip.NewReader(bytes.NewReader(bundle), int64(len(bundle)))
	if err != nil {
		t.Fatal(err)
	}
	modes := map[string]os.FileMode{}
	for _, f := range z.File {
		modes[f.Name] = f.Mode()
	}
	var m struct {
		Version string
		Server  struct {
			EntryPoint string                   `json:"entry_point"`
			Config     struct{ Command string } `json:"mcp_config"`
		}
	}
	f, err := z.Open("manifest.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.NewDecoder(f).Decode(&m); err != nil {
		t.Fatal(err)
	}
	if m.Version != "1.2.3-rc.1" || m.Server.Config.Command != "${__dirname}/"+m.Server.EntryPoint {
		t.Errorf("manifest: %+v", m)
	}
	if len(modes) != 5 || modes[m.Server.EntryPoint] != 0o755 || modes["server/boxlite-agent"] != 0o755 || modes["server/boxlite-jail"] != 0o755 || modes["server/boxlite-sandbox"] != 0o755 {
		t.Errorf("the bundle has %v", modes)
	}

	// The same again, bit for bit.
	if again, err := build(dir, "v1.2.3-rc.1"); err != nil || again != digest {
		t.Errorf("the second bundle is %s, %v", again, err)
	}
	if other, err := build(dir, "v1.2.4"); err != nil || other == digest {
		t.Errorf("another version is %s, %v", other, err)
	}
}

// The limits are those of the registry's schema and of its rules for bundles.
func TestServerNamesTheBundle(t *testing.T) {
	dir := fakePrograms(t)
	digest, err := build(dir, "v1.2.3")
	if err != nil {
		t.Fatal(err)
	}
	var s struct {
		Schema                            string `json:"$schema"`
		Name, Title, Description, Version string
		Packages                          []struct {
			RegistryType, Identifier, FileSha256 string
			Transport                            struct{ Type string }
		}
	}
	if err := json.Unmarshal(readFile(t, filepath.Join(dir, "server.json")), &s); err != nil {
		t.Fatal(err)
	}
	if len(s.Packages) != 1 {
		t.Fatalf("%+v", s)
	}
	p := s.Packages[0]
	switch {
	case !regexp.MustCompile(`^[a-zA-Z0-9.-]+/[a-zA-Z0-9._-]+$`).MatchString(s.Name), len(s.Name) > 200,
		len(s.Description) < 1 || len(s.Description) > 100, len(s.Title) > 100, s.Version != "1.2.3":
		t.Errorf("%+v", s)
	case p.RegistryType != "mcpb", p.Transport.Type != "stdio", p.FileSha256 != digest,
		p.Identifier != "https://github.com/boxlite-mcp/boxlite-mcp/releases/download/v1.2.3/boxlite-mcp.mcpb":
		t.Errorf("%+v", p)
	}
}

func TestWhatIsNotBundled(t *testing.T) {
	for _, tag := range []string{"", "1.2.3", "v1.2", "latest", "v1.2.3/../x"} {
		if _, err := build(fakePrograms(t), tag); err == nil {
			t.Errorf("version %q makes a bundle", tag)
		}
	}
	dir := fakePrograms(t)
	if err := os.Remove(filepath.Join(dir, "boxlite-sandbox")); err != nil {
		t.Fatal(err)
	}
	if _, err := build(dir, "v1.2.3"); err == nil || !strings.Contains(err.Error(), "make build") {
		t.Errorf("without a program: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, bundleName)); err == nil {
		t.Error("there is a bundle without a program")
	}
}

// A bundle of the real programs, unpacked as a client does it, starts a server.
func TestBundleStartsAServer(t *testing.T) {
	bin, dir := testbin.All(t), t.TempDir()
	for _, name := range programs {
		if err := os.Symlink(filepath.Join(bin, name), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := build(dir, "v1.2.3"); err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(dir, "unpacked")
	unpack(t, filepath.Join(dir, bundleName), to)
	var m struct {
		Server struct {
			Config struct {
				Command string
				Args    []string
			} `json:"mcp_config"`
		}
	}
	if err := json.Unmarshal(readFile(t, filepath.Join(to, "manifest.json")), &m); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), strings.ReplaceAll(m.Server.Config.Command, "${__dirname}", to), m.Server.Config.Args...)
	cmd.Env, cmd.Stderr = []string{"HOME=" + dir}, t.Output()
	client := mcp.NewClient(&mcp.Implementation{Name: "test", Version: "1"}, nil)
	session, err := client.Connect(t.Context(), &mcp.CommandTransport{Command: cmd}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	if got := session.InitializeResult(); got.ServerInfo.Name == "" || got.Capabilities.Tools == nil {
		t.Errorf("%+v", got)
	}
}

func unpack(t *testing.T, bundle, to string) {
	t.Helper()
	z, err := zip.OpenReader(bundle)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	for _, f := range z.File {
		r, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Join(to, f.Name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, text, f.Mode()); err != nil {
			t.Fatal(err)
		}
	}
}
