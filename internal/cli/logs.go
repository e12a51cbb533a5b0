package cli

import (
	"context"
	"errors"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/spf13/cobra"
)

func (m *commander) logsCmd() *cobra.Command {
	var follow bool
	var tail sizeFlag
	cmd := &cobra.Command{
		Use:   "logs [flags] EXECUTION|BOX",
		Short: "Show the output of a command; of a box, that of its last command",
		Long: `Show what a command has written: its standard output on standard output, its
standard error on standard error. Of a box, show its last command; inspect lists
the others.`,
		Args:              needs(1, 1, "execution or box"),
		ValidArgsFunction: m.completeFirst(m.boxNames(func(boxlite.BoxStatus) bool { return true })),
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "wait for more until the command ends")
	cmd.Flags().Var(&tail, "tail", "begin this far before the end of each stream, such as 64k")
	cmd.RunE = m.with(func(ctx context.Context, l *link, args []string) error {
		id, err := findExecution(ctx, l, args[0])
		if err != nil {
			return err
		}
		a := &attachment{link: l, id: id, stdout: m.Stdout, stderr: m.Stderr, note: m.note(false), noFollow: !follow}
		if tail > 0 {
			a.from = [2]int64{-int64(tail), -int64(tail)}
		}
		_, err = a.run(ctx)
		return err
	})
	return cmd
}

// findExecution returns the execution that ref names, or the last one of the
// box that it names.
//
// Errors: NotFound.
func findExecution(ctx context.Context, l *link, ref string) (boxlite.ExecutionID, error) {
	if id, err := boxlite.ParseExecutionID(ref); err == nil {
		return id, nil
	}
	d, err := getBox(ctx, l, ref)
	if err != nil {
		return "", err
	}
	if len(d.Executions) == 0 {
		return "", &boxlite.Error{Op: "show logs of", Kind: boxlite.NotFound, Ref: ref, Err: errors.New("no command was run in the box"),
			Hint: "Run one with " + Name + " exec."}
	}
	return d.Executions[len(d.Executions)-1].ID, nil
}
