package flatten_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/erofs/go-erofs"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	gvisor "gvisor.dev/gvisor/pkg/erofs"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/image/flatten"
	it "github.com/boxlite-mcp/boxlite-mcp/vmcore/image/imagetest"
)

// A node is what a reader sees of a file. Inode numbers are compared by which
// names share one.
type node struct {
	Mode     uint32 // as in stat(2)
	UID, GID uint32
	Links    uint32
	Size     int64 // not of directories: that is the file system's affair
	Time     time.Time
	Rdev     uint32
	Target   string
	Sum      string
	Xattrs   map[string]string
	Same     string // first name of the same file
}

// build flattens layers and returns the plain and the full file.
func build(t testing.TB, layers ...[]byte) (plain, full string, res flatten.Result) {
	t.Helper()
	dir := t.TempDir()
	out := create(t, filepath.Join(dir, "plain"))
	b := flatten.New(out, flatten.Limits{})
	for i, l := range layers {
		if err := b.AddLayer(t.Context(), bytes.NewReader(l)); err != nil {
			t.Fatalf("layer %d: %v", i, err)
		}
	}
	res, err := b.Finish(flatten.Plain)
	if err != nil {
		t.Fatal(err)
	}
	second := create(t, filepath.Join(dir, "full"))
	if _, err := b.FinishCopy(t.Context(), second, flatten.Full); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{out.Name(), second.Name()} {
		if msg, err := exec.CommandContext(t.Context(), "fsck.erofs", "--extract", path).CombinedOutput(); err != nil {
			t.Fatalf("fsck.erofs %s: %v\n%s", path, err, msg)
		}
	}
	return out.Name(), second.Name(), res
}

func create(t testing.TB, path string) *os.File {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// read returns the tree of an image as every reader at hand sees it, having
// compared them: go-erofs, gVisor for plain images, the kernel for root.
func read(t testing.TB, image string, plain bool) map[string]node {
	t.Helper()
	want := readGo(t, image)
	if plain {
		if diff := cmp.Diff(want, readGVisor(t, image)); diff != "" {
			t.Errorf("gVisor sees another tree (-go-erofs +gvisor):\n%s", diff)
		}
	}
	if os.Getuid() == 0 {
		if diff := cmp.Diff(want, readKernel(t, image)); diff != "" {
			t.Errorf("the kernel sees another tree (-go-erofs +kernel):\n%s", diff)
		}
	}
	return want
}

func readGo(t testing.TB, image string) map[string]node {
	t.Helper()
	f, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	root, err := erofs.Open(f)
	if err != nil {
		t.Fatal(err)
	}
	tree, first := map[string]node{}, map[int64]string{}
	err = fs.WalkDir(root, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return fmt.Errorf("%s: %w", p, err)
		}
		info, err := d.Info()
		if err != nil {
			return fmt.Errorf("%s: %w", p, err)
		}
		st := info.Sys().(*erofs.Stat)
		n := node{Mode: rawMode(t, f, st.Ino), UID: st.UID, GID: st.GID, Links: uint32(st.Nlink), Time: time.Unix(int64(st.Mtime), int64(st.MtimeNs)).UTC()}
		for name, value := range st.Xattrs {
			if n.Xattrs == nil {
				n.Xattrs = map[string]string{}
			}
			n.Xattrs[strings.TrimSuffix(name, ".")] = value // go-erofs v0.3.1 adds a dot to the names of ACLs
		}
		switch n.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			n.Size = info.Size()
			file, err := root.Open(p)
			if err != nil {
				return err
			}
			n.Sum = sum(t, file)
			file.Close()
		case unix.S_IFLNK:
			n.Target, err = fs.ReadLink(root, p)
			n.Size = info.Size()
		case unix.S_IFCHR, unix.S_IFBLK:
			n.Rdev = st.Rdev
		}
		if n.Mode&unix.S_IFMT != unix.S_IFDIR && n.Links > 1 {
			if _, ok := first[st.Ino]; !ok {
				first[st.Ino] = p
			}
			n.Same = first[st.Ino]
		}
		tree[p] = n
		return err
	})
	if err != nil {
		t.Fatalf("go-erofs: %v", err)
	}
	return tree
}

// rawMode reads an inode's mode, of which go-erofs v0.3.1 loses the set-uid,
// set-gid and sticky bits.
func rawMode(t testing.TB, image io.ReaderAt, nid int64) uint32 {
	t.Helper()
	var meta [4]byte
	var mode [2]byte
	_, err := image.ReadAt(meta[:], 1024+40)
	if err == nil {
		_, err = image.ReadAt(mode[:], int64(binary.LittleEndian.Uint32(meta[:]))*4096+nid*32+4)
	}
	if err != nil {
		t.Fatal(err)
	}
	return uint32(binary.LittleEndian.Uint16(mode[:]))
}

