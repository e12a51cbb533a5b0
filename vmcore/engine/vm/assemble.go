package vm

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

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

// unused is how long artefacts stay that nothing was booted from.
const unused = 7 * 24 * time.Hour

// Assemble makes a guest's artefacts of a kernel that FindKernel has found and
// the agent in dir, or finds them there. The files are complete or absent. When
// it makes new ones, those that have not been used for a week go, and what a
// writer left that was killed.
func Assemble(dir string, kernel Kernel, agent string) (Artefacts, error) {
	key, err := artefactKey(append([]string{kernel.Image, agent}, kernel.load...))
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
	if err := ensure(a.Initramfs, func(w io.Writer) error { return writeInitramfs(w, agent, kernel.load) }); err != nil {
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
	if now := time.Now(); os.Chtimes(path, now, now) == nil { // it is there, and in use
		return nil
	}
	sweep(filepath.Dir(path))
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

// sweep removes from dir what nobody has used for long.
func sweep(dir string) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if info, err := e.Info(); err == nil && info.Mode().IsRegular() && time.Since(info.ModTime()) > unused {
			_ = os.Remove(filepath.Join(dir, e.Name()))
		}
	}
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
