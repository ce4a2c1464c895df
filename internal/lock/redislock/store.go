package redislock

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"flashsale/internal/lock"
	"flashsale/internal/lock/lease"
)

// store is the lease.Store on one server.
type store struct {
	client *redis.Client
	prefix string
	ttl    time.Duration
	// notices is nil in a Redlock.
	notices *notices
}

// The scripts. Their keys are the holder's and the token's. Their arguments are the
// owner, the TTL in milliseconds and the channel, as far as a script needs them.
var (
	// take returns the token and the holder. A client may send it twice. The second
	// call then finds its own grant.
	take = redis.NewScript(`
		local holder = redis.call('GET', KEYS[1])
		if holder == ARGV[1] then
			return {tonumber(redis.call('GET', KEYS[2])), holder}
		elseif holder then
			return {0, holder}
		end
		redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2])
		local now = redis.call('TIME')
		local token = math.max(tonumber(redis.call('GET', KEYS[2]) or 0) + 1, now[1] * 1000000 + now[2])
		redis.call('SET', KEYS[2], string.format('%.0f', token))
		return {token, ARGV[1]}`)
	renew = redis.NewScript(`
		if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
		return redis.call('PEXPIRE', KEYS[1], ARGV[2])`)
	release = redis.NewScript(`
		if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
		redis.call('DEL', KEYS[1])
		redis.call('PUBLISH', ARGV[2], '')
		return 1`)
	// revoke is release for any owner.
	revoke = redis.NewScript(`
		local gone = redis.call('DEL', KEYS[1])
		if gone == 1 then redis.call('PUBLISH', ARGV[1], '') end
		return gone`)
)

// A name contains no slash, so the keys of different names differ.
func (s *store) key(name string) string      { return s.prefix + name }
func (s *store) tokenKey(name string) string { return s.prefix + name + "/token" }
func (s *store) channel(name string) string  { return s.prefix + name + "/released" }

func (s *store) Try(ctx context.Context, name, owner string) (lock.Token, error) {
	answer, err := take.Run(ctx, s.client, []string{s.key(name), s.tokenKey(name)}, owner, s.ttl.Milliseconds()).Slice()
	if err != nil {
		return 0, failed(s.client, "take", err)
	}
	token, holder := answer[0].(int64), answer[1].(string)
	if holder != owner {
		return 0, &lock.HeldError{Holder: lease.ParseOwner(holder).Holder}
	}
	return lock.Token(token), nil
}

func (s *store) Renew(ctx context.Context, name, owner string) error {
	return s.changeOwned("renew", renew.Run(ctx, s.client, []string{s.key(name)}, owner, s.ttl.Milliseconds()))
}

func (s *store) Release(ctx context.Context, name, owner string) error {
	return s.changeOwned("release", release.Run(ctx, s.client, []string{s.key(name)}, owner, s.channel(name)))
}

// changeOwned returns lock.ErrLost if a script has changed nothing.
func (s *store) changeOwned(what string, answer *redis.Cmd) error {
	done, err := answer.Int()
	switch {
	case err != nil:
		return failed(s.client, what, err)
	case done == 0:
		return lock.ErrLost
	}
	return nil
}

// timeLeft returns the time until the key of name expires, or 0 if there is none.
func (s *store) timeLeft(ctx context.Context, name string) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	left, err := s.client.PTTL(ctx, s.key(name)).Result()
	switch {
	case err != nil:
		return 0, failed(s.client, "read the key's TTL", err)
	case left == -2: // no such key
		return 0, nil
	case left < 0: // another program's key, which does not expire
		return s.ttl, nil
	}
	return left + time.Millisecond, nil // the answer is rounded down
}

// failed adds the server's address, which not every error of the client contains.
func failed(client *redis.Client, what string, err error) error {
	if errors.Is(err, context.Canceled) {
		return err
	}
	return fmt.Errorf("redis %s: %s: %w", client.Options().Addr, what, err)
}
