package vm

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
)

// layerFile is the writable layer, in its directory.
const layerFile = "layer.img"

// minDisk is the smallest layer that ext4 can be made in with room to spare.
const minDisk = 16 * boxlite.MiB

// OpenLayer opens the layer's disk image for reading and writing. Where there is
// none it makes one of the given size, which takes a few milliseconds and only
// the disk space that is used; made says so, and the caller removes it with
// [RemoveLayer] if its start fails. A layer that is there keeps its size.
func OpenLayer(ctx context.Context, dir string, size boxlite.Bytes) (f *os.File, made bool, err error) {
	path := filepath.Join(dir, layerFile)
	f, err = os.OpenFile(path, os.O_RDWR, 0)
	if err == nil || !errors.Is(err, os.ErrNotExist) {
		return f, false, err
	}
	aside := path + ".new" // one user at a time: what is there was abandoned
	if err := os.Remove(aside); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, false, err
	}
	defer os.Remove(aside)
	if err := format(ctx, aside, max(size, minDisk)); err != nil {
		return nil, false, err
	}
	if err := os.Rename(aside, path); err != nil {
		return nil, false, err
	}
	f, err = os.OpenFile(path, os.O_RDWR, 0)
	return f, true, err
}

// RemoveLayer removes a layer that OpenLayer has made.
func RemoveLayer(dir string) { _ = os.Remove(filepath.Join(dir, layerFile)) }

// features are those of the file system, whatever a host's own configuration
// says, and known to every kernel since 4.4.
const features = "has_journal,ext_attr,dir_index,filetype,sparse_super,large_file,extent,huge_file,flex_bg,64bit,dir_nlink,extra_isize,metadata_csum"

// format makes an ext4 file system in a new sparse file.
func format(ctx context.Context, path string, size boxlite.Bytes) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Truncate(int64(size)), f.Close()); err != nil {
		return err
	}
	program, err := Mke2fs()
	if err != nil {
		return err
	}
	kib := strconv.FormatInt(int64(size/boxlite.KiB), 10) + "k"
	cmd := exec.CommandContext(ctx, program, "-q", "-F", "-t", "ext4", "-O", "none,"+features, "-m", "0", "-I", "256", "-i", "16384", "-b", "4096",
		"-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner=0:0", path, kib)
	cmd.Env = []string{"PATH=/usr/sbin:/sbin:/usr/bin:/bin"}
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("make the writable layer: mke2fs: %w: %.300s", err, strings.TrimSpace(string(out)))
	}
	return nil
}

// Mke2fs returns the path of the program that makes ext4 file systems.
func Mke2fs() (string, error) {
	for _, dir := range []string{"/usr/sbin", "/sbin", "/opt/homebrew/opt/e2fsprogs/sbin", "/usr/local/opt/e2fsprogs/sbin"} {
		path := filepath.Join(dir, "mke2fs")
		if st, err := os.Stat(path); err == nil && st.Mode().IsRegular() {
			return path, nil
		}
	}
	path, err := exec.LookPath("mke2fs")
	if err != nil {
		return "", fmt.Errorf("mke2fs is not installed: %w", os.ErrNotExist)
	}
	return path, nil
}

// CheckBase reports why the file at path cannot be an EROFS image, as far as
// its superblock tells: a guest would say so, too, but later.
func CheckBase(f *os.File) error {
	const (
		superblock = 1024
		magic      = 0xE0F5E1E2
	)
	info, err := f.Stat()
	if err != nil {
		return err
	}
	var sb [128]byte
	if _, err := f.ReadAt(sb[:], superblock); err != nil {
		return fmt.Errorf("the base image %s is no EROFS image: it has %d bytes", f.Name(), info.Size())
	}
	if binary.LittleEndian.Uint32(sb[:]) != magic {
		return fmt.Errorf("the base image %s is no EROFS image", f.Name())
	}
	bits, blocks := sb[12], binary.LittleEndian.Uint32(sb[36:])
	if bits < 9 || bits > 16 || int64(blocks)<<bits > info.Size() {
		return fmt.Errorf("the base image %s is damaged: it says that it has %d blocks of 2^%d bytes and has %d bytes", f.Name(), blocks, bits, info.Size())
	}
	return nil
}
