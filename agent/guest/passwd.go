package guest

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// A user is who a command runs as.
type user struct {
	uid, gid uint32
	groups   []uint32 // supplementary ones; sorted, without gid
	name     string   // "": the number has no entry
	home     string   // "/" where nothing is known
}

// accounts are a box's user and group files. They are the box's, so anything
// may be in them; what is no entry is skipped.
type accounts struct {
	users  []account
	groups []group
}

type account struct {
	name, home string
	uid, gid   uint32
}

type group struct {
	name    string
	gid     uint32
	members []string
}

// maxGroups is how many supplementary groups the kernel takes (NGROUPS_MAX).
const maxGroups = 65536

// errNoUser says that a box does not know a user or group.
var errNoUser = errors.New("no such user")

// parseAccounts reads the files' contents, as passwd(5) and group(5).
func parseAccounts(passwd, groups []byte) accounts {
	var a accounts
	for f := range entries(passwd, 7) {
		uid, ok1 := parseID(f[2])
		gid, ok2 := parseID(f[3])
		if ok1 && ok2 {
			a.users = append(a.users, account{name: f[0], uid: uid, gid: gid, home: f[5]})
		}
	}
	for f := range entries(groups, 4) {
		if gid, ok := parseID(f[2]); ok {
			a.groups = append(a.groups, group{name: f[0], gid: gid, members: strings.Split(f[3], ",")})
		}
	}
	return a
}

// entries yields the lines that have n fields and a name.
func entries(file []byte, n int) func(yield func([]string) bool) {
	return func(yield func([]string) bool) {
		for line := range bytes.Lines(file) {
			s := strings.TrimRight(string(line), "\r\n")
			f := strings.Split(s, ":")
			if len(f) < n || f[0] == "" || strings.HasPrefix(f[0], "#") || strings.ContainsRune(s, 0) {
				continue
			}
			if !yield(f) {
				return
			}
		}
	}
}

// parseID reads a user or group number. The last one means "no change" to the
// kernel and names nobody.
func parseID(s string) (uint32, bool) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || n == 1<<32-1 || strings.HasPrefix(s, "+") {
		return 0, false
	}
	return uint32(n), true
}

// find returns the user that spec, name|uid[:group|gid], names. "" is root.
// As in Docker, a number needs no entry, and supplementary groups come only
// without an explicit group.
func (a accounts) find(spec string) (user, error) {
	name, groupName, explicit := strings.Cut(spec, ":")
	u, err := a.findUser(name)
	if err != nil {
		return user{}, err
	}
	if !explicit || groupName == "" {
		u.groups = a.supplementary(u)
		return u, nil
	}
	u.gid, err = a.findGroup(groupName)
	return u, err
}

func (a accounts) findUser(name string) (user, error) {
	id, number := parseID(name)
	if name == "" {
		id, number = 0, true
	}
	for _, e := range a.users {
		if e.name == name || number && e.uid == id {
			home := e.home
			if !strings.HasPrefix(home, "/") {
				home = "/"
			}
			return user{uid: e.uid, gid: e.gid, name: e.name, home: home}, nil
		}
	}
	switch {
	case name == "root" || number && id == 0:
		return user{name: "root", home: "/root"}, nil
	case number:
		return user{uid: id, home: "/"}, nil
	}
	return user{}, fmt.Errorf("user %.64q: %w", name, errNoUser)
}

func (a accounts) findGroup(name string) (uint32, error) {
	for _, g := range a.groups {
		if g.name == name {
			return g.gid, nil
		}
	}
	if id, ok := parseID(name); ok {
		return id, nil
	}
	return 0, fmt.Errorf("group %.64q: %w", name, errNoUser)
}

func (a accounts) supplementary(u user) []uint32 {
	var ids []uint32
	for _, g := range a.groups {
		if u.name != "" && g.gid != u.gid && slices.Contains(g.members, u.name) {
			ids = append(ids, g.gid)
		}
	}
	slices.Sort(ids)
	ids = slices.Compact(ids)
	return ids[:min(len(ids), maxGroups)]
}
