// Command tool runs inside the machines of engine tests, from their base image.
//
//	tool make DIR     make one of every kind of file in DIR
//	tool check DIR    see that they are all as they were made
//	tool eat MIB      use that much memory, then print "full"
//	tool burn TIME    use that much of a CPU
//	tool fork N       have N sleeping children at once, then print "forked"
//	tool dial ADDR    connect to ADDR and print "connected"
package main

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	args := append(os.Args[1:], "", "") // a virtual machine's first process gets one
	if err := run(args[0], args[1]); err != nil {
		fmt.Println("tool:", err)
		os.Exit(1)
	}
}

func run(verb, arg string) error {
	unix.Umask(0)
	n, _ := strconv.Atoi(arg)
	switch verb {
	case "make":
		return forEach(arg, func(k kind, path string) error { return k.make(path) })
	case "check":
		return forEach(arg, func(k kind, path string) error { return k.check(path) })
	case "eat":
		return eat(n)
	case "burn":
		return burn(arg)
	case "fork":
		return fork(n)
	case "dial":
		conn, err := net.DialTimeout("tcp", arg, 3*time.Second)
		if err != nil {
			return err
		}
		fmt.Println("connected")
		return conn.Close()
	}
	return errors.New("unknown verb " + verb)
}

func forEach(dir string, f func(k kind, path string) error) error {
	var all error
	for _, k := range kinds {
		if err := f(k, filepath.Join(dir, k.name)); err != nil {
			all = errors.Join(all, fmt.Errorf("%q: %w", k.name, err))
		}
	}
	return all
}

// A kind of file, how it is made, and how one sees that it is still there.
type kind struct {
	name        string
	make, check func(path string) error
}

var when = time.Date(2020, 2, 29, 12, 34, 56, 0, time.UTC)

const sparseSize = 3 << 30

