package guest

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const passwd = `# a comment
root:x:0:0:root:/root:/bin/sh

bin:x:1:1
ada:x:1000:1000:Ada L.:/home/ada:/bin/sh
same:x:1000:50::/home/same:/bin/sh
relative:x:7:7::home:/bin/sh
big:x:4294967295:0::/:/bin/sh
minus:x:-1:0::/:/bin/sh
plus:x:+5:0::/:/bin/sh
77:x:3000:3000::/home/77:/bin/sh
crlf:x:8:8::/home/crlf:/bin/sh` + "\r\n" + "nul\x00:x:9:9::/:/bin/sh\n"

const groups = `root:x:0:
wheel:x:10:ada,root
users:x:100:bob,ada
users2:x:100:ada
ada:x:1000:ada
broken:x
bad:x:x:ada
`

// Not through the door: parsing is the inside.
func TestAccountsFindUsers(t *testing.T) {
	a := parseAccounts([]byte(passwd), []byte(groups))
	ada := user{uid: 1000, gid: 1000, groups: []uint32{10, 100}, name: "ada", home: "/home/ada"}
	for spec, want := range map[string]user{
		"":           {name: "root", home: "/root", groups: []uint32{10}},
		"root":       {name: "root", home: "/root", groups: []uint32{10}},
		"0":          {name: "root", home: "/root", groups: []uint32{10}},
		"ada":        ada,
		"1000":       ada,
		"ada:":       ada,
		"ada:wheel":  {uid: 1000, gid: 10, name: "ada", home: "/home/ada"},
		"ada:4":      {uid: 1000, gid: 4, name: "ada", home: "/home/ada"},
		":wheel":     {gid: 10, name: "root", home: "/root"},
		"5555":       {uid: 5555, home: "/"},
		"5555:5":     {uid: 5555, gid: 5, home: "/"},
		"77":         {uid: 3000, gid: 3000, name: "77", home: "/home/77"},
		"relative":   {uid: 7, gid: 7, name: "relative", home: "/"},
		"crlf":       {uid: 8, gid: 8, name: "crlf", home: "/home/crlf"},
		"4294967294": {uid: 4294967294, home: "/"},
	} {
		got, err := a.find(spec)
		if d := cmp.Diff(want, got, cmp.AllowUnexported(user{})); err != nil || d != "" {
			t.Errorf("find(%q): %v %s", spec, err, d)
		}
	}
	for _, spec := range []string{"nobody", "big", "minus", "plus", "bin", "4294967295", "-1", "+5", "1e3", "ada:none", "ada:-1", "nul\x00", "nul", "ada:a:b", "#"} {
		if got, err := a.find(spec); err == nil {
			t.Errorf("find(%q) = %+v, want an error", spec, got)
		}
	}
	if got, err := parseAccounts(nil, nil).find(""); err != nil || got.uid != 0 || got.home != "/root" {
		t.Errorf("without files: %+v %v", got, err)
	}
}

func FuzzAccounts(f *testing.F) {
	for _, spec := range []string{"", "ada", "1000:10", ":", "0:0"} {
		f.Add([]byte(passwd), []byte(groups), spec)
	}
	f.Fuzz(func(t *testing.T, passwd, groups []byte, spec string) {
		u, err := parseAccounts(passwd, groups).find(spec)
		if err != nil {
			return
		}
		if u.uid == 1<<32-1 || u.gid == 1<<32-1 {
			t.Errorf("%q: %+v means no change to the kernel", spec, u)
		}
		if !strings.HasPrefix(u.home, "/") || strings.ContainsAny(u.home+u.name, "\x00\n:") {
			t.Errorf("%q: home %q, name %q", spec, u.home, u.name)
		}
		if !slices.IsSorted(u.groups) || slices.Contains(u.groups, u.gid) {
			t.Errorf("%q: groups %v", spec, u.groups)
		}
		// Nobody becomes root who is not named so: by number, by name, or by an entry for it.
		name, _, _ := strings.Cut(spec, ":")
		if _, number := parseID(name); u.uid == 0 && name != "" && name != "root" && !number && !strings.Contains("\n"+string(passwd), "\n"+name+":") {
			t.Errorf("%q is root", spec)
		}
	})
}
