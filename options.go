package boxlite

import (
	"errors"
	"fmt"
	"path"
	"strings"
)

// The defaults of the API reference.
const (
	DefaultCPUs   = 2
	DefaultMemory = 512 * MiB
	DefaultImage  = "alpine:latest"
	DefaultDisk   = 10 * GiB
)

// maxEnv bounds the environment of a box, in bytes: it is part of its record.
const maxEnv = 128 << 10

// BoxOptions says what a box is made of. The zero value is a box of the
// reference's defaults. Options whose default is not zero are pointers.
type BoxOptions struct {
	Image      string `json:"image,omitempty"`       // image reference, see package vmcore/image; "": alpine:latest, unless RootfsPath is set
	RootfsPath string `json:"rootfs_path,omitempty"` // absolute path of an already prepared root directory on the host; excludes Image

	CPUs       int    `json:"cpus,omitempty"`         // 1 to 64; 0: 2
	MemoryMiB  int    `json:"memory_mib,omitempty"`   // at least 64; 0: 512
	DiskSizeGB int    `json:"disk_size_gb,omitempty"` // GiB that the box may write; 0: 10
	WorkingDir string `json:"working_dir,omitempty"`  // absolute, inside the box; "": the image's
	Env        []Env  `json:"env,omitempty"`          // added to the image's; later entries win

	Engine    string `json:"engine,omitempty"`    // an engine's name; "" or "auto": the best this host has
	Isolation string `json:"isolation,omitempty"` // least isolation accepted: "vm", "hardware-vm"; "": any

	// Network is what the box may reach. The zero value is none: no network
	// interface.
	Network NetworkSpec `json:"network,omitzero"`

	// Secrets are the keys that programs in the box use without seeing them. They
	// open no host that Network does not.
	Secrets []Secret `json:"secrets,omitempty"`

	Labels map[string]string `json:"labels,omitempty"`

	// AutoRemove deletes the box when it stops. nil means true, unless Detach
	// is set; both true is a Config error.
	AutoRemove *bool `json:"auto_remove,omitempty"`
	// Detach lets the box outlive the process that holds the Runtime.
	Detach bool `json:"detach,omitempty"`
}

// An Env is one environment variable.
type Env struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// ParseEnv reads "NAME=value".
//
// Errors: [InvalidArgument] without a name or an equals sign.
func ParseEnv(s string) (Env, error) {
	name, value, ok := strings.Cut(s, "=")
	if !ok || name == "" || strings.ContainsRune(s, 0) {
		return Env{}, &Error{Op: "parse environment variable", Kind: InvalidArgument, Ref: quote(s), Hint: "Write NAME=value."}
	}
	return Env{name, value}, nil
}

// String returns "NAME=value".
func (e Env) String() string { return e.Name + "=" + e.Value }