var kinds = []kind{
	{"empty", func(p string) error { return os.WriteFile(p, nil, 0o644) }, content("")},
	{"binary", func(p string) error { return os.WriteFile(p, blob(), 0o600) }, content(string(blob()))},
	{strings.Repeat("n", 255), func(p string) error { return os.WriteFile(p, []byte("long"), 0o644) }, content("long")},
	{"not-utf8-\xff\xfe", func(p string) error { return os.WriteFile(p, []byte("raw"), 0o644) }, content("raw")},
	{"with\nnewline", func(p string) error { return os.WriteFile(p, []byte("nl"), 0o644) }, content("nl")},
	{"setuid", func(p string) error {
		return errors.Join(os.WriteFile(p, nil, 0o644), os.Chown(p, 1000, 2000), unix.Chmod(p, 0o6751))
	}, attributes(unix.S_IFREG|0o6751, 1000, 2000)},
	{"bigids", func(p string) error {
		return errors.Join(os.WriteFile(p, nil, 0o644), os.Chown(p, 1<<31, 3<<30))
	}, attributes(unix.S_IFREG|0o644, 1<<31, 3<<30)},
	{"dir", func(p string) error { return errors.Join(os.Mkdir(p, 0o755), os.Chown(p, 5, 6), unix.Chmod(p, 0o2771)) },
		attributes(unix.S_IFDIR|0o2771, 5, 6)},
	{"symlink", func(p string) error { return os.Symlink("../nowhere at all", p) }, link("../nowhere at all")},
	{"longlink", func(p string) error { return os.Symlink(strings.Repeat("x/", 1500), p) }, link(strings.Repeat("x/", 1500))},
	{"linkowner", func(p string) error { return errors.Join(os.Symlink("x", p), os.Lchown(p, 7, 8)) }, attributes(unix.S_IFLNK|0o777, 7, 8)},
	{"hard", makeHard, checkHard},
	{"fifo", func(p string) error { return unix.Mkfifo(p, 0o640) }, attributes(unix.S_IFIFO|0o640, 0, 0)},
	{"chardev", func(p string) error { return unix.Mknod(p, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))) }, device(unix.S_IFCHR|0o666, 1, 3)},
	{"blockdev", func(p string) error { return unix.Mknod(p, unix.S_IFBLK|0o600, int(unix.Mkdev(7, 300))) }, device(unix.S_IFBLK|0o600, 7, 300)},
	{"mtime", func(p string) error {
		return errors.Join(os.WriteFile(p, []byte("old"), 0o644), os.Chtimes(p, when, when))
	}, checkTime},
	{"xattr", func(p string) error {
		return errors.Join(os.WriteFile(p, nil, 0o644), unix.Setxattr(p, "user.colour", []byte("blue=green"), 0))
	}, xattr("user.colour", "blue=green")},
	{"dirxattr", func(p string) error {
		return errors.Join(os.Mkdir(p, 0o755), unix.Setxattr(p, "user.colour", []byte("red"), 0))
	}, xattr("user.colour", "red")},
	{"sparse", makeSparse, checkSparse},
	{"mapped", makeMapped, content(strings.Repeat("m", 8192))},
	{"deep", func(p string) error {
		d := filepath.Join(p, strings.Repeat("d/", 100))
		return errors.Join(os.MkdirAll(d, 0o755), os.WriteFile(filepath.Join(d, "f"), []byte("deep"), 0o644))
	}, func(p string) error { return content("deep")(filepath.Join(p, strings.Repeat("d/", 100), "f")) }},
	// What the base has: files of /base, see the suite.
	{"../base/removed", os.Remove, absent},
	{"../base/changed", func(p string) error { return os.WriteFile(p, []byte("new"), 0o644) }, content("new")},
	{"../base/mode", func(p string) error { return unix.Chmod(p, 0o4111) }, attributes(unix.S_IFREG|0o4111, 0, 0)},
	{"../base/opaque", func(p string) error {
		return errors.Join(os.RemoveAll(p), os.Mkdir(p, 0o755), os.WriteFile(p+"/only", nil, 0o644))
	}, list("only")},
	{"../base/emptied", func(p string) error { return os.Remove(p + "/file") }, list()},
	{"../base/tofile", func(p string) error { return errors.Join(os.RemoveAll(p), os.WriteFile(p, []byte("file"), 0o644)) }, content("file")},
	{"../base/kept", func(string) error { return nil }, content("as it was")},
}

func blob() []byte {
	b := make([]byte, 200_003)
	for i := range b {
		b[i] = byte(i * i >> 7)
	}
	return b
}

func content(want string) func(string) error {
	return func(p string) error {
		got, err := os.ReadFile(p)
		if err == nil && string(got) != want {
			err = fmt.Errorf("has %d bytes %.40q, want %d bytes %.40q", len(got), got, len(want), want)
		}
		return err
	}
}

func attributes(mode, uid, gid uint32) func(string) error {
	return func(p string) error {
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return err
		}
		if st.Mode != mode || st.Uid != uid || st.Gid != gid {
			return fmt.Errorf("is %o %d:%d, want %o %d:%d", st.Mode, st.Uid, st.Gid, mode, uid, gid)
		}
		return nil
	}
}

func device(mode uint32, major, minor uint32) func(string) error {
	return func(p string) error {
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return err
		}
		if st.Mode != mode || st.Rdev != unix.Mkdev(major, minor) {
			return fmt.Errorf("is %o device %x, want %o %d:%d", st.Mode, st.Rdev, mode, major, minor)
		}
		return nil
	}
}

func link(want string) func(string) error {
	return func(p string) error {
		got, err := os.Readlink(p)
		if err == nil && got != want {
			err = fmt.Errorf("leads to %.60q (%d bytes)", got, len(got))
		}
		return err
	}
}

func xattr(name, want string) func(string) error {
	return func(p string) error {
		buf := make([]byte, 100)
		n, err := unix.Getxattr(p, name, buf)
		if err == nil && string(buf[:n]) != want {
			err = fmt.Errorf("%s is %q, want %q", name, buf[:n], want)
		}
		return err
	}
}

