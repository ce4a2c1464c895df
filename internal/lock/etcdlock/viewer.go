package etcdlock

import (
	"context"
	"fmt"
	"time"

	"flashsale/internal/lock"
)

var _ lock.Viewer = (*Locker)(nil)

// Holder returns the holder of name from the view. For a name that has not been
// used for a while there is no view until the next TryLock.
func (l *Locker) Holder(name string) (lock.Holder, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	q := l.queues[name]
	if q == nil || q.holder == nil {
		return lock.Holder{}, false
	}
	q.lastUsed = time.Now()
	h := q.holder
	return lock.Holder{
		Token: lock.Token(h.created), Mine: q.places[h.key] != nil,
		Process: h.owner.Process, Addr: h.owner.Addr, Gone: h.gone,
	}, true
}

// Evict deletes the first key of name's queue, if its create revision is token. See
// the protocol.
func (l *Locker) Evict(ctx context.Context, name string, token lock.Token) error {
	if err := l.evict(ctx, name, token); err != nil {
		return fmt.Errorf("evict the holder of %s: %w", name, err)
	}
	return nil
}

func (l *Locker) evict(ctx context.Context, name string, token lock.Token) error {
	l.mu.Lock()
	q := l.queues[name]
	if q == nil || q.holder == nil || lock.Token(q.holder.created) != token {
		l.mu.Unlock()
		return lock.ErrNotHeld
	}
	key := q.holder.key
	l.mu.Unlock()

	ctx, cancel := context.WithTimeout(ctx, l.cfg.TTL)
	defer cancel()
	answer, err := deleteKey(ctx, l.cfg.Client, key, int64(token))
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if q := l.queues[name]; q != nil { // the view may have been dropped meanwhile
		l.replace(q, answer.Header.Revision, listed(answer))
	}
	if !answer.Succeeded {
		return lock.ErrNotHeld
	}
	return nil
}
