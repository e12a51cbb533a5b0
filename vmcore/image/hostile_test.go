package image_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/image"
	it "github.com/boxlite-mcp/boxlite-mcp/vmcore/image/imagetest"
)

// blobs is a registry of one repository that answers what it is told to.
type blobs map[string][]byte // by digest; the manifest by tag, too

func (b blobs) add(content []byte) v1.Descriptor {
	h, _, err := v1.SHA256(bytes.NewReader(content))
	if err != nil {
		panic(err)
	}
	b[h.String()] = content
	return v1.Descriptor{Digest: h, Size: int64(len(content))}
}

// image adds an image of layers as they are stored, and returns its manifest
// for changes.
func (b blobs) image(layers ...[]byte) *v1.Manifest {
	m := &v1.Manifest{SchemaVersion: 2, MediaType: types.OCIManifestSchema1}
	config := v1.ConfigFile{OS: "linux", Architecture: goarch, RootFS: v1.RootFS{Type: "layers"}}
	for _, l := range layers {
		d := b.add(l)
		d.MediaType = types.OCILayer
		m.Layers = append(m.Layers, d)
		h, _, _ := v1.SHA256(bytes.NewReader(plain(l)))
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, h)
	}
	m.Config = b.add(toJSON(config))
	m.Config.MediaType = types.OCIConfigJSON
	return m
}

func toJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}

func (b blobs) manifest(v any) blobs {
	b.add(toJSON(v))
	b["1"] = toJSON(v)
	return b
}

func (b blobs) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	content, ok := b[r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]]
	if !ok {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Length", fmt.Sprint(len(content)))
	if r.Method != http.MethodHead {
		w.Write(content)
	}
}

func zip(b []byte) []byte {
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	z.Write(b)
	z.Close()
	return out.Bytes()
}

func zstandard(b []byte) []byte {
	z, err := zstd.NewWriter(nil)
	if err != nil {
		panic(err)
	}
	defer z.Close()
	return z.EncodeAll(b, nil)
}

// plain uncompresses gzip, for digests.
func plain(b []byte) []byte {
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		return b
	}
	var out bytes.Buffer
	out.ReadFrom(z)
	return out.Bytes()
}

var good = it.Tar(it.File("good", 0o644, "good"))

