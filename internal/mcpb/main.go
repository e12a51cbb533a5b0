// Command mcpb makes what other programs install this server from: a bundle
// (boxlite-mcp.mcpb) of the programs in a directory, and the entry for the MCP
// registry (server.json) that names the bundle and its digest.
//
//	go run ./internal/mcpb -version v1.2.3 -dir bin
//
// It publishes nothing. The same programs and version give the same bytes.
package main

import (
	"archive/zip"
	"bytes"
	"compress/flate"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
)

const bundleName = "boxlite-mcp.mcpb"

// programs are in the bundle, side by side.
var programs = []string{"boxlite-mcp", "boxlite-agent", "boxlite-jail", "boxlite-sandbox"}

// releases is where bundles are downloaded from, by tag and name.
const releases = "https://github.com/boxlite-mcp/boxlite-mcp/releases/download/"

// The two files, without what depends on a version.
var (
	//go:embed manifest.json
	manifestText []byte
	//go:embed server.json
	serverText []byte
)

func main() {
	version := flag.String("version", "v0.0.0-dev", "`version` of the bundle, as a tag: v1.2.3")
	dir := flag.String("dir", "bin", "`directory` of the programs, and of what is made")
	flag.Parse()
	digest, err := build(*dir, *version)
	if err != nil {
		fmt.Fprintln(os.Stderr, "mcpb:", err)
		os.Exit(1)
	}
	fmt.Fprintf(os.Stdout, "%s  %s\n", digest, filepath.Join(*dir, bundleName))
}

// semver matches versions as tags.
var semver = regexp.MustCompile(`^v\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?$`)

// build makes both files in dir, and returns the bundle's digest.
func build(dir, tag string) (digest string, err error) {
	if !semver.MatchString(tag) {
		return "", fmt.Errorf("version %q: want one like v1.2.3", tag)
	}
	version := strings.TrimPrefix(tag, "v")
	manifest, err := fill(manifestText, func(m map[string]any) { m["version"] = version })
	if err != nil {
		return "", err
	}
	var bundle bytes.Buffer
	if err := pack(&bundle, manifest, dir); err != nil {
		return "", err
	}
	sum := sha256.Sum256(bundle.Bytes())
	digest = hex.EncodeToString(sum[:])
	server, err := fill(serverText, func(m map[string]any) {
		m["version"] = version
		p := m["packages"].([]any)[0].(map[string]any)
		p["identifier"], p["fileSha256"] = releases+tag+"/"+bundleName, digest
	})
	if err != nil {
		return "", err
	}
	return digest, errors.Join(
		replace(filepath.Join(dir, bundleName), bundle.Bytes()),
		replace(filepath.Join(dir, "server.json"), server))
}

// fill returns a JSON text with what set changes in it.
func fill(text []byte, set func(map[string]any)) ([]byte, error) {
	var m map[string]any
	if err := json.Unmarshal(text, &m); err != nil {
		return nil, err
	}
	set(m)
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	err := enc.Encode(m)
	return out.Bytes(), err
}

// pack writes a bundle of the manifest and the programs of a directory.
func pack(w io.Writer, manifest []byte, dir string) error {
	z := zip.NewWriter(w)
	z.RegisterCompressor(zip.Deflate, func(w io.Writer) (io.WriteCloser, error) {
		return flate.NewWriter(w, flate.BestCompression)
	})
	if err := add(z, "manifest.json", 0o644, manifest); err != nil {
		return err
	}
	for _, name := range programs {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return fmt.Errorf("run make build first: %w", err)
		}
		if err := add(z, path.Join("server", name), 0o755, text); err != nil {
			return err
		}
	}
	return z.Close()
}

// add adds a file without a time.
func add(z *zip.Writer, name string, mode os.FileMode, text []byte) error {
	h := &zip.FileHeader{Name: name, Method: zip.Deflate}
	h.SetMode(mode)
	w, err := z.CreateHeader(h)
	if err == nil {
		_, err = w.Write(text)
	}
	return err
}

// replace writes a file in one step.
func replace(name string, text []byte) error {
	temp := name + ".new"
	if err := os.WriteFile(temp, text, 0o644); err != nil {
		return err
	}
	return os.Rename(temp, name)
}
