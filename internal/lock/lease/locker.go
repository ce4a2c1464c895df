package lease

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/google/uuid"

	"flashsale/internal/lock"
	"flashsale/internal/lock/processlock"
)

// Store is a server that gives a name to one owner at a time, for the length of
// a lease. An owner is made anew for each try of a grant: nothing that arrives
// late can be taken for a later grant's. It is safe for concurrent use.
type Store interface {
	// Try takes name for owner if nobody has it, or its lease is over. It
	// returns lock.ErrHeld, wrapped with whoever has it where that is known.
	Try(ctx context.Context, name, owner string) (lock.Token, error)
	// Renew extends the lease. lock.ErrLost: owner has it no more.
	Renew(ctx context.Context, name, owner string) error
	// Release gives name back if owner has it, and else returns lock.ErrLost. It
	// never touches another's.
	Release(ctx context.Context, name, owner string) error
}

// Config is what a Locker is made of.
type Config struct {
	Store Store
	TTL   time.Duration
	// Owner begins the name of each owner, for people: the replica's, mostly.
	Owner string
	// Changed, where the server can tell, returns when name may have become
	// free, or at the end of ctx. Without it the server is asked every Poll.
	Changed func(ctx context.Context, name string) error
	// Poll is the shortest wait between two tries; the longest is twice that.
	// MinPoll is the least, and what zero means.
	Poll time.Duration
}

// MinPoll is how often a server may be asked whether a name is free, at most.
const MinPoll = 50 * time.Millisecond

// cleanUpTimeout bounds what is done for a grant after its caller has gone.
const cleanUpTimeout = time.Second

// Locker is a lock.Locker on a Store. It is not fair between processes: whoever
// tries first after a release has it. In a process it is.
type Locker struct {
	cfg  Config
	gate *processlock.Locker

	ctx   context.Context // ends with Close
	close context.CancelFunc
	mu    sync.Mutex
	held  map[*held]bool
	work  sync.WaitGroup // clean-ups that nobody waits for
}

// New makes a Locker. It does not talk to the server yet.
func New(cfg Config) (*Locker, error) {
	switch {
	case cfg.Store == nil:
		return nil, errors.New("lease: no store")
	case cfg.TTL < time.Second:
		return nil, fmt.Errorf("lease: TTL is %s, must be at least 1s", cfg.TTL)
	case cfg.Poll == 0:
		cfg.Poll = MinPoll
	case cfg.Poll < MinPoll:
		return nil, fmt.Errorf("lease: poll is %s, must be at least %s", cfg.Poll, MinPoll)
	}
	ctx, cancel := context.WithCancel(context.Background())
	return &Locker{cfg: cfg, gate: processlock.New(), ctx: ctx, close: cancel, held: map[*held]bool{}}, nil
}

// Lock waits for its turn in the process, and then for the server's grant.
func (l *Locker) Lock(ctx context.Context, name string) (lock.Held, error) {
	gate, err := l.gate.Lock(ctx, name)
	if err != nil {
		return nil, err
	}
	return l.enter(ctx, name, gate, true)
}

// TryLock asks once. lock.ErrHeld names the holder where the server knows it.
func (l *Locker) TryLock(ctx context.Context, name string) (lock.Held, error) {
	gate, err := l.gate.TryLock(ctx, name)
	if err != nil {
		return nil, err
	}
	return l.enter(ctx, name, gate, false)
}

// enter gets from the gate to a grant.
func (l *Locker) enter(ctx context.Context, name string, gate lock.Held, wait bool) (lock.Held, error) {
	until, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(l.ctx, cancel)()
	for {
		h, err := l.try(until, name, gate)
		if err == nil {
			return h, nil
		}
		if wait && errors.Is(err, lock.ErrHeld) {
			if err = l.pause(until, name); err == nil {
				continue
			}
		}
		_ = gate.Unlock(context.WithoutCancel(ctx)) // fails only when closed
		switch {
		case l.ctx.Err() != nil:
			err = lock.ErrClosed
		case ctx.Err() != nil && !errors.Is(err, lock.ErrHeld):
			err = ctx.Err()
		}
		return nil, fmt.Errorf("lock %s: %w", name, err)
	}
}

