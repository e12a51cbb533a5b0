package cli // the small parsers and printers are not exported

import (
	"os"
	"strings"
	"testing"
	"time"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
)

func TestParseSize(t *testing.T) {
	for text, want := range map[string]boxlite.Bytes{
		"1": 1, "64k": 64 * boxlite.KiB, "512m": 512 * boxlite.MiB, "512MiB": 512 * boxlite.MiB, "1.5g": 1536 * boxlite.MiB,
		"2 GB": 2 * boxlite.GiB, "1T": boxlite.TiB,
		"": 0, "0": 0, "-1m": 0, "m": 0, "1x": 0, "1mm": 0, "1e3": 0, "inf": 0, "nan": 0, "0x10": 0, "1_0": 0, "9999999t": 0, "1ki b": 0,
	} {
		got, err := parseSize(text)
		if got != want || (err == nil) != (want > 0) {
			t.Errorf("parseSize(%q) = %d, %v; want %d", text, got, err, want)
		}
	}
}

func FuzzParseSize(f *testing.F) {
	for _, s := range []string{"1", "512m", "1.5g", "b", "1eb", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if n, err := parseSize(s); n < 0 || err != nil && n != 0 {
			t.Errorf("parseSize(%q) = %d, %v", s, n, err)
		}
	})
}

func TestSpanFlag(t *testing.T) {
	for text, want := range map[string]time.Duration{"90": 90 * time.Second, "5m": 5 * time.Minute, "0": 0, "1h30m": 90 * time.Minute} {
		var d spanFlag
		if err := d.Set(text); err != nil || time.Duration(d) != want {
			t.Errorf("Set(%q) = %v, %v; want %v", text, time.Duration(d), err, want)
		}
	}
	for _, text := range []string{"", "-1s", "-5", "soon", "99999999999"} {
		var d spanFlag
		if err := d.Set(text); err == nil {
			t.Errorf("Set(%q) = %v; want an error", text, time.Duration(d))
		}
	}
	if d := spanFlag(1500 * time.Millisecond); d.seconds() != 2 {
		t.Errorf("1.5 s is %d seconds, want 2", d.seconds())
	}
}

func TestSpan(t *testing.T) {
	for d, want := range map[time.Duration]string{
		10 * time.Millisecond: "less than a second", time.Second: "1 second", 59 * time.Second: "59 seconds",
		61 * time.Second: "1 minute", 5 * time.Hour: "5 hours", 26 * time.Hour: "1 day", -time.Hour: "less than a second",
	} {
		if got := span(d); got != want {
			t.Errorf("span(%v) = %q, want %q", d, got, want)
		}
	}
}

func TestAbsoluteImage(t *testing.T) {
	wd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ref, want := range map[string]string{
		"alpine": "alpine", "docker.io/a:1": "docker.io/a:1", "localhost:5000/a": "localhost:5000/a",
		"oci:x": "oci:" + wd + "/x", "oci:x:1": "oci:" + wd + "/x:1", "oci:.:1": "oci:" + wd + ":1", "oci:/a/../b:c": "oci:/b:c",
		"docker-archive:a.tar": "docker-archive:" + wd + "/a.tar", "oci-archive:/a.tar:n/m:1": "oci-archive:/a.tar:n/m:1",
		"dir:/": "dir:/", "dir:a:b": "dir:" + wd + "/a:b",
		"dir:": "", "oci:": "", "oci::tag": "",
	} {
		got, err := absoluteImage(ref)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("absoluteImage(%q) = %q, %v; want %q", ref, got, err, want)
		}
	}
}

func TestDetachKeysAreThreeWithinASecond(t *testing.T) {
	at := func(ms int) time.Time { return time.UnixMilli(int64(ms)) }
	var d detachKeys
	if d.pressed([]byte{detachKey}, at(0)) || d.pressed([]byte{detachKey}, at(500)) || !d.pressed([]byte{detachKey}, at(900)) {
		t.Error("three within a second do not detach")
	}
	d = detachKeys{}
	if d.pressed([]byte{detachKey}, at(0)) || d.pressed([]byte{detachKey}, at(900)) || d.pressed([]byte{detachKey}, at(1100)) {
		t.Error("three in more than a second detach")
	}
	d = detachKeys{}
	if d.pressed([]byte{detachKey, detachKey, 'x', detachKey, detachKey}, at(0)) {
		t.Error("three with a key between them detach")
	}
	if !d.pressed([]byte{detachKey, detachKey, detachKey}, at(0)) {
		t.Error("three at once do not detach")
	}
}

func TestCleanLeavesNothingThatATerminalObeys(t *testing.T) {
	if got := clean("a\x1b[2J\x07\u202e\xff\nü\t日"); got != "a�[2J���\nü\t日" {
		t.Errorf("clean = %q", got)
	}
	if got := oneLine("a\nb\tc"); strings.ContainsAny(got, "\n\t") {
		t.Errorf("oneLine = %q", got)
	}
}
