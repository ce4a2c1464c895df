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

// later is when a lock whose holder has fallen silent must be free.
func (s *suite) later() time.Duration { return s.TTL + lateness }

// served reports whether there is a server that things can happen to.
func (s *suite) served(t *testing.T) bool {
	if s.TTL == 0 {
		s.unpromised(t, "it has no server")
	}
	return s.TTL > 0
}

// revoked: an operator ends the holder's lease.
func (s *suite) revoked(t *testing.T) {
	const name = "revoked"
	if !s.served(t) {
		return
	}
	here := s.open(t)
	there := s.openLong(t)
	held := MustLock(t, here, name)
	waiter := lockAside(t, there, name, patience)
	places := s.queued(t, name, 2)
	asked := time.Now()
	s.server.Revoke(t, places[0])
	next := waiter.Granted(t)
	place := s.placeOf(t, name, places)
	t.Logf("the next holder is in after %s", time.Since(asked).Round(time.Millisecond))
	s.expectLoss(t, held, asked)
	s.expectStands(t, name, place, next)
	MustUnlock(t, next)
	MustUnlock(t, MustLock(t, here, name)) // the loss is not for ever
}

// expectLoss: held is lost, says so in time, and cannot be given back.
func (s *suite) expectLoss(t *testing.T, held lock.Held, since time.Time) {
	t.Helper()
	if !s.Capabilities.LossNotice {
		s.unpromised(t, "a loss is noticed")
		return
	}
	await(t, held.Lost(), s.later(), "the loss to be noticed")
	t.Logf("the loss is noticed after %s", time.Since(since).Round(time.Millisecond))
	if err := unlock(held); !errors.Is(err, lock.ErrLost) {
		t.Errorf("Unlock after the loss: %v, want %v", err, lock.ErrLost)
	}
}

// expectStands: the later holder is not touched by the earlier one's end.
func (s *suite) expectStands(t *testing.T, name, place string, holder lock.Held) {
	t.Helper()
	if places := s.server.Places(t, name); len(places) == 0 || places[0] != place {
		t.Errorf("places %q, want %s first", places, place)
	}
	if happened(holder.Lost()) {
		t.Error("the later holder has lost its grant")
	}
}

// removedHolder: an operator removes the holder's place, and leaves its lease.
func (s *suite) removedHolder(t *testing.T) {
	const name = "removed-holder"
	if !s.served(t) {
		return
	}
	here := s.open(t)
	held := MustLock(t, here, name)
	place := s.places(t, name, 1)[0]
	if !s.Capabilities.Removal {
		s.server.Remove(t, place)
		if err := unlock(held); err != nil {
			t.Errorf("the removal is noticed, though that is not declared: %v", err)
		}
		return
	}
	// The next one is of the same process and lease: nothing but its own place
	// tells it from the first. Behind a gate it would have no place.
	locker := here
	if s.Capabilities.Queue && !s.Capabilities.Fair {
		locker = s.another(t, here)
	}
	waiter := lockAside(t, locker, name, patience)
	places := s.queued(t, name, 2)
	asked := time.Now()
	s.server.Remove(t, place)
	next := waiter.Granted(t)
	place = s.placeOf(t, name, places)
	s.expectLoss(t, held, asked)
	s.expectStands(t, name, place, next)
	MustUnlock(t, next)
}

// removedWaiter: an operator removes a waiter's place.
func (s *suite) removedWaiter(t *testing.T) {
	const name = "removed-waiter"
	if !s.served(t) {
		return
	}
	if !s.Capabilities.Queue {
		s.unpromised(t, "a waiter has a place") // see queued
		return
	}
	holder := MustLock(t, s.openLong(t), name)
	waiter := lockAside(t, s.open(t), name, patience)
	removed := s.places(t, name, 2)[1]
	s.server.Remove(t, removed)
	if !s.Capabilities.Removal {
		MustUnlock(t, holder)
		await(t, waiter.done, patience, "Lock to return")
		if waiter.err == nil {
			t.Error("a waiter without a place was granted the lock")
		}
		return
	}
	eventually(t, func() bool {
		places := s.server.Places(t, name)
		return len(places) == 2 && places[1] != removed
	}, "the waiter to queue again")
	if happened(waiter.done) {
		t.Fatal("a waiter is through while another holds")
	}
	MustUnlock(t, holder)
	MustUnlock(t, waiter.Granted(t))
}

