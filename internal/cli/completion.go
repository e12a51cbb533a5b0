package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/spf13/cobra"
)

// completeTimeout bounds how long a person who pressed Tab waits.
const completeTimeout = 2 * time.Second

const completionHelp = `Print a script that completes commands, flags, boxes and images.

  bash:  source <(boxlite-mcp completion bash)
  zsh:   boxlite-mcp completion zsh > "${fpath[1]}/_boxlite-mcp"
  fish:  boxlite-mcp completion fish > ~/.config/fish/completions/boxlite-mcp.fish`

func (m *commander) completionCmd(root *cobra.Command) *cobra.Command {
	shells := []string{"bash", "zsh", "fish"}
	return &cobra.Command{
		Use:       "completion bash|zsh|fish",
		Short:     "Print a shell completion script",
		Long:      completionHelp,
		ValidArgs: shells,
		Args:      needs(1, 1, "shell"),
		RunE: func(_ *cobra.Command, args []string) error {
			switch out := (output{m.Stdout}); args[0] {
			case "bash":
				return root.GenBashCompletionV2(out, true)
			case "zsh":
				return root.GenZshCompletion(out)
			case "fish":
				return root.GenFishCompletion(out, true)
			}
			return usage(fmt.Sprintf("%q", args[0]), "Use one of "+strings.Join(shells, ", ")+".", errors.New("the shell is not known"))
		},
	}
}

// A completer returns all that an argument could be, each with a description
// after a tab.
type completer func(ctx context.Context, l *link) ([]cobra.Completion, error)

// boxNames completes boxes whose status is wanted, by name, or by id where
// there is no name.
func (m *commander) boxNames(wanted func(boxlite.BoxStatus) bool) completer {
	return func(ctx context.Context, l *link) ([]cobra.Completion, error) {
		boxes, err := listBoxes(ctx, l, boxFilter{all: true})
		var found []cobra.Completion
		for _, b := range boxes {
			if !wanted(b.Status) {
				continue
			}
			ref := b.Name
			if ref == "" {
				ref = string(b.ID)
			}
			found = append(found, cobra.CompletionWithDesc(ref, oneLine(string(b.Status)+" "+b.Image)))
		}
		return found, err
	}
}

// imageRefs completes images in the cache.
func (m *commander) imageRefs(ctx context.Context, l *link) ([]cobra.Completion, error) {
	images, err := listImages(ctx, l)
	var found []cobra.Completion
	for _, i := range images {
		found = append(found, cobra.CompletionWithDesc(i.Reference, i.Size.String()))
	}
	return found, err
}

// completeFirst completes the first argument only: others belong to the
// command in the box.
func (m *commander) completeFirst(fn completer) cobra.CompletionFunc {
	all := m.completeAll(fn)
	return func(cmd *cobra.Command, args []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveDefault
		}
		return all(cmd, args, prefix)
	}
}

// completeAll completes every argument with what is not there yet. Without a
// daemon, or with one that does not answer in time, there is nothing to offer.
func (m *commander) completeAll(fn completer) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
		ctx, cancel := context.WithTimeout(cmd.Context(), completeTimeout)
		defer cancel()
		if err := applyEnv(cmd, m.LookupEnv); err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		c, err := m.knobs.config(m.App)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		l := m.newLink(c)
		defer l.Close()
		found, err := fn(ctx, l)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return slices.DeleteFunc(found, func(s cobra.Completion) bool {
			name, _, _ := strings.Cut(s, "\t")
			return !strings.HasPrefix(name, prefix) || slices.Contains(args, name)
		}), cobra.ShellCompDirectiveNoFileComp
	}
}
