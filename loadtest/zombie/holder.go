package zombie

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"flashsale/internal/backend"
	"flashsale/internal/lock"
	"flashsale/internal/order"
	"flashsale/internal/stock"
	"flashsale/internal/strategy"
)

// holderConfig is what one process of a run is.
type holderConfig struct {
	Strategy string          `json:"strategy"`
	Fence    strategy.Fence  `json:"fence"`
	Servers  backend.Servers `json:"servers"`
	DSN      string          `json:"dsn"`
	Name     string          `json:"name"`
	TTL      time.Duration   `json:"ttl"`
}

// command is what a run tells a process to do.
type command struct {
	// Order is the number of an order to place, of one unit of SKU; 0 is none.
	Order int    `json:"order,omitempty"`
	SKU   string `json:"sku,omitempty"`
	// Hold: the next order that has read its stock waits before it writes.
	Hold bool `json:"hold,omitempty"`
	// Go lets the orders that wait go on.
	Go bool `json:"go,omitempty"`
}

// event is what a process tells. At is the machine's clock.
type event struct {
	Kind  string    `json:"kind"`
	SKU   string    `json:"sku,omitempty"`
	Order int       `json:"order,omitempty"`
	Error string    `json:"error,omitempty"`
	At    time.Time `json:"at"`
}

// The kinds of events.
const (
	ready    = "ready"    // it takes commands
	granted  = "granted"  // it holds the lock
	ended    = "ended"    // it gave the lock back, or learned of its loss
	reached  = "reached"  // an order has read its stock, and waits
	answered = "answered" // an order
)

const (
	holderPool    = 8
	holderTimeout = 20 * time.Second
)

// holder is a replica's order service, in a process of its own, that tells what
// it does with its lock and waits where a run wants it to.
type holder struct {
	orders  *order.Service
	holding atomic.Int32  // orders that are to wait
	goOn    chan struct{} // closed to let them go
	mu      sync.Mutex    // one event at a time
	out     *json.Encoder
}

// Serve is one process of a run: it reads its config and then commands from in,
// and writes events to out, until in ends.
func Serve(ctx context.Context, in io.Reader, out io.Writer) (err error) {
	lines := bufio.NewScanner(in)
	var cfg holderConfig
	if !lines.Scan() {
		return errors.New("no config")
	}
	if err := json.Unmarshal(lines.Bytes(), &cfg); err != nil {
		return err
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
	h := &holder{goOn: make(chan struct{}), out: json.NewEncoder(out)}
	h.orders = order.New(order.Config{
		DB: db, Strategy: row, Fence: row.FenceFor(cfg.Fence), Locker: telling{g.Locker, h}, PaymentWindow: time.Minute,
		RequestTimeout: holderTimeout, At: h.at, Logger: slog.New(slog.DiscardHandler),
	})
	h.tell(event{Kind: ready})
	var placing sync.WaitGroup
	for lines.Scan() {
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
	_, _ = h.orders.Close(end), g.Locker.Close(end) // its grants may be gone, and end by themselves
	return g.Close()
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
		told := event{Kind: answered, SKU: c.SKU, Order: c.Order}
		if err != nil {
			told.Error = err.Error()
			if errors.Is(err, order.ErrSoldOut) {
				told.Error = soldOut
			}
		}
		h.tell(told)
	})
}

// soldOut is the error of an order that is right to be refused.
const soldOut = "sold out"

// at stops an order between its read and its write, behind its last look at its
// lock.
func (h *holder) at(s order.Step) {
	if s == order.BeforeClaim || h.holding.Add(-1) < 0 {
		return
	}
	h.tell(event{Kind: reached})
	<-h.goOn
}

func (h *holder) tell(e event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	e.At = time.Now()
	_ = h.out.Encode(e) // a run that has gone needs to know nothing
}

// telling is a lock that tells what is done with it.
type telling struct {
	lock.Locker
	holder *holder
}

func (l telling) Lock(ctx context.Context, name string) (lock.Held, error) {
	return l.told(ctx, name, l.Locker.Lock)
}

func (l telling) TryLock(ctx context.Context, name string) (lock.Held, error) {
	return l.told(ctx, name, l.Locker.TryLock)
}

func (l telling) told(ctx context.Context, name string, take func(context.Context, string) (lock.Held, error)) (lock.Held, error) {
	held, err := take(ctx, name)
	if err != nil {
		return nil, err
	}
	l.holder.tell(event{Kind: granted, SKU: name})
	return &tellingHeld{Held: held, holder: l.holder, name: name}, nil
}

type tellingHeld struct {
	lock.Held
	holder *holder
	name   string
}

// Unlock is where the holder ceases to believe that it holds, at the latest.
func (h *tellingHeld) Unlock(ctx context.Context) error {
	h.holder.tell(event{Kind: ended, SKU: h.name})
	return h.Held.Unlock(ctx)
}