// try asks the server once, under an owner's name of its own.
func (l *Locker) try(ctx context.Context, name string, gate lock.Held) (*held, error) {
	owner := l.cfg.Owner + "/" + uuid.NewString()
	asked := time.Now()
	token, err := l.cfg.Store.Try(ctx, name, owner)
	if errors.Is(err, lock.ErrHeld) {
		return nil, err
	}
	if err != nil {
		// It may have been granted all the same, or be so in a moment.
		l.inBackground(func(ctx context.Context) { _ = l.cfg.Store.Release(ctx, name, owner) })
		return nil, err
	}
	h := &held{locker: l, gate: gate, name: name, owner: owner, token: token}
	h.kept = Keep(l.cfg.TTL, asked, func(ctx context.Context) error { return l.cfg.Store.Renew(ctx, name, owner) })
	l.mu.Lock()
	closed := l.ctx.Err() != nil
	if !closed {
		l.held[h] = true
	}
	l.mu.Unlock()
	if closed || !h.kept.Alive() { // the answer came after the lease's own time
		h.kept.Stop()
		l.inBackground(func(ctx context.Context) { _ = l.cfg.Store.Release(ctx, name, owner) })
		l.forget(h)
		return nil, lock.ErrLost
	}
	return h, nil
}

// pause waits until it is worth asking again.
func (l *Locker) pause(ctx context.Context, name string) error {
	if l.cfg.Changed != nil {
		return l.cfg.Changed(ctx, name)
	}
	// Spread, so that those who were refused together do not ask together.
	timer := time.NewTimer(l.cfg.Poll + rand.N(l.cfg.Poll))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// inBackground does what has to be done although its caller has gone.
func (l *Locker) inBackground(f func(context.Context)) {
	l.work.Go(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(l.ctx), cleanUpTimeout)
		defer cancel()
		f(ctx)
	})
}

func (l *Locker) forget(h *held) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.held, h)
}

// Close gives every grant back, within ctx.
func (l *Locker) Close(ctx context.Context) error {
	l.close()
	err := l.gate.Close(ctx)
	l.mu.Lock()
	var all []*held
	for h := range l.held {
		all = append(all, h)
	}
	clear(l.held)
	l.mu.Unlock()
	for _, h := range all {
		h.kept.Lose()
		h.kept.Stop()
		if releaseErr := l.cfg.Store.Release(ctx, h.name, h.owner); releaseErr != nil && !errors.Is(releaseErr, lock.ErrLost) {
			err = errors.Join(err, fmt.Errorf("unlock %s: %w", h.name, releaseErr))
		}
	}
	l.work.Wait() // each is bounded
	return err
}

// held is one grant.
type held struct {
	locker      *Locker
	gate        lock.Held
	name, owner string
	token       lock.Token
	kept        *Kept
}

func (h *held) Token() lock.Token     { return h.token }
func (h *held) Lost() <-chan struct{} { return h.kept.Lost() }

// Wanted is nil: a server that is asked again and again does not know who waits.
func (h *held) Wanted() <-chan struct{} { return nil }

// Unlock releases the name on the server and then opens the gate.
func (h *held) Unlock(ctx context.Context) error {
	h.locker.forget(h)
	alive := h.kept.Stop()
	err := h.locker.cfg.Store.Release(ctx, h.name, h.owner)
	h.kept.Lose() // whatever became of it: it is not held any more
	gate := h.gate.Unlock(ctx)
	switch {
	case !alive, gate != nil:
		return lock.ErrLost
	case err != nil:
		return fmt.Errorf("unlock %s: %w", h.name, err)
	}
	return nil
}
