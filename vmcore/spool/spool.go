// Package spool keeps what executions print until somebody has read it: every
// byte has an offset in its stream, small outputs stay in memory, larger ones
// go to files, and past a limit the oldest bytes are dropped and counted. The
// writer is never blocked by a reader, and readers never disturb each other.
//
// It does not run anything and knows no protocol.
//
//	st := spool.NewStream(dir, "stdout", spool.Limits{})
//	st.Write(p)
//	chunk := st.Chunk(offset, 64<<10)
//
// # On disk
//
// A [Stream] named stdout in a directory writes files stdout.<offset>, 16
// decimal digits, each holding the bytes of the stream from that offset on.
// Beside them is record.json, a [boxlite.ExecInfo]. An execution that finishes
// moves what it has in memory to files; [Load] reads all of it back.
package spool

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
)

// Limits bound what a [Stream] keeps. Zero fields mean the defaults.
type Limits struct {
	Memory  int   // bytes kept in memory, from the start of the stream; 0: 64 KiB
	Disk    int64 // bytes kept on disk, of the newest; 0: 2 GiB
	Segment int64 // bytes of one file; 0: 16 MiB
	Pool    *Pool // shared with other streams; nil: none
}

// A Pool bounds what several streams keep on disk together. A stream that would
// go past it gives up its own oldest bytes. It may be used concurrently.
type Pool struct {
	Limit int64 // bytes
	used  atomic.Int64
}

func (p *Pool) add(n int64) {
	if p != nil {
		p.used.Add(n)
	}
}

// full reports whether nothing more fits.
func (p *Pool) full() bool { return p != nil && p.used.Load() >= p.Limit }

func (l Limits) withDefaults() Limits {
	if l.Memory == 0 {
		l.Memory = 64 << 10
	}
	if l.Disk == 0 {
		l.Disk = 2 << 30
	}
	if l.Segment == 0 {
		l.Segment = 16 << 20
	}
	return l
}

// A Stream is one output stream of one execution. It may be used concurrently.
type Stream struct {
	dir, name string
	limits    Limits

	mu       sync.Mutex
	head     []byte        // guarded by mu; the first bytes of the stream
	segments []*segment    // guarded by mu; in order of start, perhaps with gaps
	end      int64         // guarded by mu; bytes written so far
	lost     int64         // guarded by mu; bytes dropped so far
	onDisk   int64         // guarded by mu
	eof      bool          // guarded by mu
	changed  chan struct{} // guarded by mu; closed at the next change, nil if nobody waits
}

// A segment is a file that holds the stream's bytes [start, start+size).
type segment struct {
	start, size int64
	file        *os.File
	path        string
}

// NewStream returns an empty stream that will write files named after name
// into dir, which must exist by the time the memory limit is passed.
func NewStream(dir, name string, limits Limits) *Stream {
	return &Stream{dir: dir, name: name, limits: limits.withDefaults()}
}

// Write appends p. It never fails: what can be kept neither in memory nor on
// disk is dropped and counted, so that a full disk does not end the command.
func (s *Stream) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(p)
	if room := s.limits.Memory - len(s.head); room > 0 && int64(len(s.head)) == s.end {
		take := min(room, len(p))
		s.head = append(s.head, p[:take]...)
		s.end += int64(take)
		p = p[take:]
	}
	for len(p) > 0 {
		p = p[s.writeSegment(p):]
	}
	s.wake()
	return n, nil
}

// writeSegment appends part of p to the last file and returns how much of p
// has been dealt with.
func (s *Stream) writeSegment(p []byte) int {
	written := 0
	take := int64(len(p))
	var seg *segment
	err := s.makeRoom()
	if err == nil {
		seg, err = s.segmentWithRoom()
	}
	if err == nil {
		take = min(take, s.limits.Segment-seg.size)
		written, err = seg.file.WriteAt(p[:take], seg.size)
		seg.size += int64(written)
		s.onDisk += int64(written)
		s.limits.Pool.add(int64(written))
		s.end += int64(written)
		if err == nil {
			s.trim()
			return written
		}
		if s.dropOldest() {
			return written
		}
	}
	lost := take - int64(written) // the disk is full and holds nothing of ours to give up
	s.lost += lost
	s.end += lost
	return int(take)
}

// errFull is what a full pool is to a stream that has nothing to give up.
var errFull = errors.New("the box's output is at its limit")

// makeRoom gives up the oldest files while the pool is full.
func (s *Stream) makeRoom() error {
	for s.limits.Pool.full() {
		if !s.dropOldest() {
			return errFull
		}
	}
	return nil
}

