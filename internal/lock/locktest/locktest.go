// Package locktest is the conformance suite of package lock. It checks what every Locker
// guarantees and what its Capabilities declare. Where it can, it also checks that the other
// capabilities are absent. It uses real servers and real processes.
//
//	var backend = locktest.Backend{Name: "etcd", Open: open, Start: start, ...}
//
//	func TestMain(m *testing.M) { locktest.Main(m, backend) }
//
//	func TestLocker(t *testing.T) { locktest.Run(t, backend) }
package locktest

import (
	"fmt"
	"testing"
	"time"

	"flashsale/internal/lock"
)

// Backend is one kind of Locker.
type Backend struct {
	// Name selects the back-end in child processes.
	Name         string
	Capabilities lock.Capabilities
	// TTL is how long a grant outlives its process. It is 0 without a server. LongTTL is
	// longer than any test and than a restart of the server.
	TTL, LongTTL time.Duration
	// Open opens a Locker with its own client, which the returned function closes.
	Open func(address string, ttl time.Duration) (lock.Locker, func() error, error)
	// Start starts a private server that ends with the test.
	Start func(testing.TB) Server
}

// OpenAt opens a Locker. The end of the test closes it.
func (b *Backend) OpenAt(tb testing.TB, address string, ttl time.Duration) lock.Locker {
	tb.Helper()
	locker, closeClient, err := b.Open(address, ttl)
	return Opened(tb, locker, err, closeClient)
}

// Server is a back-end's server with the actions of an administrator.
type Server interface {
	// Address is the argument of Open.
	Address() string
	// Entries returns the entries for a name on the server, the holder's first.
	Entries(tb testing.TB, name string) []string
	// Remove removes one entry and nothing else.
	Remove(tb testing.TB, entry string)
	// Revoke ends the lease of an entry, with all that the lease holds.
	Revoke(tb testing.TB, entry string)
	// Pause pauses the server's processes. Resume continues them.
	Pause(tb testing.TB)
	Resume(tb testing.TB)
	// Kill ends the server as a crash does.
	Kill(tb testing.TB)
}

// Restarter is a Server that can be killed and restarted without losing its data.
// Every real server must implement it.
type Restarter interface {
	// Restart returns when the server is ready.
	Restart(tb testing.TB)
}

const (
	// patience bounds the wait for an event that must happen. It is long because a busy
	// machine under the race detector is slow.
	patience = 20 * time.Second
	// lateness is how late a grant or a loss may come after the end of a lease. etcd looks
	// for expired leases twice a second and revokes them through its log, which takes
	// seconds on a busy machine.
	lateness = 8 * time.Second
	// punctuality is how late a call may return after its deadline. It only allows for the
	// machine's scheduling.
	punctuality = 750 * time.Millisecond
	// tries is how often a test of timing is repeated. Scheduling may fail some
	// repetitions; a defect of the lock fails all.
	tries = 3
	// poll is how often the suite reads the state of a server.
	poll = 5 * time.Millisecond
	// arrival is the time for a waiter to reach a server that does not show waiters. If it
	// is too short, a test checks less, but does not fail.
	arrival = 50 * time.Millisecond
)

