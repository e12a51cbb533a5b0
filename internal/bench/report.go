package main

import (
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"time"
)

// A series is what was measured of one thing, in the order of measuring.
type series []float64

// add appends a time in milliseconds.
func (s *series) add(d time.Duration) { *s = append(*s, float64(d)/1e6) }

// spread returns the least, the median and the greatest.
func (s series) spread() (least, median, greatest float64) {
	if len(s) == 0 {
		return math.NaN(), math.NaN(), math.NaN()
	}
	sorted := slices.Sorted(slices.Values(s))
	n := len(sorted)
	return sorted[0], (sorted[(n-1)/2] + sorted[n/2]) / 2, sorted[n-1]
}

func (s series) median() float64 {
	_, m, _ := s.spread()
	return m
}

// over returns the ratios of a to b, pair by pair.
func over(a, b series) series {
	return pairs(a, b, func(x, y float64) float64 { return x / y })
}

// beyond returns the differences of a and b, pair by pair.
func beyond(a, b series) series {
	return pairs(a, b, func(x, y float64) float64 { return x - y })
}

func pairs(a, b series, f func(x, y float64) float64) series {
	out := make(series, min(len(a), len(b)))
	for i := range out {
		out[i] = f(a[i], b[i])
	}
	return out
}

// A result is one line of the report.
type result struct {
	chapter string // set by report.add
	name    string
	unit    string
	values  series
	below   float64 // the aim for the median; 0: none
	signed  bool    // may be negative, as a difference of two noisy times may
}

// A report prints results as they come.
type report struct {
	out     io.Writer
	results []result
	now     string // the chapter
	met     int
	missed  int
}

func (r *report) say(format string, args ...any) { fmt.Fprintf(r.out, format+"\n", args...) }

// chapter begins a group of results.
func (r *report) chapter(title string, notes ...string) {
	r.now = title
	r.say("\n%s", title)
	for _, n := range notes {
		r.say("    %s", n)
	}
}

func (r *report) add(x result) {
	x.chapter = r.now
	r.results = append(r.results, x)
	least, median, greatest := x.values.spread()
	line := fmt.Sprintf("  %-46s %s %-5s", x.name, figure(median), x.unit)
	if len(x.values) > 1 {
		line += fmt.Sprintf("  %s …%s  n=%d", figure(least), figure(greatest), len(x.values))
	}
	if x.below != 0 {
		verdict := "missed"
		if median < x.below {
			verdict = "met"
			r.met++
		} else {
			r.missed++
		}
		line = fmt.Sprintf("%-92s aim < %s %s: %s", line, strings.TrimSpace(figure(x.below)), x.unit, verdict)
	}
	r.say("%s", strings.TrimRight(line, " "))
}

// figure returns a number with as many digits as it deserves.
func figure(v float64) string {
	if math.Abs(v) < 100 {
		return fmt.Sprintf("%8.2f", v)
	}
	return fmt.Sprintf("%8.0f", v)
}

// nonsense returns what was measured and cannot be, which means that something
// else was measured.
//
// Errors: one for each such result.
func (r *report) nonsense() error {
	var errs []error
	for _, x := range r.results {
		if len(x.values) == 0 {
			errs = append(errs, fmt.Errorf("%s: %s: nothing was measured", x.chapter, x.name))
		}
		for _, v := range x.values {
			if math.IsNaN(v) || math.IsInf(v, 0) || v <= 0 && !x.signed {
				errs = append(errs, fmt.Errorf("%s: %s: %g %s cannot be", x.chapter, x.name, v, x.unit))
			}
		}
	}
	return errors.Join(errs...)
}

// find returns a result, for tests.
func (r *report) find(chapter, name string) (result, bool) {
	i := slices.IndexFunc(r.results, func(x result) bool { return x.chapter == chapter && x.name == name })
	if i < 0 {
		return result{}, false
	}
	return r.results[i], true
}
