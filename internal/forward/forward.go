package forward

import (
	"crypto/tls"
	"errors"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"flashsale/internal/forward/wire"
)

// Peer is a process that sells: the address that takes its links, and which
// process it is, a random name made at its start.
type Peer struct{ Addr, Process string }

// Order is one order on its way to the seller. Send sets its Number.
type Order = wire.Order

// Answer is what the seller says to the order with the same Number.
type Answer = wire.Answer

var (
	// ErrFull means that the link has its bound of orders under way: nothing was
	// sent, and the buyer may try again later.
	ErrFull = errors.New("too many orders are under way to the seller")
	// ErrNoLink means that no link to the peer is to be had now: nothing was sent.
	ErrNoLink = errors.New("there is no link to the seller")
	// ErrBroken means that the link ended with the order on it. The order may have
	// been decided or not; its answer will not be taken any more.
	ErrBroken = errors.New("the link to the seller ended with the order on it")
)

const (
	// version is the protocol's. Both sides of a link must have the same.
	version = 1
	// defaultLimit is far more orders than a batch takes, and their messages are
	// about a megabyte on each side.
	defaultLimit = 4096
	// defaultTick makes five ticks of silence a quarter of a second.
	defaultTick = 50 * time.Millisecond
	// maxMessage is how many orders or answers one message holds: few enough that
	// the first is not held up by the last, and that a message of the largest
	// orders stays far below gRPC's bound of 4 MiB.
	maxMessage = 512
	// window is how many bytes may be under way without the reader's consent. With
	// a fixed one gRPC does not send the pings by which it would adapt it.
	window = 1 << 20
	// helloTimeout bounds everything up to the hello: a peer in the same network
	// that takes longer is not reachable.
	helloTimeout = time.Second
	// unused is how long a link stays on which nothing is sent, or nothing is read.
	// The caller ends the link to a seller that stands still long before that.
	unused = time.Minute
)

// Config is for both sides: NewLinks and NewServer.
type Config struct {
	// Process is the random name of this process, Replica the name for people.
	Process, Replica string
	// TLS has what both sides need: see FromSecret and FromFiles.
	TLS *tls.Config
	// Limit is how many orders may be under way on one link; 4096 by default. All
	// replicas must have the same.
	Limit int
	// Observer may be nil.
	Observer Observer
	// Registry may be nil.
	Registry prometheus.Registerer
	Logger   *slog.Logger
	// Tick is the time between two heartbeats, and between two looks for silence;
	// 50 ms by default.
	Tick time.Duration

	clock clock // the machine's if it is zero
}

// Observer is told of the health of links. Its methods are called from a link's
// own goroutine and must not block. They may call Links.
type Observer interface {
	// Silent is told after each tick of this process in which nothing was read,
	// while orders wait: ticks is 1, 2, 3, ... in a row. A late tick starts the
	// count again. waiting are the SKUs of the orders that wait, with their tokens,
	// each pair once.
	Silent(p Peer, ticks int, waiting []Waiting)
	// Revived is told when something was read after Silent had been told.
	Revived(p Peer)
	// Dead is told when the process is gone: its address refuses connections, or
	// answers as another process. It may be told again, after each try to reach p.
	// waiting are the SKUs of the orders that wait, or that waited on the link that
	// broke before; it may be empty.
	Dead(p Peer, waiting []Waiting)
}

// Waiting is a SKU for which orders wait, and the tenure that they were sent to.
type Waiting struct {
	SKU   string
	Token uint64
}

// clock is what tests replace of the machine's.
type clock struct {
	now func() time.Time
	// ticker returns a channel of ticks, and what stops them.
	ticker func(time.Duration) (<-chan time.Time, func())
}

func (cfg Config) withDefaults() Config {
	if cfg.Limit <= 0 {
		cfg.Limit = defaultLimit
	}
	if cfg.Tick <= 0 {
		cfg.Tick = defaultTick
	}
	if cfg.Observer == nil {
		cfg.Observer = blind{}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.clock.now == nil {
		cfg.clock = clock{now: time.Now, ticker: func(d time.Duration) (<-chan time.Time, func()) {
			ticker := time.NewTicker(d)
			return ticker.C, ticker.Stop
		}}
	}
	return cfg
}

// hello is this process's, on a link to a peer.
func (cfg Config) hello(meets string, ordinal uint64) *wire.Hello {
	return &wire.Hello{Version: version, Process: cfg.Process, Replica: cfg.Replica, Meets: meets, Ordinal: ordinal}
}

// blind is the Observer of a Config that has none.
type blind struct{}

func (blind) Silent(Peer, int, []Waiting) {}
func (blind) Revived(Peer)                {}
func (blind) Dead(Peer, []Waiting)        {}