func sum(t testing.TB, r io.Reader) string {
	t.Helper()
	h := sha256.New()
	if _, err := io.Copy(h, r); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", h.Sum(nil)[:8])
}

// readGVisor reads with what the sandbox mounts images with.
func readGVisor(t testing.TB, image string) map[string]node {
	t.Helper()
	f, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	img, err := gvisor.OpenImage(f)
	if err != nil {
		t.Fatalf("gvisor: %v", err)
	}
	defer img.Close()
	tree, first := map[string]node{}, map[uint64]string{}
	var walk func(p string, nid uint64)
	walk = func(p string, nid uint64) {
		ino, err := img.Inode(nid)
		if err != nil {
			t.Fatalf("gvisor: %s: %v", p, err)
		}
		n := node{Mode: uint32(ino.Mode()), UID: ino.UID(), GID: ino.GID(), Links: ino.Nlink(), Time: time.Unix(int64(ino.Mtime()), int64(ino.MtimeNsec())).UTC()}
		switch {
		case ino.IsRegular():
			n.Size = int64(ino.Size())
			off, err := ino.DataOffset() // fails for inline data
			if err != nil {
				t.Fatalf("gvisor: %s: %v", p, err)
			}
			data, err := img.BytesAt(off, ino.Size())
			if err != nil && ino.Size() > 0 {
				t.Fatalf("gvisor: %s: %v", p, err)
			}
			n.Sum = sum(t, bytes.NewReader(data))
		case ino.IsSymlink():
			n.Size = int64(ino.Size())
			if n.Target, err = ino.Readlink(); err != nil {
				t.Fatalf("gvisor: %s: %v", p, err)
			}
		case ino.IsCharDev(), ino.IsBlockDev():
			n.Rdev = rawDevice(t, image, img, nid)
		case ino.IsDir():
			err := ino.IterDirents(func(name string, _ uint8, child uint64) error {
				if found, err := ino.Lookup(name); err != nil || found != child {
					return fmt.Errorf("look up %q: %d, %w; want %d", name, found, err, child)
				}
				if name != "." && name != ".." {
					walk(path.Join(p, name), child)
				}
				return nil
			})
			if err != nil {
				t.Fatalf("gvisor: %s: %v", p, err)
			}
		}
		if !ino.IsDir() && n.Links > 1 {
			if _, ok := first[nid]; !ok {
				first[nid] = p
			}
			n.Same = first[nid]
		}
		tree[p] = n
	}
	walk(".", img.RootNid())
	for p, n := range tree { // walks are in another order than go-erofs's
		if n.Same != "" {
			for q, m := range tree {
				if m.Same == n.Same && q < n.Same {
					n.Same = q
				}
			}
			tree[p] = n
		}
	}
	return tree
}

// rawDevice reads a device number, which gVisor has no accessor for.
func rawDevice(t testing.TB, image string, img *gvisor.Image, nid uint64) uint32 {
	t.Helper()
	sb := img.SuperBlock()
	b, err := img.BytesAt(sb.NidToOffset(nid)+16, 4)
	if err != nil {
		t.Fatal(err)
	}
	return uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16 | uint32(b[3])<<24
}

// readKernel mounts the image.
func readKernel(t testing.TB, image string) map[string]node {
	t.Helper()
	dir := t.TempDir()
	if out, err := exec.CommandContext(t.Context(), "mount", "-t", "erofs", "-o", "loop,ro", image, dir).CombinedOutput(); err != nil {
		t.Logf("the kernel cannot mount EROFS here: %s", out)
		return readGo(t, image)
	}
	defer func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	}()
	tree, first := map[string]node{}, map[uint64]string{}
	err := filepath.WalkDir(dir, func(full string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		p, err := filepath.Rel(dir, full)
		if err != nil {
			return err
		}
		tree[p] = statHost(t, full)
		var st unix.Stat_t
		if err := unix.Lstat(full, &st); err != nil {
			return err
		}
		if n := tree[p]; n.Mode&unix.S_IFMT != unix.S_IFDIR && n.Links > 1 {
			if _, ok := first[st.Ino]; !ok {
				first[st.Ino] = p
			}
			n.Same = first[st.Ino]
			tree[p] = n
		}
		return nil
	})
	if err != nil {
		t.Fatalf("kernel: %v", err)
	}
	return tree
}

