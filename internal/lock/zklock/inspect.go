package zklock

import (
	"context"
	"errors"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/go-zookeeper/zk"
	"github.com/google/uuid"
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
	var found []lock.Info
	err = s.ask(ctx, func(ctx context.Context) (err error) {
		found, err = s.inspectAll(ctx)
		return err
	})
	if err != nil {
		return nil, l.failed("inspect", l.cfg.Prefix, err)
	}
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
	err = s.ask(ctx, func(ctx context.Context) error {
		queue, err := s.listFresh(ctx, path)
		if errors.Is(err, zk.ErrNoNode) || err == nil && len(queue) == 0 {
			return lock.ErrNotHeld
		}
		if err != nil {
			return err
		}
		return s.call(ctx, func() error { return s.conn.Delete(path+"/"+queue[0], anyVersion) })
	})
	if err == nil || errors.Is(err, zk.ErrNoNode) { // an earlier attempt may have deleted it
		return nil
	}
	return l.failed("revoke", name, err)
}

func (s *session) inspectAll(ctx context.Context) ([]lock.Info, error) {
	prefix := s.locker.cfg.Prefix
	var segments []string // the last ones of the locks' paths
	err := s.call(ctx, func() (err error) {
		segments, _, err = s.conn.Children(prefix)
		return err
	})
	if err != nil && !errors.Is(err, zk.ErrNoNode) {
		return nil, err
	}
	infos := make([]*lock.Info, len(segments))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(inspections)
	for i, segment := range segments {
		group.Go(func() (err error) {
			infos[i], err = s.inspect(ctx, segment)
			return err
		})
	}
	err = group.Wait()
	var found []lock.Info
	for _, info := range infos {
		if info != nil {
			found = append(found, *info)
		}
	}
	lock.SortInfos(found)
	return found, err
}

// inspect reads the queue of one lock. It returns nil if the lock is free.
func (s *session) inspect(ctx context.Context, segment string) (*lock.Info, error) {
	name, err := nameOf(segment)
	if err != nil {
		return nil, nil //nolint:nilerr // a foreign node, not a lock
	}
	path := s.locker.cfg.Prefix + "/" + segment
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
// request then ends in the background.
func (s *session) ask(ctx context.Context, request func(context.Context) error) error {
	answer := make(chan error, 1)
	until, cancel := context.WithCancelCause(s.ctx)
	defer context.AfterFunc(ctx, func() { cancel(ctx.Err()) })()
	s.locker.begin(func() {
		defer cancel(nil)
		answer <- request(until)
	})
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-s.locker.closing:
		cancel(lock.ErrClosed)
		return lock.ErrClosed
	}
}

const idLength = 36

// pathOf returns the path of a lock. It escapes what a path must not contain,
// including the names "." and "..".
func (l *Locker) pathOf(name string) string {
	if strings.Trim(name, ".") == "" {
		return l.cfg.Prefix + "/" + strings.ReplaceAll(name, ".", "%2E")
	}
	return l.cfg.Prefix + "/" + url.PathEscape(name)
}

func nameOf(last string) (string, error) { return url.PathUnescape(last) }

// inOrder sorts the nodes of a queue by sequence. It drops foreign nodes.
func inOrder(nodes []string) []string {
	queue := nodes[:0]
	for _, node := range nodes {
		if _, ok := sequence(node); ok {
			queue = append(queue, node)
		}
	}
	slices.SortFunc(queue, func(a, b string) int {
		i, _ := sequence(a)
		j, _ := sequence(b)
		// The server's 32-bit counter wraps to negative numbers. The difference is
		// right for any queue shorter than 2^31.
		return int(i - j)
	})
	return queue
}

func sequence(node string) (int32, bool) {
	if len(node) <= idLength+1 || node[idLength] != '-' {
		return 0, false
	}
	if _, err := uuid.Parse(node[:idLength]); err != nil {
		return 0, false
	}
	n, err := strconv.ParseInt(node[idLength+1:], 10, 32)
	return int32(n), err == nil
}
