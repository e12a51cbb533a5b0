package tools

import (
	"context"
	"fmt"
	"strings"
)

type secretListArgs struct{}

// A secretView is a secret as an agent may know it.
type secretView struct {
	Name        string   `json:"name"`
	Hosts       []string `json:"hosts"`
	Placeholder string   `json:"placeholder"`
	EnvName     string   `json:"env_name"`
	InQuery     bool     `json:"in_query,omitempty"`
	InBody      bool     `json:"in_body,omitempty"`
}

type secretListResult struct {
	Secrets []secretView `json:"secrets"`
}

func secretsList() tool {
	return define(spec{
		name: "secret_list", title: "List secrets", set: "network", readOnly: true, idempotent: true,
		description: "List the keys that boxes may use without seeing them: name, the hosts each is bound to, and its placeholder. " +
			"Name them in secrets of box_create; programs in the box send the placeholder (also in the variable env_name) in a header " +
			"over HTTPS to a bound host, and the key is put in on the way. Values cannot be read by any tool.",
	}, listSecrets)
}

func listSecrets(ctx context.Context, c *call, _ secretListArgs) (string, secretListResult, error) {
	list, err := c.svc.ListSecrets(ctx)
	if err != nil {
		return "", secretListResult{}, err
	}
	r := secretListResult{Secrets: []secretView{}}
	var b strings.Builder
	for _, s := range list {
		v := secretView{Name: s.Name, Hosts: append([]string{}, s.Hosts...), Placeholder: s.Placeholder, EnvName: s.EnvName(), InQuery: s.InQuery, InBody: s.InBody}
		r.Secrets = append(r.Secrets, v)
		hosts := "no host, so it is never sent"
		if len(v.Hosts) > 0 {
			hosts = strings.Join(v.Hosts, ", ")
		}
		fmt.Fprintf(&b, "\n%s, bound to %s; in boxes $%s is %s", v.Name, oneLine(hosts, 300), v.EnvName, quoteText(v.Placeholder, 200))
	}
	if len(r.Secrets) == 0 {
		return "There are no secrets. An operator adds one on the host: boxlite-mcp secret set NAME --host HOST.", r, nil
	}
	return fmt.Sprintf("%d secrets:%s", len(r.Secrets), b.String()), r, nil
}