// killedProcess: a holder's process dies with a waiter's.
func (s *suite) killedProcess(t *testing.T) {
	const name = "killed"
	if !s.Capabilities.Processes {
		s.unpromised(t, "it excludes other processes")
		return
	}
	process := s.spawn(t)
	MustLock(t, process, name)
	lockAside(t, process, name, patience)
	if s.Capabilities.Fair {
		s.queued(t, name, 2) // both are in the queue
	}
	waiter := lockAside(t, s.open(t), name, patience)
	killed := time.Now()
	process.signal(syscall.SIGKILL)
	next := waiter.Granted(t)
	if took := waiter.at.Sub(killed); took > s.later() {
		t.Errorf("the next holder is in after %s, at a TTL of %s", took, s.TTL)
	}
	MustUnlock(t, next)
}

// pausedProcess: a holder's process stops for longer than its TTL, and goes on.
func (s *suite) pausedProcess(t *testing.T) {
	const name = "paused"
	if !s.Capabilities.Processes {
		s.unpromised(t, "it excludes other processes")
		return
	}
	here, process := s.open(t), s.spawn(t)
	held := MustLock(t, process, name)
	waiter := lockAside(t, here, name, patience)
	places := s.queued(t, name, 2)
	process.signal(syscall.SIGSTOP)
	stopped := time.Now()
	next := waiter.Granted(t)
	took := waiter.at.Sub(stopped)
	t.Logf("the next holder is in %s after the stop", took.Round(time.Millisecond))
	if took > s.later() {
		t.Errorf("the next holder is in after %s, at a TTL of %s", took, s.TTL)
	}
	if s.Capabilities.Token && next.Token() <= held.Token() {
		t.Errorf("token %d after %d", next.Token(), held.Token())
	}
	place := s.placeOf(t, name, places)
	process.signal(syscall.SIGCONT)
	s.expectLoss(t, held, time.Now())
	s.expectStands(t, name, place, next)
	MustUnlock(t, next)
	MustUnlock(t, MustLock(t, process, name)) // it is as good as new
}

// pausedServer: the server stops answering, and goes on.
func (s *suite) pausedServer(t *testing.T) {
	const name, unused = "paused-server", "paused-server-unused"
	here := s.open(t)
	there := s.another(t, here)
	holder := MustLock(t, here, name)
	MustUnlock(t, MustLock(t, there, "any")) // it has a lease, and its name is known
	waiter := lockAside(t, there, name, patience)
	s.queued(t, name, 2)
	if s.TTL > 0 {
		s.server.Pause(t)
		defer s.server.Resume(t)
	}
	attempts := s.deadlines(t, map[string]lock.Locker{name: there, unused: here, name + "-new": s.another(t, here)})
	if !s.Capabilities.Deadline {
		// The waiter's clean-up waits for the server, whatever its context says.
		waiter.cancel()
		select {
		case <-waiter.done:
			t.Error("Lock returned at its deadline, though that is not declared")
		case <-time.After(s.TTL / 2):
		}
	}
	if s.TTL > 0 {
		s.server.Resume(t)
	}
	waiter.cancel()
	await(t, waiter.done, patience, "Lock to return")
	for _, a := range attempts {
		a.failed(t, context.DeadlineExceeded)
	}
	if s.Capabilities.Deadline {
		s.places(t, unused, 0) // also of a request that was applied after the pause
		s.places(t, name+"-new", 0)
	} else {
		s.unpromised(t, "a request that was applied after its deadline is undone")
	}
	_ = unlock(holder) // it may be lost by now
	s.places(t, name, 0)
	MustUnlock(t, MustLock(t, there, name))
}

