package tools

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
)

type imageListArgs struct {
	Limit  int    `json:"limit" default:"20" min:"1" max:"100"`
	Cursor string `json:"cursor" doc:"next_cursor of the last page"`
}

type imageView struct {
	Reference string `json:"reference"`
	Digest    string `json:"digest"`
	SizeBytes int64  `json:"size_bytes"`
	Platform  string `json:"platform"`
	InUse     int    `json:"in_use"`
}

type imageListResult struct {
	Images     []imageView `json:"images"`
	Total      int         `json:"total"`
	NextCursor string      `json:"next_cursor,omitempty"`
}

func imageList() tool {
	return define(spec{
		name: "image_list", title: "List images", set: "images", readOnly: true, idempotent: true,
		description: "List the images in the cache: boxes from these start without a download. " +
			"Other images are pulled by box_create when they are first needed, where the operator allows their registry.",
	}, listImages)
}

// listImages pages through the images in the order of their references. The
// cursor is the last image shown, so that a pull in between shifts nothing.
func listImages(ctx context.Context, c *call, a imageListArgs) (string, imageListResult, error) {
	images, err := c.svc.ListImages(ctx)
	if err != nil {
		return "", imageListResult{}, err
	}
	key := func(i boxlite.ImageInfo) string { return i.Reference + " " + i.Digest }
	slices.SortFunc(images, func(x, y boxlite.ImageInfo) int { return cmp.Compare(key(x), key(y)) })
	r := imageListResult{Images: []imageView{}, Total: len(images)}
	var b strings.Builder
	for _, i := range images {
		if key(i) <= a.Cursor {
			continue
		}
		if len(r.Images) == a.Limit {
			r.NextCursor = r.Images[a.Limit-1].Reference + " " + r.Images[a.Limit-1].Digest
			break
		}
		v := imageView{oneLine(i.Reference, 300), oneLine(i.Digest, 100), int64(i.Size), oneLine(i.Platform, 40), i.InUse}
		fmt.Fprintf(&b, "%s %s, %s, used by %d boxes\n", v.Reference, i.Size, v.Platform, v.InUse)
		r.Images = append(r.Images, v)
	}
	if r.Total == 0 {
		return "The image cache is empty. box_create pulls what it needs.", r, nil
	}
	text := fmt.Sprintf("%d of %d images:\n%s", len(r.Images), r.Total, b.String())
	if r.NextCursor != "" {
		text += "More: image_list with cursor=" + quoteText(r.NextCursor, 500)
	}
	return strings.TrimSuffix(text, "\n"), r, nil
}
