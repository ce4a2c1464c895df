package etcdlock

import (
	"context"
	"fmt"
	"time"

	"flashsale/internal/lock"
)

// Holder tells who holds name, by the view. The view of a name that was not used
// for a while is empty until the next TryLock.
func (l *Locker) Holder(name string) (lock.Holder, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	q := l.queues[name]
	if q == nil || q.first == nil {
		return lock.Holder{}, false
	}
	q.lastUsed = time.Now()
	f := q.first
	return lock.Holder{
		Token: lock.Token(f.entry.created), Mine: q.places[f.key] != nil,
		Process: f.owner.Process, Addr: f.owner.Addr, Gone: f.gone,
	}, true
}

// Evict deletes the key of the holder with that token.
//
//	evict   If CreateRevision(key) = token   Then Delete(key), Range(prefix/name/)
func (l *Locker) Evict(ctx context.Context, name string, token lock.Token) error {
	l.mu.Lock()
	q := l.queues[name]
	if q == nil || q.first == nil || lock.Token(q.first.entry.created) != token {
		l.mu.Unlock()
		return fmt.Errorf("evict the holder of %s: %w", name, lock.ErrNotHeld)
	}
	key := q.first.key
	l.mu.Unlock()

	ctx, cancel := context.WithTimeout(ctx, l.cfg.TTL)
	defer cancel()
	answer, err := l.deleteKey(ctx, key, int64(token))
	if err != nil {
		return fmt.Errorf("evict the holder of %s: %w", name, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	// The view may have been dropped meanwhile, or made anew: an answer moves it
	// forward like any other.
	if q := l.queues[name]; q != nil {
		l.install(q, answer.Header.Revision, listed(answer))
		l.decide(q)
	}
	if !answer.Succeeded {
		return fmt.Errorf("evict the holder of %s: %w", name, lock.ErrNotHeld)
	}
	return nil
}

var _ lock.Viewer = (*Locker)(nil)
