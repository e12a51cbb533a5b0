package shim

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"sync"
	"time"

	boxlite "github.com/boxlite-mcp/boxlite-mcp"
	"github.com/boxlite-mcp/boxlite-mcp/egress"
)

const (
	networkLogSize  = 8 << 20 // bytes of one file of a box's network log; there are two, and the older goes
	recentSize      = 128 << 10
	networkLogQueue = 4096 // records that wait for the disk
)

// A networkLog is what a box tried to reach, as JSON lines on disk. Writing it
// never holds up traffic: what the disk cannot take becomes a gap, which is a
// record too.
type networkLog struct {
	path  string
	queue chan boxlite.NetworkEvent
	done  chan error // why it could not be written to the end, or nil

	mu     sync.Mutex
	lost   int64     // guarded by mu; records since the last one that found room
	lostAt time.Time // guarded by mu
	closed bool      // guarded by mu

	first uint64 // the Seq to begin with
}

// openNetworkLog opens the log at path for appending. What a shim that was
// killed has left unfinished at its end is cut off.
func openNetworkLog(path string) (*networkLog, error) {
	last := uint64(0)
	for _, p := range []string{path + ".old", path} {
		err := eachEvent(p, 2*networkLogSize, func(e boxlite.NetworkEvent) { last = max(last, e.Seq) })
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := cutTorn(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	l := &networkLog{path: path, first: last + 1, queue: make(chan boxlite.NetworkEvent, networkLogQueue), done: make(chan error, 1)}
	go func() { l.done <- l.write(f) }()
	return l, nil
}

// cutTorn cuts what follows the last line off, and leaves f at its end.
func cutTorn(f *os.File) error {
	st, err := f.Stat()
	if err != nil {
		return err
	}
	end := st.Size()
	tail := make([]byte, min(end, 64<<10))
	if _, err := f.ReadAt(tail, end-int64(len(tail))); err != nil && err != io.EOF {
		return err
	}
	keep := end - int64(len(tail)) + int64(bytes.LastIndexByte(tail, '\n')+1)
	if err := f.Truncate(keep); err != nil {
		return err
	}
	_, err = f.Seek(keep, io.SeekStart)
	return err
}

// next returns the Seq of the first record of this life of the box.
func (l *networkLog) next() uint64 { return l.first }

// add takes a record. It does not block.
func (l *networkLog) add(e boxlite.NetworkEvent) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	if l.lost > 0 {
		select {
		case l.queue <- gap(l.lostAt, l.lost, e.Box):
			l.lost = 0
		default:
		}
	}
	select {
	case l.queue <- e:
	default:
		if l.lost == 0 {
			l.lostAt = time.Now().UTC()
		}
		l.lost++
	}
}

// gap returns a record of records that were lost here. It has no Seq of the
// gateway's.
func gap(at time.Time, lost int64, box boxlite.BoxID) boxlite.NetworkEvent {
	return boxlite.NetworkEvent{Box: box, Time: at, Kind: boxlite.NetGap, Code: egress.CodeGap, Count: lost,
		Reason: fmt.Sprintf("%d records were lost: the disk could not take them in time", lost)}
}

// write writes the queue to disk until it is closed.
func (l *networkLog) write(f *os.File) (err error) {
	defer func() { err = errors.Join(err, f.Close()) }()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	var failed int64 // records that could not be written
	for e := range l.queue {
		lines := append([]byte(nil), line(e)...)
		for range len(l.queue) { // what else there is goes with it
			lines = append(lines, line(<-l.queue)...)
		}
		if failed > 0 {
			lines = append(line(gap(time.Now().UTC(), failed, e.Box)), lines...)
		}
		if size > networkLogSize {
			if next, err := rotate(f, l.path); err == nil {
				f, size = next, 0
			}
		}
		n, err := f.Write(lines)
		if err != nil { // a full disk, perhaps only for now
			failed += int64(bytes.Count(lines, []byte("\n")))
			_ = f.Truncate(size)
			_, _ = f.Seek(size, io.SeekStart)
			continue
		}
		size, failed = size+int64(n), 0
	}
	if failed > 0 {
		return fmt.Errorf("%d records are lost", failed)
	}
	return nil
}

func line(e boxlite.NetworkEvent) []byte {
	data, err := json.Marshal(e)
	if err != nil { // a word that cannot be marshalled is a bug, and no record is lost unsaid
		data, _ = json.Marshal(gap(e.Time, 1, e.Box))
	}
	return append(data, '\n')
}

// rotate sets the file aside and returns a new one.
func rotate(f *os.File, path string) (*os.File, error) {
	if err := os.Rename(path, path+".old"); err != nil {
		return nil, err
	}
	next, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, errors.Join(err, os.Rename(path+".old", path))
	}
	return next, f.Close()
}

