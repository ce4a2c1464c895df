package order_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

	"flashsale/internal/order"
	"flashsale/internal/stock"
)

// cut is a fault of a packet to MySQL.
type cut int

const (
	// loseReply delivers the packet and loses the answer.
	loseReply cut = iota
	// loseRequest loses the packet itself.
	loseRequest
	// delayRequest breaks the connection, but delivers the packet later.
	delayRequest
)

// wire is the network of a DSN. It cuts the next packet that ends in a text.
type wire struct {
	name string
	how  cut
	text []byte
	left atomic.Int32 // packets still to cut
	// before and after, if set, are called around the cut.
	before, after func()
	// passed, if set, is called after each packet that was sent after the last cut.
	passed func()

	mu   sync.Mutex
	late func() error // sends the delayed packet
}

var wires atomic.Int32

func newWire(how cut, text string) *wire {
	w := &wire{name: fmt.Sprint("wire", wires.Add(1)), how: how, text: []byte(text)}
	w.left.Store(1)
	mysql.RegisterDialContext(w.name, func(ctx context.Context, addr string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
		if err != nil {
			return nil, err
		}
		return &wireConn{Conn: conn, wire: w}, nil
	})
	return w
}

func (w *wire) dsn(dsn string) string { return strings.Replace(dsn, "@tcp(", "@"+w.name+"(", 1) }

// arrive delivers the delayed packet, and waits for the server's answer.
func (w *wire) arrive() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.late()
}

type wireConn struct {
	net.Conn
	wire    *wire
	cut     bool
	delayed bool
}

var errCut = errors.New("the wire was cut")

func (c *wireConn) Write(p []byte) (int, error) {
	w := c.wire
	if !bytes.HasSuffix(p, w.text) || w.left.Add(-1) < 0 {
		n, err := c.Conn.Write(p)
		if w.passed != nil && w.left.Load() <= 0 {
			w.passed()
		}
		return n, err
	}
	if w.before != nil {
		w.before()
	}
	if w.after != nil {
		defer w.after()
	}
	c.cut = true
	switch w.how {
	case loseReply:
		return c.Conn.Write(p)
	case delayRequest:
		c.delayed = true
		packet := bytes.Clone(p)
		w.mu.Lock()
		w.late = func() error {
			defer c.Conn.Close()
			if _, err := c.Conn.Write(packet); err != nil {
				return err
			}
			_, err := c.Conn.Read(make([]byte, 4096))
			return err
		}
		w.mu.Unlock()
	}
	return len(p), nil
}

func (c *wireConn) Read(p []byte) (int, error) {
	if !c.cut {
		return c.Conn.Read(p)
	}
	if c.wire.how == loseReply {
		// The answer proves that the server has executed it.
		if _, err := c.Conn.Read(p); err != nil {
			return 0, err
		}
	}
	return 0, errCut
}

func (c *wireConn) Close() error {
	if c.delayed {
		return nil
	}
	return c.Conn.Close()
}

// COMMIT or its answer is lost. In both cases the buyer gets the outcome, and the order
// is made once.
func TestLostCommitIsResolved(t *testing.T) {
	for how, name := range map[cut]string{loseReply: "reply", loseRequest: "request"} {
		t.Run(name, func(t *testing.T) {
			forGuarded(t, func(t *testing.T, strategy string) {
				dsn := newDSN(t, stock.Stock{Units: 10})
				w := newWire(how, "COMMIT")
				w.left.Store(0) // the row of a lock in MySQL is committed before the first order
				service := startReplica(t, options{dsn: w.dsn(dsn), strategy: strategy})
				for i := range 3 {
					if i == 1 {
						w.left.Store(1)
					}
					if _, err := service.Place(t.Context(), buy("ann", fmt.Sprint("k", i), 2)); err != nil {
						t.Errorf("order %d: %v", i, err)
					}
				}
				if w.left.Load() > 0 {
					t.Error("no packet was cut")
				}
				if n := value(order.MetricsOf(service).Unknown); n != 1 {
					t.Errorf("counted %v unknown commits, want 1", n)
				}
				if got := audit(t, dsn).Reserved; got != 6 {
					t.Errorf("%d units reserved, want 6", got)
				}
			})
		})
	}
}

