package gvisor

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A layer is the directory that holds a writable layer between starts, as
// generations of which the newest complete one counts:
//
//	LAYER/000007/manifest   what gVisor's file system checkpoint consists of
//	LAYER/000007/tree       tar of names, attributes and where contents lie
//	LAYER/000007/pagemap    which pages of the store are in use
//	LAYER/000007/pages      the contents of those pages, without holes
//	LAYER/000007/layer.json sizes of the files, and who wrote them
//	LAYER/new-*             one being written, or abandoned
//
// A generation is written aside, made durable and given its name in one step,
// and only then the one before goes. A layer has one user at a time.
type layer struct {
	dir string
	seq int // of the newest complete generation; 0: none
}

// The files of a generation, in the order in which gVisor takes them.
var generationFiles = []string{"manifest", "tree", "pagemap", "pages"}

const recordName = "layer.json"

// A record says what a complete generation consists of.
type record struct {
	Format int              `json:"format"` // 1
	Sizes  map[string]int64 `json:"sizes"`  // by file name
	Disk   int64            `json:"disk"`   // bytes that the layer took in the store
}

// openLayer finds the newest generation of the layer in dir and removes what
// interrupted writers left.
func openLayer(dir string) (*layer, error) {
	l := &layer{dir: dir}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if seq, ok := generation(e.Name()); ok {
			l.seq = max(l.seq, seq)
		}
	}
	for _, e := range entries {
		seq, ok := generation(e.Name())
		if ok && seq < l.seq || strings.HasPrefix(e.Name(), "new-") {
			if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
				return nil, err
			}
		}
	}
	return l, nil
}

// generation returns the number that a directory's name stands for.
func generation(name string) (int, bool) {
	n, err := strconv.Atoi(name)
	return n, err == nil && n > 0 && name == generationName(n)
}

func generationName(seq int) string { return fmt.Sprintf("%06d", seq) }

// open opens the newest generation's files, none where there is no generation.
// The caller closes what it gets, also with an error.
func (l *layer) open() ([]*os.File, error) {
	if l.seq == 0 {
		return nil, nil
	}
	dir := filepath.Join(l.dir, generationName(l.seq))
	var rec record
	data, err := os.ReadFile(filepath.Join(dir, recordName))
	if err == nil {
		err = json.Unmarshal(data, &rec)
	}
	if err != nil {
		return nil, fmt.Errorf("read saved layer: %w", err)
	}
	if rec.Format != 1 {
		return nil, fmt.Errorf("read saved layer: format %d is not known", rec.Format)
	}
	var files []*os.File
	for _, name := range generationFiles {
		f, err := os.Open(filepath.Join(dir, name))
		if err != nil {
			return files, fmt.Errorf("read saved layer: %w", err)
		}
		files = append(files, f)
		info, err := f.Stat()
		if err != nil {
			return files, fmt.Errorf("read saved layer: %w", err)
		}
		if info.Size() != rec.Sizes[name] {
			return files, fmt.Errorf("read saved layer: %s has %d bytes instead of %d", f.Name(), info.Size(), rec.Sizes[name])
		}
	}
	return files, nil
}

// newStore makes a file without a name for what the machine writes.
func (l *layer) newStore() (*os.File, error) {
	fd, err := unix.Open(l.dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err == nil {
		return os.NewFile(uintptr(fd), filepath.Join(l.dir, "store")), nil
	}
	f, err := os.CreateTemp(l.dir, "new-store-*") // a file system without such files
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// A generationWriter is a generation being written.
type generationWriter struct {
	layer *layer
	dir   string
	files []*os.File // as generationFiles
}

// newGeneration begins a generation.
func (l *layer) newGeneration() (_ *generationWriter, err error) {
	dir, err := os.MkdirTemp(l.dir, "new-")
	if err != nil {
		return nil, err
	}
	w := &generationWriter{layer: l, dir: dir}
	defer func() {
		if err != nil {
			w.abandon()
		}
	}()
	for _, name := range generationFiles {
		f, err := os.OpenFile(filepath.Join(dir, name), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
		if err != nil {
			return nil, err
		}
		w.files = append(w.files, f)
	}
	return w, nil
}

// abandon removes what was written.
func (w *generationWriter) abandon() {
	closeAll(w.files)
	os.RemoveAll(w.dir)
}

// commit makes the generation durable and the layer's newest.
func (w *generationWriter) commit(disk int64) error {
	rec := record{Format: 1, Sizes: map[string]int64{}, Disk: disk}
	for i, f := range w.files {
		info, err := f.Stat()
		if err != nil {
			return err
		}
		rec.Sizes[generationFiles[i]] = info.Size()
		if err := errors.Join(f.Sync(), f.Close()); err != nil {
			return fmt.Errorf("write %s: %w", generationFiles[i], err)
		}
	}
	if err := w.writeRecord(rec); err != nil {
		return err
	}
	l := w.layer
	if err := os.Rename(w.dir, filepath.Join(l.dir, generationName(l.seq+1))); err != nil {
		return err
	}
	old := l.seq
	l.seq++
	if err := syncDir(l.dir); err != nil {
		return err
	}
	if old > 0 {
		return os.RemoveAll(filepath.Join(l.dir, generationName(old)))
	}
	return nil
}

func (w *generationWriter) writeRecord(rec record) error {
	data, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(w.dir, recordName), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(append(data, '\n'))
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", recordName, err)
	}
	return syncDir(w.dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil && !errors.Is(err, fs.ErrInvalid) {
		return err
	}
	return nil
}