func absent(p string) error {
	if _, err := os.Lstat(p); !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("is there (%v)", err)
	}
	return nil
}

func list(want ...string) func(string) error {
	return func(p string) error {
		entries, err := os.ReadDir(p)
		var got []string
		for _, e := range entries {
			got = append(got, e.Name())
		}
		if err == nil && strings.Join(got, " ") != strings.Join(want, " ") {
			err = fmt.Errorf("holds %q, want %q", got, want)
		}
		return err
	}
}

func makeHard(p string) error {
	return errors.Join(os.Mkdir(p, 0o755), os.WriteFile(p+"/a", []byte("one"), 0o644), os.Link(p+"/a", p+"/b"),
		os.Mkdir(p+"/sub", 0o755), os.Link(p+"/b", p+"/sub/c"))
}

func checkHard(p string) error {
	var a, c unix.Stat_t
	if err := errors.Join(unix.Stat(p+"/a", &a), unix.Stat(p+"/sub/c", &c)); err != nil {
		return err
	}
	if a.Ino != c.Ino || a.Nlink != 3 {
		return fmt.Errorf("inodes %d and %d, %d links", a.Ino, c.Ino, a.Nlink)
	}
	return errors.Join(content("one")(p+"/b"), content("one")(p+"/sub/c"))
}

func checkTime(p string) error {
	info, err := os.Stat(p)
	if err == nil && !info.ModTime().Equal(when) {
		err = fmt.Errorf("changed at %v, want %v", info.ModTime(), when)
	}
	return errors.Join(err, content("old")(p))
}

func makeSparse(p string) error {
	f, err := os.Create(p)
	if err != nil {
		return err
	}
	_, err1 := f.WriteAt([]byte("begin"), 0)
	_, err2 := f.WriteAt([]byte("middle"), sparseSize/2)
	return errors.Join(err1, err2, f.Truncate(sparseSize), f.Close())
}

func checkSparse(p string) error {
	f, err := os.Open(p)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || info.Size() != sparseSize {
		return fmt.Errorf("%d bytes (%v)", info.Size(), err)
	}
	for off, want := range map[int64]string{0: "begin\x00", sparseSize / 2: "middle\x00", sparseSize - 3: "\x00\x00\x00"} {
		got := make([]byte, len(want))
		if _, err := f.ReadAt(got, off); err != nil || string(got) != want {
			return fmt.Errorf("%q at %d (%v)", got, off, err)
		}
	}
	return nil
}

// makeMapped writes by a shared mapping, and leaves it mapped in nobody.
func makeMapped(p string) error {
	f, err := os.Create(p)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(8192); err != nil {
		return err
	}
	m, err := unix.Mmap(int(f.Fd()), 0, 8192, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	copy(m, bytes.Repeat([]byte("m"), 8192))
	return unix.Munmap(m)
}

func eat(mib int) error {
	m, err := unix.Mmap(-1, 0, mib<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return err
	}
	for i := 0; i < len(m); i += 4096 {
		m[i] = byte(i>>12) | 1
	}
	fmt.Println("full")
	return nil
}

func burn(arg string) error {
	d, err := time.ParseDuration(arg)
	if err != nil {
		return err
	}
	for begin := time.Now(); time.Since(begin) < 20*d; { // of the clock, if nobody counts
		for i, x := 0, 1; i < 1_000_000; i++ {
			x = x*7 + i
		}
		var used unix.Rusage
		if err := unix.Getrusage(unix.RUSAGE_SELF, &used); err != nil || time.Duration(used.Utime.Nano()) > d {
			return err
		}
	}
	return nil
}

func fork(n int) error {
	for i := range n {
		cmd := exec.Command("/bin/sleep", "60")
		if err := cmd.Start(); err != nil {
			return fmt.Errorf("child %d: %w", i, err)
		}
		defer cmd.Process.Kill()
	}
	fmt.Println("forked")
	return nil
}
