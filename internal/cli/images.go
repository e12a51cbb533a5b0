package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/spf13/cobra"
)

func (m *commander) imagesCmd() *cobra.Command {
	var json, quiet bool
	cmd := &cobra.Command{
		Use:   "images [flags]",
		Short: "List the images in the cache",
		Args:  noArgs,
	}
	cmd.Flags().BoolVar(&json, "json", false, "print an array of images as JSON")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "print references only")
	cmd.RunE = m.with(func(ctx context.Context, l *link, _ []string) error {
		images, err := listImages(ctx, l)
		switch {
		case err != nil:
			return err
		case json:
			return m.printJSON(images)
		case quiet:
			for _, i := range images {
				if err := m.printf("%s\n", i.Reference); err != nil {
					return err
				}
			}
			return nil
		}
		return m.printImages(images)
	})
	return cmd
}

// listImages returns the images in the cache; never nil.
func listImages(ctx context.Context, l *link) ([]boxlite.ImageInfo, error) {
	var images []boxlite.ImageInfo
	err := l.again(ctx, func(s boxlite.Service) (err error) {
		images, err = s.ListImages(ctx)
		return err
	})
	if images == nil {
		images = []boxlite.ImageInfo{}
	}
	return images, err
}

func (m *commander) printImages(images []boxlite.ImageInfo) error {
	rows := [][]string{{"REFERENCE", "DIGEST", "SIZE", "LAYERS", "PLATFORM", "BOXES", "PULLED"}}
	now := time.Now()
	for _, i := range images {
		digest := strings.TrimPrefix(i.Digest, "sha256:")
		rows = append(rows, []string{i.Reference, digest[:min(12, len(digest))], i.Size.String(),
			fmt.Sprint(i.Layers), i.Platform, fmt.Sprint(i.InUse), ago(now, i.Pulled)})
	}
	return table(m.Stdout, rows)
}

func (m *commander) pullCmd() *cobra.Command {
	var json bool
	var mode string
	cmd := &cobra.Command{
		Use:   "pull [flags] IMAGE...",
		Short: "Bring images into the cache",
		Args:  needs(1, -1, "image"),
	}
	cmd.Flags().BoolVar(&json, "json", false, "print each image as JSON")
	progressFlag(cmd.Flags(), &mode, "plain")
	cmd.RunE = m.with(func(ctx context.Context, l *link, args []string) error {
		return each(args, func(arg string) error {
			info, err := m.pull(ctx, l, arg, mode)
			switch {
			case err != nil:
				return err
			case json:
				return m.printJSON(info)
			}
			return m.printf("%s@%s\n", info.Reference, info.Digest)
		})
	})
	return cmd
}

func (m *commander) pull(ctx context.Context, l *link, arg, mode string) (info boxlite.ImageInfo, err error) {
	ref, err := absoluteImage(arg)
	if err != nil {
		return info, err
	}
	p, err := m.newProgress(mode, "plain")
	if err != nil {
		return info, err
	}
	defer p.end()
	err = l.again(ctx, func(s boxlite.Service) (err error) {
		info, err = s.PullImage(ctx, ref, p.report)
		return err
	})
	return info, err
}

func (m *commander) rmiCmd() *cobra.Command {
	return &cobra.Command{
		Use:               "rmi IMAGE...",
		Short:             "Delete images from the cache",
		Args:              needs(1, -1, "image"),
		ValidArgsFunction: m.completeAll(m.imageRefs),
		RunE: m.with(func(ctx context.Context, l *link, args []string) error {
			return each(args, func(arg string) error {
				ref, err := absoluteImage(arg)
				if err != nil {
					return err
				}
				err = l.once(ctx, func(s boxlite.Service) error {
					_, err := s.RemoveImage(ctx, ref)
					return err
				})
				if err != nil {
					return err
				}
				return m.printf("%s\n", arg)
			})
		}),
	}
}
