package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"

	"golang.org/x/sync/semaphore"

	"flashsale/internal/limit"
)

// limitFlags bound the requests and connections of callers.
type limitFlags struct {
	ByCustomer limit.Limit `name:"rate-limit-customer" default:"0" placeholder:"N/WINDOW" help:"Maximum requests of a customer: 100/10s allows 100 in 10 seconds, even all at once. 0, the default, is no limit. Each replica counts separately. More requests get 429 with Retry-After. api config can change it at run time."`
	ByAddress  limit.Limit `name:"rate-limit-address" default:"0" placeholder:"N/WINDOW" help:"Maximum requests from an IPv4 address or a /64 IPv6 network, as for --rate-limit-customer. Behind a proxy, set --trusted-proxies, too."`
	// AdminGuesses is not a runtime setting: whoever can write to etcd could lock out all
	// administrators.
	AdminGuesses limit.Limit `name:"rate-limit-admin-guesses" default:"10/1m" placeholder:"N/WINDOW" help:"Maximum refused admin tokens of an IPv4 address or a /64 IPv6 network; after them, calls of /v1/admin from there get 429, also with the right token. 0 is no limit. Default: ${default}. Behind a proxy, set --trusted-proxies, too: otherwise anyone can lock out all administrators who use the proxy."`

	// MaxConnections bounds memory: a connection costs about 20 KiB.
	MaxConnections int `default:"20000" placeholder:"N" help:"Maximum number of open client connections, event streams included; further ones wait. Default: ${default}."`

	TrustedProxies []string `placeholder:"CIDR" help:"Addresses or networks of the proxies in front of this service. X-Forwarded-For is used only if it comes from one of them. None by default."`
}

func (f *limitFlags) check() error {
	if f.MaxConnections < 1 {
		return fmt.Errorf("--max-connections is %d, must be at least 1", f.MaxConnections)
	}
	for _, text := range f.TrustedProxies {
		_, err := netip.ParseAddr(text)
		network, networkErr := netip.ParsePrefix(text)
		switch {
		case err != nil && networkErr != nil:
			return fmt.Errorf("--trusted-proxies: %q is neither an IP address nor a network like 10.0.0.0/8", text)
		case networkErr == nil && network.Bits() == 0:
			return fmt.Errorf("--trusted-proxies: %s trusts every address; clients could forge X-Forwarded-For", text)
		}
	}
	return nil
}

func (f *limitFlags) limits() *limit.Limits {
	limits := new(limit.Limits)
	limits.Set(limit.ByCustomer, f.ByCustomer)
	limits.Set(limit.ByAddress, f.ByAddress)
	limits.Set(limit.AdminGuesses, f.AdminGuesses)
	return limits
}

// limitedListener accepts at most a number of connections at a time. Others wait in the
// kernel's queue.
type limitedListener struct {
	net.Listener
	slots *semaphore.Weighted
	open  context.Context
	end   context.CancelFunc
}

func limitConnections(l net.Listener, most int) *limitedListener {
	open, end := context.WithCancel(context.Background())
	return &limitedListener{Listener: l, slots: semaphore.NewWeighted(int64(most)), open: open, end: end}
}

// Accept waits for a slot, and then for a connection.
func (l *limitedListener) Accept() (net.Conn, error) {
	if l.slots.Acquire(l.open, 1) != nil {
		return nil, net.ErrClosed
	}
	conn, err := l.Listener.Accept()
	if err != nil {
		l.slots.Release(1)
		return nil, err
	}
	return &limitedConn{Conn: conn, release: sync.OnceFunc(func() { l.slots.Release(1) })}, nil
}

// Close also ends an Accept that waits for a slot.
func (l *limitedListener) Close() error {
	l.end()
	return l.Listener.Close()
}

// limitedConn releases its slot at the first Close.
type limitedConn struct {
	net.Conn
	release func()
}

func (c *limitedConn) Close() error {
	defer c.release()
	return c.Conn.Close()
}
