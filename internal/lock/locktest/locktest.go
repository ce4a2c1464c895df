// Package locktest is the conformance suite of package lock: what every Locker
// guarantees, what it does beyond that where it declares so, and what it does
// not where it declares nothing. It runs on real servers and real processes.
//
//	var backend = locktest.Backend{Name: "etcd", Open: open, Start: start, ...}
//
//	func TestMain(m *testing.M) { locktest.Main(m, backend) }
//
//	func TestLocker(t *testing.T) { locktest.Run(t, backend) }
package locktest

import (
	"context"
	"testing"
	"time"

	"flashsale/internal/lock"
)

// Backend is one kind of Locker.
type Backend struct {
	// Name tells child processes which back-end they are to open.
	Name         string
	Capabilities lock.Capabilities
	// TTL is how long a grant survives its process, where there is a server.
	TTL time.Duration
	// Open opens a Locker with a client of its own, on a server's address.
	// The function that it returns closes the client.
	Open func(address string) (lock.Locker, func() error, error)
	// OpenLong is Open with a lease longer than a restart of the server takes, and
	// than any test waits. It is nil where there is no server.
	OpenLong func(address string) (lock.Locker, func() error, error)
	// Start starts a private server that ends with the test.
	Start func(testing.TB) Server
}

// Server is a back-end's server, and what an operator can do to it.
type Server interface {
	// Address is what Open takes.
	Address() string
	// Places lists what stands on the server for a name, the holder first.
	Places(tb testing.TB, name string) []string
	// Remove removes one place, and nothing else.
	Remove(tb testing.TB, place string)
	// Revoke ends the lease under which a place stands, with all that it holds.
	Revoke(tb testing.TB, place string)
	// Pause stops the server's processes, and Resume lets them go on.
	Pause(tb testing.TB)
	Resume(tb testing.TB)
	// Kill ends the server as a crash would.
	Kill(tb testing.TB)
}

// Restarter is a Server that can be killed and started again on what it has kept.
// Each real one is.
type Restarter interface {
	// Restart returns when the server is ready.
	Restart(tb testing.TB)
}

const (
	// patience is how long the suite waits for what must happen "soon". A loaded
	// machine under the race detector is slow; a broken lock never gets there.
	patience = 20 * time.Second
	// lateness is what a grant or a notice may come after the time that it is
	// promised at: a server looks for expired leases twice a second and revokes
	// them through its log, and a busy machine may take seconds for that.
	lateness = 8 * time.Second
	// punctuality is what a return at a deadline may be late by. Nothing but the
	// machine's own scheduling is in it.
	punctuality = 750 * time.Millisecond
	// tries of what the machine's scheduling can spoil: a fault of the lock spoils
	// each.
	tries = 3
	// poll is how often the suite looks into a server.
	poll = 5 * time.Millisecond
	// arrival is what a waiter has to ask a server that does not show who waits.
	// On a busy machine it may come later: a test then proves less, and none
	// fails.
	arrival = 50 * time.Millisecond
)

// Run runs the suite.
func Run(t *testing.T, b Backend) {
	shared := &suite{Backend: b, server: b.Start(t)}
	for _, test := range []struct {
		name string
		run  func(*suite, *testing.T)
		// ends: the end of a lease is in it. In all others leases are so long that
		// they outlive a process that the machine has stopped for a while.
		ends bool
		own  bool // needs a server of its own, as it damages it
		long bool // waits for most of its time: runs beside others, at the end
	}{
		{name: "BadNamesAreRefused", run: (*suite).badNames},
		{name: "TryLockNeverWaits", run: (*suite).tryLock},
		{name: "OneHolderOverProcesses", run: (*suite).exclusion},
		{name: "GrantsInOrderOfArrival", run: (*suite).order},
		{name: "TokensRise", run: (*suite).tokens, ends: true},
		{name: "HolderHearsOfWaiters", run: (*suite).wanted},
		{name: "CancelledWaitLeavesNothingBehind", run: (*suite).cancelled},
		{name: "UnlockIsForTheHolder", run: (*suite).unlock},
		{name: "OwnerEntersAgain", run: (*suite).reentrance},
		{name: "CloseFreesEverything", run: (*suite).closing},
		{name: "RevokedGrantIsLost", run: (*suite).revoked, ends: true},
		{name: "RemovedHolderIsLost", run: (*suite).removedHolder, ends: true},
		{name: "RemovedWaiterQueuesAgain", run: (*suite).removedWaiter, ends: true},
		{name: "KilledProcessFreesItsLocks", run: (*suite).killedProcess, ends: true},
		{name: "PausedProcessLosesItsLock", run: (*suite).pausedProcess, ends: true},
		{name: "DeadlineIsKeptWithAPausedServer", run: (*suite).pausedServer, ends: true, own: true},
		{name: "DeadlineIsKeptWithADeadServer", run: (*suite).deadServer, ends: true, own: true},
		{name: "GrantIsLostWithTheServer", run: (*suite).lostServer, ends: true, own: true},
		{name: "GrantOutlivesALease", run: (*suite).outlives, ends: true, long: true},
		{name: "GrantOverARestart", run: (*suite).restarted, own: true, long: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.long {
				t.Parallel()
			}
			s := shared
			if test.own && b.TTL > 0 {
				s = &suite{Backend: b, server: b.Start(t)}
			}
			if !test.ends && b.OpenLong != nil {
				s = s.withLongLeases()
			}
			test.run(s, t)
		})
	}
}

