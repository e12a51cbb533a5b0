package config

import (
	"errors"
	"io/fs"
	"os"
	"sync"
	"time"
)

// A Follower notices when the file changes: its time, its size, or that it is
// another file. It looks when it is asked.
type Follower struct {
	path string

	mu     sync.Mutex
	last   os.FileInfo // guarded by mu; nil: it was not there
	looked time.Time   // guarded by mu
}

// Follow returns a follower of the file as it is now.
func Follow(path string) *Follower {
	f := &Follower{path: path}
	f.Changed(0)
	return f
}

// Path returns the file's path.
func (f *Follower) Path() string { return f.path }

// Changed reports whether the file has changed since the last answer. It looks at
// most once in a while; in between the answer is no.
func (f *Follower) Changed(while time.Duration) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if now := time.Now(); now.Sub(f.looked) >= while {
		f.looked = now
	} else {
		return false
	}
	info, err := os.Stat(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		info, err = nil, nil
	}
	if err != nil {
		return false // it cannot be seen now; perhaps the next time
	}
	last := f.last
	f.last = info
	if info == nil || last == nil {
		return info != last
	}
	return !os.SameFile(info, last) || info.Size() != last.Size() || !info.ModTime().Equal(last.ModTime())
}
