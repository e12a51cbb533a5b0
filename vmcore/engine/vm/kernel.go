package vm

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// A Kernel is a Linux kernel of a distribution: an image, and the directory of
// its modules.
type Kernel struct {
	Image   string // absolute path, as the distribution made it: vmlinuz
	Modules string // absolute path, below which the .ko files lie
	Release string // as uname -r says in the guest

	load []string // files of the modules that a guest loads, in that order
}

// ErrNoKernel is that of FindKernel.
var ErrNoKernel = errors.New("no kernel for guests was found")

// Places returns where kernels are looked for, the best first: directories with
// "vmlinuz" and "modules" in them, and the root of the system.
func Places(beside string) []string {
	return []string{filepath.Join(beside, "guest"), "/usr/lib/boxlite/guest", "/usr/local/lib/boxlite/guest", "/"}
}

// FindKernel returns the first kernel that is found in one of the places and
// has the modules that a guest needs.
//
// Errors: ErrNoKernel, with what was found and why it does not serve.
func FindKernel(places ...string) (Kernel, error) {
	var problems []error
	for _, place := range places {
		for _, k := range kernelsIn(place) {
			var err error
			if k.load, err = k.modules(); err == nil {
				return k, nil
			}
			problems = append(problems, fmt.Errorf("%s: %w", k.Image, err))
		}
	}
	return Kernel{}, errors.Join(append([]error{ErrNoKernel}, problems...)...)
}

// Images returns the images of all kernels in the places, whether or not they
// serve.
func Images(places ...string) []string {
	var images []string
	for _, place := range places {
		for _, k := range kernelsIn(place) {
			images = append(images, k.Image)
		}
	}
	return images
}

// kernelsIn returns what looks like a kernel, those for virtual machines first.
func kernelsIn(place string) []Kernel {
	var found []Kernel
	images, _ := filepath.Glob(filepath.Join(place, "boot", "vmlinuz-*"))
	for _, image := range images {
		release := strings.TrimPrefix(filepath.Base(image), "vmlinuz-")
		for _, modules := range []string{"lib/modules", "usr/lib/modules"} {
			dir := filepath.Join(place, modules, release)
			if st, err := os.Stat(dir); err == nil && st.IsDir() {
				found = append(found, Kernel{Image: image, Modules: dir, Release: release})
				break
			}
		}
	}
	slices.SortFunc(found, func(a, b Kernel) int {
		if c, d := strings.Contains(a.Release, "cloud"), strings.Contains(b.Release, "cloud"); c != d {
			if c {
				return -1
			}
			return 1
		}
		return strings.Compare(b.Release, a.Release)
	})
	return found
}

// neededModules are what a guest cannot do without, where the kernel does not
// have it built in.
var neededModules = []string{"virtio_pci", "virtio_blk", "virtio_net", "virtio_console", "erofs", "overlay"}

// wantedModules are loaded where they are there.
var wantedModules = []string{"vmw_vsock_virtio_transport", "virtio_rng"}

// modules returns the files of the modules that a guest loads, in the order in
// which they can be loaded.
func (k Kernel) modules() ([]string, error) {
	files := map[string]string{}
	err := filepath.WalkDir(k.Modules, func(path string, e fs.DirEntry, err error) error {
		if name, ok := moduleName(path); ok && err == nil {
			files[name] = path
		}
		return nil // a directory that cannot be read has none
	})
	if err != nil {
		return nil, err
	}
	builtin, _ := os.ReadFile(filepath.Join(k.Modules, "modules.builtin"))
	r := resolver{files: files, builtin: map[string]bool{}, done: map[string]bool{}}
	for line := range bytes.Lines(builtin) {
		if name, ok := moduleName(strings.TrimSpace(string(line))); ok {
			r.builtin[name] = true
		}
	}
	for _, name := range neededModules {
		if err := r.add(name); err != nil {
			return nil, err
		}
	}
	for _, name := range wantedModules {
		if r.files[name] != "" {
			if err := r.add(name); err != nil {
				return nil, err
			}
		}
	}
	return r.order, nil
}

// moduleName returns the name of the module in a file.
func moduleName(path string) (string, bool) {
	name, ok := strings.CutSuffix(filepath.Base(path), ".ko")
	return strings.ReplaceAll(name, "-", "_"), ok
}

// A resolver puts modules after those that they need.
type resolver struct {
	files   map[string]string // by name
	builtin map[string]bool
	done    map[string]bool
	order   []string
}

func (r *resolver) add(name string) error {
	name = strings.ReplaceAll(name, "-", "_")
	if r.done[name] || r.builtin[name] {
		return nil
	}
	r.done[name] = true
	path := r.files[name]
	if path == "" {
		return fmt.Errorf("module %s is neither built in nor there as a plain .ko file", name)
	}
	needs, err := dependencies(path)
	if err != nil {
		return fmt.Errorf("module %s: %w", name, err)
	}
	for _, n := range needs {
		if err := r.add(n); err != nil {
			return err
		}
	}
	r.order = append(r.order, path)
	return nil
}

// dependencies reads which modules a module names in its own description.
func dependencies(path string) ([]string, error) {
	f, err := elf.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	section := f.Section(".modinfo")
	if section == nil {
		return nil, errors.New("it has no .modinfo")
	}
	info, err := section.Data()
	if err != nil {
		return nil, err
	}
	for field := range bytes.SplitSeq(info, []byte{0}) {
		if list, ok := bytes.CutPrefix(field, []byte("depends=")); ok {
			return strings.FieldsFunc(string(list), func(c rune) bool { return c == ',' }), nil
		}
	}
	return nil, nil
}

// Architecture is the name by which kernels and QEMU call the host's.
func Architecture() string {
	if runtime.GOARCH == "arm64" {
		return "aarch64"
	}
	return "x86_64"
}
