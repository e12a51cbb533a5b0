// Command gateway is the network of a box as its shim has it, alone in a
// process, for package bench: frames on descriptor 3. It ends with its standard
// input.
package main

import (
	"crypto/x509"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/egress"
	"github.com/boxlite-mcp/boxlite-mcp/egress/gateway"
	"github.com/boxlite-mcp/boxlite-mcp/egress/intercept"
	"github.com/boxlite-mcp/boxlite-mcp/egress/policy"
	"github.com/boxlite-mcp/boxlite-mcp/secrets"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "gateway:", err)
		os.Exit(1)
	}
}

func run() error {
	static := flag.String("static", "", "name=address:port")
	roots := flag.String("roots", "", "read connections to the name, for a secret; verify it by the certificates in this `file`")
	authority := flag.String("authority", "", "`file` to write the box's authority to")
	flag.Parse()
	entry, err := policy.ParseStatic(*static)
	if err != nil {
		return err
	}
	access, err := policy.ParseAccess([]string{entry.Host})
	if err != nil {
		return err
	}
	p, err := policy.New(policy.Config{Access: access, Own: egress.HostAddresses(), BoxNets: []netip.Prefix{gateway.BoxNet}, Static: []policy.Static{entry}})
	if err != nil {
		return err
	}
	cfg := gateway.Config{Box: "bench", Policy: p, Record: func(boxlite.NetworkEvent) {}, Limits: gateway.Limits{ConnectRate: 1 << 20}}
	if *roots != "" {
		if cfg.Interceptor, err = interceptor(entry.Host, *roots, *authority); err != nil {
			return err
		}
	}
	gw, err := gateway.New(cfg, os.NewFile(3, "link"))
	if err != nil {
		return err
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
	return gw.Close()
}

func interceptor(host, roots, authority string) (egress.Interceptor, error) {
	pem, err := os.ReadFile(roots)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	ca, err := intercept.NewAuthority("bench")
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(authority, ca.PEM(), 0o600); err != nil {
		return nil, err
	}
	set, err := secrets.NewSet([]boxlite.Secret{{Name: "key", Hosts: []string{host}, Value: boxlite.NewSecretValue("sk-0123456789abcdef")}})
	if err != nil {
		return nil, err
	}
	return intercept.New(intercept.Config{Authority: ca, Secrets: set, RootCAs: pool}), nil
}
