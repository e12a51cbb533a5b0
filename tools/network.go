package tools

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
)

type boxUpdateArgs struct {
	Box            string            `json:"box" required:"true" doc:"Box id, unique id prefix or name"`
	AllowNet       []string          `json:"allow_net" doc:"All that it may reach from now on; must lie within what it may reach now"`
	DisableNetwork bool              `json:"disable_network" default:"false" doc:"Let it reach nothing any more"`
	Labels         map[string]string `json:"labels" doc:"To set; an empty value removes the label"`
}

func boxUpdate() tool {
	return define(spec{
		name: "box_update", title: "Update box", set: "boxes", destructive: true, idempotent: true,
		description: "Narrow what a box may reach, while it runs or not, and set its labels. " +
			"Connections that are not allowed any more end at once. It never widens: for more, create another box. " +
			`Example: {"box": "dev", "allow_net": ["api.example.com:443"]}`,
	}, updateBox)
}

type boxUpdateResult struct {
	Box boxView `json:"box" shallow:"true" doc:"As in box_create"`
}

func updateBox(ctx context.Context, c *call, a boxUpdateArgs) (string, boxUpdateResult, error) {
	req := boxlite.UpdateRequest{Labels: a.Labels}
	switch {
	case a.DisableNetwork && len(a.AllowNet) > 0:
		return "", boxUpdateResult{}, &boxlite.Error{Op: "update box", Kind: boxlite.InvalidArgument, Err: errors.New("allow_net and disable_network exclude each other"), Hint: "Give one of them."}
	case a.DisableNetwork:
		req.Network = &boxlite.NetworkSpec{}
	case len(a.AllowNet) > 0:
		req.Network = &boxlite.NetworkSpec{Enabled: true, AllowNet: a.AllowNet}
	case len(a.Labels) == 0:
		return "", boxUpdateResult{}, &boxlite.Error{Op: "update box", Kind: boxlite.InvalidArgument, Err: errors.New("there is nothing to change"), Hint: "Give allow_net, disable_network or labels."}
	}
	info, err := c.svc.UpdateBox(ctx, a.Box, req)
	if err != nil {
		return "", boxUpdateResult{}, c.boxFault(ctx, a.Box, err)
	}
	v := viewBox(info)
	return "Updated box " + v.line() + ".", boxUpdateResult{v}, nil
}

type networkLogArgs struct {
	Box        string `json:"box" required:"true" doc:"Box id, unique id prefix or name"`
	DeniedOnly bool   `json:"denied_only" default:"false" doc:"Only what was refused or did not work"`
	Minutes    int    `json:"minutes" default:"0" min:"0" max:"525600" doc:"Only what is not older; 0: all"`
	Limit      int    `json:"limit" default:"50" min:"1" max:"500" doc:"The newest of more"`
}

// An eventView is one record of a network log.
type eventView struct {
	Time     time.Time `json:"time"`
	Kind     string    `json:"kind"`
	Target   string    `json:"target"`
	Allowed  bool      `json:"allowed"`
	Code     string    `json:"code"`
	Reason   string    `json:"reason"`
	Rule     string    `json:"rule,omitempty"`
	Status   int       `json:"http_status,omitempty"`
	Sent     int64     `json:"sent_bytes,omitempty"`
	Received int64     `json:"received_bytes,omitempty"`
	Secrets  []string  `json:"secrets,omitempty"`
	Count    int64     `json:"count,omitempty"`
}

type networkLogResult struct {
	Events []eventView `json:"events" shallow:"true" doc:"time, kind, target, allowed, code, reason and more"`
	More   bool        `json:"more,omitempty"`
}

func networkLog() tool {
	return define(spec{
		name: "network_log", title: "Network log", set: "network", readOnly: true, idempotent: true,
		description: "Show what a box tried to reach, oldest first: names looked up, connections, and requests to hosts that a secret or HTTP rule is about; " +
			"whether each was allowed, by which rule, or why not. Use it when a download or a request fails in a box.",
	}, readNetworkLog)
}

