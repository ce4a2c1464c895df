package zklock

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/go-zookeeper/zk"
	"golang.org/x/sync/errgroup"

	"flashsale/internal/lock"
	"flashsale/internal/lock/lease"
)

// inspections is the number of locks that are read at the same time.
const inspections = 16

// Inspect lists the locks that are held under the prefix, by any process. A follower
// may answer with slightly stale data.
func (l *Locker) Inspect(ctx context.Context) ([]lock.Info, error) {
	s, err := l.sessionFor(ctx)
	if err != nil {
		return nil, l.failed("inspect", l.cfg.Prefix, err)
	}
	names, err := ask(ctx, s, func(ctx context.Context) ([]string, error) { return s.names(ctx, l.cfg.Prefix) })
	if err != nil {
		return nil, l.failed("inspect", l.cfg.Prefix, err)
	}
	var mu sync.Mutex
	var found []lock.Info
	group, each := errgroup.WithContext(ctx)
	group.SetLimit(inspections)
	for _, last := range names {
		group.Go(func() error {
			info, err := ask(each, s, func(ctx context.Context) (*lock.Info, error) { return s.inspect(ctx, last) })
			if info != nil {
				mu.Lock()
				defer mu.Unlock()
				found = append(found, *info)
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, l.failed("inspect", l.cfg.Prefix, err)
	}
	slices.SortFunc(found, func(a, b lock.Info) int { return cmp.Compare(a.Name, b.Name) })
	return found, nil
}

// Revoke deletes the holder's node. The holder notices by its watch.
func (l *Locker) Revoke(ctx context.Context, name string) error {
	if err := lock.CheckName(name); err != nil {
		return err
	}
	s, err := l.sessionFor(ctx)
	if err != nil {
		return l.failed("revoke", name, err)
	}
	path := l.pathOf(name)
	_, err = ask(ctx, s, func(ctx context.Context) (struct{}, error) {
		queue, err := s.listFresh(ctx, path)
		if errors.Is(err, zk.ErrNoNode) || err == nil && len(queue) == 0 {
			return struct{}{}, lock.ErrNotHeld
		}
		if err != nil {
			return struct{}{}, err
		}
		return struct{}{}, s.call(ctx, func() error { return s.conn.Delete(path+"/"+queue[0], anyVersion) })
	})
	if err == nil || errors.Is(err, zk.ErrNoNode) { // an earlier attempt may have deleted it
		return nil
	}
	return l.failed("revoke", name, err)
}

// names returns the last path segments of all locks.
func (s *session) names(ctx context.Context, prefix string) (names []string, err error) {
	err = s.call(ctx, func() error {
		names, _, err = s.conn.Children(prefix)
		return err
	})
	if errors.Is(err, zk.ErrNoNode) {
		return nil, nil
	}
	return names, err
}

// inspect reads the queue of one lock. It returns nil if the lock is free.
func (s *session) inspect(ctx context.Context, last string) (*lock.Info, error) {
	name, err := nameOf(last)
	if err != nil {
		return nil, nil //nolint:nilerr // a foreign node, not a lock
	}
	path := s.locker.cfg.Prefix + "/" + last
	queue, err := s.list(ctx, path)
	if err != nil && !errors.Is(err, zk.ErrNoNode) {
		return nil, err
	}
	var info *lock.Info
	for _, node := range queue {
		var data []byte
		var stat *zk.Stat
		err := s.call(ctx, func() (err error) {
			data, stat, err = s.conn.Get(path + "/" + node)
			return err
		})
		if errors.Is(err, zk.ErrNoNode) {
			continue // deleted meanwhile
		}
		if err != nil {
			return nil, err
		}
		who := lease.ParseOwner(string(data))
		if info == nil {
			info = &who
			info.Name, info.Token = name, lock.Token(stat.Czxid)
		} else {
			info.Queue = append(info.Queue, who.Holder)
		}
	}
	return info, nil
}

// ask waits for request until ctx ends. The client library has no contexts, so the
// requests then end in the background.
func ask[T any](ctx context.Context, s *session, request func(context.Context) (T, error)) (T, error) {
	type answer struct {
		value T
		err   error
	}
	answered := make(chan answer, 1)
	until, cancel := context.WithCancelCause(s.ctx)
	defer context.AfterFunc(ctx, func() { cancel(ctx.Err()) })()
	s.locker.begin(func() {
		defer cancel(nil)
		value, err := request(until)
		answered <- answer{value, err}
	})
	select {
	case a := <-answered:
		return a.value, a.err
	case <-ctx.Done():
		return *new(T), ctx.Err()
	case <-s.locker.closing:
		cancel(lock.ErrClosed)
		return *new(T), lock.ErrClosed
	}
}
