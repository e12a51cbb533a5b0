package imagetest_test

import (
	"os/exec"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/boxlite-mcp/boxlite-mcp/vmcore/image/imagetest"
)

func TestBusyboxBaseIsAValidFileSystem(t *testing.T) {
	base := imagetest.BusyboxBase(t)
	out, err := exec.CommandContext(t.Context(), "fsck.erofs", "--extract", base).CombinedOutput()
	if err != nil {
		t.Fatalf("fsck.erofs: %v\n%s", err, out)
	}
}

func TestPushedImageComesBack(t *testing.T) {
	img := imagetest.Busybox()
	ref, err := name.ParseReference(imagetest.Push(t, img, imagetest.Registry(t)+"/busybox:1"), name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	got, err := remote.Image(ref, remote.WithContext(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	have, err := got.Digest()
	want, _ := img.Digest()
	if err != nil || have != want {
		t.Fatalf("digest %v, %v; want %v", have, err, want)
	}
}
