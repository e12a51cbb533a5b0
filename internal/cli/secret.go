package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/spf13/cobra"
)

// maxSecret bounds what is read of a value, in bytes.
const maxSecret = 64 << 10

func (m *commander) secretCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "secret",
		Short: "Keep keys that boxes use and never see",
		Long: `Keep keys that boxes use and never see. A program in a box sends a placeholder,
which the variable BOXLITE_SECRET_<NAME> holds there; where it leaves for a host
that the secret is bound to, over HTTPS, the value is put in its place.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	for _, c := range []*cobra.Command{m.secretSetCmd(), m.secretListCmd(), m.secretRmCmd()} {
		c.DisableFlagsInUseLine = true
		cmd.AddCommand(c)
	}
	return cmd
}

func (m *commander) secretSetCmd() *cobra.Command {
	var s boxlite.Secret
	var fromVar string
	cmd := &cobra.Command{
		Use:   "set [flags] NAME",
		Short: "Keep a secret, whose value is read from standard input",
		Long: `Keep a secret, encrypted, in place of one of the same name. Its value is read from
standard input, without the newline at its end, or from a variable here. Boxes
that run use the new value from the next request on.`,
		Example: "  boxlite-mcp secret set openai --host api.openai.com < key.txt\n  boxlite-mcp secret set gh --host api.github.com --from-env GITHUB_TOKEN",
		Args:    needs(1, 1, "name"),
	}
	fs := cmd.Flags()
	fs.StringArrayVar(&s.Hosts, "host", nil, "`host` that it may be sent to: api.example.com or *.example.com, perhaps with a port; repeatable")
	fs.StringVar(&s.Placeholder, "placeholder", "", "`text` that programs send in its place (default <BOXLITE_SECRET:NAME>)")
	fs.BoolVar(&s.InQuery, "query", false, "also put it into the query of URLs")
	fs.BoolVar(&s.InBody, "body", false, "also put it into the bodies of requests")
	fs.StringVar(&fromVar, "from-env", "", "take the value of this `variable` instead of standard input")
	cmd.RunE = m.with(func(ctx context.Context, l *link, args []string) error {
		s.Name = args[0]
		if len(s.Hosts) == 0 {
			return usage("--host", "Name the hosts that it may be sent to, such as --host api.example.com.", errors.New("it is missing"))
		}
		var err error
		if s.Value, err = m.secretValue(fromVar); err != nil {
			return err
		}
		return l.once(ctx, func(svc boxlite.Service) error {
			info, err := svc.SetSecret(ctx, s)
			if err == nil {
				err = m.printf("%s\n", info.Name)
			}
			return err
		})
	})
	return cmd
}

// secretValue reads a value from a variable or from standard input.
func (m *commander) secretValue(fromVar string) (boxlite.SecretValue, error) {
	if fromVar != "" {
		v, ok := m.LookupEnv(fromVar)
		if !ok {
			return boxlite.SecretValue{}, usage("--from-env", "Export it, or give the value on standard input.", fmt.Errorf("the variable %s is not set", fromVar))
		}
		return boxlite.NewSecretValue(v), nil
	}
	if isTerminal(m.Stdin) {
		fmt.Fprintf(m.Stderr, "%s: type or paste the value (it is shown), then Enter and Ctrl-D\n", Name)
	}
	data, err := io.ReadAll(io.LimitReader(m.Stdin, maxSecret+1))
	if err != nil {
		return boxlite.SecretValue{}, err
	}
	if len(data) > maxSecret {
		return boxlite.SecretValue{}, usage("standard input", "Give the value alone.", fmt.Errorf("it has more than %d bytes", maxSecret))
	}
	text := strings.TrimSuffix(string(data), "\n")
	return boxlite.NewSecretValue(strings.TrimSuffix(text, "\r")), nil
}

func (m *commander) secretListCmd() *cobra.Command {
	var json bool
	cmd := &cobra.Command{
		Use:     "list [flags]",
		Aliases: []string{"ls"},
		Short:   "List the secrets, without their values",
		Args:    noArgs,
	}
	cmd.Flags().BoolVar(&json, "json", false, "print an array of secrets as JSON")
	cmd.RunE = m.with(func(ctx context.Context, l *link, _ []string) error {
		var list []boxlite.SecretInfo
		err := l.once(ctx, func(s boxlite.Service) (err error) {
			list, err = s.ListSecrets(ctx)
			return err
		})
		if err != nil {
			return err
		}
		if json {
			return m.printJSON(list)
		}
		rows := [][]string{{"NAME", "HOSTS", "PLACEHOLDER", "IN", "SET"}}
		for _, s := range list {
			in := "header"
			if s.InQuery {
				in += ",query"
			}
			if s.InBody {
				in += ",body"
			}
			rows = append(rows, []string{s.Name, oneLine(strings.Join(s.Hosts, ",")), oneLine(s.Placeholder), in, when(s.Updated)})
		}
		return table(m.Stdout, rows)
	})
	return cmd
}

// when returns a time as a table has it.
func when(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.Local().Format(time.DateTime)
}

func (m *commander) secretRmCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rm NAME...",
		Short: "Forget secrets; boxes that run do not send them any more",
		Args:  needs(1, -1, "name"),
	}
	cmd.RunE = m.with(func(ctx context.Context, l *link, args []string) error {
		var errs []error
		for _, name := range args {
			errs = append(errs, l.once(ctx, func(s boxlite.Service) error {
				_, err := s.RemoveSecret(ctx, name)
				if err == nil {
					err = m.printf("%s\n", name)
				}
				return err
			}))
		}
		return errors.Join(errs...)
	})
	return cmd
}

// secretsFromEnv reads the --secret flags of serve.
//
// Errors: InvalidArgument.
func (m *commander) secretsFromEnv() ([]boxlite.Secret, error) {
	list := boxlite.RefSecrets(m.grants)
	for i, s := range list {
		flag := "--secret " + s.Name
		if len(s.Hosts) == 0 {
			return nil, usage(flag, "Write NAME@host, such as --secret OPENAI_API_KEY@api.openai.com.", errors.New("it names no host"))
		}
		v, ok := m.LookupEnv(s.Name)
		if !ok {
			return nil, usage(flag, "Set it in the client's configuration, under env.", errors.New("the variable is not set"))
		}
		list[i].Value = boxlite.NewSecretValue(v)
	}
	return list, nil
}
