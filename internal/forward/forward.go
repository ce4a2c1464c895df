package forward

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"flashsale/internal/forward/wire"
)

// Peer is a selling process: the address of its links, and the random name that the
// process chose at its start.
type Peer struct{ Addr, Process string }

// Order is an order for the seller. Send sets its Number.
type Order = wire.Order

// Answer is the seller's answer to the order with the same Number.
type Answer = wire.Answer

var (
	// ErrFull means that Config.Limit orders wait for answers on the link. Nothing
	// was sent; the buyer may retry later.
	ErrFull = errors.New("too many orders are under way to the seller")
	// ErrNoLink means that there is no link to the peer now. Nothing was sent.
	ErrNoLink = errors.New("no link to the seller")
	// ErrBroken means that the link ended before the order was answered. The order may
	// or may not have been decided; a late answer is ignored.
	ErrBroken = errors.New("the link to the seller ended before the order was answered")
)

const (
	// version is that of the protocol. Both sides of a link must have the same.
	version = 1
	// defaultLimit is far more orders than a batch holds. Their messages take about a
	// megabyte on each side.
	defaultLimit = 4096
	// defaultTick makes five ticks of silence a quarter of a second.
	defaultTick = 50 * time.Millisecond
	// maxMessage bounds the orders or answers in one message, so that the last does not
	// delay the first, and the largest message is far below gRPC's limit of 4 MiB.
	maxMessage = 512
	// window is gRPC's flow-control window in bytes. A fixed one saves the pings by
	// which gRPC would adapt it.
	window = 1 << 20
	// helloTimeout bounds everything up to the hello: a peer in the same network that
	// takes longer counts as unreachable.
	helloTimeout = time.Second
	// unused is when a link ends on which no orders are sent or nothing is read. The
	// caller breaks the link to a paused seller long before that.
	unused = time.Minute
)

// Config is for both sides: NewLinks and NewServer.
type Config struct {
	// Process is the random name of this process. Replica is its name for people.
	Process, Replica string
	// TLS is for both sides: see FromSecret and FromFiles.
	TLS *tls.Config
	// Limit bounds the orders without an answer on one link; 4096 by default. All
	// replicas must have the same.
	Limit    int
	Observer Observer
	// Registry may be nil.
	Registry prometheus.Registerer
	Logger   *slog.Logger
	// Tick is the time between two heartbeats, and between two checks for silence;
	// 50 ms by default.
	Tick time.Duration

	// Dial, if set, opens the stream of a link to addr, and calls heard for each message
	// that arrives. Otherwise a link is a TLS connection. For simulations.
	Dial func(ctx context.Context, addr string, heard func()) (stream wire.Forward_LinkClient, hangUp func(), err error)

	clock clock // the system's clock if it is zero
}

// Observer receives reports on the health of links. A link's goroutine calls the
// methods; they must not block, and may call Links.
type Observer interface {
	// Silent is called after each tick during which orders waited and nothing was
	// read. ticks counts them in a row, from 1; a late tick restarts the count.
	// waiting has the SKU and token of each waiting order, without duplicates.
	Silent(p Peer, ticks int, waiting []Waiting)
	// Revived is called when something is read after Silent was called.
	Revived(p Peer)
	// Dead is called when the process is gone: its address refuses connections, or
	// another process answers. It may be called again after each attempt to reach p.
	// waiting is as for Silent, and includes orders on the link that broke before; it
	// may be empty.
	Dead(p Peer, waiting []Waiting)
}

// Waiting is a SKU for which orders wait, and the token of the tenure that they were
// sent to.
type Waiting struct {
	SKU   string
	Token uint64
}

// clock lets tests replace the system's clock.
type clock struct {
	now func() time.Time
	// ticker returns a channel of ticks and a function that stops them.
	ticker func(time.Duration) (<-chan time.Time, func())
}

func (cfg Config) withDefaults() Config {
	if cfg.Limit <= 0 {
		cfg.Limit = defaultLimit
	}
	if cfg.Tick <= 0 {
		cfg.Tick = defaultTick
	}
	if cfg.clock.now == nil {
		cfg.clock = clock{now: time.Now, ticker: func(d time.Duration) (<-chan time.Time, func()) {
			ticker := time.NewTicker(d)
			return ticker.C, ticker.Stop
		}}
	}
	return cfg
}

// hello is this process's hello on a link to the process meets.
func (cfg Config) hello(meets string, ordinal uint64) *wire.Hello {
	return &wire.Hello{Version: version, Process: cfg.Process, Replica: cfg.Replica, Meets: meets, Ordinal: ordinal}
}
