// Package rotated keeps what was read from files current while the files
// change: key sets and certificates that are rotated without a restart.
//
// A value is looked at again at most once in checkEvery, by whoever asks for it
// then, so that nothing runs in the background. What cannot be read is logged,
// once for each change, and the value that was good stays.
package rotated

import (
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// checkEvery is how often the files are looked at, at most: a look is a system
// call, and nobody waits longer for a new key to count.
const checkEvery = time.Second

// Value is what load made of some files. It is safe for concurrent use.
type Value[T any] struct {
	load   func() (T, error)
	logger *slog.Logger
	files  []string

	now     atomic.Pointer[T]
	bad     atomic.Pointer[error] // why the files as they are now are not in use
	checked atomic.Int64          // when, in nanoseconds since began
	began   time.Time

	// looking is held by the one who looks; others go on with what there is.
	looking sync.Mutex
	seen    []os.FileInfo // of the last load, nil for a file that was not there
}

// Open loads the value, or fails. load is called again whenever one of files
// has changed; it is never called twice at the same time.
func Open[T any](logger *slog.Logger, load func() (T, error), files ...string) (*Value[T], error) {
	v := &Value[T]{load: load, logger: logger, files: files, began: time.Now()}
	// Looked at before they are read: what changes meanwhile is read again.
	v.seen = v.look()
	value, err := load()
	if err != nil {
		return nil, err
	}
	v.now.Store(&value)
	return v, nil
}

// Get is the value as the files had it at most checkEvery ago, if they were good.
func (v *Value[T]) Get() T {
	if age := time.Since(v.began).Nanoseconds(); age-v.checked.Load() >= checkEvery.Nanoseconds() && v.looking.TryLock() {
		v.checked.Store(age)
		v.reload()
		v.looking.Unlock()
	}
	return *v.now.Load()
}

// Err says why the files as they are now are not what Get returns; nil if they are.
func (v *Value[T]) Err() error {
	v.Get() // nobody else may have asked since they changed
	if bad := v.bad.Load(); bad != nil {
		return *bad
	}
	return nil
}

func (v *Value[T]) reload() {
	seen := v.look()
	if same(seen, v.seen) {
		return
	}
	v.seen = seen
	value, err := v.load()
	if err != nil {
		v.bad.Store(&err)
		v.logger.Error("a changed file cannot be used: what it had before stays in use", "error", err)
		return
	}
	v.now.Store(&value)
	v.bad.Store(nil)
	v.logger.Info("a changed file is in use", "files", fmt.Sprint(v.files))
}

func (v *Value[T]) look() []os.FileInfo {
	seen := make([]os.FileInfo, len(v.files))
	for i, file := range v.files {
		// Through links: Kubernetes and Docker change where they point. What is
		// wrong with a file that cannot be looked at is said by load.
		if info, err := os.Stat(file); err == nil {
			seen[i] = info
		}
	}
	return seen
}

func same(a, b []os.FileInfo) bool {
	for i := range a {
		switch {
		case a[i] == nil || b[i] == nil:
			if a[i] != nil || b[i] != nil {
				return false
			}
		case !os.SameFile(a[i], b[i]), a[i].Size() != b[i].Size(), !a[i].ModTime().Equal(b[i].ModTime()):
			return false
		}
	}
	return true
}
