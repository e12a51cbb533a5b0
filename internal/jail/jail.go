// Package jail is the room that a virtual machine's process runs in: a root
// that holds system libraries, read-only, a few devices and nothing of the
// user's, no capability, no new privilege, no core file.
//
// Namespaces and the identity are the starter's to choose, by clone flags; the
// descriptors that the program has are those it was started with. The program
// cmd/boxlite-jail calls [Enter] in the new process:
//
//	cmd := exec.Command(boxliteJail, jail.Spec{…}.Argument())
//	cmd.SysProcAttr = … // new user, mount and PID namespaces at least
package jail

import (
	"encoding/json"
	"path/filepath"
	"slices"
)

// A Spec says what is in a jail and what runs in it.
type Spec struct {
	Program string   `json:"program"` // absolute, below one of Trees
	Args    []string `json:"args"`    // without the program's own name
	Trees   []string `json:"trees"`   // absolute directories and files, shown read-only at the same path; what is not there is left out
	Devices []string `json:"devices"` // absolute paths of device nodes

	// ReadOnly are descriptors of files that the program must not write to, and
	// the files' absolute paths, which its user can reach. It is for files that
	// this user owns: a descriptor for reading could be opened again for writing
	// there, or the file made writable.
	ReadOnly map[int]string `json:"readonly,omitempty"`
}

// Argument returns the Spec as boxlite-jail's one argument.
func (s Spec) Argument() string {
	data, err := json.Marshal(s)
	if err != nil {
		panic(err) // strings can be marshalled
	}
	return string(data)
}

// SystemTrees returns what a dynamically linked program of the system needs.
func SystemTrees(program string) []string {
	trees := []string{"/usr", "/lib", "/lib32", "/lib64", "/bin", "/etc/ld.so.cache", "/etc/alternatives"}
	if real, err := filepath.EvalSymlinks(program); err == nil && !slices.ContainsFunc(trees, func(t string) bool { return within(t, real) }) {
		trees = append(trees, filepath.Dir(filepath.Dir(real))) // the prefix that it was installed below
	}
	return trees
}

func within(dir, path string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && filepath.IsLocal(rel)
}
