package image

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// A manifest is an image manifest or an index; one of layers and manifests is
// empty.
type manifest struct {
	SchemaVersion int               `json:"schemaVersion"`
	MediaType     string            `json:"mediaType"`
	Config        *v1.Descriptor    `json:"config"`
	Layers        []v1.Descriptor   `json:"layers"`
	Manifests     []v1.Descriptor   `json:"manifests"`
	FSLayers      []json.RawMessage `json:"fsLayers"`
}

// parseManifest reads a manifest or index.
//
// Errors: Image with a hint for what is neither.
func parseManifest(b []byte) (manifest, error) {
	var m manifest
	if err := json.Unmarshal(b, &m); err != nil {
		return m, refuse(hintDamaged, "the manifest is not one: %w", err)
	}
	switch {
	case m.SchemaVersion == 1 || len(m.FSLayers) > 0:
		return m, refuse("Push the image anew with a program of this decade.", "the manifest is of the old schema 1, which cannot be verified")
	case m.Manifests != nil && (m.Layers != nil || m.Config != nil):
		return m, refuse(hintHostile, "the manifest is an image and an index at once")
	case m.Manifests == nil && m.Config == nil:
		return m, refuse(hintDamaged, "the manifest has neither a configuration nor a list of platforms")
	}
	for _, d := range append(append([]v1.Descriptor(nil), m.Layers...), m.Manifests...) {
		if err := checkDescriptor(d); err != nil {
			return m, err
		}
	}
	if m.Config != nil {
		return m, checkDescriptor(*m.Config)
	}
	return m, nil
}

func checkDescriptor(d v1.Descriptor) error {
	if !digestPattern.MatchString(d.Digest.String()) {
		return refuse(hintRebuild, "digest %.100q is not a SHA-256", d.Digest)
	}
	if d.Size < 0 {
		return refuse(hintHostile, "a part of the image has %d bytes", d.Size)
	}
	return nil
}

func (m manifest) isIndex() bool { return m.Manifests != nil }

// checkLayers refuses images that are too big or have layers of unknown kinds.
func (m manifest) checkLayers(l Limits) error {
	if len(m.Layers) > l.Layers {
		return refuse(hintTooBig, "the image has %d layers, more than %d", len(m.Layers), l.Layers)
	}
	total := int64(0)
	for _, d := range m.Layers {
		if !isLayer(string(d.MediaType)) {
			return refuse("Use an image of a Linux system, not another artifact.", "a layer is of type %.100q", d.MediaType)
		}
		if d.Size > l.Bytes-total {
			return refuse(hintTooBig, "the image has more than %d bytes", l.Bytes)
		}
		total += d.Size
	}
	return nil
}

// isLayer accepts tar files. How they are compressed is told from their first
// bytes; where else they may be had is never followed.
func isLayer(media string) bool {
	return strings.HasPrefix(media, "application/vnd.oci.image.layer.") && !strings.Contains(media, "encrypted") ||
		strings.HasPrefix(media, "application/vnd.docker.image.rootfs.")
}

// choose returns the image of an index for a platform.
//
// Errors: Image with a hint that lists what there is.
func (m manifest) choose(platform string) (v1.Descriptor, error) {
	best, rank := v1.Descriptor{}, 0
	var have []string
	for _, d := range m.Manifests {
		p := d.Platform
		if p == nil {
			p = &v1.Platform{}
		}
		name := p.OS + "/" + p.Architecture
		if name != "unknown/unknown" && name != "/" && len(have) < 20 {
			have = append(have, fmt.Sprintf("%.40s", name))
		}
		if r := fitness(name, p.Variant, platform); r > rank {
			best, rank = d, r
		}
	}
	if len(m.Manifests) == 1 && m.Manifests[0].Platform == nil { // as layouts of one image have
		return m.Manifests[0], nil
	}
	if rank == 0 {
		return best, refuse("Use an image that was built for "+platform+".",
			"the image is not for %s, but for %s", platform, strings.Join(have, ", "))
	}
	return best, nil
}

// fitness ranks a platform: 0 does not run. Of the variants, the one that
// every processor runs is best.
func fitness(name, variant, platform string) int {
	if name != platform {
		return 0
	}
	switch variant {
	case "":
		return 3
	case "v1", "v8":
		return 2
	case "v2", "v3", "v4":
		if strings.HasSuffix(name, "/amd64") {
			return 0
		}
	}
	return 1
}

// maxJSON is the most bytes that a manifest or an image's configuration has.
const maxJSON = 8 << 20

// parseImageConfig reads the configuration that belongs to a manifest.
//
// Errors: Image.
func (m manifest) parseImageConfig(b []byte, platform string) (*v1.ConfigFile, Config, error) {
	f, err := v1.ParseConfigFile(bytes.NewReader(b))
	if err != nil {
		return nil, Config{}, refuse(hintDamaged, "the image's configuration: %w", err)
	}
	if name := f.OS + "/" + f.Architecture; f.OS != "" && f.Architecture != "" && name != platform {
		return nil, Config{}, refuse("Use an image that was built for "+platform+".", "the image is for %.80s", name)
	}
	if len(f.RootFS.DiffIDs) != len(m.Layers) {
		return nil, Config{}, refuse(hintDamaged, "the image has %d layers, and digests for %d", len(m.Layers), len(f.RootFS.DiffIDs))
	}
	for _, id := range f.RootFS.DiffIDs {
		if !digestPattern.MatchString(id.String()) {
			return nil, Config{}, refuse(hintRebuild, "digest %.100q is not a SHA-256", id)
		}
	}
	c, err := parseConfig(f.Config)
	return f, c, err
}

func digestOf(b []byte) string {
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// mismatch is the error for contents that do not have their digest.
func mismatch(what, want, got string) error {
	return refuse(hintDamaged, "%s has digest %s, not %s", what, got, want)
}