func TestHostileImagesAreRefused(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "outside")
	if err := os.WriteFile(outside, []byte("canary"), 0o600); err != nil {
		t.Fatal(err)
	}
	bomb := func() []byte { // 48 MiB of zeros
		var out bytes.Buffer
		z := gzip.NewWriter(&out)
		h := it.Tar(it.File("x", 0o644, strings.Repeat("\x00", 4<<20)))
		for range 12 {
			z.Write(h[:len(h)-1024])
		}
		z.Close()
		return out.Bytes()
	}
	for _, row := range []struct {
		name string
		make func(b blobs) blobs
		want string
	}{
		{"manifest_is_not_json", func(b blobs) blobs { b["1"] = []byte("<html>"); return b }, "manifest is not one"},
		{"manifest_is_empty", func(b blobs) blobs { return b.manifest(map[string]any{"schemaVersion": 2}) }, "neither"},
		{"manifest_is_too_big", func(b blobs) blobs { b["1"] = bytes.Repeat([]byte(" "), 8<<20+1); return b }, "too big"},
		{"manifest_is_schema_1", func(b blobs) blobs {
			return b.manifest(map[string]any{"schemaVersion": 1, "fsLayers": []any{map[string]any{"blobSum": digest64}}})
		}, "schema 1"},
		{"manifest_is_two_things", func(b blobs) blobs {
			return b.manifest(map[string]any{"schemaVersion": 2, "config": b.image(good).Config, "layers": []any{}, "manifests": []any{}})
		}, "at once"},
		{"index_without_our_platform", func(b blobs) blobs {
			return b.manifest(v1.IndexManifest{SchemaVersion: 2, Manifests: []v1.Descriptor{{Digest: b.image(good).Config.Digest, Platform: &v1.Platform{OS: "plan9", Architecture: "mips"}}}})
		}, "plan9/mips"},
		{"empty_index", func(b blobs) blobs {
			return b.manifest(map[string]any{"schemaVersion": 2, "manifests": []any{}})
		}, "not for linux"},
		{"index_of_itself", func(b blobs) blobs {
			d := b.add([]byte(`{"schemaVersion":2,"manifests":[]}`))
			for range 4 {
				d.Platform = &v1.Platform{OS: "linux", Architecture: goarch}
				d = b.add(toJSON(v1.IndexManifest{SchemaVersion: 2, Manifests: []v1.Descriptor{d}}))
			}
			b["1"] = b[d.Digest.String()]
			return b
		}, "nested"},
		{"image_of_another_platform", func(b blobs) blobs {
			m := b.image(good)
			m.Config = b.add(toJSON(v1.ConfigFile{OS: "windows", Architecture: "amd64"}))
			return b.manifest(m)
		}, "windows/amd64"},
		{"thousand_layers", func(b blobs) blobs {
			m := b.image(good)
			for range 1000 {
				m.Layers = append(m.Layers, m.Layers[0])
			}
			return b.manifest(m)
		}, "1001 layers"},
		{"fewer_digests_than_layers", func(b blobs) blobs {
			m := b.image(good)
			m.Layers = append(m.Layers, m.Layers[0])
			return b.manifest(m)
		}, "digests for 1"},
		{"negative_layer_size", func(b blobs) blobs { m := b.image(good); m.Layers[0].Size = -1; return b.manifest(m) }, "-1 bytes"},
		{"enormous_layer_size", func(b blobs) blobs { m := b.image(good); m.Layers[0].Size = 1 << 62; return b.manifest(m) }, "more than"},
		{"layer_is_longer_than_said", func(b blobs) blobs { m := b.image(good); m.Layers[0].Size--; return b.manifest(m) }, "more than the"},
		{"digest_of_another_kind", func(b blobs) blobs {
			return b.manifest(bytesReplace(toJSON(b.image(good)), "sha256:", "md5:"))
		}, "manifest"},
		{"digest_is_a_path", func(b blobs) blobs {
			m := toJSON(b.image(good))
			i := bytes.LastIndex(m, []byte("sha256:"))
			copy(m[i+7:], "../../../../../../../../../../../../../../../../../../etc/passwd")
			b["1"] = m
			return b
		}, "manifest"},
		{"config_is_not_json", func(b blobs) blobs {
			m := b.image(good)
			m.Config = b.add([]byte("nope"))
			return b.manifest(m)
		}, "configuration"},
		{"config_is_too_big", func(b blobs) blobs { m := b.image(good); m.Config.Size = 9 << 20; return b.manifest(m) }, "configuration"},
		{"config_says_too_much", func(b blobs) blobs {
			m := b.image(good)
			var f v1.ConfigFile
			json.Unmarshal(b[m.Config.Digest.String()], &f)
			f.Config.Env = []string{"X=" + strings.Repeat("x", 300<<10)}
			m.Config = b.add(toJSON(f))
			return b.manifest(m)
		}, "more than 262144 bytes"},
		{"blob_is_another", func(b blobs) blobs {
			m := b.image(good)
			b[m.Layers[0].Digest.String()] = bytes.Repeat([]byte("x"), int(m.Layers[0].Size))
			return b.manifest(m)
		}, "digest"},
		{"config_blob_is_another", func(b blobs) blobs {
			m := b.image(good)
			b[m.Config.Digest.String()] = bytes.Repeat([]byte("x"), int(m.Config.Size))
			return b.manifest(m)
		}, "digest"},
		{"wrong_diff_id", func(b blobs) blobs {
			m := b.image(good)
			m.Layers[0] = b.add(it.Tar(it.File("other", 0o644, "")))
			m.Layers[0].MediaType = types.OCILayer
			return b.manifest(m)
		}, "uncompressed layer"},
		{"truncated_gzip", func(b blobs) blobs { z := zip(good); return b.manifest(b.image(z[:len(z)-20])) }, "cut short"},
		{"corrupt_gzip", func(b blobs) blobs { z := zip(good); z[len(z)/2] ^= 0xff; return b.manifest(b.image(z)) }, "layer 1 of 1"},
		{"corrupt_zstd", func(b blobs) blobs {
			z := zstandard(good)
			z[len(z)-6] ^= 0xff
			return b.manifest(b.image(z))
		}, "layer 1 of 1"},
		{"truncated_tar", func(b blobs) blobs { return b.manifest(b.image(zip(good[:700]))) }, "layer 1 of 1"},
		{"not_a_tar", func(b blobs) blobs { return b.manifest(b.image([]byte(strings.Repeat("hello", 1000)))) }, "tar"},
		{"gzip_bomb", func(b blobs) blobs {
			m := b.image(good)
			m.Layers[0] = b.add(bomb())
			m.Layers[0].MediaType = types.OCILayer
			return b.manifest(m)
		}, "unpacks to more than 17039360"},
		{"dotdot_in_second_layer", func(b blobs) blobs {
			return b.manifest(b.image(zip(good), zip(it.Tar(it.File("../../../../../../"+outside, 0o644, "gotcha")))))
		}, "climbs out"},
		{"symlink_then_write_through", func(b blobs) blobs { // stays inside: the damage is a missing link
			return b.manifest(b.image(it.Tar(it.Symlink("l", filepath.Dir(outside)), it.Link("x", "l/outside"))))
		}, "does not have"},
		{"artifact", func(b blobs) blobs {
			m := b.image(good)
			m.Layers[0].MediaType = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"
			return b.manifest(m)
		}, "helm"},
		{"encrypted_layer", func(b blobs) blobs {
			m := b.image(good)
			m.Layers[0].MediaType = "application/vnd.oci.image.layer.v1.tar+gzip+encrypted"
			return b.manifest(m)
		}, "encrypted"},
		{"foreign_layer_elsewhere", func(b blobs) blobs {
			m := b.image(good)
			m.Layers[0].MediaType, m.Layers[0].URLs = types.OCIRestrictedLayer, []string{"file://" + outside, "http://169.254.169.254/"}
			delete(b, m.Layers[0].Digest.String())
			return b.manifest(m)
		}, "404"},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := serve(t, false)
			content := row.make(blobs{})
			s.on(func(w http.ResponseWriter, r *http.Request) bool { content.ServeHTTP(w, r); return true })
			dir := t.TempDir()
			o := options(s.host)
			o.Limits.Bytes = 8 << 30
			o.SetRatioAfter(16 << 20)
			c := openIn(t, dir, o)
			_, err := c.Pull(t.Context(), s.host+"/x:1", image.PullOptions{})
			wantError(t, err, boxlite.Image, row.want)
			if _, err := c.GC(nil); err != nil {
				t.Error(err)
			}
			wantClean(t, dir, 0, false)
			if b, err := os.ReadFile(outside); err != nil || string(b) != "canary" {
				t.Errorf("outside is %q, %v", b, err)
			}
		})
	}
}

