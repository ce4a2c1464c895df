package lease

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"

	"flashsale/internal/lock"
)

// state of a grant.
//
//	granted --> gone     Unlock or Close
//	   |
//	   +-----> expired --> gone
//	    lost     Unlock releases what the server may still have
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
	lease       *Lease

	state state // guarded by the Locker
}

func (h *held) Token() lock.Token          { return h.token }
func (h *held) Lost() <-chan struct{}      { return h.lease.Lost() }
func (h *held) Contended() <-chan struct{} { return nil } // the server does not know the waiters

// lose opens the gate when the grant ends without Unlock, so that the waiters of
// this process do not depend on the holder. It does not release the name on the
// server: the rest of the lease is the holder's time to stop. It reports whether
// there was a grant to lose.
func (h *held) lose() bool {
	l := h.locker
	l.mu.Lock()
	lost := h.state == granted
	if lost {
		h.state = expired
		delete(l.held, h)
		if !l.closed {
			l.wg.Go(func() { h.lease.Stop() }) // waits for a renewal in progress
		}
	}
	l.mu.Unlock()
	if lost {
		_ = h.gate.Unlock(context.Background()) // fails only when closed
	}
	return lost
}

// Unlock releases the name on the server and then opens the gate. If the server
// does not answer, the outcome is unknown. The name is then released in the
// background, or ends with its lease.
func (h *held) Unlock(ctx context.Context) error {
	was, ok := h.markGone()
	if !ok {
		return lock.ErrLost
	}
	l := h.locker
	defer l.wg.Done()
	released := make(chan error, 1)
	asked := time.Now()
	l.wg.Go(func() {
		h.lease.Stop()
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

// markGone marks the grant as gone, so that only one Unlock releases it. On success,
// Close waits for the caller.
func (h *held) markGone() (was state, ok bool) {
	if !h.lease.Alive() && h.lose() { // the expiry timer is late
		h.lease.Lose()
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

// newOwner returns a unique name for one request of a grant: who asks, and a UUID
// of version 7, which contains the time.
func newOwner(who string) string { return who + "/" + uuid.Must(uuid.NewV7()).String() }

// ParseOwner reads the Holder, Replica and Since of a grant from the name of its
// owner on the server. A name in another format becomes the Holder unchanged.
func ParseOwner(owner string) lock.Info {
	info := lock.Info{Holder: owner}
	end := strings.LastIndexByte(owner, '/')
	if end < 0 {
		return info
	}
	id, err := uuid.Parse(owner[end+1:])
	if err != nil || id.Version() != 7 {
		return info
	}
	info.Holder = owner[:end]
	info.Since = time.Unix(id.Time().UnixTime())
	info.Replica = ReplicaOf(info.Holder)
	return info
}

// ReplicaOf returns the replica from replica@host:pid. Its name may contain an @; that
// of a host may not.
func ReplicaOf(holder string) string { return holder[:max(0, strings.LastIndexByte(holder, '@'))] }
