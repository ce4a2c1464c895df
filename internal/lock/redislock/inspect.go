package redislock

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"

	"flashsale/internal/lock"
	"flashsale/internal/lock/lease"
)

// scanPage is the number of keys in one step of a scan. The server serves no other
// request during a step.
const scanPage = 1000

// Inspect lists the locks that are held. It may miss a lock that was taken or released
// meanwhile.
func (l *Locker) Inspect(ctx context.Context) ([]lock.Info, error) {
	infos, err := l.store.holders(ctx)
	if err != nil {
		return nil, failed(l.store.client, "list the locks", err)
	}
	return infos, nil
}

// Revoke deletes the key of name and announces that. The holder notices at its next
// renewal.
func (l *Locker) Revoke(ctx context.Context, name string) error {
	if err := lock.CheckName(name); err != nil {
		return err
	}
	err := l.store.changeOwned("revoke", revoke.Run(ctx, l.store.client, []string{l.store.key(name)}, l.store.channel(name)))
	if errors.Is(err, lock.ErrLost) {
		return lock.ErrNotHeld
	}
	return err
}

// holders returns the held locks, sorted by name.
func (s *store) holders(ctx context.Context) ([]lock.Info, error) {
	var names []string
	keys := s.client.Scan(ctx, 0, globEscape.Replace(s.prefix)+"*", scanPage).Iterator()
	for keys.Next(ctx) {
		if name := strings.TrimPrefix(keys.Val(), s.prefix); !strings.Contains(name, "/") { // otherwise a token
			names = append(names, name)
		}
	}
	if err := keys.Err(); err != nil {
		return nil, err
	}
	slices.Sort(names)
	names = slices.Compact(names) // a scan may return a key twice
	// One MGET reads a holder and its token at the same moment.
	answers := make([]*redis.SliceCmd, len(names))
	_, err := s.client.Pipelined(ctx, func(p redis.Pipeliner) error {
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
		owner, held := answers[i].Val()[0].(string)
		if !held { // released meanwhile
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

// globEscape escapes the special characters of a pattern.
var globEscape = strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`)
