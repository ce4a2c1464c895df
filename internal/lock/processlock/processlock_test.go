package processlock

import (
	"context"
	"sync"
	"testing"
	"time"

	"flashsale/internal/lock"
	"flashsale/internal/lock/locktest"
)

var backend = locktest.Backend{
	Name:         "process",
	Capabilities: Capabilities,
	Open: func(string, time.Duration) (lock.Locker, func() error, error) {
		l := New()
		opened.add(l)
		return l, func() error { return nil }, nil
	},
	Start: func(testing.TB) locktest.Server { return &opened },
}

func TestMain(m *testing.M) { locktest.Main(m, backend) }

func TestLocker(t *testing.T) { locktest.Run(t, backend) }

// opened is the suite's Server. It reads the queues of all Lockers of this process.
var opened lockers

type lockers struct {
	mu  sync.Mutex
	all []*Locker
}

func (s *lockers) add(l *Locker) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, l)
}

func (s *lockers) Address() string { return "" }

func (s *lockers) Entries(_ testing.TB, name string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var places []string
	for _, l := range s.all {
		l.mu.Lock()
		if q := l.queues[name]; q != nil {
			for range q.Len() {
				places = append(places, name)
			}
		}
		l.mu.Unlock()
	}
	return places
}

// The suite does not call these, because the back-end has no TTL.

func (s *lockers) Remove(tb testing.TB, _ string) { tb.Fatal("no server") }
func (s *lockers) Revoke(tb testing.TB, _ string) { tb.Fatal("no server") }
func (s *lockers) Pause(tb testing.TB)            { tb.Fatal("no server") }
func (s *lockers) Resume(tb testing.TB)           { tb.Fatal("no server") }
func (s *lockers) Kill(tb testing.TB)             { tb.Fatal("no server") }

func TestFreeNamesUseNoMemory(t *testing.T) {
	l := New()
	held, err := l.Lock(context.Background(), "a")
	if err != nil {
		t.Fatal(err)
	}
	if err := held.Unlock(context.Background()); err != nil {
		t.Fatal(err)
	}
	if len(l.queues) != 0 {
		t.Errorf("%d queues are left", len(l.queues))
	}
}