func (s *Stream) segmentWithRoom() (*segment, error) {
	if n := len(s.segments); n > 0 {
		last := s.segments[n-1]
		if last.size < s.limits.Segment && last.start+last.size == s.end {
			return last, nil
		}
	}
	seg, err := s.create(s.end)
	if err == nil {
		s.segments = append(s.segments, seg)
	}
	return seg, err
}

// create makes the file for the bytes from start on.
func (s *Stream) create(start int64) (*segment, error) {
	path := filepath.Join(s.dir, fmt.Sprintf("%s.%016d", s.name, start))
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	return &segment{start: start, file: f, path: path}, err
}

// trim drops the oldest files while more is on disk than the limit allows.
func (s *Stream) trim() {
	for s.onDisk > s.limits.Disk && s.dropOldest() {
	}
}

// dropOldest gives up the oldest file, unless it is the one being written.
func (s *Stream) dropOldest() bool {
	if len(s.segments) < 2 {
		return false
	}
	old := s.segments[0]
	s.segments = s.segments[1:]
	s.onDisk -= old.size
	s.limits.Pool.add(-old.size)
	s.lost += old.size
	old.file.Close()
	os.Remove(old.path)
	return true
}

// wake tells everyone who waits that the stream has changed.
func (s *Stream) wake() {
	if s.changed != nil {
		close(s.changed)
		s.changed = nil
	}
}

// CloseWrite says that nothing more will be written.
func (s *Stream) CloseWrite() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.eof = true
	s.wake()
}

// Changed returns a channel that is closed at the next change after the call.
func (s *Stream) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.changed == nil {
		s.changed = make(chan struct{})
	}
	return s.changed
}

// End returns how many bytes have been written, and whether that is all.
func (s *Stream) End() (end int64, eof bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.end, s.eof
}

// Lost returns how many bytes were dropped.
func (s *Stream) Lost() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lost
}

// OnDisk returns how many bytes are in files.
func (s *Stream) OnDisk() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.onDisk
}

// Chunk returns at most limit bytes from offset on; a negative offset counts
// from the end. Where bytes at the offset were dropped it goes on behind them
// and says so. An offset past the end is the end.
func (s *Stream) Chunk(offset int64, limit int) boxlite.OutputChunk {
	s.mu.Lock()
	defer s.mu.Unlock()
	if offset < 0 {
		offset += s.end
	}
	asked := min(max(offset, 0), s.end)
	start := s.nextKept(asked)
	c := boxlite.OutputChunk{Offset: start, Dropped: start - asked, End: s.end}
	c.Data = s.read(start, limit)
	c.EOF = s.eof && c.Next() == s.end
	return c
}

// nextKept returns the first offset from off on whose byte is kept, or the end.
func (s *Stream) nextKept(off int64) int64 {
	if off < int64(len(s.head)) {
		return off
	}
	for _, seg := range s.segments {
		if off < seg.start+seg.size {
			return max(off, seg.start)
		}
	}
	return s.end
}

// read returns at most limit bytes from off on, up to the next gap.
func (s *Stream) read(off int64, limit int) []byte {
	limit = int(min(int64(limit), s.end-off))
	if limit <= 0 {
		return nil
	}
	buf := make([]byte, 0, limit)
	if off < int64(len(s.head)) {
		buf = append(buf, s.head[off:min(off+int64(limit), int64(len(s.head)))]...)
	}
	for _, seg := range s.segments {
		at := off + int64(len(buf)) - seg.start
		if at < 0 || at >= seg.size {
			continue
		}
		want := min(int64(limit-len(buf)), seg.size-at)
		n, _ := seg.file.ReadAt(buf[len(buf):len(buf)+int(want)], at)
		buf = buf[:len(buf)+n]
		if int64(n) < want || len(buf) == limit {
			break
		}
	}
	return buf
}

// save moves the bytes in memory to a file, so that the stream can be loaded.
func (s *Stream) save() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.head) == 0 {
		return nil
	}
	seg, err := s.create(0)
	if err != nil {
		return err
	}
	if _, err := seg.file.WriteAt(s.head, 0); err != nil {
		return errors.Join(err, seg.file.Close(), os.Remove(seg.path))
	}
	seg.size = int64(len(s.head))
	s.onDisk += seg.size
	s.limits.Pool.add(seg.size)
	s.segments, s.head = append([]*segment{seg}, s.segments...), nil
	return nil
}

// Close lets go of the files and keeps them on disk.
func (s *Stream) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, seg := range s.segments {
		errs = append(errs, seg.file.Close())
	}
	s.segments, s.eof = nil, true
	s.wake()
	return errors.Join(errs...)
}

// forget gives the stream's room back to the pool, once its files are deleted.
func (s *Stream) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.limits.Pool.add(-s.onDisk)
	s.onDisk = 0
}
