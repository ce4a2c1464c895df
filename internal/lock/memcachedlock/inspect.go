package memcachedlock

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/bradfitz/gomemcache/memcache"

	"flashsale/internal/lock"
	"flashsale/internal/lock/lease"
)

// inspectTimeout bounds the listing of a cache with any number of keys.
const inspectTimeout = 10 * time.Second

// Inspect lists the locks that are held. The server reads all its items for that, so it is
// not for frequent use.
func (l *Locker) Inspect(ctx context.Context) ([]lock.Info, error) {
	s := l.store
	keys, err := s.keys(ctx)
	if err != nil {
		return nil, s.failed("list the locks", err)
	}
	items, err := s.client.GetMulti(keys) // without expired items
	if err != nil {
		return nil, s.failed("list the locks", err)
	}
	var infos []lock.Info
	for _, item := range items {
		name, owner := parse(item.Value)
		info := lease.ParseOwner(owner)
		info.Name = name
		infos = append(infos, info)
	}
	lock.SortInfos(infos)
	return infos, nil
}

// Revoke deletes the item of name. The holder notices at its next renewal.
func (l *Locker) Revoke(ctx context.Context, name string) error {
	if err := errors.Join(lock.CheckName(name), ctx.Err()); err != nil {
		return err
	}
	err := l.store.client.Delete(l.store.key(name))
	if errors.Is(err, memcache.ErrCacheMiss) {
		return lock.ErrNotHeld
	}
	return l.store.failed("revoke", err)
}

// keys lists the keys with our prefix, for which the client has no request.
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
	for lines := bufio.NewScanner(conn); lines.Scan(); {
		// Lines are "key=... exp=... la=...", and then END or an error.
		first, _, _ := strings.Cut(lines.Text(), " ")
		escaped, isKey := strings.CutPrefix(first, "key=")
		if first == "END" {
			return keys, nil
		}
		key, err := url.PathUnescape(escaped)
		if err != nil || !isKey {
			return nil, fmt.Errorf("lru_crawler metadump: unexpected answer %q", lines.Text())
		}
		if strings.HasPrefix(key, s.prefix) {
			keys = append(keys, key)
		}
	}
	return nil, errors.Join(errors.New("lru_crawler metadump: the connection ended before the list"), ctx.Err())
}