func statHost(t testing.TB, full string) node {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(full, &st); err != nil {
		t.Fatal(err)
	}
	n := node{Mode: st.Mode, UID: st.Uid, GID: st.Gid, Links: uint32(st.Nlink), Time: time.Unix(st.Mtim.Unix()).UTC()}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		n.Size = st.Size
		f, err := os.Open(full)
		if err != nil {
			t.Fatal(err)
		}
		n.Sum = sum(t, f)
		f.Close()
	case unix.S_IFLNK:
		n.Size = st.Size
		n.Target, _ = os.Readlink(full)
	case unix.S_IFCHR, unix.S_IFBLK:
		major, minor := unix.Major(st.Rdev), unix.Minor(st.Rdev)
		n.Rdev = minor&0xff | major<<8 | (minor&^0xff)<<12
	}
	buf := make([]byte, 1<<16)
	size, err := unix.Llistxattr(full, buf)
	if err != nil || size == 0 {
		return n
	}
	n.Xattrs = map[string]string{}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(buf[:size]), "\x00"), "\x00") {
		value := make([]byte, 1<<16)
		size, err := unix.Lgetxattr(full, name, value)
		if err != nil {
			t.Fatalf("%s: %s: %v", full, name, err)
		}
		n.Xattrs[name] = string(value[:size])
	}
	return n
}

// names lists a tree without its root.
func names(tree map[string]node) string {
	list := slices.Sorted(maps.Keys(tree))
	return strings.Join(slices.DeleteFunc(list, func(s string) bool { return s == "." }), " ")
}

// with changes a header.
func with(h tar.Header, change func(*tar.Header)) tar.Header {
	h.PAXRecords = maps.Clone(h.PAXRecords)
	if h.PAXRecords == nil {
		h.PAXRecords = map[string]string{}
	}
	change(&h)
	return h
}

