package gateway

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/egress"
)

const (
	recordRate   = 200  // records a second
	recordBurst  = 2000 // at once
	dropInterval = time.Second
)

// A recorder numbers records and passes them on. A box that makes more of them
// than recordRate gets gaps that say how many there were: it cannot fill a disk
// by trying, and nothing is left out unsaid.
type recorder struct {
	sink func(boxlite.NetworkEvent)
	box  boxlite.BoxID

	mu      sync.Mutex
	limiter *rate.Limiter
	seq     uint64                // guarded by mu; of the last record
	lost    int64                 // guarded by mu; since the last record
	lostAt  time.Time             // guarded by mu; the first of them
	drops   map[string]*dropCount // guarded by mu; by what the frames were
}

type dropCount struct {
	told  time.Time // when the last record was made
	count int64     // since then
}

func newRecorder(cfg Config) *recorder {
	r := &recorder{sink: cfg.Record, box: cfg.Box, limiter: rate.NewLimiter(recordRate, recordBurst), drops: map[string]*dropCount{}}
	if cfg.FirstSeq > 0 {
		r.seq = cfg.FirstSeq - 1
	}
	return r
}

// add passes a record on and returns how to replace it. Records that follow one
// that was lost are lost too.
func (r *recorder) add(e boxlite.NetworkEvent) (update func(boxlite.NetworkEvent)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.sink == nil {
		return func(boxlite.NetworkEvent) {}
	}
	if !r.limiter.Allow() {
		if r.lost == 0 {
			r.lostAt = time.Now()
		}
		r.lost++
		return func(boxlite.NetworkEvent) {}
	}
	r.tellGap()
	seq := r.put(e, 0)
	return func(e boxlite.NetworkEvent) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.put(e, seq)
	}
}

// put completes a record and passes it on. seq 0 is the next one.
func (r *recorder) put(e boxlite.NetworkEvent, seq uint64) uint64 {
	if seq == 0 {
		r.seq++
		seq = r.seq
	}
	e.Seq, e.Box = seq, r.box
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	e.Time = e.Time.UTC()
	e.Host, e.Method, e.Path = printable(e.Host, 253), printable(e.Method, 40), printable(e.Path, 1000)
	r.sink(e)
	return seq
}

func (r *recorder) tellGap() {
	if r.lost == 0 {
		return
	}
	lost := r.lost
	r.lost = 0
	r.put(boxlite.NetworkEvent{
		Kind: boxlite.NetGap, Time: r.lostAt, Code: egress.CodeGap, Count: lost,
		Reason: fmt.Sprintf("%d attempts are not recorded: there were more than %d a second", lost, recordRate),
	}, 0)
}

// dropped counts a frame that was dropped. At most one record a second says so
// for each reason.
func (r *recorder) dropped(what string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	d := r.drops[what]
	if d == nil {
		d = &dropCount{}
		r.drops[what] = d
	}
	d.count++
	if now := time.Now(); r.sink != nil && now.Sub(d.told) >= dropInterval {
		r.tellDrops(what, d)
		d.told = now
	}
}

func (r *recorder) tellDrops(what string, d *dropCount) {
	if d.count == 0 || r.sink == nil {
		return
	}
	r.put(boxlite.NetworkEvent{Kind: boxlite.NetDrop, Proto: dropProto(what), Code: egress.CodeFrame, Count: d.count, Reason: "dropped: " + what}, 0)
	d.count = 0
}

func dropProto(what string) string {
	for _, p := range []string{"ARP", "IPv6", "ICMP"} {
		if strings.Contains(what, p) {
			return strings.ToLower(p)
		}
	}
	return ""
}

// close passes on what is left to say.
func (r *recorder) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.sink == nil {
		return
	}
	r.tellGap()
	for what, d := range r.drops {
		r.tellDrops(what, d)
	}
}

// printable returns what a guest chose, escaped and cut.
func printable(s string, most int) string {
	if len(s) > most {
		s = s[:most] + "…"
	}
	q := strconv.QuoteToGraphic(s)
	return strings.ReplaceAll(q[1:len(q)-1], `\"`, `"`)
}