// WithDefaults returns the options with every default filled in.
//
// Errors: [Config] with a hint if an option is out of range or two options
// exclude each other.
func (o BoxOptions) WithDefaults() (BoxOptions, error) {
	bad := func(hint, format string, args ...any) (BoxOptions, error) {
		return BoxOptions{}, &Error{Op: "check box options", Kind: Config, Hint: hint, Err: fmt.Errorf(format, args...)}
	}
	if o.Image != "" && o.RootfsPath != "" {
		return bad("Give one of them.", "image and rootfs_path exclude each other")
	}
	if o.RootfsPath != "" && !path.IsAbs(o.RootfsPath) {
		return bad("Give an absolute path.", "rootfs_path %s is relative", quote(o.RootfsPath))
	}
	if o.WorkingDir != "" && !path.IsAbs(o.WorkingDir) {
		return bad("Give an absolute path inside the box.", "working_dir %s is relative", quote(o.WorkingDir))
	}
	if o.Detach && o.AutoRemove != nil && *o.AutoRemove {
		return bad("Leave out auto_remove: a detached box is kept.", "detach and auto_remove are both set")
	}
	if o.AutoRemove == nil {
		o.AutoRemove = new(!o.Detach)
	}
	if o.Image == "" && o.RootfsPath == "" {
		o.Image = DefaultImage
	}
	for _, v := range []struct {
		field         *int
		name          string
		def, min, max int
	}{
		{&o.CPUs, "cpus", DefaultCPUs, 1, 64},
		{&o.MemoryMiB, "memory_mib", int(DefaultMemory.MiB()), 64, 1 << 20},
		{&o.DiskSizeGB, "disk_size_gb", int(DefaultDisk.GiB()), 1, 1 << 14},
	} {
		if *v.field == 0 {
			*v.field = v.def
		}
		if *v.field < v.min || *v.field > v.max {
			return bad(fmt.Sprintf("Choose %s from %d to %d.", v.name, v.min, v.max), "%s is %d", v.name, *v.field)
		}
	}
	size := 0
	for _, e := range o.Env {
		if size += len(e.Name) + len(e.Value); size > maxEnv {
			return bad("Write the data to a file in the box.", "the environment has more than %d KiB", maxEnv>>10)
		}
		if e.Name == "" || strings.ContainsAny(e.Name, "=\x00") || strings.ContainsRune(e.Value, 0) {
			return bad("Names have no '=', and neither names nor values a NUL byte.", "environment variable %s cannot be set", quote(e.Name))
		}
	}
	switch o.Isolation {
	case "", "vm", "hardware-vm":
	default:
		return bad(`Choose "vm", "hardware-vm" or leave it out.`, "isolation %s is not known", quote(o.Isolation))
	}
	if len(o.Network.AllowNet) > 0 && !o.Network.Enabled {
		return bad("Enable the network, or leave out allow_net.", "allow_net says what to reach, and the network is not enabled")
	}
	if err := o.checkSecrets(); err != nil {
		return BoxOptions{}, err
	}
	return o, CheckLabels(o.Labels)
}

func (o BoxOptions) checkSecrets() error {
	if len(o.Secrets) > 0 && !o.Network.Enabled {
		return &Error{Op: "check box options", Kind: Config, Hint: "Enable the network, or leave out the secrets.",
			Err: errors.New("a box without a network cannot use secrets")}
	}
	seen := map[string]bool{}
	for _, s := range o.Secrets {
		if _, err := ParseSecretName(s.Name); err != nil {
			return err
		}
		if seen[s.EnvName()] {
			return &Error{Op: "check box options", Kind: Config, Ref: "secret " + s.Name, Hint: "Name each secret once.",
				Err: errors.New("there are two of that name")}
		}
		seen[s.EnvName()] = true
	}
	return nil
}

// CheckLabels says whether a box may have these labels: at most 64, of at most
// 1024 bytes each.
//
// Errors: [Config].
func CheckLabels(labels map[string]string) error {
	const most, longest = 64, 1024
	if len(labels) > most {
		return &Error{Op: "check box options", Kind: Config, Err: fmt.Errorf("%d labels are more than %d", len(labels), most)}
	}
	for k, v := range labels {
		if k == "" || len(k)+len(v) > longest {
			return &Error{Op: "check box options", Kind: Config, Ref: "label " + quote(k),
				Err: fmt.Errorf("a label has a name and at most %d bytes", longest)}
		}
	}
	return nil
}

// Memory returns the memory limit.
func (o BoxOptions) Memory() Bytes { return FromMiB(int64(o.MemoryMiB)) }

// Disk returns the size limit of the writable layer.
func (o BoxOptions) Disk() Bytes { return FromGiB(int64(o.DiskSizeGB)) }

// ParseBoxName checks a name for a box: 1 to 63 letters, digits, '-', '_' and
// '.', starting with a letter or digit, and not of a form that could be an
// identifier.
//
// Errors: [InvalidArgument].
func ParseBoxName(s string) (string, error) {
	bad := func(hint string) (string, error) {
		return "", &Error{Op: "parse box name", Kind: InvalidArgument, Ref: quote(s), Hint: hint}
	}
	if len(s) == 0 || len(s) > 63 || !consistsOf(s, base62+"-_.") || !consistsOf(s[:1], base62) {
		return bad("Use 1 to 63 letters, digits, '-', '_' and '.', starting with a letter or digit.")
	}
	if _, err := ParseBoxID(s); err == nil && strings.ContainsAny(s, "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ") {
		return bad("This looks like a box id; choose a name of another length, or with a '-'.")
	}
	if _, err := ParseExecutionID(s); err == nil {
		return bad("This looks like an execution id; choose another name.")
	}
	return s, nil
}
