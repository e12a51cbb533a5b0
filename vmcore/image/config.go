package image

import (
	"maps"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// A Config is what an image says about running it. All of it was chosen by
// the image's maker.
type Config struct {
	Env          []string          `json:"env,omitempty"` // NAME=value
	WorkingDir   string            `json:"working_dir,omitempty"`
	User         string            `json:"user,omitempty"` // name|uid[:group|gid]
	Entrypoint   []string          `json:"entrypoint,omitempty"`
	Cmd          []string          `json:"cmd,omitempty"`
	ExposedPorts []string          `json:"exposed_ports,omitempty"` // 80/tcp, sorted
	Volumes      []string          `json:"volumes,omitempty"`       // paths, sorted
	Labels       map[string]string `json:"labels,omitempty"`
	StopSignal   string            `json:"stop_signal,omitempty"`
}

// maxConfig is the most bytes that all texts of a Config may have together.
const maxConfig = 256 << 10

// parseConfig bounds what an image says.
//
// Errors: Image.
func parseConfig(c v1.Config) (Config, error) {
	out := Config{
		Env: c.Env, WorkingDir: c.WorkingDir, User: c.User, Entrypoint: c.Entrypoint, Cmd: c.Cmd,
		ExposedPorts: slices.Sorted(maps.Keys(c.ExposedPorts)), Volumes: slices.Sorted(maps.Keys(c.Volumes)),
		Labels: c.Labels, StopSignal: c.StopSignal,
	}
	size := 0
	for text := range out.texts {
		if size += len(text) + 1; size > maxConfig {
			return Config{}, refuse(hintRebuild, "the image's configuration has more than %d bytes", maxConfig)
		}
		if strings.IndexByte(text, 0) >= 0 {
			return Config{}, refuse(hintRebuild, "the image's configuration has a NUL byte")
		}
	}
	out.Env = slices.DeleteFunc(slices.Clone(out.Env), func(s string) bool { return strings.IndexByte(s, '=') <= 0 })
	return out, nil
}

// texts yields every text of the configuration.
func (c *Config) texts(yield func(string) bool) {
	single := []string{c.WorkingDir, c.User, c.StopSignal}
	for _, list := range [][]string{single, c.Env, c.Entrypoint, c.Cmd, c.ExposedPorts, c.Volumes} {
		for _, s := range list {
			if !yield(s) {
				return
			}
		}
	}
	for k, v := range c.Labels {
		if !yield(k) || !yield(v) {
			return
		}
	}
}
