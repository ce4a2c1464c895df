package memcachedlock

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/bradfitz/gomemcache/memcache"

	"flashsale/internal/lock"
	"flashsale/internal/lock/lease"
)

// inspectTimeout bounds the listing of a cache's keys, however many.
const inspectTimeout = 10 * time.Second

// Inspect lists the locks that are held. The server walks through all that it
// has, as it does for people who look for trouble: this is not for every second.
func (l *Locker) Inspect(ctx context.Context) ([]lock.Info, error) {
	s := l.store
	keys, err := s.keys(ctx)
	if err != nil {
		return nil, s.failed("list the locks", err)
	}
	items, err := s.client.GetMulti(keys)
	if err != nil {
		return nil, s.failed("list the locks", err)
	}
	var infos []lock.Info
	for _, item := range items { // those that are over are not among them
		name, owner := parse(item.Value)
		info := lease.ParseOwner(owner)
		info.Name = name
		infos = append(infos, info)
	}
	slices.SortFunc(infos, func(a, b lock.Info) int { return strings.Compare(a.Name, b.Name) })
	return infos, nil
}

// Revoke ends the item of name, whoever's it is. Its holder hears of it with its
// next renewal.
func (l *Locker) Revoke(ctx context.Context, name string) error {
	if err := lock.CheckName(name); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	err := l.store.client.Delete(l.store.key(name))
	if errors.Is(err, memcache.ErrCacheMiss) {
		return lock.ErrNotHeld
	}
	return l.store.failed("revoke", err)
}

// keys lists the keys with our prefix. The client has no request for that.
func (s *store) keys(ctx context.Context) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, inspectTimeout)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", s.address)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if _, err := fmt.Fprint(conn, "lru_crawler metadump all\r\n"); err != nil {
		return nil, err
	}
	var keys []string
	for lines := bufio.NewScanner(conn); ; {
		if !lines.Scan() {
			return nil, errors.Join(errors.New("the list has no end"), ctx.Err(), lines.Err())
		}
		// key=... exp=... la=...; then END, or an error.
		first, _, _ := strings.Cut(lines.Text(), " ")
		escaped, isKey := strings.CutPrefix(first, "key=")
		if first == "END" {
			return keys, nil
		}
		if !isKey {
			return nil, fmt.Errorf("lru_crawler metadump: %s", lines.Text())
		}
		key, err := url.PathUnescape(escaped)
		if err != nil {
			return nil, fmt.Errorf("lru_crawler metadump: %w", err)
		}
		if strings.HasPrefix(key, s.prefix) {
			keys = append(keys, key)
		}
	}
}
