package vmcore

import (
	"context"
	"fmt"
	"time"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/vmcore/image"
)

func (rt *Runtime) openImages() (*image.Cache, error) {
	rt.named(rt.opts.Registries, rt.opts.Images.Registries)
	return image.Open(rt.path("images"), image.Options{
		Dial:       rt.dialRegistry,
		Registries: rt.opts.Registries, Offline: rt.opts.Offline, RootCAs: rt.opts.RootCAs,
		Protected: []string{rt.opts.Home}, Log: rt.log,
	})
}

// prepareImage returns the image of a box: the pinned one if it was started
// before, else what its reference means now.
func (rt *Runtime) prepareImage(ctx context.Context, rec record, report func(boxlite.Progress)) (image.Image, error) {
	owner := Owner{LocalRoots: rec.LocalRoots, Registries: rec.Registries, Trusted: rec.Trusted}
	if rec.Options.RootfsPath == "" { // the operator may have changed his mind, also about one in the cache
		if err := rt.checkImage(owner, rec.Options.Image); err != nil {
			return image.Image{}, err
		}
	}
	if rec.ImageDigest != "" {
		if img, err := rt.images.ByDigest(rec.ImageDigest); err == nil {
			return img, nil
		}
	}
	ref := rec.Options.Image
	if rec.Options.RootfsPath != "" {
		ref = "dir:" + rec.Options.RootfsPath
	}
	report(boxlite.Progress{Phase: "resolving image"})
	opts := rt.pullOptions(owner)
	opts.Progress = report
	rt.named(opts.Registries)
	img, err := rt.images.Pull(ctx, ref, opts)
	if err != nil {
		return img, err
	}
	if img.Stale {
		rt.log.Warn("an image is used as the cache has it", "box", rec.ID, "image", img.Reference, "reason", img.Warning)
	}
	if rec.ImageDigest != "" && img.Digest != rec.ImageDigest {
		return img, &boxlite.Error{Op: "start box", Kind: boxlite.Image, Ref: ref,
			Err:  fmt.Errorf("the box was made from %s, which is no longer in the cache, and the reference now means %s", rec.ImageDigest, img.Digest),
			Hint: "Make a new box."}
	}
	return img, nil
}

// Pull brings an image into the cache, from where its owner may read.
//
// Errors: see [image.Cache.Pull].
func (rt *Runtime) Pull(ctx context.Context, owner Owner, ref string, report func(boxlite.Progress)) (boxlite.ImageInfo, error) {
	if err := rt.checkImage(owner, ref); err != nil {
		return boxlite.ImageInfo{}, err
	}
	opts := rt.pullOptions(owner)
	opts.Progress = report
	rt.named(opts.Registries)
	img, err := rt.images.Pull(ctx, ref, opts)
	if err != nil {
		return boxlite.ImageInfo{}, err
	}
	info := img.Info
	info.InUse = rt.inUse()[img.Digest]
	return info, nil
}

// Images lists the cache.
func (rt *Runtime) Images() []boxlite.ImageInfo {
	used, list := rt.inUse(), []boxlite.ImageInfo{}
	for _, img := range rt.images.List() {
		img.Info.InUse = used[img.Digest]
		list = append(list, img.Info)
	}
	return list
}

// RemoveImage deletes an image that no box needs.
//
// Errors: NotFound, InvalidState, Storage.
func (rt *Runtime) RemoveImage(ref string) (boxlite.ImageInfo, error) {
	img, err := rt.images.Lookup(ref)
	if err != nil {
		return boxlite.ImageInfo{}, err
	}
	err = rt.images.Remove(ref, func(digest string) bool { return rt.inUse()[digest] > 0 })
	return img.Info, err
}

// parseRegistries reads registries that were checked when they came.
func parseRegistries(names []string) []image.Registry {
	list, _ := ParseRegistries(names)
	return list
}

// ParseRegistries reads registries as [image.ParseRegistry] does. Unqualified
// names are searched in all of them.
//
// Errors: InvalidArgument.
func ParseRegistries(names []string) ([]image.Registry, error) {
	var list []image.Registry
	for _, name := range names {
		r, err := image.ParseRegistry(name)
		if err != nil {
			return nil, err
		}
		r.Search = true
		list = append(list, r)
	}
	return list, nil
}

// collect deletes what no reference and no box needs any more, now and every
// hour.
func (rt *Runtime) collect() {
	for rt.ctx.Err() == nil {
		done, err := rt.images.GC(func(digest string) bool { return rt.inUse()[digest] > 0 })
		if err != nil {
			rt.log.Warn("unused images were not collected", "err", err)
		}
		if done.Freed > 0 {
			rt.log.Info("unused images collected", "bytes", done.Freed.Bytes())
		}
		sleep(rt.ctx, time.Hour)
	}
}

// inUse counts the boxes that need each image.
func (rt *Runtime) inUse() map[string]int {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	n := map[string]int{}
	for _, rec := range rt.records {
		if rec.ImageDigest != "" {
			n[rec.ImageDigest]++
		}
	}
	return n
}
