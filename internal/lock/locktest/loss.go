package locktest

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"testing"
	"time"

	"flashsale/internal/lock"
)

// later is when a lock must be free whose holder no longer renews it.
func (s *suite) later() time.Duration { return s.TTL + lateness }

// revoked ends the holder's lease on the server.
func (s *suite) revoked(t *testing.T) {
	const name = "revoked"
	here, there := s.open(t), s.openLong(t)
	held := MustLock(t, here, name)
	waiter := LockAside(t, there, name)
	entries := s.queued(t, name, 2)
	asked := time.Now()
	s.server.Revoke(t, entries[0])
	next := waiter.Granted(t)
	entry := s.entryOf(t, name, entries)
	t.Logf("the waiter was granted the lock after %s", time.Since(asked).Round(time.Millisecond))
	s.expectLoss(t, held, asked)
	s.expectHolder(t, name, entry, next)
	MustUnlock(t, next)
	MustWork(t, here, name) // the Locker gets a new lease
}

// expectLoss waits until held is lost. Unlock must then fail.
func (s *suite) expectLoss(t *testing.T, held lock.Held, since time.Time) {
	t.Helper()
	if !s.Capabilities.LossNotice {
		return
	}
	await(t, held.Lost(), s.later(), "the loss")
	t.Logf("the loss was noticed after %s", time.Since(since).Round(time.Millisecond))
	if err := unlock(held); !errors.Is(err, lock.ErrLost) {
		t.Errorf("Unlock after the loss: %v, want %v", err, lock.ErrLost)
	}
}

// expectHolder checks that the end of the earlier grant has not changed the later one.
func (s *suite) expectHolder(t *testing.T, name, entry string, holder lock.Held) {
	t.Helper()
	if entries := s.server.Entries(t, name); len(entries) == 0 || entries[0] != entry {
		t.Errorf("the entries are %q, want %s first", entries, entry)
	}
	if happened(holder.Lost()) {
		t.Error("the later holder has lost its grant")
	}
}

// removedHolder removes the holder's entry but not its lease.
func (s *suite) removedHolder(t *testing.T) {
	const name = "removed-holder"
	here := s.open(t)
	held := MustLock(t, here, name)
	entry := s.entries(t, name, 1)[0]
	if !s.Capabilities.Removal {
		s.server.Remove(t, entry)
		if err := unlock(held); err != nil {
			t.Errorf("Unlock noticed the removal, but Removal is not declared: %v", err)
		}
		return
	}
	// The waiter has the same process and lease, so that only its entry differs from the
	// holder's. In a Locker with a gate, a waiter of the same process has no entry.
	locker := here
	if s.Capabilities.Queue && !s.Capabilities.Fair {
		locker = s.another(t, here)
	}
	waiter := LockAside(t, locker, name)
	entries := s.queued(t, name, 2)
	asked := time.Now()
	s.server.Remove(t, entry)
	next := waiter.Granted(t)
	entry = s.entryOf(t, name, entries)
	s.expectLoss(t, held, asked)
	s.expectHolder(t, name, entry, next)
	UnlockAnyway(t, next)
}

// removedWaiter removes a waiter's entry.
func (s *suite) removedWaiter(t *testing.T) {
	const name = "removed-waiter"
	holder := MustLock(t, s.openLong(t), name)
	waiter := LockAside(t, s.open(t), name)
	removed := s.entries(t, name, 2)[1]
	s.server.Remove(t, removed)
	if !s.Capabilities.Removal {
		MustUnlock(t, holder)
		await(t, waiter.done, patience, "Lock to return")
		if waiter.err == nil {
			t.Error("a waiter without an entry was granted the lock")
		}
		return
	}
	eventually(t, "the waiter to queue again", func() bool {
		entries := s.server.Entries(t, name)
		return len(entries) == 2 && entries[1] != removed
	})
	if happened(waiter.done) {
		t.Fatal("Lock returned while another holds the lock")
	}
	MustUnlock(t, holder)
	UnlockAnyway(t, waiter.Granted(t))
}

// killedProcess kills a process that holds and waits for the lock.
func (s *suite) killedProcess(t *testing.T) {
	const name = "killed"
	process := s.spawn(t)
	MustLock(t, process, name)
	LockAside(t, process, name)
	if s.Capabilities.Fair {
		s.queued(t, name, 2) // both have an entry
	}
	waiter := LockAside(t, s.openLong(t), name)
	killed := time.Now()
	process.signal(syscall.SIGKILL)
	next := waiter.Granted(t)
	s.expectInTime(t, waiter.at.Sub(killed))
	MustUnlock(t, next)
}

func (s *suite) expectInTime(t *testing.T, took time.Duration) {
	t.Helper()
	t.Logf("the waiter was granted the lock after %s", took.Round(time.Millisecond))
	if took > s.later() {
		t.Errorf("the waiter was granted the lock after %s, with a TTL of %s", took, s.TTL)
	}
}

// pausedProcess pauses a holder's process for longer than its TTL.
func (s *suite) pausedProcess(t *testing.T) {
	const name = "paused"
	here, process := s.openLong(t), s.spawn(t)
	held := MustLock(t, process, name)
	waiter := LockAside(t, here, name)
	entries := s.queued(t, name, 2)
	process.signal(syscall.SIGSTOP)
	stopped := time.Now()
	next := waiter.Granted(t)
	s.expectInTime(t, waiter.at.Sub(stopped))
	if s.Capabilities.Token && next.Token() <= held.Token() {
		t.Errorf("token %d after %d", next.Token(), held.Token())
	}
	entry := s.entryOf(t, name, entries)
	process.signal(syscall.SIGCONT)
	s.expectLoss(t, held, time.Now())
	s.expectHolder(t, name, entry, next)
	MustUnlock(t, next)
	MustWork(t, process, name) // the process can lock again
}