// close writes what is left and returns when it is on disk.
func (l *networkLog) close() error {
	l.mu.Lock()
	if !l.closed {
		l.closed = true
		close(l.queue)
	}
	l.mu.Unlock()
	return <-l.done
}

// ReadNetworkLog returns the records of the box in dir that match, oldest first:
// at most limit, and of more the newest. It may be called while the box runs.
//
// With recent only the end of the log is looked at.
//
// Errors: those of reading a file; none if there is no log.
func ReadNetworkLog(dir string, limit int, recent bool, match func(boxlite.NetworkEvent) bool) ([]boxlite.NetworkEvent, error) {
	var list []boxlite.NetworkEvent
	at := map[uint64]int{} // of a Seq, in list
	path := NetworkLogPath(dir)
	files, tail := []string{path + ".old", path}, int64(2*networkLogSize)
	if recent {
		files, tail = files[1:], recentSize
	}
	for _, p := range files {
		err := eachEvent(p, tail, func(e boxlite.NetworkEvent) {
			if i, ok := at[e.Seq]; ok && e.Seq != 0 {
				list[i] = e
				return
			}
			at[e.Seq] = len(list)
			list = append(list, e)
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	list = slices.DeleteFunc(list, func(e boxlite.NetworkEvent) bool { return !match(e) })
	if len(list) > limit {
		list = list[len(list)-limit:]
	}
	return list, nil
}

// eachEvent calls f for each whole record at the end of a file, which is not
// much longer than tail bytes.
func eachEvent(path string, tail int64, f func(boxlite.NetworkEvent)) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	if _, err := file.Seek(-tail, io.SeekEnd); err != nil { // it is shorter
		if _, err := file.Seek(0, io.SeekStart); err != nil {
			return err
		}
	}
	r := bufio.NewReaderSize(file, 64<<10)
	for {
		line, err := r.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return nil // what follows the last line end is being written
		}
		if err != nil {
			return err
		}
		var e boxlite.NetworkEvent
		if json.Unmarshal(line, &e) == nil {
			f(e)
		}
	}
}

// A NetworkLogReader follows the network log of a box, over rotations and over
// the shims of several starts.
type NetworkLogReader struct {
	path string
	at   int64       // what of file has been returned
	file os.FileInfo // that was read last; nil: none
}

// FollowNetworkLog returns a reader of the log of the box in dir, from the
// oldest record on.
func FollowNetworkLog(dir string) *NetworkLogReader {
	return &NetworkLogReader{path: NetworkLogPath(dir)}
}

// Next returns the records that were written since the last call, at most some
// thousands of them; there may be more.
//
// Errors: those of reading a file; none if there is no log.
func (r *NetworkLogReader) Next() ([]boxlite.NetworkEvent, error) {
	const most = 4 << 20 // bytes of a piece
	old, errOld := os.Stat(r.path + ".old")
	cur, err := os.Stat(r.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	path := r.path
	switch {
	case r.file == nil && errOld == nil, r.file != nil && errOld == nil && os.SameFile(r.file, old) && r.at < old.Size():
		path, cur = r.path+".old", old // which comes first
	case r.file != nil && !os.SameFile(r.file, cur):
		r.at = 0
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	r.file = cur
	data, err := io.ReadAll(io.NewSectionReader(f, r.at, most))
	if err != nil {
		return nil, err
	}
	data = data[:bytes.LastIndexByte(data, '\n')+1]
	r.at += int64(len(data))
	var list []boxlite.NetworkEvent
	for line := range bytes.Lines(data) {
		var e boxlite.NetworkEvent
		if json.Unmarshal(line, &e) == nil {
			list = append(list, e)
		}
	}
	return list, nil
}
