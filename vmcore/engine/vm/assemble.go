package vm

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/cavaliergopher/cpio"
)

// formatVersion changes when the same input makes other artefacts.
const formatVersion = 1

// Artefacts are what a guest is booted from: files that anybody may read.
type Artefacts struct {
	Kernel    string // absolute path
	Initramfs string // absolute path
	Release   string // of the kernel
}

// Assemble makes a guest's artefacts of a kernel and the agent in dir, or finds
// them there. The files are complete or absent; those of other input stay.
func Assemble(dir string, kernel Kernel, agent string) (Artefacts, error) {
	modules, err := kernel.modules()
	if err != nil {
		return Artefacts{}, err
	}
	key, err := artefactKey(append([]string{kernel.Image, agent}, modules...))
	if err != nil {
		return Artefacts{}, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return Artefacts{}, err
	}
	a := Artefacts{Kernel: filepath.Join(dir, key+".kernel"), Initramfs: filepath.Join(dir, key+".initramfs"), Release: kernel.Release}
	if err := ensure(a.Kernel, func(w io.Writer) error { return writeKernel(w, kernel.Image) }); err != nil {
		return Artefacts{}, fmt.Errorf("prepare the guest's kernel: %w", err)
	}
	if err := ensure(a.Initramfs, func(w io.Writer) error { return writeInitramfs(w, agent, modules) }); err != nil {
		return Artefacts{}, fmt.Errorf("make the guest's initramfs: %w", err)
	}
	return a, nil
}

// artefactKey says which files, as they are now.
func artefactKey(files []string) (string, error) {
	h := sha256.New()
	fmt.Fprintln(h, formatVersion)
	for _, path := range files {
		st, err := os.Stat(path)
		if err != nil {
			return "", err
		}
		fmt.Fprintln(h, path, st.Size(), st.ModTime().UnixNano())
	}
	return hex.EncodeToString(h.Sum(nil)[:12]), nil
}

// ensure makes the file at path unless it is there.
func ensure(path string, write func(io.Writer) error) error {
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	err = errors.Join(write(f), f.Chmod(0o644), f.Close())
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// writeInitramfs writes the agent as /init, and the modules.
func writeInitramfs(w io.Writer, agent string, modules []string) error {
	archive := cpio.NewWriter(w)
	for _, dir := range []string{"modules", "dev", "proc", "sys"} {
		if err := archive.WriteHeader(&cpio.Header{Name: dir, Mode: cpio.TypeDir | 0o755}); err != nil {
			return err
		}
	}
	if err := addFile(archive, "init", agent); err != nil {
		return err
	}
	for i, path := range modules {
		if err := addFile(archive, fmt.Sprintf("modules/%02d-%s", i, filepath.Base(path)), path); err != nil {
			return err
		}
	}
	return archive.Close()
}

func addFile(archive *cpio.Writer, name, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if err := archive.WriteHeader(&cpio.Header{Name: name, Mode: cpio.TypeReg | 0o755, Size: st.Size()}); err != nil {
		return err
	}
	_, err = io.Copy(archive, f)
	return err
}

// writeKernel writes the kernel in the form that boots fastest.
func writeKernel(w io.Writer, image string) error {
	f, err := os.Open(image)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(w, f)
	return err
}
