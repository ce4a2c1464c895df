// Package rotated reloads values from files that change, for example key sets and
// certificates that are rotated without a restart.
//
// Get checks the files at most once in checkEvery, so nothing runs in the
// background. If a changed file cannot be loaded, the previous value stays in use
// and the error is logged once.
package rotated

import (
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// checkEvery is the shortest time between two checks of the files. A check costs a
// system call for each file, and a new key need not be in use sooner.
const checkEvery = time.Second

// Value is what load returned for some files. It is safe for concurrent use.
type Value[T any] struct {
	load   func() (T, error)
	logger *slog.Logger
	files  []string

	now     atomic.Pointer[T]
	bad     atomic.Pointer[error] // why the current files are not in use
	checked atomic.Int64          // the time of the last check, as a Duration since began
	began   time.Time

	checking sync.Mutex    // held during a check; other callers use the current value
	seen     []os.FileInfo // of the last load; nil for a missing file
}

// Open loads the value and returns load's error if that fails. Later, load is called
// whenever one of files has changed. It is never called concurrently.
func Open[T any](logger *slog.Logger, load func() (T, error), files ...string) (*Value[T], error) {
	v := &Value[T]{load: load, logger: logger, files: files, began: time.Now()}
	// Stat before the load: a file that changes in between is loaded again.
	v.seen = v.stat()
	value, err := load()
	if err != nil {
		return nil, err
	}
	v.now.Store(&value)
	return v, nil
}

// Get returns the value of the files as they were at most checkEvery ago, or the last
// value that could be loaded.
func (v *Value[T]) Get() T {
	if age := time.Since(v.began); age-time.Duration(v.checked.Load()) >= checkEvery && v.checking.TryLock() {
		v.checked.Store(int64(age))
		v.reload()
		v.checking.Unlock()
	}
	return *v.now.Load()
}

// Err returns why the current files are not in use, or nil if they are.
func (v *Value[T]) Err() error {
	v.Get()
	if bad := v.bad.Load(); bad != nil {
		return *bad
	}
	return nil
}

func (v *Value[T]) reload() {
	seen := v.stat()
	if slices.EqualFunc(seen, v.seen, unchanged) {
		return
	}
	v.seen = seen
	value, err := v.load()
	if err != nil {
		v.bad.Store(&err)
		v.logger.Error("cannot load a changed file; the previous value stays in use", "error", err)
		return
	}
	v.now.Store(&value)
	v.bad.Store(nil)
	v.logger.Info("loaded a changed file", "files", fmt.Sprint(v.files))
}

// stat follows links, because Kubernetes and Docker change their targets. It ignores
// errors, because load reports them.
func (v *Value[T]) stat() []os.FileInfo {
	seen := make([]os.FileInfo, len(v.files))
	for i, file := range v.files {
		if info, err := os.Stat(file); err == nil {
			seen[i] = info
		}
	}
	return seen
}

func unchanged(a, b os.FileInfo) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	return os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
}