func TestEveryKindOfFileIsKept(t *testing.T) {
	long := strings.Repeat("n", 255)
	deep := strings.Repeat("d/", 150)
	capability := "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	acl := "\x02\x00\x00\x00\x01\x00\x07\x00\xff\xff\xff\xff\x04\x00\x05\x00\xff\xff\xff\xff\x20\x00\x05\x00\xff\xff\xff\xff"
	big := strings.Repeat("0123456789abcdef", 20_000)
	when := time.Unix(-86400, 987654321).UTC()
	var entries []tar.Header
	add := func(h tar.Header, change func(*tar.Header)) { entries = append(entries, with(h, change)) }
	keep := func(*tar.Header) {}
	add(it.Dir("./", 0o711), func(h *tar.Header) { h.Uid, h.Gid = 7, 8 })
	add(it.File("file", 0o640, "content"), func(h *tar.Header) { h.Uid, h.Gid = 70_000, 4_000_000_000 })
	add(it.File("empty", 0o600, ""), keep)
	add(it.File("block", 0o600, big[:4096]), keep)
	add(it.File("big", 0o600, big), keep)
	add(it.File("setuid", 0o4755, "x"), keep)
	add(it.File("setgid", 0o2755, "x"), keep)
	add(it.Dir("sticky", 0o1777), keep)
	add(it.Dir("emptydir", 0o555), keep)
	add(it.File("before1970", 0o644, "x"), func(h *tar.Header) { h.ModTime = when })
	add(it.Symlink("link", "../../etc/passwd"), keep)
	add(it.Symlink("longlink", strings.Repeat("t", 4095)), keep)
	add(it.Symlink("mediumlink", strings.Repeat("u", 2000)), keep)
	add(it.Link("hard", "file"), keep)
	add(it.Link("hardlink-to-link", "link"), keep)
	add(it.File("caps", 0o755, "x"), func(h *tar.Header) {
		h.PAXRecords["SCHILY.xattr.security.capability"] = capability
		h.PAXRecords["SCHILY.xattr.user.empty"] = ""
		h.PAXRecords["SCHILY.xattr.user.long"] = strings.Repeat("v", 5000)
		h.PAXRecords["SCHILY.xattr.trusted.t"] = "t"
		h.PAXRecords["SCHILY.xattr.system.posix_acl_access"] = acl
		h.PAXRecords["SCHILY.xattr.trusted.overlay.opaque"] = "y"
		h.PAXRecords["SCHILY.xattr.com.apple.thing"] = "z"
	})
	add(it.Dir("dirxattr", 0o755), func(h *tar.Header) { h.PAXRecords["SCHILY.xattr.user.d"] = "d" })
	add(it.Symlink("fifo", ""), func(h *tar.Header) { h.Typeflag = tar.TypeFifo })
	add(it.Symlink("null", ""), func(h *tar.Header) { h.Typeflag, h.Devmajor, h.Devminor = tar.TypeChar, 1, 3 })
	add(it.Symlink("disk", ""), func(h *tar.Header) { h.Typeflag, h.Devmajor, h.Devminor = tar.TypeBlock, 4095, 1<<20-1 })
	add(it.File(long, 0o644, "long"), keep)
	add(it.File(deep+"leaf", 0o644, "deep"), keep)
	add(it.File("latin1-\xe9\xff", 0o644, "bytes"), func(h *tar.Header) { h.Format = tar.FormatGNU })
	add(it.File("manyfiles/first", 0o644, "1"), keep)
	for i := range 1000 {
		add(it.Symlink(fmt.Sprintf("manyfiles/entry-with-a-longish-name-%04d", i), "first"), keep)
	}
	plain, full, res := build(t, gnuTar(t, entries))
	if !res.Xattrs || res.Dropped != 2 {
		t.Errorf("result %+v, want xattrs and 2 dropped", res)
	}
	tree := read(t, full, false)
	for p, n := range map[string]node{
		".":                {Mode: 0o40711, UID: 7, GID: 8, Links: tree["."].Links, Time: it.When},
		"file":             {Mode: 0o100640, UID: 70_000, GID: 4_000_000_000, Links: 2, Size: 7, Time: it.When, Sum: sum(t, strings.NewReader("content")), Same: "file"},
		"hard":             {Mode: 0o100640, UID: 70_000, GID: 4_000_000_000, Links: 2, Size: 7, Time: it.When, Sum: sum(t, strings.NewReader("content")), Same: "file"},
		"big":              {Mode: 0o100600, Links: 1, Size: int64(len(big)), Time: it.When, Sum: sum(t, strings.NewReader(big))},
		"setuid":           {Mode: 0o104755, Links: 1, Size: 1, Time: it.When, Sum: sum(t, strings.NewReader("x"))},
		"sticky":           {Mode: 0o41777, Links: 2, Time: it.When},
		"before1970":       {Mode: 0o100644, Links: 1, Size: 1, Time: when, Sum: sum(t, strings.NewReader("x"))},
		"longlink":         {Mode: 0o120777, Links: 1, Size: 4095, Time: it.When, Target: strings.Repeat("t", 4095)},
		"hardlink-to-link": {Mode: 0o120777, Links: 2, Size: 16, Time: it.When, Target: "../../etc/passwd", Same: "hardlink-to-link"},
		"null":             {Mode: 0o20777, Links: 1, Time: it.When, Rdev: 1<<8 | 3},
		"disk":             {Mode: 0o60777, Links: 1, Time: it.When, Rdev: 0xff | 4095<<8 | 0xfff00<<12},
		"fifo":             {Mode: 0o10777, Links: 1, Time: it.When},
		long:               {Mode: 0o100644, Links: 1, Size: 4, Time: it.When, Sum: sum(t, strings.NewReader("long"))},
		deep + "leaf":      {Mode: 0o100644, Links: 1, Size: 4, Time: it.When, Sum: sum(t, strings.NewReader("deep"))},
		"latin1-\xe9\xff":  {Mode: 0o100644, Links: 1, Size: 5, Time: it.When.Truncate(time.Second), Sum: sum(t, strings.NewReader("bytes"))},
		"dirxattr":         {Mode: 0o40755, Links: 2, Time: it.When, Xattrs: map[string]string{"user.d": "d"}},
		"caps": {Mode: 0o100755, Links: 1, Size: 1, Time: it.When, Sum: sum(t, strings.NewReader("x")), Xattrs: map[string]string{
			"security.capability": capability, "user.empty": "", "user.long": strings.Repeat("v", 5000), "trusted.t": "t", "system.posix_acl_access": acl}},
	} {
		if diff := cmp.Diff(n, tree[p]); diff != "" {
			t.Errorf("%.40s (-want +got):\n%s", p, diff)
		}
	}
	bare := read(t, plain, true)
	for p, n := range tree {
		n.Xattrs = nil
		tree[p] = n
	}
	if diff := cmp.Diff(tree, bare); diff != "" {
		t.Errorf("the plain variant differs in more than attributes:\n%s", diff)
	}
}

// gnuTar writes headers in the formats they ask for.
func gnuTar(t testing.TB, entries []tar.Header) []byte {
	t.Helper()
	var out []byte
	for _, h := range entries {
		one := it.Tar(h)
		if h.Format == tar.FormatGNU {
			var b bytes.Buffer
			w := tar.NewWriter(&b)
			content := h.PAXRecords["IMAGETEST.content"]
			h.PAXRecords = nil
			if err := errors.Join(w.WriteHeader(&h), second(w.Write([]byte(content))), w.Close()); err != nil {
				t.Fatal(err)
			}
			one = b.Bytes()
		}
		out = append(out, one[:len(one)-1024]...)
	}
	return append(out, make([]byte, 1024)...)
}

