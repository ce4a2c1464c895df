package rotated_test

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"flashsale/internal/rotated"
)

// source is a file that holds a word; an empty one is bad.
type source struct {
	t    *testing.T
	path string
}

func newSource(t *testing.T, text string) source {
	s := source{t, filepath.Join(t.TempDir(), "word")}
	s.write(text)
	return s
}

// write replaces the whole file at once, as tools that rotate keys do.
func (s source) write(text string) {
	s.t.Helper()
	if err := os.WriteFile(s.path+".new", []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
	if err := os.Rename(s.path+".new", s.path); err != nil {
		s.t.Fatal(err)
	}
}

func (s source) load() (string, error) {
	text, err := os.ReadFile(s.path)
	if err == nil && len(text) == 0 {
		err = errors.New("the file is empty")
	}
	return string(text), err
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !is(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited 30s for %s", what)
		}
	}
}

func TestAChangedFileIsLoadedWithoutARestart(t *testing.T) {
	t.Parallel()
	s := newSource(t, "old")
	v, err := rotated.Open(slog.New(slog.DiscardHandler), s.load, s.path)
	if err != nil || v.Get() != "old" {
		t.Fatalf("Open: %v", err)
	}
	s.write("new")
	eventually(t, "the new word", func() bool { return v.Get() == "new" })
}

func TestOpenFailsOnABadFile(t *testing.T) {
	t.Parallel()
	s := newSource(t, "")
	if _, err := rotated.Open(slog.New(slog.DiscardHandler), s.load, s.path); err == nil {
		t.Error("Open succeeded on a bad file")
	}
}

func TestABadFileIsLoggedOnceAndTheOldValueStays(t *testing.T) {
	t.Parallel()
	s := newSource(t, "old")
	var log lockedBuffer
	v, err := rotated.Open(slog.New(slog.NewTextHandler(&log, nil)), s.load, s.path)
	if err != nil {
		t.Fatal(err)
	}
	s.write("")
	eventually(t, "a line in the log", func() bool { v.Get(); return strings.Contains(log.String(), "the file is empty") })
	if err := os.Remove(s.path); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a line in the log for the missing file", func() bool { v.Get(); return strings.Contains(log.String(), "no such file") })
	if got := v.Get(); got != "old" {
		t.Errorf("Get returned %q, want the last good value", got)
	}
	if got := v.Err(); !errors.Is(got, os.ErrNotExist) {
		t.Errorf("Err returned %v, want os.ErrNotExist", got)
	}
	if n := strings.Count(log.String(), "the file is empty"); n != 1 {
		t.Errorf("the bad file was logged %d times, want once", n)
	}
	s.write("new")
	eventually(t, "the good file", func() bool { return v.Err() == nil })
	if got := v.Get(); got != "new" {
		t.Errorf("Get returned %q, want the new value", got)
	}
}

func TestGetIsSafeForConcurrentUse(t *testing.T) {
	t.Parallel()
	s := newSource(t, "one")
	v, err := rotated.Open(slog.New(slog.DiscardHandler), s.load, s.path)
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() { eventually(t, "two", func() bool { return v.Get() == "two" }) })
	}
	s.write("two")
	all.Wait()
}

type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
