package boxlite

import "strconv"

// Bytes is a size in bytes.
type Bytes int64

// The binary multiples.
const (
	Byte Bytes = 1
	KiB        = 1024 * Byte
	MiB        = 1024 * KiB
	GiB        = 1024 * MiB
	TiB        = 1024 * GiB
)

// FromKiB returns n KiB.
func FromKiB(n int64) Bytes { return Bytes(n) * KiB }

// FromMiB returns n MiB.
func FromMiB(n int64) Bytes { return Bytes(n) * MiB }

// FromGiB returns n GiB.
func FromGiB(n int64) Bytes { return Bytes(n) * GiB }

// Bytes returns the size as a number of bytes.
func (b Bytes) Bytes() int64 { return int64(b) }

// KiB returns the size in whole KiB, rounded down.
func (b Bytes) KiB() int64 { return int64(b / KiB) }

// MiB returns the size in whole MiB, rounded down.
func (b Bytes) MiB() int64 { return int64(b / MiB) }

// GiB returns the size in whole GiB, rounded down.
func (b Bytes) GiB() int64 { return int64(b / GiB) }

// String returns the size in the largest unit that is at most the size, with
// one decimal where it is not whole: "512 MiB", "1.5 GiB", "17 B".
func (b Bytes) String() string {
	size, sign := uint64(b), ""
	if b < 0 {
		size, sign = -size, "-" // the most negative number has no positive twin in int64
	}
	for _, u := range []struct {
		unit Bytes
		name string
	}{{TiB, " TiB"}, {GiB, " GiB"}, {MiB, " MiB"}, {KiB, " KiB"}} {
		unit := uint64(u.unit)
		if size < unit {
			continue
		}
		if size%unit == 0 {
			return sign + strconv.FormatUint(size/unit, 10) + u.name
		}
		return sign + strconv.FormatFloat(float64(size)/float64(unit), 'f', 1, 64) + u.name
	}
	return sign + strconv.FormatUint(size, 10) + " B"
}