func second(_ int, err error) error { return err }

func TestLayersMergeAsTheSpecificationSays(t *testing.T) {
	base := it.Tar(it.Dir("d", 0o755), it.File("d/a", 0o644, "a"), it.File("d/b", 0o644, "b"), it.Dir("d/sub", 0o755), it.File("d/sub/x", 0o644, "x"),
		it.File("f", 0o644, "f"), it.Symlink("s", "d"))
	whiteout := func(name string) tar.Header { return it.File(name, 0, "") }
	for _, row := range []struct {
		name   string
		layers [][]byte
		want   string
	}{
		{"whiteout_of_file", [][]byte{it.Tar(whiteout("d/.wh.a"))}, "d d/b d/sub d/sub/x f s"},
		{"whiteout_of_directory", [][]byte{it.Tar(whiteout(".wh.d"))}, "f s"},
		{"whiteout_of_nothing", [][]byte{it.Tar(whiteout("nowhere/.wh.x"), whiteout(".wh.y"))}, "d d/a d/b d/sub d/sub/x f s"},
		{"whiteout_spares_its_own_layer", [][]byte{it.Tar(it.File("d/a", 0o644, "new"), whiteout("d/.wh.a"))}, "d d/a d/b d/sub d/sub/x f s"},
		{"whiteout_then_directory_anew", [][]byte{it.Tar(whiteout(".wh.d"), it.Dir("d", 0o700), it.File("d/new", 0o644, ""))}, "d d/new f s"},
		{"directory_anew_then_whiteout", [][]byte{it.Tar(it.Dir("d", 0o700), it.File("d/new", 0o644, ""), whiteout(".wh.d"))}, "d d/new f s"},
		{"opaque_first", [][]byte{it.Tar(it.Dir("d", 0o755), whiteout("d/.wh..wh..opq"), it.File("d/n", 0o644, ""))}, "d d/n f s"},
		{"opaque_last", [][]byte{it.Tar(it.Dir("d", 0o755), it.File("d/n", 0o644, ""), whiteout("d/.wh..wh..opq"))}, "d d/n f s"},
		{"opaque_reaches_below_touched_directories", [][]byte{it.Tar(it.File("d/sub/y", 0o644, ""), whiteout("d/.wh..wh..opq"))}, "d d/sub d/sub/y f s"},
		{"opaque_of_the_root", [][]byte{it.Tar(whiteout(".wh..wh..opq"), it.File("only", 0o644, ""))}, "only"},
		{"aufs_leftovers_are_ignored", [][]byte{it.Tar(it.Dir(".wh..wh.plnk", 0o700), it.File(".wh..wh.aufs", 0, ""))}, "d d/a d/b d/sub d/sub/x f s"},
		{"file_becomes_directory", [][]byte{it.Tar(it.Dir("f", 0o755), it.File("f/x", 0o644, ""))}, "d d/a d/b d/sub d/sub/x f f/x s"},
		{"directory_becomes_file", [][]byte{it.Tar(it.File("d", 0o644, ""))}, "d f s"},
		{"directory_entry_keeps_contents", [][]byte{it.Tar(it.Dir("d", 0o700))}, "d d/a d/b d/sub d/sub/x f s"},
		{"symlinked_parent_is_followed", [][]byte{it.Tar(it.File("s/through", 0o644, ""))}, "d d/a d/b d/sub d/sub/through d/sub/x f s"[:0] + "d d/a d/b d/sub d/sub/x d/through f s"},
		{"symlink_is_replaced_by_directory", [][]byte{it.Tar(it.Dir("s", 0o755), it.File("s/x", 0o644, ""))}, "d d/a d/b d/sub d/sub/x f s s/x"},
		{"absolute_symlinked_parent_stays_inside", [][]byte{it.Tar(it.Symlink("abs", "/d/sub")), it.Tar(it.File("abs/n", 0o644, ""))}, "abs d d/a d/b d/sub d/sub/n d/sub/x f s"},
		{"climbing_symlinked_parent_stays_inside", [][]byte{it.Tar(it.Symlink("up", "../../../d")), it.Tar(it.File("up/n", 0o644, ""))}, "d d/a d/b d/n d/sub d/sub/x f s up"},
		{"dangling_symlinked_parent_is_made", [][]byte{it.Tar(it.Symlink("dangling", "later/dir")), it.Tar(it.File("dangling/n", 0o644, ""))}, "d d/a d/b d/sub d/sub/x dangling f later later/dir later/dir/n s"},
		{"absolute_names_are_inside", [][]byte{it.Tar(it.File("/abs", 0o644, ""))}, "abs d d/a d/b d/sub d/sub/x f s"},
		{"duplicate_entries_last_wins", [][]byte{it.Tar(it.File("f", 0o644, "1"), it.Dir("f", 0o755), it.File("f", 0o644, "22"))}, "d d/a d/b d/sub d/sub/x f s"},
		{"missing_parents_are_made", [][]byte{it.Tar(it.File("p/q/r", 0o644, ""))}, "d d/a d/b d/sub d/sub/x f p p/q p/q/r s"},
	} {
		t.Run(row.name, func(t *testing.T) {
			plain, _, _ := build(t, append([][]byte{base}, row.layers...)...)
			if got := names(read(t, plain, true)); got != row.want {
				t.Errorf("tree is\n%s, want\n%s", got, row.want)
			}
		})
	}
}