func readNetworkLog(ctx context.Context, c *call, a networkLogArgs) (string, networkLogResult, error) {
	req := boxlite.NetworkLogRequest{Box: a.Box, Denied: a.DeniedOnly, Limit: a.Limit}
	if a.Minutes > 0 {
		req.Since = time.Now().Add(-time.Duration(a.Minutes) * time.Minute)
	}
	log, err := c.svc.NetworkLog(ctx, req)
	if err != nil {
		return "", networkLogResult{}, c.boxFault(ctx, a.Box, err)
	}
	r := networkLogResult{Events: []eventView{}, More: log.More}
	var b strings.Builder
	for _, e := range log.Events {
		v := viewEvent(e)
		r.Events = append(r.Events, v)
		fmt.Fprintf(&b, "\n%s %s", v.Time.UTC().Format("2006-01-02 15:04:05"), v.line())
	}
	switch {
	case len(r.Events) == 0:
		return "There is no such record: the box has tried nothing.", r, nil
	case r.More:
		return fmt.Sprintf("The newest %d records:%s", len(r.Events), b.String()), r, nil
	}
	return fmt.Sprintf("%d records:%s", len(r.Events), b.String()), r, nil
}

func viewEvent(e boxlite.NetworkEvent) eventView {
	return eventView{
		Time: e.Time, Kind: string(e.Kind), Target: oneLine(e.Target(), 300), Allowed: e.Allowed, Code: e.Code,
		Reason: oneLine(e.Reason, 300), Rule: oneLine(e.Rule, 200), Status: e.Status, Sent: e.Sent, Received: e.Received, Secrets: e.Secrets, Count: e.Count,
	}
}

func (v eventView) line() string {
	verb := "denied (" + v.Code + ")"
	switch {
	case v.Allowed && v.Code == "allowed":
		verb = "allowed"
	case v.Allowed:
		verb = "failed (" + v.Code + ")"
	}
	s := strings.TrimSpace(v.Kind + " " + v.Target)
	if v.Status != 0 {
		s += fmt.Sprintf(" status %d", v.Status)
	}
	s += " " + verb + ": " + v.Reason
	if len(v.Secrets) > 0 {
		s += "; secrets used: " + strings.Join(v.Secrets, ", ")
	}
	if v.Count > 1 {
		s += fmt.Sprintf("; %d times", v.Count)
	}
	return s
}

// An egressView is what a box could not reach, as the result of a command says
// it.
type egressView struct {
	Target string `json:"target"`
	Code   string `json:"code"`
	Reason string `json:"reason"`
	Count  int    `json:"count"`
}

// mostDenied is how many different refusals a command's result shows.
const mostDenied = 10

// showDenied adds what the box could not reach since the command was started. It
// need not be the command that tried.
func (c *call) showDenied(ctx context.Context, e boxlite.ExecInfo, text string, r execResult) (string, execResult, error) {
	log, err := c.svc.NetworkLog(ctx, boxlite.NetworkLogRequest{Box: string(e.ID.Box()), Since: e.Started, Denied: true, Recent: true, Limit: 200})
	if err != nil || len(log.Events) == 0 {
		return text, r, nil //nolint:nilerr // the result of the command does not depend on it; network_log tells
	}
	until := time.Now()
	if e.Result != nil && !e.Running {
		until = e.Started.Add(e.Result.Duration + time.Second)
	}
	at := map[string]int{}
	for _, ev := range log.Events {
		v := viewEvent(ev)
		key := v.Target + " " + v.Code
		if i, ok := at[key]; ok {
			r.Denied[i].Count++
			continue
		}
		if ev.Time.After(until) || len(r.Denied) == mostDenied || ev.Kind == boxlite.NetDrop || ev.Kind == boxlite.NetGap {
			continue
		}
		at[key] = len(r.Denied)
		r.Denied = append(r.Denied, egressView{v.Target, v.Code, v.Reason, 1})
	}
	if len(r.Denied) == 0 {
		return text, r, nil
	}
	var b strings.Builder
	b.WriteString(text + "\nThe box could not reach:")
	for _, d := range r.Denied {
		fmt.Fprintf(&b, "\n%s (%s): %s", d.Target, d.Code, d.Reason)
		if d.Count > 1 {
			fmt.Fprintf(&b, ", %d times", d.Count)
		}
	}
	return b.String(), r, nil
}
