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

// cut is what happens to a packet to MySQL.
type cut int

const (
	// loseReply lets the server act, and loses its answer.
	loseReply cut = iota
	// loseRequest loses the packet itself.
	loseRequest
	// delayRequest loses the connection, but the packet arrives later.
	delayRequest
)

// wire is a network for a DSN that cuts the next packet which ends in a text.
type wire struct {
	name string
	how  cut
	text []byte
	left atomic.Int32 // packets still to cut
	// before and after, when set, are called around a cut packet's fate.
	before, after func()
	// passed, when set, is called when a packet was sent after the last that was cut.
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

// arrive lets the delayed packet reach the server, and waits for its answer.
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
		// The server's answer says that it is done.
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

// The answer to COMMIT is lost, or COMMIT itself: either way the buyer is told
// what became of the order, and gets it once.
func TestLostCommitIsResolved(t *testing.T) {
	for how, name := range map[cut]string{loseReply: "reply", loseRequest: "request"} {
		t.Run(name, func(t *testing.T) {
			forGuarded(t, func(t *testing.T, strategy string) {
				dsn := newDSN(t, stock.Stock{Units: 10})
				w := newWire(how, "COMMIT")
				w.left.Store(0) // a lock's own row is committed before the first order
				service := startReplica(t, options{dsn: w.dsn(dsn), strategy: strategy, ttl: testTTL})
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
					t.Errorf("%v unknown commits were counted, want 1", n)
				}
				if got := audit(t, dsn).Reserved; got != 6 {
					t.Errorf("%d units reserved, want 6", got)
				}
			})
		})
	}
}

// A process that stops while it resolves an unknown commit, behind whatever packet,
// holds no lock of the row for longer than the server is at work.
func TestStopWhileACommitIsResolvedHoldsNoRow(t *testing.T) {
	t.Parallel()
	dsn := newDSN(t, stock.Stock{Units: 10})
	db := open(t, dsn)
	w := newWire(loseReply, "COMMIT")
	var packets atomic.Int32
	w.passed = func() {
		packets.Add(1)
		var err error
		for deadline := time.Now().Add(testPatience); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
			// The test's own context ends before the replica's last packet.
			if _, err = db.SQL.ExecContext(context.Background(), "SELECT sku FROM stock FOR UPDATE NOWAIT"); err == nil {
				return
			}
		}
		t.Errorf("packet %d behind the lost commit keeps the row locked: %v", packets.Load(), err)
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

// A batch whose connection broke is resolved as not applied, and sold again. Its
// packet reaches the server after all: it must change nothing.
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

// A batch is lost on its way, resolved as not applied, and its order refused, as
// the sale has ended meanwhile. That answer stands when the packet arrives.
func TestRefusalAfterALostCommitStands(t *testing.T) {
	t.Parallel()
	dsn := newDSN(t, stock.Stock{Units: 10})
	db := open(t, dsn)
	w := newWire(delayRequest, "COMMIT")
	w.before = func() {
		if _, err := db.SQL.ExecContext(t.Context(), "UPDATE stock SET sale_ends_at = NOW(6)"); err != nil {
			t.Error(err)
		}
	}
	service := startReplica(t, options{dsn: w.dsn(dsn), strategy: "etcd"})
	if _, err := service.Place(t.Context(), buy("ann", "k", 2)); !errors.Is(err, order.ErrOver) {
		t.Fatalf("got %v, want %v", err, order.ErrOver)
	}
	if err := w.arrive(); err != nil {
		t.Fatal(err)
	}
	if got := audit(t, dsn); got.Reserved != 0 || got.Available != 10 {
		t.Errorf("%d reserved, %d available; want 0 and 10", got.Reserved, got.Available)
	}
}

// COMMIT is on its way for long, and its transaction holds the row meanwhile. The
// settlement ends that transaction, and the order is made by another one. When the
// COMMIT arrives, it commits nothing.
func TestCommitThatStaysAwayIsShutOut(t *testing.T) {
	t.Parallel()
	dsn := newDSN(t, stock.Stock{Units: 10})
	w := newWire(delayRequest, "COMMIT")
	service := startReplica(t, options{dsn: w.dsn(dsn), strategy: "conditional", timeout: testTimeout})
	if placed, err := service.Place(t.Context(), buy("ann", "k", 2)); err != nil || placed.Replayed {
		t.Fatalf("got %+v, %v, want a new order", placed, err)
	}
	_ = w.arrive() // to a server that has closed the connection
	placed, err := service.Place(t.Context(), buy("ann", "k", 2))
	if err != nil || !placed.Replayed {
		t.Errorf("asking again: got %+v, %v; want the order that was made", placed, err)
	}
	if got := audit(t, dsn).Reserved; got != 2 {
		t.Errorf("%d units reserved, want 2", got)
	}
}