// deadlines begins a Lock of each name, and checks that it keeps its deadline.
func (s *suite) deadlines(t *testing.T, lockers map[string]lock.Locker) []*Attempt {
	t.Helper()
	const timeout = 500 * time.Millisecond
	var all []*Attempt
	begin := func() (attempts []*Attempt) {
		for name, locker := range lockers {
			if s.TTL == 0 && name != "paused-server" && name != "dead-server" {
				continue // nobody holds it, and no server is in the way
			}
			attempts = append(attempts, lockAside(t, locker, name, timeout))
		}
		all = append(all, attempts...)
		return attempts
	}
	if !s.Capabilities.Deadline {
		return begin()
	}
	punctual(t, "the return of a Lock with a deadline", func() (late time.Duration) {
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

// deadServer: the server dies, under one that waits and before others ask.
func (s *suite) deadServer(t *testing.T) {
	const name = "dead-server"
	if !s.Capabilities.Deadline {
		s.unpromised(t, "Lock returns at its deadline with a dead server")
		return
	}
	here := s.open(t)
	there := s.another(t, here)
	MustLock(t, here, name)
	MustUnlock(t, MustLock(t, there, "any"))
	waiter := lockAside(t, there, name, patience)
	s.queued(t, name, 2)
	var holders []lock.Locker
	var grants []lock.Held
	for i := range tries {
		holders = append(holders, s.open(t))
		grants = append(grants, MustLock(t, holders[i], fmt.Sprint("dead-server-held-", i)))
	}
	if s.TTL > 0 {
		s.server.Kill(t)
	}
	s.deadlines(t, map[string]lock.Locker{name: there, "dead-server-unused": here, "dead-server-new": s.another(t, here)})
	punctual(t, "the return of a Lock that was cancelled", func() time.Duration {
		if happened(waiter.done) { // again
			waiter = lockAside(t, there, name, patience)
			time.Sleep(arrival)
		}
		return waiter.cancelled(t)
	})
	// Closing is bounded as well, and says that it could not do its work.
	punctual(t, "the end of Close", func() time.Duration {
		holder, lost := holders[0], happened(grants[0].Lost())
		holders, grants = holders[1:], grants[1:]
		const timeout = 200 * time.Millisecond
		asked := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), timeout)
		defer cancel()
		err := holder.Close(ctx)
		late := time.Since(asked) - timeout
		if err == nil && s.TTL > 0 && !lost { // or it was lost a moment ago
			t.Log("Close says that a dead server has freed everything")
			late = patience
		}
		return late
	})
}

// lostServer: the holder cannot renew, and must give up before others may enter.
func (s *suite) lostServer(t *testing.T) {
	const name = "lost-server"
	if !s.served(t) {
		return
	}
	if !s.Capabilities.LossNotice {
		s.unpromised(t, "a loss is noticed")
		return
	}
	here := s.open(t)
	for range tries { // the margin before the TTL's end is less than a machine may stop for
		took := s.loseServer(t, here, name)
		MustUnlock(t, MustLock(t, here, name))
		s.places(t, name, 0)
		// The server may count from any time before it stopped.
		if !s.Capabilities.Deadline || took <= s.TTL {
			return
		}
	}
	t.Errorf("the loss is noticed later than a TTL of %s, each of %d times: another may be in", s.TTL, tries)
}

// loseServer pauses the server under a grant until its holder knows of the loss,
// and returns how long that has taken.
func (s *suite) loseServer(t *testing.T, here lock.Locker, name string) (took time.Duration) {
	t.Helper()
	held := MustLock(t, here, name)
	s.server.Pause(t)
	defer s.server.Resume(t)
	paused := time.Now()
	await(t, held.Lost(), s.later(), "the loss to be noticed")
	took = time.Since(paused)
	t.Logf("the loss is noticed %s after the server's end, at a TTL of %s", took.Round(time.Millisecond), s.TTL)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := held.Unlock(ctx); err == nil {
		t.Error("Unlock has given back what was lost")
	}
	return took
}
