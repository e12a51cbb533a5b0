package cli

import (
	"context"
	"errors"
	"time"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/spf13/cobra"
)

// A ListenConfig says where serve listens for HTTP, and for whom.
type ListenConfig struct {
	Addr              string   // ADDRESS:PORT; "": standard input and output instead
	Hosts, Origins    []string // that clients and web pages may use, beside the address itself
	CertFile, KeyFile string   // TLS
}

// A Token is a name under which a client speaks over HTTP.
type Token struct {
	Name      string    `json:"name"`
	Principal string    `json:"principal"`
	Created   time.Time `json:"created"`
}

// Tokens are those of a home.
type Tokens interface {
	Add(name, principal string) (token string, err error)
	List() ([]Token, error)
	Remove(name string) error
}

const serveHelp = `Speak MCP on standard input and output, or with --listen over HTTP: Streamable
HTTP at /mcp, and HTTP with SSE at /sse and /message.

Over HTTP a client gives a token, which says whose boxes it sees:
"Authorization: Bearer TOKEN". boxlite-mcp token add makes one. Beyond loopback
a certificate is needed.`

func (m *commander) serveCmd() *cobra.Command {
	var l ListenConfig
	cmd := &cobra.Command{
		Use:     "serve [flags]",
		Short:   "Speak MCP on standard input and output (the default), or over HTTP",
		Long:    serveHelp,
		Example: "  boxlite-mcp serve --principal claude\n  boxlite-mcp serve --listen 127.0.0.1:7777",
		Args:    noArgs,
	}
	m.secretFlag(cmd)
	fs := cmd.Flags()
	fs.StringVar(&l.Addr, "listen", "", "`address:port` to listen at for HTTP")
	fs.StringArrayVar(&l.Hosts, "allow-host", nil, "`name` by which clients may call the listener, beside its address and localhost; repeatable")
	fs.StringArrayVar(&l.Origins, "allow-origin", nil, "web `origin` whose pages may call the listener; repeatable (default none)")
	fs.StringVar(&l.CertFile, "tls-cert", "", "`file` with the listener's certificate")
	fs.StringVar(&l.KeyFile, "tls-key", "", "`file` with its key")
	cmd.RunE = m.run(func(ctx context.Context, c Config, args []string) error {
		if l.Addr == "" {
			return m.serve(ctx, c, args)
		}
		if m.Listen == nil {
			return &boxlite.Error{Op: "listen", Kind: boxlite.Unsupported}
		}
		if len(m.grants) > 0 {
			return usage("--secret", "Keep it with "+Name+" secret set.", errors.New("over HTTP there are several clients, and it would be everybody's"))
		}
		return m.Listen(ctx, c, l)
	})
	return cmd
}

func (m *commander) tokenCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "token",
		Short: "Make and revoke the tokens of clients that speak over HTTP",
		Args:  noArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	var principal string
	add := &cobra.Command{
		Use:   "add [flags] NAME",
		Short: "Make a token, print it, and keep only its digest",
		Args:  needs(1, 1, "name"),
	}
	add.Flags().StringVar(&principal, "for", "", "`principal` whose boxes its bearer sees (default: the token's name)")
	add.RunE = m.tokens(func(t Tokens, args []string) error {
		if principal == "" {
			principal = args[0]
		}
		token, err := t.Add(args[0], principal)
		if err != nil {
			return err
		}
		return m.printf("%s\n", token)
	})
	list := &cobra.Command{Use: "list", Aliases: []string{"ls"}, Short: "List the tokens, without what they are", Args: noArgs}
	list.RunE = m.tokens(func(t Tokens, _ []string) error {
		all, err := t.List()
		if err != nil {
			return err
		}
		rows := [][]string{{"NAME", "PRINCIPAL", "CREATED"}}
		for _, x := range all {
			rows = append(rows, []string{oneLine(x.Name), oneLine(x.Principal), x.Created.Local().Format(time.DateTime)})
		}
		return table(m.Stdout, rows)
	})
	rm := &cobra.Command{Use: "rm NAME...", Short: "Revoke tokens, at once", Args: needs(1, -1, "name")}
	rm.RunE = m.tokens(func(t Tokens, args []string) error {
		var errs []error
		for _, name := range args {
			errs = append(errs, t.Remove(name))
		}
		return errors.Join(errs...)
	})
	for _, c := range []*cobra.Command{add, list, rm} {
		c.DisableFlagsInUseLine = true
		cmd.AddCommand(c)
	}
	return cmd
}

// tokens makes a cobra function of one that takes the home's tokens.
func (m *commander) tokens(fn func(t Tokens, args []string) error) func(*cobra.Command, []string) error {
	return m.run(func(_ context.Context, c Config, args []string) error {
		if m.OpenTokens == nil {
			return &boxlite.Error{Op: "open tokens", Kind: boxlite.Unsupported}
		}
		if err := ClaimHome(c.Home); err != nil {
			return err
		}
		return fn(m.OpenTokens(c), args)
	})
}