func TestHardLinksCrossLayersAndOutliveTheirTargets(t *testing.T) {
	plain, _, _ := build(t,
		it.Tar(it.File("a", 0o644, "content"), it.File("gone", 0o644, strings.Repeat("dead", 100_000))),
		it.Tar(it.Link("b", "a"), it.Link("dir/c", "b"), it.Link("a", "a")),
		it.Tar(it.File(".wh.a", 0, ""), it.File(".wh.gone", 0, "")),
		it.Tar(it.Link("d", "dir/c")))
	tree := read(t, plain, true)
	if got := names(tree); got != "b d dir dir/c" {
		t.Errorf("tree is %s", got)
	}
	for _, p := range []string{"b", "d", "dir/c"} {
		if n := tree[p]; n.Links != 3 || n.Same != "b" || n.Size != 7 {
			t.Errorf("%s is %+v", p, n)
		}
	}
}

func TestHolesStayHolesAndDeletedContentsTakeNoSpace(t *testing.T) {
	plain, full, _ := build(t,
		it.Tar(it.File("zeros", 0o644, strings.Repeat("\x00", 32<<20)), it.File("gone", 0o644, strings.Repeat("deleted!", 1<<20))),
		it.Tar(it.File(".wh.gone", 0, "")))
	for _, path := range []string{plain, full} {
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			t.Fatal(err)
		}
		if used := st.Blocks * 512; used > 1<<20 {
			t.Errorf("%s takes %d bytes on disk of %d", filepath.Base(path), used, st.Size)
		}
		if b, err := os.ReadFile(path); err != nil || bytes.Contains(b, []byte("deleted!")) {
			t.Errorf("%s has deleted contents, or %v", filepath.Base(path), err)
		}
	}
	if n := read(t, plain, true)["zeros"]; n.Size != 32<<20 {
		t.Errorf("zeros is %+v", n)
	}
}

func TestSameLayersGiveSameBytes(t *testing.T) {
	var entries []tar.Header
	for i := range 500 {
		entries = append(entries, with(it.File(fmt.Sprintf("d%d/f%d", i%7, i), 0o644, strings.Repeat("x", i*37)), func(h *tar.Header) {
			h.PAXRecords["SCHILY.xattr.user.a"], h.PAXRecords["SCHILY.xattr.user.b"], h.PAXRecords["SCHILY.xattr.security.c"] = "1", "2", "3"
		}))
	}
	layers := [][]byte{it.Tar(entries...), it.Tar(it.File("d1/.wh.f1", 0, ""), it.Link("l", "d2/f2"))}
	plain, full, _ := build(t, layers...)
	for range 3 {
		p, f, _ := build(t, layers...)
		for want, got := range map[string]string{plain: p, full: f} {
			a, errA := os.ReadFile(want)
			b, errB := os.ReadFile(got)
			if !bytes.Equal(a, b) || errA != nil || errB != nil {
				t.Fatalf("%s differs; %v, %v", filepath.Base(want), errA, errB)
			}
		}
	}
}

