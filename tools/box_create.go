package tools

import (
	"context"
	"errors"
	"fmt"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
)

type boxCreateArgs struct {
	Image              string            `json:"image" default:"alpine:latest" doc:"Image reference, e.g. python:3.12"`
	Name               string            `json:"name" doc:"Name to refer to it by; unique"`
	CPUs               int               `json:"cpus" min:"1" max:"64" doc:"Usually 2"`
	MemoryMiB          int               `json:"memory_mib" min:"64" max:"1048576" doc:"Usually 512"`
	DiskSizeGB         int               `json:"disk_size_gb" min:"1" max:"16384" doc:"Usually 10"`
	Env                map[string]string `json:"env" doc:"Environment of its commands"`
	WorkingDir         string            `json:"working_dir" doc:"Absolute path; default: the image's"`
	Labels             map[string]string `json:"labels"`
	Network            string            `json:"network" default:"enabled" enum:"enabled,disabled" doc:"disabled: no network at all"`
	AllowNet           []string          `json:"allow_net" doc:"All that it may reach: api.example.com, *.example.org:443, 10.1.2.0/24:5432, udp/host:123, GET https://host/path/**; none: the public Internet"`
	Secrets            []string          `json:"secrets" doc:"Names from secret_list, or NAME@host to narrow; needs allow_net"`
	Isolation          string            `json:"isolation" default:"any" enum:"any,vm,hardware-vm" doc:"Least isolation accepted"`
	TTLSeconds         int64             `json:"ttl_seconds" default:"0" min:"0" max:"31536000" doc:"Remove it after this long; 0: never"`
	IdleTimeoutSeconds *int64            `json:"idle_timeout_seconds" min:"0" max:"31536000" doc:"Stop it if unused so long; 0: never; usually 1800"`
	Start              bool              `json:"start" default:"true"`
}

func boxCreate() tool {
	return define(spec{
		name: "box_create", title: "Create box", set: "boxes", openWorld: true,
		description: "Create an isolated Linux box from an OCI image and start it. " +
			"Its files persist until box_remove or ttl_seconds; it outlives this conversation. " +
			"When idle it is stopped, files kept, and the next box_exec resumes it. " +
			"Reuse a box for related work rather than creating one per command; box_list shows what exists. " +
			"If pulling the image takes long, the answer has status \"starting\" and the box_id: go on with box_start. " +
			`Example: {"image": "python:3.12", "name": "dev", "allow_net": ["pypi.org", "*.pythonhosted.org"]}`,
	}, createBox)
}

// createBox persists the box first, so that its id is known and told before
// anything that takes long, and then waits for its start.
func createBox(ctx context.Context, c *call, a boxCreateArgs) (string, boxView, error) {
	req, err := a.request()
	if err != nil {
		return "", boxView{}, err
	}
	c.progress.report(boxlite.Progress{Phase: "creating box"})
	unsure := &fault{message: "the box is being created, which takes long.", hint: "Call box_list to see whether it is there before creating another."}
	info, err := detached(ctx, c, unsure, func(ctx context.Context) (boxlite.BoxInfo, error) {
		return c.svc.CreateBox(ctx, req, c.progress.report)
	})
	if err != nil {
		return "", boxView{}, createFault(a, err)
	}
	v := viewBox(info)
	c.progress.tell("created box " + v.BoxID)
	if !a.Start {
		return fmt.Sprintf("Created box %s. It is not started; box_exec and box_start start it.", v.line()), v, nil
	}
	started, running, err := c.ensureRunning(ctx, v.BoxID)
	if err != nil {
		return "", boxView{}, c.startFault(ctx, v, err)
	}
	if !running {
		text, v := c.stillStarting(ctx, v.BoxID, v)
		return text, v, nil
	}
	v = viewBox(started)
	return fmt.Sprintf("Created and started box %s.\nRun commands with box_exec, box=%s.", v.line(), v.ref()), v, nil
}

// startFault explains why a box that was just created did not start. One that
// never can, because of what was asked for, is not kept to block its name.
func (c *call) startFault(ctx context.Context, v boxView, err error) error {
	switch boxlite.KindOf(err) {
	case boxlite.Denied, boxlite.Config, boxlite.InvalidArgument:
		_, gone := detached(ctx, c, &fault{message: "still being removed"}, func(ctx context.Context) (boxlite.BoxInfo, error) {
			return c.svc.RemoveBox(ctx, v.BoxID, false)
		})
		if gone == nil {
			return &fault{
				message: "The box was not created. " + describeAny(err),
				hint:    hintOr(err, "Change the arguments and call box_create again."),
				cause:   err,
			}
		}
	}
	return &fault{
		message: fmt.Sprintf("Created box %s, but it did not start. %s", v.BoxID, describeAny(err)),
		hint:    hintOr(err, "Call box_start to try again, or box_remove with box="+v.BoxID+" and create another."),
		cause:   err,
	}
}

func (a boxCreateArgs) request() (boxlite.CreateRequest, error) {
	if a.Name != "" {
		if _, err := boxlite.ParseBoxName(a.Name); err != nil {
			return boxlite.CreateRequest{}, err
		}
	}
	if a.Isolation == "any" {
		a.Isolation = ""
	}
	if a.Network == "disabled" && len(a.AllowNet) > 0 {
		return boxlite.CreateRequest{}, &boxlite.Error{Op: "create box", Kind: boxlite.InvalidArgument, Err: errors.New("allow_net says what to reach, and network is disabled"), Hint: "Leave out one of them."}
	}
	var idle *boxlite.Seconds // left out: the operator's
	if a.IdleTimeoutSeconds != nil {
		idle = new(boxlite.Seconds(*a.IdleTimeoutSeconds))
	}
	return boxlite.CreateRequest{
		Name:    a.Name,
		NoStart: true,
		Options: boxlite.BoxOptions{
			Image: a.Image, CPUs: a.CPUs, MemoryMiB: a.MemoryMiB, DiskSizeGB: a.DiskSizeGB,
			WorkingDir: a.WorkingDir, Env: envList(a.Env), Isolation: a.Isolation, Labels: a.Labels,
			Network:    boxlite.NetworkSpec{Enabled: a.Network == "enabled", AllowNet: a.AllowNet},
			Secrets:    boxlite.RefSecrets(a.Secrets),
			AutoRemove: new(false), Detach: true, // over MCP a box is never lost by default
		},
		IdleTimeout: idle,
		TTL:         boxlite.Seconds(a.TTLSeconds),
	}, nil
}

func createFault(a boxCreateArgs, err error) error {
	if boxlite.KindOf(err) != boxlite.AlreadyExists {
		return err
	}
	return &fault{
		message: "box " + quoteText(a.Name, 80) + " already exists.",
		hint:    "Use it (box_get shows it), choose another name, or box_remove it first.",
		cause:   err,
	}
}

// envList returns environment variables in a fixed order.
func envList(m map[string]string) []boxlite.Env {
	var list []boxlite.Env
	for _, name := range sortedKeys(m) {
		list = append(list, boxlite.Env{Name: name, Value: m[name]})
	}
	return list
}
