package image_test

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sys/unix"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/image"
	it "github.com/boxlite-mcp/boxlite-mcp/vmcore/image/imagetest"
)

// pack writes a directory as a tar file.
func pack(t testing.TB, dir string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "archive.tar")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := tar.NewWriter(f)
	if err := w.AddFS(os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

// save writes images as docker save does.
func save(t testing.TB, images map[string]v1.Image) string {
	t.Helper()
	refs := map[name.Reference]v1.Image{}
	for n, img := range images {
		tag, err := name.NewTag(n)
		if err != nil {
			t.Fatal(err)
		}
		refs[tag] = img
	}
	path := filepath.Join(t.TempDir(), "saved.tar")
	if err := tarball.MultiRefWriteToFile(path, refs); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestLocalSourcesGiveTheSameRoot(t *testing.T) {
	img := it.Image(v1.Config{Cmd: []string{"x"}}, it.Layer(types.OCILayer, it.File("a", 0o644, "a")), it.Layer(types.OCIUncompressedLayer, it.File(".wh.a", 0, ""), it.File("b", 0o600, "b")))
	want, err := os.ReadFile(it.Base(t, it.Tar(it.File("a", 0o644, "a")), it.Tar(it.File(".wh.a", 0, ""), it.File("b", 0o600, "b"))))
	if err != nil {
		t.Fatal(err)
	}
	layout := it.Layout(t, img, "v1")
	saved := save(t, map[string]v1.Image{"alpine:3": img, "ghcr.io/o/other:x": small("other")})
	c := open(t)
	for _, ref := range []string{
		"oci:" + layout, "oci:" + layout + ":v1", "oci-archive:" + pack(t, layout), "oci-archive:" + pack(t, layout) + ":v1",
		"docker-archive:" + saved + ":alpine:3", "docker-archive:" + saved + ":docker.io/library/alpine:3", "docker-archive:" + saved + ":3",
		"docker-archive:" + save(t, map[string]v1.Image{"solo:1": img}),
	} {
		got := pull(t, c, ref)
		tree, err := os.ReadFile(got.BasePath)
		if err != nil || !bytes.Equal(tree, want) || len(got.Config.Cmd) != 1 || got.Reference != ref {
			t.Errorf("%s: %+v, %d bytes, %v; want %d bytes", ref, got, len(tree), err, len(want))
		}
		if again, err := c.Lookup(ref); err != nil || again.Digest != got.Digest {
			t.Errorf("look up %s: %+v, %v", ref, again, err)
		}
	}
	if n := len(c.List()); n != 8 {
		t.Errorf("%d references in the list, want 8", n)
	}
}

func TestLocalSourcesAreRefused(t *testing.T) {
	root := t.TempDir()
	secret := filepath.Join(t.TempDir(), "secret")
	layout := it.Layout(t, small("x"), "v1")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.WriteFile(secret, []byte("secret"), 0o600))
	must(os.Symlink(layout, filepath.Join(root, "absolute")))
	must(os.Symlink("../"+filepath.Base(filepath.Dir(layout))+"/layout", filepath.Join(root, "relative")))
	must(os.Mkdir(filepath.Join(root, "home"), 0o700))
	must(os.Mkdir(filepath.Join(root, "plain"), 0o755))
	must(os.Mkdir(filepath.Join(root, "plain", "home"), 0o700))
	must(os.Symlink("plain/home", filepath.Join(root, "sneaky")))
	must(os.WriteFile(filepath.Join(root, "file"), []byte("no tar"), 0o600))
	must(unix.Mkfifo(filepath.Join(root, "fifo"), 0o600))

	copyTo := func(change func(dir string)) string { // a layout below root that was tampered with
		dir := filepath.Join(root, strings.ReplaceAll(t.Name(), "/", "_")+filepath.Base(t.TempDir()))
		must(os.CopyFS(dir, os.DirFS(layout)))
		change(dir)
		return dir
	}
	layerOf := func(dir string) string {
		var biggest string
		var size int64
		list, err := os.ReadDir(filepath.Join(dir, "blobs", "sha256"))
		must(err)
		for _, e := range list {
			path := filepath.Join(dir, "blobs", "sha256", e.Name())
			b, err := os.ReadFile(path)
			must(err)
			if !json.Valid(b) && int64(len(b)) > size {
				biggest, size = path, int64(len(b))
			}
		}
		return biggest
	}
	for _, row := range []struct {
		name, ref string
		roots     []string
		kind      boxlite.Kind
		want      string
	}{
		{"no_roots", "oci:" + layout, nil, boxlite.Denied, "not below"},
		{"another_root", "oci:" + layout, []string{root}, boxlite.Denied, "not below"},
		{"root_is_a_prefix_of_the_name", "dir:" + root + "x", []string{root}, boxlite.Denied, "not below"},
		{"dotdot", "oci:" + root + "/../" + filepath.Base(layout), []string{root}, boxlite.Denied, "not below"},
		{"relative", "oci:layout", []string{"/"}, boxlite.InvalidArgument, "relative"},
		{"absolute_symlink_out", "oci:" + root + "/absolute", []string{root}, boxlite.Denied, "escapes"},
		{"relative_symlink_out", "oci:" + root + "/relative", []string{root}, boxlite.Denied, "escapes"},
		{"symlink_out_below", "dir:" + root + "/absolute/blobs", []string{root}, boxlite.Denied, "escapes"},
		{"protected", "dir:" + root + "/plain/home", []string{root}, boxlite.Denied, "never read"},
		{"protected_by_symlink", "dir:" + root + "/sneaky", []string{root}, boxlite.Denied, "never read"},
		{"protected_inside", "dir:" + root + "/plain", []string{root}, boxlite.Denied, "never read"},
		{"protected_for_those_who_may_all", "dir:" + root + "/plain/home", []string{"/"}, boxlite.Denied, "never read"},
		{"missing", "oci:" + root + "/nowhere", []string{root}, boxlite.NotFound, "no such file"},
		{"file_as_directory", "dir:" + root + "/file", []string{root}, boxlite.Image, "not a directory"},
		{"file_as_layout", "oci:" + root + "/file", []string{root}, boxlite.Image, "not a directory"},
		{"directory_as_archive", "oci-archive:" + root + "/plain", []string{root}, boxlite.Image, "not a file"},
		{"fifo", "docker-archive:" + root + "/fifo", []string{root}, boxlite.Image, "not a file"},
		{"no_tar", "docker-archive:" + root + "/file", []string{root}, boxlite.Image, "tar"},
		{"no_layout", "oci:" + root + "/home/..", []string{root}, boxlite.Image, "missing"},
		{"unknown_tag", "oci:" + layout + ":v2", []string{"/"}, boxlite.Image, `"v1"`},
		{"unknown_docker_tag", "docker-archive:" + save(t, map[string]v1.Image{"a:1": small("a")}) + ":b", []string{"/"}, boxlite.Image, `a:1"`},
		{"layer_is_tampered_with", "oci:" + copyTo(func(dir string) {
			b, err := os.ReadFile(layerOf(dir))
			must(err)
			b[len(b)-9] ^= 1
			must(os.WriteFile(layerOf(dir), b, 0o600))
		}), []string{root}, boxlite.Image, "layer"},
		{"layer_is_a_symlink_out", "oci:" + copyTo(func(dir string) {
			path := layerOf(dir)
			must(os.Remove(path))
			must(os.Symlink(secret, path))
		}), []string{root}, boxlite.Image, "link to elsewhere"},
		{"layer_is_missing", "oci:" + copyTo(func(dir string) { must(os.Remove(layerOf(dir))) }), []string{root}, boxlite.Image, "missing"},
		{"layer_is_a_fifo", "oci:" + copyTo(func(dir string) {
			path := layerOf(dir)
			must(os.Remove(path))
			must(unix.Mkfifo(path, 0o600))
		}), []string{root}, boxlite.Image, "not a regular file"},
		{"index_is_huge", "oci:" + copyTo(func(dir string) { must(os.Truncate(filepath.Join(dir, "index.json"), 9<<20)) }), []string{root}, boxlite.Image, "more than"},
	} {
		t.Run(row.name, func(t *testing.T) {
			dir := t.TempDir()
			c := openIn(t, dir, image.Options{Protected: []string{filepath.Join(root, "plain", "home")}})
			_, err := c.Pull(t.Context(), row.ref, image.PullOptions{LocalRoots: row.roots})
			wantError(t, err, row.kind, row.want)
			if strings.Contains(err.Error(), "secret\"") {
				t.Errorf("%v tells too much", err)
			}
			wantClean(t, dir, 0, false)
		})
	}
}

func TestSymlinksWithinTheRootAreFollowed(t *testing.T) {
	root := t.TempDir()
	layout := it.Layout(t, small("x"), "v1")
	if err := os.CopyFS(filepath.Join(root, "real"), os.DirFS(layout)); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("real", filepath.Join(root, "link")); err != nil {
		t.Fatal(err)
	}
	if _, err := open(t).Pull(t.Context(), "oci:"+root+"/link", image.PullOptions{LocalRoots: []string{"/nowhere", root}}); err != nil {
		t.Error(err)
	}
}

func TestDirectoryBecomesARoot(t *testing.T) {
	dir := t.TempDir()
	big := bytes.Repeat([]byte("big"), 1<<20)
	for name, content := range map[string][]byte{"a": []byte("a"), "sub/big": big, "empty": nil} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, content, 0o640); err != nil {
			t.Fatal(err)
		}
	}
	l, err := net.Listen("unix", filepath.Join(dir, "socket"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, err := range []error{
		os.Link(filepath.Join(dir, "a"), filepath.Join(dir, "sub", "hard")), os.Symlink("/etc/passwd", filepath.Join(dir, "link")),
		unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600), unix.Setxattr(filepath.Join(dir, "a"), "user.x", []byte("y"), 0),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	c := open(t)
	first := pull(t, c, "dir:"+dir)
	tree := walk(t, first.BasePath)
	if got := strings.Join(tree, " "); got != ". a empty fifo link sub sub/big sub/hard" {
		t.Errorf("the root has %s", got)
	}
	if first.FullBasePath == first.BasePath {
		t.Error("the extended attribute is lost")
	}
	if again := pull(t, c, "dir:"+dir); again.Digest != first.Digest {
		t.Errorf("the same directory has digest %s, then %s", first.Digest, again.Digest)
	}
	if err := os.WriteFile(filepath.Join(dir, "a"), []byte("b"), 0o640); err != nil {
		t.Fatal(err)
	}
	if changed := pull(t, c, "dir:"+dir); changed.Digest == first.Digest {
		t.Error("a changed directory has the same digest")
	}
	if f, err := os.Open(first.BasePath); err != nil {
		t.Errorf("the first one is still needed: %v", err)
	} else {
		io.Copy(io.Discard, f)
		f.Close()
	}
}