// pausedServer pauses the server while calls wait for it.
func (s *suite) pausedServer(t *testing.T) {
	const name, unused = "paused-server", "paused-server-unused"
	here := s.open(t)
	there := s.another(t, here)
	holder := MustLock(t, here, name)
	MustWork(t, there, "any") // it has a lease before the pause
	waiter := LockAside(t, there, name)
	s.queued(t, name, 2)
	if !s.Capabilities.Deadline {
		time.Sleep(s.TTL / 4) // until it has its answer, the waiter does not wait in the queue
	}
	s.server.Pause(t)
	defer s.server.Resume(t)
	attempts := s.deadlines(t, map[string]lock.Locker{name: there, unused: here, name + "-new": s.another(t, here)})
	if !s.Capabilities.Deadline {
		// Lock waits for the server to undo its request.
		waiter.cancel()
		select {
		case <-waiter.done:
			t.Error("Lock returned at its deadline, but Deadline is not declared")
		case <-time.After(s.TTL / 2):
		}
	}
	s.server.Resume(t)
	waiter.cancel()
	await(t, waiter.done, patience, "Lock to return")
	for _, a := range attempts {
		a.failed(t, context.DeadlineExceeded)
	}
	if s.Capabilities.Deadline {
		s.entries(t, unused, 0) // the server may have applied the request after the pause
		s.entries(t, name+"-new", 0)
	}
	_ = unlock(holder) // it may be lost
	s.entries(t, name, 0)
	MustWork(t, there, name)
}

// deadlines starts a Lock of each name, and checks that it returns at its deadline.
func (s *suite) deadlines(t *testing.T, lockers map[string]lock.Locker) []*Attempt {
	t.Helper()
	const timeout = 500 * time.Millisecond
	var all []*Attempt
	begin := func() (attempts []*Attempt) {
		for name, locker := range lockers {
			attempts = append(attempts, lockAside(t, locker, name, timeout))
		}
		all = append(all, attempts...)
		return attempts
	}
	if !s.Capabilities.Deadline {
		return begin()
	}
	punctual(t, "Lock at its deadline", func() (late time.Duration) {
		for _, a := range begin() {
			a.failed(t, context.DeadlineExceeded)
			took := a.at.Sub(a.asked)
			if took < timeout {
				t.Errorf("Lock returned after %s with a deadline of %s", took, timeout)
			}
			late = max(late, took-timeout)
		}
		return late
	})
	return all
}

// deadServer kills the server before and during calls.
func (s *suite) deadServer(t *testing.T) {
	const name = "dead-server"
	here := s.open(t)
	there := s.another(t, here)
	MustLock(t, here, name)
	MustWork(t, there, "any")
	waiter := LockAside(t, there, name)
	s.queued(t, name, 2)
	var holders []lock.Locker
	var grants []lock.Held
	for i := range tries {
		holders = append(holders, s.open(t))
		grants = append(grants, MustLock(t, holders[i], fmt.Sprint("dead-server-held-", i)))
	}
	s.server.Kill(t)
	s.deadlines(t, map[string]lock.Locker{name: there, "dead-server-unused": here, "dead-server-new": s.another(t, here)})
	punctual(t, "a cancelled Lock", func() time.Duration {
		if happened(waiter.done) { // a repetition
			waiter = LockAside(t, there, name)
			time.Sleep(arrival)
		}
		return waiter.cancelled(t)
	})
	punctual(t, "Close", func() time.Duration {
		holder, lost := holders[0], happened(grants[0].Lost())
		holders, grants = holders[1:], grants[1:]
		const timeout = 200 * time.Millisecond
		asked := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), timeout)
		defer cancel()
		err := holder.Close(ctx)
		late := time.Since(asked) - timeout
		if err == nil && !lost { // the grant may just have been lost: try again
			t.Log("Close returned nil although the server is dead")
			late = patience
		}
		return late
	})
}

// lostServer pauses the server under a grant. The holder must notice before others can
// get the lock.
func (s *suite) lostServer(t *testing.T) {
	const name = "lost-server"
	here := s.open(t)
	for range tries { // the machine may pause for longer than the margin before the TTL
		took := s.loseServer(t, here, name)
		MustWork(t, here, name)
		s.entries(t, name, 0)
		// The server may count the lease from any moment before its pause.
		if !s.Capabilities.Deadline || took <= s.TTL {
			return
		}
	}
	t.Errorf("the loss was noticed after the TTL of %s, each of %d times", s.TTL, tries)
}

// loseServer pauses the server under a grant, and returns the time until the loss was
// noticed.
func (s *suite) loseServer(t *testing.T, here lock.Locker, name string) (took time.Duration) {
	t.Helper()
	held := MustLock(t, here, name)
	s.server.Pause(t)
	defer s.server.Resume(t)
	paused := time.Now()
	await(t, held.Lost(), s.later(), "the loss")
	took = time.Since(paused)
	t.Logf("the loss was noticed %s after the pause, with a TTL of %s", took.Round(time.Millisecond), s.TTL)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := held.Unlock(ctx); err == nil {
		t.Error("Unlock of a lost grant succeeded")
	}
	return took
}
