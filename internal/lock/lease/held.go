package lease

import (
	"context"
	"errors"
	"fmt"
	"time"

	"flashsale/internal/lock"
)

// state of a grant.
//
//	granted --> gone     by Unlock, or Close
//	   |
//	   +-----> expired --> gone
//	    lost     Unlock: gives back what the server may still have
type state int

const (
	granted state = iota
	expired
	gone
)

// held is one grant.
type held struct {
	locker      *Locker
	gate        lock.Held
	name, owner string
	token       lock.Token
	kept        *Kept

	state state // guarded by the Locker
}

func (h *held) Token() lock.Token     { return h.token }
func (h *held) Lost() <-chan struct{} { return h.kept.Lost() }

// Wanted is nil: a server that is asked again and again does not know who waits.
func (h *held) Wanted() <-chan struct{} { return nil }

// lose opens the gate when the grant has ended by itself: who waits behind it,
// here, must not depend on what its holder does next. The name is not released
// on the server before Unlock: the margin is the holder's, to stop in. It says
// whether there was a grant to lose.
func (h *held) lose() bool {
	l := h.locker
	l.mu.Lock()
	lost := h.state == granted
	if lost {
		h.state = expired
		delete(l.held, h)
		if !l.closed {
			l.wg.Go(func() { h.kept.Stop() }) // its last renewal may be under way
		}
	}
	l.mu.Unlock()
	if lost {
		_ = h.gate.Unlock(context.Background()) // fails only when closed
	}
	return lost
}

// Unlock releases the name on the server and then opens the gate. When the server
// does not answer, the outcome is unknown; the name is then released behind the
// caller, or ends with its lease.
func (h *held) Unlock(ctx context.Context) error {
	was, ok := h.leave()
	if !ok {
		return lock.ErrLost
	}
	l := h.locker
	defer l.wg.Done()
	released := make(chan error, 1)
	asked := time.Now()
	l.wg.Go(func() {
		h.kept.Stop()
		err := l.release(h.name, h.owner)
		released <- err
		if was == granted && err != nil && !errors.Is(err, lock.ErrLost) {
			l.takeBack(h.name, h.owner, asked, false)
		}
	})
	if was == expired {
		return lock.ErrLost
	}
	var err error
	select {
	case err = <-released:
	case <-ctx.Done():
		err = ctx.Err()
	}
	_ = h.gate.Unlock(ctx) // fails only when closed
	if err != nil {
		return fmt.Errorf("unlock %s: %w", h.name, err)
	}
	return nil
}

// leave takes a grant out of use, for its one Unlock. It counts as a call that
// Close waits for.
func (h *held) leave() (was state, ok bool) {
	if !h.kept.Alive() && h.lose() { // nobody had noticed yet
		h.kept.Lose()
	}
	l := h.locker
	l.mu.Lock()
	defer l.mu.Unlock()
	was = h.state
	if was == gone || l.closed {
		return was, false
	}
	h.state = gone
	delete(l.held, h)
	l.wg.Add(1)
	return was, true
}
