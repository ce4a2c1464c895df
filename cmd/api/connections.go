package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/semaphore"
	"golang.org/x/time/rate"

	"flashsale/internal/limit"
)

const (
	// addressShare is the part of all connections that one address may open by default.
	// An office has one address, and so has a proxy that is not in --trusted-proxies: at the
	// default of --max-connections, each may open 5,000.
	addressShare = 4
	// addressMin is the least that an address may open by default. A browser opens 6.
	addressMin = 10
	// otherFiles is how many files a replica may open beside its callers' connections
	// and --mysql-pool: for etcd, other replicas, probes, logs and certificates.
	otherFiles = 256
	// leastConnections is the least for which a replica starts if files are scarce.
	leastConnections = 16
)

// mostConnections returns --max-connections, or what the process's limit of open files
// leaves: without files, no probe is answered, and no connection to MySQL is replaced.
func (c *serveCmd) mostConnections(files int, logger *slog.Logger) (int, error) {
	others := c.Pool + otherFiles
	if c.MaxConnections <= files-others {
		return c.MaxConnections, nil
	}
	if files < others+leastConnections {
		return 0, fmt.Errorf("this process may open %d files, must be at least %d (ulimit -n)", files, others+leastConnections)
	}
	logger.Warn("--max-connections is reduced: this process may open too few files (ulimit -n)",
		"max_connections", c.MaxConnections, "reduced_to", files-others, "files", files)
	return files - others, nil
}

// connectionLimits are the limits of a listener.
type connectionLimits struct {
	total int
	// address is the most from one address; 0 is a share of total.
	address int
	callers limit.Callers
	refused prometheus.Counter
	logger  *slog.Logger
}

func (c *serveCmd) connectionLimits(logger *slog.Logger) (limits connectionLimits, err error) {
	limits = connectionLimits{address: c.MaxConnectionsAddress, logger: logger, refused: prometheus.NewCounter(prometheus.CounterOpts{
		Name: "flashsale_http_connections_refused_total", Help: "Connections that were closed because their address had as many as --max-connections-address allows."})}
	if limits.callers, err = c.callers(); err != nil {
		return limits, err
	}
	files, err := openFiles()
	if err != nil {
		return limits, err
	}
	limits.total, err = c.mostConnections(files, logger)
	return limits, err
}

// limitedListener accepts a number of connections at a time, and fewer from each address.
// Further connections wait in the kernel's queue. Those of an address that has used up its
// share are closed at once, so that others need not wait for them. Trusted proxies have no such
// limit: their connections are those of all customers.
type limitedListener struct {
	net.Listener
	connectionLimits
	slots *semaphore.Weighted
	open  context.Context
	end   context.CancelFunc
	log   rate.Sometimes

	mu        sync.Mutex
	byNetwork map[netip.Prefix]int // open connections, without zeros
}

func limitConnections(l net.Listener, limits connectionLimits) *limitedListener {
	if limits.address == 0 {
		limits.address = max(limits.total/addressShare, addressMin)
	}
	open, end := context.WithCancel(context.Background())
	return &limitedListener{Listener: l, connectionLimits: limits, slots: semaphore.NewWeighted(int64(limits.total)), open: open, end: end,
		log: rate.Sometimes{Interval: time.Second}, byNetwork: map[netip.Prefix]int{}}
}

// Accept waits for a slot, and then for a connection of an address that has not used up
// its share.
func (l *limitedListener) Accept() (net.Conn, error) {
	if l.slots.Acquire(l.open, 1) != nil {
		return nil, net.ErrClosed
	}
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			l.slots.Release(1)
			return nil, err
		}
		leave, ok := l.enter(conn.RemoteAddr())
		if ok {
			return &limitedConn{Conn: conn, release: sync.OnceFunc(func() { leave(); l.slots.Release(1) })}, nil
		}
		if tcp, ok := conn.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0) // the kernel need not remember it
		}
		_ = conn.Close()
	}
}

// enter counts a connection of an address, until leave is called. It returns false if the
// address has its share.
func (l *limitedListener) enter(remote net.Addr) (leave func(), ok bool) {
	tcp, ok := remote.(*net.TCPAddr)
	if !ok || l.callers.Trusted(tcp.AddrPort().Addr()) {
		return func() {}, true
	}
	network := l.callers.Network(tcp.AddrPort().Addr())
	l.mu.Lock()
	full := l.byNetwork[network] >= l.address
	if !full {
		l.byNetwork[network]++
	}
	l.mu.Unlock()
	if full {
		l.refused.Inc()
		l.log.Do(func() {
			l.logger.Warn("connection closed: its address has as many as --max-connections-address allows", "address", network, "limit", l.address)
		})
		return nil, false
	}
	return func() { l.leave(network) }, true
}

func (l *limitedListener) leave(network netip.Prefix) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.byNetwork[network]--; l.byNetwork[network] == 0 {
		delete(l.byNetwork, network)
	}
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
