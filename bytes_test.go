package boxlite_test

import (
	"math"
	"testing"
	"time"

	"github.com/boxlite-mcp/boxlite-mcp"
)

func TestBytes(t *testing.T) {
	for _, row := range []struct {
		size boxlite.Bytes
		n    int64
		s    string
	}{
		{0, 0, "0 B"},
		{17, 17, "17 B"},
		{1023, 1023, "1023 B"},
		{boxlite.KiB, 1024, "1 KiB"},
		{boxlite.KiB + 512, 1536, "1.5 KiB"},
		{boxlite.FromKiB(64), 65536, "64 KiB"},
		{boxlite.FromMiB(512), 512 << 20, "512 MiB"},
		{boxlite.FromGiB(10), 10 << 30, "10 GiB"},
		{3 * boxlite.TiB, 3 << 40, "3 TiB"},
		{2048 * boxlite.TiB, 1 << 51, "2048 TiB"},
		{-boxlite.FromMiB(2), -2 << 20, "-2 MiB"},
		{-1, -1, "-1 B"},
		{math.MaxInt64, math.MaxInt64, "8388608.0 TiB"},
		{math.MinInt64, math.MinInt64, "-8388608 TiB"},
	} {
		if got := row.size.Bytes(); got != row.n {
			t.Errorf("%v.Bytes() = %d, want %d", row.size, got, row.n)
		}
		if got := row.size.String(); got != row.s {
			t.Errorf("Bytes(%d).String() = %q, want %q", row.n, got, row.s)
		}
	}
	odd := boxlite.FromGiB(1) + boxlite.FromMiB(1) + 1
	if odd.GiB() != 1 || odd.MiB() != 1025 || odd.KiB() != 1025*1024 {
		t.Errorf("%d bytes are %d GiB, %d MiB, %d KiB; want them rounded down", odd, odd.GiB(), odd.MiB(), odd.KiB())
	}
}

func TestSeconds(t *testing.T) {
	for _, row := range []struct {
		d              boxlite.Seconds
		seconds        int64
		minutes, hours int64
		s              string
	}{
		{0, 0, 0, 0, "0 seconds"},
		{1, 1, 0, 0, "1 second"},
		{90, 90, 1, 0, "90 seconds"},
		{boxlite.FromMinutes(1), 60, 1, 0, "1 minute"},
		{boxlite.FromMinutes(30), 1800, 30, 0, "30 minutes"},
		{boxlite.FromMinutes(90), 5400, 90, 1, "90 minutes"},
		{boxlite.FromHours(1), 3600, 60, 1, "1 hour"},
		{boxlite.FromHours(24), 86400, 1440, 24, "24 hours"},
		{-1, -1, 0, 0, "-1 second"},
	} {
		if row.d.Seconds() != row.seconds || row.d.Minutes() != row.minutes || row.d.Hours() != row.hours {
			t.Errorf("%v is %d s, %d min, %d h; want %d, %d, %d", row.d,
				row.d.Seconds(), row.d.Minutes(), row.d.Hours(), row.seconds, row.minutes, row.hours)
		}
		if got := row.d.String(); got != row.s {
			t.Errorf("Seconds(%d).String() = %q, want %q", row.seconds, got, row.s)
		}
		if got, want := row.d.Duration(), time.Duration(row.seconds)*time.Second; got != want {
			t.Errorf("Seconds(%d).Duration() = %v, want %v", row.seconds, got, want)
		}
	}
}
