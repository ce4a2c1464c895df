package zombie

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"flashsale/internal/backend"
	"flashsale/internal/lock"
	"flashsale/internal/order"
	"flashsale/internal/stock"
	"flashsale/internal/strategy"
)

// configVar is the environment variable with a holderConfig as JSON. It has a password,
// which every user could read in the arguments.
const configVar = "FLASHSALE_ZOMBIE_HOLDER"

type holderConfig struct {
	Strategy string          `json:"strategy"`
	Fence    strategy.Fence  `json:"fence"`
	Servers  backend.Servers `json:"servers"`
	DSN      string          `json:"dsn"`
	Name     string          `json:"name"`
	Addr     string          `json:"addr"` // to listen on
	TTL      time.Duration   `json:"ttl"`
}

type command struct {
	// Order is the number of an order of one unit of SKU; 0 is none.
	Order int    `json:"order,omitempty"`
	SKU   string `json:"sku,omitempty"`
	// Hold makes the next order wait between its read of the stock and its write.
	Hold bool `json:"hold,omitempty"`
	// Go resumes the orders that wait.
	Go bool `json:"go,omitempty"`
}

// event is what a process reports. At is from the machine's clock.
type event struct {
	Kind  string    `json:"kind"`
	SKU   string    `json:"sku,omitempty"`
	Order int       `json:"order,omitempty"`
	Error string    `json:"error,omitempty"`
	At    time.Time `json:"at"`
}

// The kinds of events.
const (
	granted  = "granted"  // the process holds the lock
	ended    = "ended"    // it released the lock or noticed its loss
	reached  = "reached"  // an order has read its stock and waits
	answered = "answered" // an order has a result
)

const (
	holderPool    = 8
	holderTimeout = 20 * time.Second
)

// holder is a replica's order service in its own process. It reports what it does with
// its lock, and waits where a run wants it to.
type holder struct {
	orders  *order.Service
	stop    order.Step    // where orders wait
	holding atomic.Int32  // orders that must wait
	goOn    chan struct{} // closed to resume them
	mu      sync.Mutex    // one event at a time
	out     *json.Encoder
}

// Serve runs one process of a run. It reads its settings from the environment, listens,
// and takes commands on one connection until that or ctx ends.
func Serve(ctx context.Context) (err error) {
	var cfg holderConfig
	if err := json.Unmarshal([]byte(os.Getenv(configVar)), &cfg); err != nil {
		return fmt.Errorf("%s: %w", configVar, err)
	}
	row, err := strategy.Find(cfg.Strategy)
	if err != nil {
		return err
	}
	db, err := stock.Open(cfg.DSN, holderPool)
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	opening, opened := context.WithTimeout(ctx, holderTimeout)
	g, err := backend.Open(opening, backend.Config{
		Strategy: row, Servers: cfg.Servers, DSN: cfg.DSN, Database: db.Name, Connections: holderPool,
		Replica: cfg.Name, TTL: cfg.TTL, Logger: slog.New(slog.DiscardHandler),
	})
	opened()
	if err != nil {
		return err
	}
	conn, err := accept(ctx, cfg.Addr)
	if err != nil {
		return errors.Join(err, g.Close())
	}
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	h := &holder{stop: order.BeforeWrite, goOn: make(chan struct{}), out: json.NewEncoder(conn)}
	if row.Write == strategy.Batch {
		h.stop = order.BeforeCommit
	}
	h.orders = order.New(order.Config{
		DB: db, Strategy: row, Fence: row.FenceFor(cfg.Fence), Locker: reporting{g.Locker, h}, PaymentWindow: time.Minute,
		RequestTimeout: holderTimeout, At: h.at, Logger: slog.New(slog.DiscardHandler),
	})
	var placing sync.WaitGroup
	for lines := bufio.NewScanner(conn); lines.Scan(); {
		var c command
		if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
			return err
		}
		h.obey(ctx, c, &placing, cfg.Name)
	}
	cancel()
	placing.Wait()
	end, stop := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer stop()
	_, _ = h.orders.Close(end), g.Locker.Close(end) // grants that are lost cannot be released
	return g.Close()
}

func accept(ctx context.Context, addr string) (net.Conn, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	defer l.Close()
	defer context.AfterFunc(ctx, func() { l.Close() })()
	return l.Accept()
}

func (h *holder) obey(ctx context.Context, c command, placing *sync.WaitGroup, name string) {
	if c.Hold {
		h.holding.Add(1)
	}
	if c.Go {
		close(h.goOn)
	}
	if c.Order == 0 {
		return
	}
	placing.Go(func() {
		_, err := h.orders.Place(ctx, order.Request{SKU: c.SKU, Customer: name, Key: fmt.Sprint(c.Order), Quantity: 1})
		result := event{Kind: answered, SKU: c.SKU, Order: c.Order}
		if err != nil {
			result.Error = err.Error()
			if errors.Is(err, order.ErrSoldOut) {
				result.Error = soldOut
			}
		}
		h.report(result)
	})
}

// soldOut is the error of an order that must be refused.
const soldOut = "sold out"

// at stops an order between its read and its write, after it has checked its lock.
func (h *holder) at(s order.Step) {
	if s != h.stop || h.holding.Add(-1) < 0 {
		return
	}
	h.report(event{Kind: reached})
	<-h.goOn
}

func (h *holder) report(e event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	e.At = time.Now()
	_ = h.out.Encode(e) // an error means that the run has ended
}

type reporting struct {
	lock.Locker
	holder *holder
}

func (l reporting) Lock(ctx context.Context, name string) (lock.Held, error) {
	return l.granted(name)(l.Locker.Lock(ctx, name))
}

func (l reporting) TryLock(ctx context.Context, name string) (lock.Held, error) {
	return l.granted(name)(l.Locker.TryLock(ctx, name))
}

func (l reporting) granted(name string) func(lock.Held, error) (lock.Held, error) {
	return func(held lock.Held, err error) (lock.Held, error) {
		if err != nil {
			return nil, err
		}
		l.holder.report(event{Kind: granted, SKU: name})
		return &reportingHeld{Held: held, holder: l.holder, name: name}, nil
	}
}

type reportingHeld struct {
	lock.Held
	holder *holder
	name   string
}

// Unlock is when the holder stops believing that it holds the lock, at the latest.
func (h *reportingHeld) Unlock(ctx context.Context) error {
	h.holder.report(event{Kind: ended, SKU: h.name})
	return h.Held.Unlock(ctx)
}