func TestHostileLayersAreRefused(t *testing.T) {
	raw := func(change func([]byte)) []byte {
		b := it.Tar(with(it.File("x", 0o644, strings.Repeat("x", 100)), func(h *tar.Header) { h.ModTime = h.ModTime.Truncate(time.Second) })) // no PAX header
		change(b)
		return b
	}
	header := func(off int, text string) []byte { // of the first entry, with a right checksum
		return raw(func(b []byte) {
			copy(b[off:], text)
			copy(b[148:], "        ")
			total := 0
			for _, c := range b[:512] {
				total += int(c)
			}
			copy(b[148:], fmt.Sprintf("%06o\x00 ", total))
		})
	}
	many := make([]tar.Header, 0, 200)
	for i := range 200 {
		many = append(many, it.File(fmt.Sprint("f", i), 0o644, ""))
	}
	hops := []tar.Header{it.Symlink("l0", "/")}
	for i := range 50 {
		hops = append(hops, it.Symlink(fmt.Sprint("l", i+1), fmt.Sprint("l", i)))
	}
	for _, row := range []struct {
		name   string
		layers [][]byte
		want   string
	}{
		{"dotdot", [][]byte{it.Tar(it.File("../evil", 0o644, ""))}, "climbs out"},
		{"dotdot_in_the_middle", [][]byte{it.Tar(it.File("a/../../evil", 0o644, ""))}, "climbs out"},
		{"absolute_dotdot", [][]byte{it.Tar(it.File("/../evil", 0o644, ""))}, "climbs out"},
		{"hard_link_out", [][]byte{it.Tar(it.Link("evil", "../../../../../../etc/passwd"))}, "climbs out"},
		{"hard_link_to_the_host", [][]byte{it.Tar(it.Link("evil", "/etc/passwd"))}, "does not have"},
		{"hard_link_through_symlink_out", [][]byte{it.Tar(it.Symlink("s", "/etc"), it.Link("evil", "s/passwd"))}, "does not have"},
		{"hard_link_to_directory", [][]byte{it.Tar(it.Dir("d", 0o755), it.Link("evil", "d"))}, "hard link to the directory"},
		{"hard_link_to_root", [][]byte{it.Tar(it.Link("evil", "."))}, "root"},
		{"whiteout_of_root", [][]byte{it.Tar(it.File(".wh..", 0, ""))}, "own directory"},
		{"whiteout_of_parent", [][]byte{it.Tar(it.File("d/.wh...", 0, ""))}, "own directory"},
		{"whiteout_of_nothing_at_all", [][]byte{it.Tar(it.File("d/.wh.", 0, ""))}, "own directory"},
		{"root_becomes_file", [][]byte{it.Tar(it.File(".", 0o644, "x"))}, "root"},
		{"root_becomes_symlink", [][]byte{it.Tar(it.Symlink("./", "/etc"))}, "root"},
		{"parent_is_a_file", [][]byte{it.Tar(it.File("f", 0o644, ""), it.File("f/x", 0o644, ""))}, "not a directory"},
		{"symlink_loop", [][]byte{it.Tar(it.Symlink("a", "b"), it.Symlink("b", "a"), it.File("a/x", 0o644, ""))}, "symbolic links"},
		{"symlink_chain", [][]byte{it.Tar(append(hops, it.File("l50/x", 0o644, ""))...)}, "symbolic links"},
		{"symlink_without_target", [][]byte{it.Tar(it.Symlink("s", ""))}, "symbolic link"},
		{"symlink_too_long", [][]byte{it.Tar(it.Symlink("s", strings.Repeat("t", 4096)))}, "symbolic link"},
		{"name_too_long", [][]byte{it.Tar(it.File(strings.Repeat("n", 256), 0o644, ""))}, "longer than 255"},
		{"path_too_long", [][]byte{it.Tar(it.File(strings.Repeat("d/", 2048)+"x", 0o644, ""))}, "longer than 4096"},
		{"nested_too_deep", [][]byte{it.Tar(it.Symlink("s", strings.Repeat("d/", 2000)+"d"), it.File("s/"+strings.Repeat("d/", 2000)+"x", 0o644, ""))}, "nested"},
		{"device_out_of_range", [][]byte{it.Tar(with(it.Symlink("d", ""), func(h *tar.Header) { h.Typeflag, h.Devmajor = tar.TypeChar, 1<<13 }))}, "device"},
		{"negative_owner", [][]byte{it.Tar(with(it.File("f", 0o644, ""), func(h *tar.Header) { h.Uid = -1 }))}, "owner"},
		{"absurd_owner", [][]byte{it.Tar(with(it.File("f", 0o644, ""), func(h *tar.Header) { h.Gid = 1 << 40 }))}, "owner"},
		{"attribute_name_too_long", [][]byte{it.Tar(with(it.File("f", 0o644, ""), func(h *tar.Header) { h.PAXRecords["SCHILY.xattr.user."+strings.Repeat("x", 300)] = "" }))}, "attribute"},
		{"attributes_too_big", [][]byte{it.Tar(with(it.File("f", 0o644, ""), func(h *tar.Header) { h.PAXRecords["SCHILY.xattr.user.x"] = strings.Repeat("x", 70_000) }))}, "attributes"},
		{"absurd_pax_header", [][]byte{it.RawPAX("f", map[string]string{"SCHILY.xattr.user.x": strings.Repeat("x", 2<<20)})}, "tar"},
		{"negative_size", [][]byte{header(124, "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xf0")}, "tar"},
		{"enormous_size", [][]byte{header(124, "\x80\x00\x00\x00\x7f\xff\xff\xff\xff\xff\xff\xff")}, "unpacks to more"},
		{"unknown_type", [][]byte{header(156, "Z")}, "not known"},
		{"bad_checksum", [][]byte{raw(func(b []byte) { b[0] = 'y' })}, "tar"},
		{"no_tar_at_all", [][]byte{bytes.Repeat([]byte("garbage "), 1000)}, "tar"},
		{"cut_in_a_header", [][]byte{it.Tar(it.File("x", 0o644, "x"))[:300]}, "cut short"},
		{"cut_in_a_file", [][]byte{it.Tar(it.File("x", 0o644, strings.Repeat("x", 5000)))[:2000]}, "cut short"},
		{"cut_in_a_pax_header", [][]byte{it.Tar(it.File("x", 0o644, "x"))[:700]}, "cut short"},
		{"too_many_files", [][]byte{it.Tar(many...)}, "more than 100 files"},
		{"too_many_directories_by_one_name", [][]byte{it.Tar(it.File(strings.Repeat("d/", 150)+"x", 0o644, ""))}, "more than 100 files"},
		{"too_many_bytes", [][]byte{it.Tar(it.File("big", 0o644, strings.Repeat("\x00", 9<<20)))}, "unpacks to more"},
		{"too_many_bytes_of_a_sparse_file", [][]byte{sparse("4294967296")}, "unpacks to more"},
		{"sparse_map_is_nonsense", [][]byte{sparse("-5")}, "tar"},
	} {
		t.Run(row.name, func(t *testing.T) {
			outside := t.TempDir()
			out := create(t, filepath.Join(outside, "out"))
			canary := filepath.Join(outside, "canary")
			if err := os.WriteFile(canary, []byte("alive"), 0o644); err != nil {
				t.Fatal(err)
			}
			limits := flatten.Limits{Bytes: 8 << 20, Entries: 100}
			if strings.HasPrefix(row.name, "symlink_chain") || strings.HasPrefix(row.name, "nested") {
				limits.Entries = 10_000
			}
			b := flatten.New(out, limits)
			var err error
			for _, l := range row.layers {
				if err = b.AddLayer(t.Context(), bytes.NewReader(l)); err != nil {
					break
				}
			}
			e, ok := errors.AsType[*boxlite.Error](err)
			if !ok || e.Kind != boxlite.Image || e.Hint == "" || !strings.Contains(err.Error(), row.want) {
				t.Errorf("got %v (hint %q), want an Image error with %q", err, boxlite.HintOf(err), row.want)
			}
			left, _ := os.ReadDir(outside)
			if b, err := os.ReadFile(canary); len(left) != 2 || err != nil || string(b) != "alive" {
				t.Errorf("outside changed: %v, %v", left, err)
			}
		})
	}
}

