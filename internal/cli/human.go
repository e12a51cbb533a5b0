package cli

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
)

// ago returns how long before now t was, for people: "3 minutes ago".
func ago(now, t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return span(now.Sub(t)) + " ago"
}

// span returns a duration in its largest unit.
func span(d time.Duration) string {
	for _, u := range []struct {
		unit time.Duration
		name string
	}{{24 * time.Hour, "day"}, {time.Hour, "hour"}, {time.Minute, "minute"}} {
		if n := int64(d / u.unit); n == 1 {
			return "1 " + u.name
		} else if n > 1 {
			return fmt.Sprintf("%d %ss", n, u.name)
		}
	}
	if d < time.Second {
		return "less than a second"
	}
	return boxlite.Seconds(d / time.Second).String()
}

// table writes rows, the first of which is the head, in columns.
func table(w io.Writer, rows [][]string) error {
	tw := tabwriter.NewWriter(output{w}, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		cells := make([]string, len(row))
		for i, c := range row {
			if cells[i] = oneLine(c); c == "" {
				cells[i] = "-"
			}
		}
		if _, err := fmt.Fprintln(tw, strings.Join(cells, "\t")); err != nil {
			return err
		}
	}
	return tw.Flush()
}

// cut returns the first n characters of s, with an ellipsis if there are more.
func cut(s string, n int) string {
	r := []rune(s)
	if len(r) <= n {
		return s
	}
	return string(r[:n-1]) + "…"
}

// A sizeFlag is a size such as 512m, 1g, 1.5GiB or 65536.
type sizeFlag boxlite.Bytes

func (s *sizeFlag) String() string {
	if *s == 0 {
		return ""
	}
	return boxlite.Bytes(*s).String()
}

func (s *sizeFlag) Type() string { return "size" }

func (s *sizeFlag) Set(text string) error {
	n, err := parseSize(text)
	*s = sizeFlag(n)
	return err
}

// in returns the size in whole units, rounded up.
func (s sizeFlag) in(unit boxlite.Bytes) int { return int((boxlite.Bytes(s) + unit - 1) / unit) }

// parseSize reads a positive number of bytes, or of binary multiples: k, m, g,
// t, each also as kb, kib and in capitals.
func parseSize(text string) (boxlite.Bytes, error) {
	bad := errors.New("write a size such as 512m or 1g")
	s := strings.ToLower(strings.TrimSpace(text))
	digits := strings.TrimRight(s, "kmgtib ")
	unit := boxlite.Byte
	switch strings.TrimSuffix(strings.TrimSuffix(strings.TrimSpace(s[len(digits):]), "b"), "i") {
	case "":
	case "k":
		unit = boxlite.KiB
	case "m":
		unit = boxlite.MiB
	case "g":
		unit = boxlite.GiB
	case "t":
		unit = boxlite.TiB
	default:
		return 0, bad
	}
	n, err := strconv.ParseFloat(digits, 64)
	if err != nil || !(n > 0) || n*float64(unit) >= 1<<62 || strings.ContainsAny(digits, "einxp_+") {
		return 0, bad
	}
	return boxlite.Bytes(n * float64(unit)), nil
}

// A spanFlag is a duration such as 90s, 5m or 1h30m, or a number of seconds.
type spanFlag time.Duration

func (d *spanFlag) String() string {
	if *d == 0 {
		return ""
	}
	return time.Duration(*d).String()
}

func (d *spanFlag) Type() string { return "duration" }

func (d *spanFlag) Set(text string) error {
	v, err := time.ParseDuration(text)
	if n, ierr := strconv.ParseInt(text, 10, 32); ierr == nil {
		v, err = time.Duration(n)*time.Second, nil
	}
	if err != nil || v < 0 {
		return errors.New("write a duration such as 90s, 5m or 1h30m")
	}
	*d = spanFlag(v)
	return nil
}

// seconds returns the duration in whole seconds, rounded up.
func (d spanFlag) seconds() boxlite.Seconds {
	return boxlite.Seconds((time.Duration(d) + time.Second - 1) / time.Second)
}
