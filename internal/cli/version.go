package cli

import (
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// A VersionInfo says which program this is.
type VersionInfo struct {
	Version  string `json:"version"`            // of the module; "(devel)" if built from a work tree
	Revision string `json:"revision,omitempty"` // of the repository
	Time     string `json:"time,omitempty"`     // of the revision, RFC 3339
	Modified bool   `json:"modified,omitempty"` // the work tree differed from the revision
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

// Version returns what the linker recorded of this program.
func Version() VersionInfo {
	v := VersionInfo{Version: "unknown", Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	v.Version = info.Main.Version
	if v.Version == "" {
		v.Version = "(devel)"
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			v.Revision = s.Value
		case "vcs.time":
			v.Time = s.Value
		case "vcs.modified":
			v.Modified = s.Value == "true"
		}
	}
	return v
}

// String returns the version, with the revision where the version alone does
// not tell builds apart.
func (v VersionInfo) String() string {
	if v.Version == "(devel)" && v.Revision != "" {
		return v.Version + " " + v.Revision
	}
	return v.Version
}

func (m *commander) versionCmd() *cobra.Command {
	var json bool
	cmd := &cobra.Command{Use: "version [flags]", Short: "Show the version", Args: noArgs}
	cmd.Flags().BoolVar(&json, "json", false, "print the version as JSON")
	cmd.RunE = func(*cobra.Command, []string) error {
		v := Version()
		if json {
			return m.printJSON(v)
		}
		return m.printf("%s %s %s %s\n", Name, v.Version, v.Go, v.Platform)
	}
	return cmd
}
