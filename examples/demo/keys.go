package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// configure writes the operator's configuration: the API is on this machine,
// and its certificate is of an authority of its own.
func configure(s *stage) error {
	s.chapter("The operator says where the API is, and keeps a key for it")
	text := fmt.Sprintf("[network]\nstatic = [\"%s=%s\"]\nca_file = %q\n", apiHost, s.api.addr, s.api.caFile)
	s.show("config.toml: ", text, 5)
	if err := os.MkdirAll(s.home, 0o700); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(s.home, "config.toml"), []byte(text), 0o600)
}

// keepKey puts the API's key into the vault.
func keepKey(ctx context.Context, s *stage) error {
	if err := configure(s); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, s.server, "--home", s.home, "secret", "set", "demo", "--host", apiHost)
	cmd.Stdin, cmd.Stderr = strings.NewReader(s.api.key+"\n"), s
	s.say("$ boxlite-mcp secret set demo --host %s < key", apiHost)
	return cmd.Run()
}

// useKey has a box use a key that it never sees, and reach nothing else.
func useKey(ctx context.Context, s *stage) error {
	s.chapter("A box uses the key, and never sees it")
	if _, err := s.call(ctx, "secret_list", args{}); err != nil {
		return err
	}
	if _, err := s.call(ctx, "box_create", args{"image": image, "name": "keys", "allow_net": []string{apiHost + ":443"}, "secrets": []string{"demo"}}); err != nil {
		return err
	}
	const program = `import os, urllib.request
key = os.environ["BOXLITE_SECRET_DEMO"]
print("I send", key)
ask = urllib.request.Request("https://` + apiHost + `/", headers={"Authorization": "Bearer " + key})
print(urllib.request.urlopen(ask).read().decode(), end="")
`
	r, err := s.call(ctx, "box_exec", args{"box": "keys", "argv": []string{"python3", "-c", program}})
	if err != nil {
		return err
	}
	const placeholder = "<BOXLITE_SECRET:demo>"
	if err := expect("what the program printed", r.text("stdout", "text"), "I send "+placeholder+"\nwelcome, holder of "+placeholder+"\n"); err != nil {
		return err
	}
	s.say("The API got the key, or it would not have answered; and it repeated the key, which the box did not get to see.")
	r, err = s.call(ctx, "box_exec", args{"box": "keys", "command": "env | sort"})
	if err != nil {
		return err
	}
	if strings.Contains(r.text("stdout", "text"), s.api.key) {
		return fmt.Errorf("the key is in the box's environment")
	}
	return reachNothingElse(ctx, s)
}

func reachNothingElse(ctx context.Context, s *stage) error {
	s.chapter("It reaches nothing else, and the log says so")
	const program = `import urllib.request
for url in ["https://example.com/", "http://169.254.169.254/latest/meta-data/"]:
    try:
        urllib.request.urlopen(url, timeout=5)
        print("reached", url)
    except Exception as e:
        print(url, "->", e)
`
	r, err := s.call(ctx, "box_exec", args{"box": "keys", "argv": []string{"python3", "-c", program}})
	if err != nil {
		return err
	}
	if strings.Contains(r.text("stdout", "text"), "reached") {
		return fmt.Errorf("the box reached what it may not")
	}
	if denied, _ := r.at("egress_denied").([]any); len(denied) < 2 {
		return fmt.Errorf("the result names %d refusals, want 2", len(denied))
	}
	log, err := s.call(ctx, "network_log", args{"box": "keys"})
	if err != nil {
		return err
	}
	events, _ := log.at("events").([]any)
	seen := map[string]bool{}
	for _, e := range events {
		seen[result{e}.text("kind")+" "+result{e}.text("code")] = true
	}
	for _, want := range []string{"request allowed", "dns no_rule", "connect metadata"} {
		if !seen[want] {
			return fmt.Errorf("there is no record %q among %v", want, seen)
		}
	}
	if _, err := s.call(ctx, "box_remove", args{"box": "keys", "force": true}); err != nil {
		return err
	}
	return s.searchHome()
}

// searchHome fails if the key is anywhere in the home: it is kept encrypted.
func (s *stage) searchHome() error {
	files := 0
	err := filepath.WalkDir(s.home, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		if files++; err == nil && strings.Contains(string(data), s.api.key) {
			err = fmt.Errorf("the key is in %s", path)
		}
		return err
	})
	s.say("The key is in none of the %d files of the home: logs, database, images, boxes.", files)
	return err
}
