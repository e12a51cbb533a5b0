package boxlite

import (
	"strconv"
	"time"
)

// Seconds is a duration in whole seconds, as records and the wire carry it.
// Inside the program a time.Duration is used.
type Seconds int64

// FromMinutes returns n minutes.
func FromMinutes(n int64) Seconds { return Seconds(n) * 60 }

// FromHours returns n hours.
func FromHours(n int64) Seconds { return Seconds(n) * 3600 }

// Seconds returns the duration as a number of seconds.
func (s Seconds) Seconds() int64 { return int64(s) }

// Minutes returns the duration in whole minutes, rounded towards zero.
func (s Seconds) Minutes() int64 { return int64(s) / 60 }

// Hours returns the duration in whole hours, rounded towards zero.
func (s Seconds) Hours() int64 { return int64(s) / 3600 }

// Duration returns s as a time.Duration.
func (s Seconds) Duration() time.Duration { return time.Duration(s) * time.Second }

// String returns the duration in the largest unit that divides it: "2 hours",
// "30 minutes", "1 second", "90 seconds".
func (s Seconds) String() string {
	n, unit := int64(s), "second"
	switch {
	case n != 0 && n%3600 == 0:
		n, unit = n/3600, "hour"
	case n != 0 && n%60 == 0:
		n, unit = n/60, "minute"
	}
	if n != 1 && n != -1 {
		unit += "s"
	}
	return strconv.FormatInt(n, 10) + " " + unit
}
