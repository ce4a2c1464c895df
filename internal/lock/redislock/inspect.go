package redislock

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"flashsale/internal/lock"
	"flashsale/internal/lock/lease"
)

// scanPage is how many keys the server looks at in one step of a scan, in which
// it serves nobody else.
const scanPage = 1000

// Inspect lists the locks that are held. Those that come or go meanwhile may be
// there or not.
func (l *Locker) Inspect(ctx context.Context) ([]lock.Info, error) {
	infos, err := l.store.holders(ctx)
	if err != nil {
		return nil, l.store.failed("list the locks", err)
	}
	return infos, nil
}

// Revoke ends the grant of name, and tells those who wait. Its holder hears of it
// with its next renewal.
func (l *Locker) Revoke(ctx context.Context, name string) error {
	if err := lock.CheckName(name); err != nil {
		return err
	}
	err := l.store.owned("revoke", revoke.Run(ctx, l.store.client, []string{l.store.key(name)}, l.store.channel(name)))
	if errors.Is(err, lock.ErrLost) {
		return lock.ErrNotHeld
	}
	return err
}

// holders reads who holds what, sorted by name.
func (s *store) holders(ctx context.Context) ([]lock.Info, error) {
	names, err := s.names(ctx)
	if err != nil {
		return nil, err
	}
	// A holder and its token are read at the same moment.
	answers := make([]*redis.SliceCmd, len(names))
	_, err = s.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, name := range names {
			answers[i] = p.MGet(ctx, s.key(name), s.tokenKey(name))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	var infos []lock.Info
	for i, name := range names {
		owner, stands := answers[i].Val()[0].(string)
		if !stands { // it has gone meanwhile
			continue
		}
		info := lease.ParseOwner(owner)
		info.Name = name
		if token, ok := answers[i].Val()[1].(string); ok { // Redlock has none
			n, err := strconv.ParseUint(token, 10, 64)
			if err != nil {
				return nil, fmt.Errorf("token of %s: %w", name, err)
			}
			info.Token = lock.Token(n)
		}
		infos = append(infos, info)
	}
	return infos, nil
}

// names lists the names that are held, sorted, each once.
func (s *store) names(ctx context.Context) ([]string, error) {
	var names []string
	all := s.client.Scan(ctx, 0, globEscape.Replace(s.prefix)+"*", scanPage).Iterator()
	for all.Next(ctx) {
		if name := strings.TrimPrefix(all.Val(), s.prefix); !strings.Contains(name, "/") { // else a token
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names), all.Err() // a scan may show a key twice
}

// globEscape takes their meaning from what a pattern could hold.
var globEscape = strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`)

// inspect asks all nodes, and lists what one owner has on a majority.
func (s *redlockStore) inspect(ctx context.Context) ([]lock.Info, error) {
	type grant struct {
		name, holder string
		since        time.Time
	}
	var mu sync.Mutex
	votes := map[grant]int{}
	var infos []lock.Info
	err := s.onMajority("list the locks", func(client *redis.Client) error {
		held, err := (&store{client: client, prefix: s.prefix}).holders(ctx)
		mu.Lock()
		defer mu.Unlock()
		for _, info := range held {
			g := grant{info.Name, info.Holder, info.Since}
			if votes[g]++; votes[g] == s.quorum() {
				infos = append(infos, info)
			}
		}
		return err
	})
	slices.SortFunc(infos, func(a, b lock.Info) int { return strings.Compare(a.Name, b.Name) })
	return infos, err
}

// revoke deletes name from all nodes.
func (s *redlockStore) revoke(ctx context.Context, name string) error {
	var gone atomic.Int64
	err := s.onMajority("revoke", func(client *redis.Client) error {
		n, err := client.Del(ctx, s.prefix+name).Result()
		gone.Add(n)
		return err
	})
	if err == nil && gone.Load() == 0 {
		return lock.ErrNotHeld
	}
	return err
}

// onMajority asks all nodes at once, each for its own time, and fails where most
// of them do.
func (s *redlockStore) onMajority(what string, ask func(*redis.Client) error) error {
	failures := make([]error, len(s.clients))
	var all sync.WaitGroup
	for i, client := range s.clients {
		all.Go(func() {
			if err := ask(client); err != nil {
				failures[i] = failed(client, what, err)
			}
		})
	}
	all.Wait()
	failures = slices.DeleteFunc(failures, func(err error) bool { return err == nil })
	if len(failures) < s.quorum() {
		return nil
	}
	return errors.Join(failures...)
}