// sparse returns a PAX sparse file (version 0.1) of a size that is only said.
func sparse(size string) []byte {
	return it.RawPAX("sparse", map[string]string{
		"GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.name": "s", "GNU.sparse.size": size, "GNU.sparse.numblocks": "1", "GNU.sparse.map": size + ",0",
	})
}

func TestSparseFilesAreExpanded(t *testing.T) {
	layer := it.RawPAX("s", map[string]string{
		"GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.name": "s", "GNU.sparse.size": "10485760", "GNU.sparse.numblocks": "1", "GNU.sparse.map": "10485760,0",
	})
	plain, _, _ := build(t, layer)
	if n := read(t, plain, true)["s"]; n.Size != 10<<20 || n.Sum != sum(t, io.LimitReader(zeroReader{}, 10<<20)) {
		t.Errorf("sparse file is %+v", n)
	}
}

type zeroReader struct{}

func (zeroReader) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestCancelEndsALayer(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	b := flatten.New(create(t, filepath.Join(t.TempDir(), "out")), flatten.Limits{})
	r := io.MultiReader(bytes.NewReader(it.Tar(it.File("x", 0o644, strings.Repeat("x", 3<<20)))[:1<<20]), readFunc(func([]byte) (int, error) {
		cancel()
		return 1, nil
	}))
	if err := b.AddLayer(ctx, r); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want canceled", err)
	}
}

type readFunc func([]byte) (int, error)

func (f readFunc) Read(p []byte) (int, error) { return f(p) }