// A process that stops while it resolves an unknown commit, after any packet, does not
// keep the row locked.
func TestStopDuringResolveHoldsNoRow(t *testing.T) {
	t.Parallel()
	dsn := newDSN(t, stock.Stock{Units: 10})
	db := open(t, dsn)
	w := newWire(loseReply, "COMMIT")
	var packets atomic.Int32
	w.passed = func() {
		packets.Add(1)
		var err error
		for deadline := time.Now().Add(testPatience); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
			// The test's context ends before the replica's last packet.
			if _, err = db.SQL.ExecContext(context.Background(), "SELECT sku FROM stock FOR UPDATE NOWAIT"); err == nil {
				return
			}
		}
		t.Errorf("packet %d after the lost commit keeps the row locked: %v", packets.Load(), err)
	}
	service := startReplica(t, options{dsn: w.dsn(dsn), strategy: "etcd"})
	placed, err := service.Place(t.Context(), buy("ann", "k", 2))
	if err != nil || placed.Replayed || packets.Load() == 0 {
		t.Errorf("got %+v, %v, after %d packets; want the order, after some", placed, err, packets.Load())
	}
	if got := audit(t, dsn).Reserved; got != 2 {
		t.Errorf("%d units reserved, want 2", got)
	}
}

// A batch whose connection broke is resolved as not applied, and sold again. When its
// packet reaches the server later, it must change nothing.
func TestBatchThatArrivesLateChangesNothing(t *testing.T) {
	t.Parallel()
	dsn := newDSN(t, stock.Stock{Units: 10})
	w := newWire(delayRequest, "COMMIT")
	service := startReplica(t, options{dsn: w.dsn(dsn), strategy: "etcd"})
	if _, err := service.Place(t.Context(), buy("ann", "k", 2)); err != nil {
		t.Fatal(err)
	}
	if err := w.arrive(); err != nil {
		t.Fatal(err)
	}
	if got := audit(t, dsn); got.Reserved != 2 || got.Available != 8 {
		t.Errorf("%d reserved, %d available; want 2 and 8", got.Reserved, got.Available)
	}
}

// A batch is lost and resolved as not applied. Its order is refused, because the price has
// changed in the meantime. The refusal must hold when the packet arrives later. (The end of
// the sale would not do: the write compares it, and may fail for that alone.)
func TestRefusalAfterALostCommitStands(t *testing.T) {
	t.Parallel()
	dsn := newDSN(t, stock.Stock{Units: 10})
	db := open(t, dsn)
	w := newWire(delayRequest, "COMMIT")
	w.before = func() {
		if _, err := db.SQL.ExecContext(t.Context(), "UPDATE stock SET price_cents = price_cents + 1"); err != nil {
			t.Error(err)
		}
	}
	service := startReplica(t, options{dsn: w.dsn(dsn), strategy: "etcd"})
	request := buy("ann", "k", 2)
	request.PriceCents, request.Currency = new(int64(999)), "EUR"
	if _, err := service.Place(t.Context(), request); !errors.Is(err, order.ErrPriceChanged) {
		t.Fatalf("got %v, want %v", err, order.ErrPriceChanged)
	}
	if err := w.arrive(); err != nil {
		t.Fatal(err)
	}
	if got := audit(t, dsn); got.Reserved != 0 || got.Available != 10 {
		t.Errorf("%d reserved, %d available; want 0 and 10", got.Reserved, got.Available)
	}
}

// COMMIT is delayed while its transaction holds the row. Settling ends that transaction,
// and another one makes the order. When the COMMIT arrives, it commits nothing.
func TestDelayedCommitIsShutOut(t *testing.T) {
	t.Parallel()
	dsn := newDSN(t, stock.Stock{Units: 10})
	w := newWire(delayRequest, "COMMIT")
	service := startReplica(t, options{dsn: w.dsn(dsn), strategy: "conditional", timeout: testTimeout})
	if placed, err := service.Place(t.Context(), buy("ann", "k", 2)); err != nil || placed.Replayed {
		t.Fatalf("got %+v, %v, want a new order", placed, err)
	}
	_ = w.arrive() // the server has closed the connection
	placed, err := service.Place(t.Context(), buy("ann", "k", 2))
	if err != nil || !placed.Replayed {
		t.Errorf("replay: got %+v, %v; want the order that was made", placed, err)
	}
	if got := audit(t, dsn).Reserved; got != 2 {
		t.Errorf("%d units reserved, want 2", got)
	}
}