// suite is a back-end on one server.
type suite struct {
	Backend
	server Server
	long   bool // Open is OpenLong
}

// withLongLeases is the suite with leases that do not run out in a test.
func (s *suite) withLongLeases() *suite {
	long := *s
	long.Open, long.long = s.OpenLong, true
	return &long
}

// open opens a Locker that is closed with the test.
func (s *suite) open(t *testing.T) lock.Locker {
	t.Helper()
	locker, closeClient, err := s.Open(s.server.Address())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// The server may be gone. A second is enough for one that is not.
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = locker.Close(ctx)
		if err := closeClient(); err != nil {
			t.Log("close the client:", err)
		}
	})
	return locker
}

// openLong is open with a lease that does not run out, for those beside whom
// another's ends.
func (s *suite) openLong(t *testing.T) lock.Locker {
	t.Helper()
	if s.OpenLong == nil {
		return s.open(t)
	}
	return s.withLongLeases().open(t)
}

// another opens a Locker that stands for another process: a second one, where
// the lock is between processes, and else the same.
func (s *suite) another(t *testing.T, first lock.Locker) lock.Locker {
	t.Helper()
	if !s.Capabilities.Processes {
		return first
	}
	return s.open(t)
}

// unpromised notes a property that is not declared and not checked to be absent.
func (s *suite) unpromised(t *testing.T, what string) {
	t.Logf("%s does not promise this: %s", s.Name, what)
}

// places waits until n places stand for name.
func (s *suite) places(t *testing.T, name string, n int) []string {
	t.Helper()
	var places []string
	eventually(t, func() bool {
		places = s.server.Places(t, name)
		return len(places) == n
	}, "%d places for %s", n, name)
	return places
}

// queued waits until so many stand in line for name, the holder included. Where
// those who wait have no places, it gives them time to ask, and checks that.
func (s *suite) queued(t *testing.T, name string, n int) []string {
	t.Helper()
	if s.Capabilities.Queue {
		return s.places(t, name, n)
	}
	time.Sleep(arrival)
	return s.places(t, name, min(n, 1))
}

// placeOf is the place of a waiter who stood second in line, after its grant. It
// is the only one, and not the first holder's.
func (s *suite) placeOf(t *testing.T, name string, before []string) string {
	t.Helper()
	place := s.places(t, name, 1)[0]
	if s.Capabilities.Queue && place != before[1] || place == before[0] {
		t.Errorf("the place is %s, after %q", place, before)
	}
	return place
}

// punctual measures what passes between a return's time and the return, until it
// is as little as it should be.
func punctual(t *testing.T, what string, late func() time.Duration) {
	t.Helper()
	for range tries {
		took := late()
		if took <= punctuality {
			return
		}
		t.Logf("%s was late by %s", what, took.Round(time.Millisecond))
	}
	t.Errorf("%s was late by more than %s each of %d times", what, punctuality, tries)
}

// await waits for an event.
func await(tb testing.TB, event <-chan struct{}, within time.Duration, what string) {
	tb.Helper()
	timer := time.NewTimer(within)
	defer timer.Stop()
	select {
	case <-event:
	case <-timer.C:
		tb.Fatalf("waited %s in vain for %s", within, what)
	}
}

// happened reports whether an event has happened.
func happened(event <-chan struct{}) bool {
	select {
	case <-event:
		return true
	default:
		return false
	}
}

// eventually waits for a state of the server, which sends no event.
func eventually(t *testing.T, reached func() bool, format string, args ...any) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !reached() {
		if time.Now().After(deadline) {
			t.Fatalf("waited %s in vain for "+format, append([]any{patience}, args...)...)
		}
		time.Sleep(poll)
	}
}