// Run runs the suite.
func Run(t *testing.T, b Backend) {
	server := b.Start(t)
	c, served := b.Capabilities, b.TTL > 0
	lacks := func(what string, has bool) string {
		if has {
			return ""
		}
		return what
	}
	for _, test := range []struct {
		name string
		run  func(*suite, *testing.T)
		ends bool // depends on the end of a lease; the others use LongTTL
		own  bool // needs its own server, because it damages it
		long bool // mostly waits, so it runs in parallel at the end
		// lacks is what the lock would need for this test. It is empty if the test runs.
		lacks string
	}{
		{name: "BadNamesAreRefused", run: (*suite).badNames},
		{name: "TryLockNeverWaits", run: (*suite).tryLock},
		{name: "OneHolderOverProcesses", run: (*suite).exclusion},
		{name: "GrantsInOrderOfArrival", run: (*suite).order, lacks: lacks("a queue; the first request after a release is granted", c.Fair || c.Queue)},
		{name: "TokensRise", run: (*suite).tokens, ends: true},
		{name: "HolderLearnsOfWaiters", run: (*suite).contended},
		{name: "CancelledWaitLeavesNothingBehind", run: (*suite).cancelled},
		{name: "UnlockEndsOnlyItsGrant", run: (*suite).unlock},
		{name: "OwnerMayLockAgain", run: (*suite).reentrance},
		{name: "CloseReleasesEverything", run: (*suite).closing},
		{name: "RevokedGrantIsLost", run: (*suite).revoked, ends: true, lacks: lacks("a server", served)},
		{name: "RemovedHolderIsLost", run: (*suite).removedHolder, ends: true, lacks: lacks("a server", served)},
		{name: "RemovedWaiterQueuesAgain", run: (*suite).removedWaiter, ends: true, lacks: lacks("waiters on a server", served && c.Queue)},
		{name: "KilledProcessFreesItsLocks", run: (*suite).killedProcess, ends: true, lacks: lacks("exclusion of other processes", c.Processes)},
		{name: "PausedProcessLosesItsLock", run: (*suite).pausedProcess, ends: true, lacks: lacks("exclusion of other processes", c.Processes)},
		{name: "DeadlineIsKeptWithAPausedServer", run: (*suite).pausedServer, ends: true, own: true, lacks: lacks("a server", served)},
		{name: "DeadlineIsKeptWithADeadServer", run: (*suite).deadServer, ends: true, own: true, lacks: lacks("a deadline with a dead server", served && c.Deadline)},
		{name: "GrantIsLostWithTheServer", run: (*suite).lostServer, ends: true, own: true, lacks: lacks("a notice of the loss of a server", served && c.LossNotice)},
		{name: "GrantOutlivesALease", run: (*suite).outlives, ends: true, long: true},
		{name: "GrantOverARestart", run: (*suite).restarted, own: true, long: true, lacks: lacks("a server", served)},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.lacks != "" {
				t.Logf("%s does not have %s", b.Name, test.lacks)
				return
			}
			if test.long {
				t.Parallel()
			}
			s := &suite{Backend: b, server: server, ttl: b.TTL}
			if test.own {
				s.server = b.Start(t)
			}
			if !test.ends {
				s.ttl = b.LongTTL
			}
			test.run(s, t)
		})
	}
}

// suite is a back-end with one server.
type suite struct {
	Backend
	server Server
	ttl    time.Duration // of the Lockers of open and spawn
}

// open opens a Locker. The end of the test closes it.
func (s *suite) open(t *testing.T) lock.Locker {
	t.Helper()
	return s.OpenAt(t, s.server.Address(), s.ttl)
}

// openLong is open with a lease that does not end in a test.
func (s *suite) openLong(t *testing.T) lock.Locker {
	t.Helper()
	return s.OpenAt(t, s.server.Address(), s.LongTTL)
}

// another opens a second Locker. A lock that does not exclude other processes has only the
// first one.
func (s *suite) another(t *testing.T, first lock.Locker) lock.Locker {
	t.Helper()
	if !s.Capabilities.Processes {
		return first
	}
	return s.open(t)
}

// entries waits until name has n entries on the server, and returns them.
func (s *suite) entries(t *testing.T, name string, n int) []string {
	t.Helper()
	var entries []string
	eventually(t, fmt.Sprintf("%d entries for %s", n, name), func() bool {
		entries = s.server.Entries(t, name)
		return len(entries) == n
	})
	return entries
}

// queued waits until the holder and n-1 waiters have entries. If waiters have none, it gives
// them time to send a request.
func (s *suite) queued(t *testing.T, name string, n int) []string {
	t.Helper()
	if s.Capabilities.Queue {
		return s.entries(t, name, n)
	}
	time.Sleep(arrival)
	return s.entries(t, name, min(n, 1))
}

// entryOf returns the only entry after the grant to the second of before. It must not be
// the first one's.
func (s *suite) entryOf(t *testing.T, name string, before []string) string {
	t.Helper()
	entry := s.entries(t, name, 1)[0]
	if s.Capabilities.Queue && entry != before[1] || entry == before[0] {
		t.Errorf("the entry is %s; before the grant, they were %q", entry, before)
	}
	return entry
}

// punctual repeats a call until it is not late.
func punctual(t *testing.T, what string, late func() time.Duration) {
	t.Helper()
	for range tries {
		took := late()
		if took <= punctuality {
			return
		}
		t.Logf("%s returned %s late", what, took.Round(time.Millisecond))
	}
	t.Errorf("%s returned more than %s late, each of %d times", what, punctuality, tries)
}

func await(tb testing.TB, event <-chan struct{}, within time.Duration, what string) {
	tb.Helper()
	select {
	case <-event:
	case <-time.After(within):
		tb.Fatalf("waited for %s, not reached within %s", what, within)
	}
}

// happened reports whether event is closed.
func happened(event <-chan struct{}) bool {
	select {
	case <-event:
		return true
	default:
		return false
	}
}

// eventually is sandboxtest.Eventually. This package must not import that one, because the
// tests of locks without a server use it.
func eventually(t *testing.T, what string, reached func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !reached(); time.Sleep(poll) {
		if time.Now().After(deadline) {
			t.Fatalf("waited for %s, not reached within %s", what, patience)
		}
	}
}