// bytesReplace returns JSON that has been tampered with.
func bytesReplace(b []byte, from, to string) json.RawMessage {
	return bytes.ReplaceAll(b, []byte(from), []byte(to))
}

func TestEveryCompressionAndMediaTypeIsRead(t *testing.T) {
	s := serve(t, false)
	b := blobs{}
	m := b.image(good, zip(it.Tar(it.File("zipped", 0o644, "z"))))
	z := it.Tar(it.File("zstd", 0o644, "s"))
	d := b.add(zstandard(z))
	d.MediaType = "application/vnd.oci.image.layer.v1.tar+zstd"
	m.Layers = append(m.Layers, d)
	var f v1.ConfigFile
	if err := json.Unmarshal(b[m.Config.Digest.String()], &f); err != nil {
		t.Fatal(err)
	}
	h, _, _ := v1.SHA256(bytes.NewReader(z))
	f.RootFS.DiffIDs = append(f.RootFS.DiffIDs, h)
	m.Config = b.add(toJSON(f))
	m.Layers[0].MediaType, m.Layers[1].MediaType = types.OCIUncompressedLayer, types.DockerForeignLayer
	b.manifest(m)
	s.on(func(w http.ResponseWriter, r *http.Request) bool { b.ServeHTTP(w, r); return true })
	img := pull(t, open(t, s.host), s.host+"/x:1")
	want, err := os.ReadFile(it.Base(t, good, it.Tar(it.File("zipped", 0o644, "z")), z))
	if got, e := os.ReadFile(img.BasePath); err != nil || e != nil || !bytes.Equal(got, want) {
		t.Errorf("the base is not that of the three layers; %v, %v", err, e)
	}
}

func TestIndexGivesOurPlatform(t *testing.T) {
	host := it.Registry(t)
	add := func(content, arch, variant string) mutate.IndexAddendum {
		return mutate.IndexAddendum{Add: it.Image(v1.Config{Cmd: []string{content}}, it.Layer(types.OCILayer, it.File("f", 0o644, content))),
			Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch, Variant: variant}}}
	}
	attestation := mutate.IndexAddendum{Add: mutate.MediaType(empty.Image, types.OCIManifestSchema1), Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "unknown", Architecture: "unknown"}}}
	idx := mutate.AppendManifests(empty.Index, attestation, add("other", "s390x", ""), add("newer", goarch, "v3"), add("ours", goarch, ""), add("v5", goarch, "v5"))
	it.PushIndex(t, idx, host+"/multi:1")
	img := pull(t, open(t, host), host+"/multi:1")
	if img.Config.Cmd[0] != "ours" || img.Info.Platform != "linux/"+goarch {
		t.Errorf("pulled %+v", img)
	}
	d, err := idx.Digest()
	if err != nil {
		t.Fatal(err)
	}
	if again := pull(t, open(t, host), host+"/multi:1@"+d.String()); again.Digest != img.Digest || again.Digest == d.String() {
		t.Errorf("by the digest of the index: %s, want %s", again.Digest, img.Digest)
	}
}

func TestDockerSchema2IsRead(t *testing.T) {
	host := it.Registry(t)
	img := mutate.MediaType(it.Image(v1.Config{User: "7:8", WorkingDir: "/w", Entrypoint: []string{"/e"}, Env: []string{"A=b", "broken", "=x"},
		ExposedPorts: map[string]struct{}{"80/tcp": {}}, Volumes: map[string]struct{}{"/v": {}}, Labels: map[string]string{"l": "m"}},
		it.Layer(types.DockerLayer, it.File("f", 0o644, "x"))), types.DockerManifestSchema2)
	it.Push(t, img, host+"/d:1")
	c := pull(t, open(t, host), host+"/d:1").Config
	if got := string(toJSON(c)); got != `{"env":["A=b"],"working_dir":"/w","user":"7:8","entrypoint":["/e"],"exposed_ports":["80/tcp"],"volumes":["/v"],"labels":{"l":"m"}}` {
		t.Errorf("configuration %s", got)
	}
}
