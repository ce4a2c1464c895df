package order_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"
	"time"

	"flashsale/internal/backend"
	"flashsale/internal/lock"
	"flashsale/internal/order"
	"flashsale/internal/stock"
)

// The packet of a change is lost, or its answer, or it arrives after the change was
// repeated. The caller gets the outcome, and the change is applied once.
func TestLostChangesAreResolved(t *testing.T) {
	for how, fate := range map[cut]string{loseReply: "reply", loseRequest: "request", delayRequest: "late"} {
		t.Run(fate, func(t *testing.T) {
			forShops(t, stock.Stock{Units: 10}, time.Minute, func(t *testing.T, s *shop) {
				name := s.strategy
				cancel, pay := s.mustBuy(t, 0, "ann", "k1", 2), s.mustBuy(t, 0, "ann", "k2", 3)
				cutting := func(text string, do func(at *order.Service)) {
					w := newWire(how, text)
					do(startReplica(t, options{dsn: w.dsn(s.dsn), strategy: name}))
					if w.left.Load() > 0 {
						t.Errorf("no packet ending in %q was cut", text)
					}
					if how == delayRequest {
						if err := w.arrive(); err != nil {
							t.Fatal(err)
						}
					}
				}
				cutting("COMMIT", func(at *order.Service) {
					o, err := at.Cancel(t.Context(), "ann", cancel.ID)
					if err != nil || o.Status != order.Cancelled {
						t.Errorf("cancel: got %+v, %v", o, err)
					}
				})
				cutting("COMMIT", func(at *order.Service) {
					r, err := at.Restock(t.Context(), order.RestockRequest{SKU: testSKU, Key: "r", Units: 5})
					if err != nil || r.Replayed {
						t.Errorf("restock: got %+v, %v", r, err)
					}
				})
				cutting("_binary'ann'", func(at *order.Service) {
					o, err := at.Pay(t.Context(), order.Payment{Customer: "ann", Order: pay.ID, Reference: "p"})
					if err != nil || o.Status != order.Paid || o.PaymentReference != "p" {
						t.Errorf("pay: got %+v, %v", o, err)
					}
				})
				execSQL(t, s.dsn, "UPDATE orders SET expires_at = NOW(6), closed_at = NOW(6) - INTERVAL 1 SECOND WHERE status = 'paid'")
				cutting("FROM payments WHERE reference = _binary'p2'", func(at *order.Service) {
					_, err := at.Pay(t.Context(), order.Payment{Customer: "ann", Order: pay.ID, Reference: "p2"})
					mustBe(t, "pay again", err, order.ErrAlreadyPaid)
				})
				if got := s.late(t); len(got) != 1 || got[0] != "p2" {
					t.Errorf("stored %q, want p2, once", got)
				}
				if got := s.audit(t); got.Units != 15 || got.Paid != 3 || got.Available != 12 {
					t.Errorf("%+v; want 15 units, 3 paid, 12 available", got)
				}
			})
		})
	}
}

// A replica died between MySQL and etcd. The audit finds the gap, and repeating the call
// closes it.
func TestGapAfterAReturnIsRepaired(t *testing.T) {
	t.Parallel()
	s := openShop(t, "etcd-cas", stock.Stock{Units: 10}, time.Minute)
	first, second := s.mustBuy(t, 0, "ann", "k1", 2), s.mustBuy(t, 0, "ann", "k2", 3)
	for _, o := range []order.Order{first, second} { // in MySQL only
		execSQL(t, s.dsn, "UPDATE stock SET available = available + ?, seq = seq + 1", o.Quantity)
		execSQL(t, s.dsn, "UPDATE orders SET status = 'cancelled', closed_at = NOW(6), returned_by = id WHERE id = ?", o.ID[:])
	}
	if report := auditBoth(t, s.dsn, s.replicas[0].units); len(report.Violations) != 2 {
		t.Errorf("the audit found %+v, want two gaps", report.Violations)
	}
	if _, err := s.at(1).Cancel(t.Context(), "ann", first.ID); err != nil {
		t.Error(err)
	}
	if report := auditBoth(t, s.dsn, s.replicas[0].units); len(report.Violations) != 1 {
		t.Errorf("after cancelling again the audit found %+v, want one gap", report.Violations)
	}
	expire(t, s.replicas[0], s.dsn, true) // repairs when it starts
	s.awaitUnits(t, 10)
	s.audit(t)

	request := order.RestockRequest{SKU: testSKU, Key: "r", Units: 5}
	execSQL(t, s.dsn, "UPDATE stock SET units = units + 5, available = available + 5, seq = seq + 1")
	made := restockRow(t, s, request)
	if report := auditBoth(t, s.dsn, s.replicas[0].units); len(report.Violations) != 1 {
		t.Errorf("the audit found %+v, want the restock that etcd does not have", report.Violations)
	}
	for range 2 {
		got, err := s.at(0).Restock(t.Context(), request)
		if err != nil || !got.Replayed || got.Restock.ID != made {
			t.Errorf("restock again: got %+v, %v", got, err)
		}
	}
	s.audit(t)
}

// restockRow writes only a restock's row.
func restockRow(t *testing.T, s *shop, r order.RestockRequest) (id order.ID) {
	t.Helper()
	id[0] = 1
	as := order.Request{SKU: r.SKU, Quantity: r.Units}
	fingerprint := as.Fingerprint()
	execSQL(t, s.dsn, "INSERT INTO restocks (id, sku, idempotency_key, fingerprint, units, created_at, seq) VALUES (?, ?, ?, ?, ?, NOW(6), 1)",
		id[:], r.SKU, r.Key, fingerprint[:], r.Units)
	return id
}

// stopping is a lock that stops the process once it is granted.
type stopping struct {
	lock.Locker
	stop func()
}

func (s stopping) TryLock(ctx context.Context, name string) (lock.Held, error) {
	held, err := s.Locker.TryLock(ctx, name)
	if err == nil {
		s.stop()
	}
	return held, err
}

// expireAsChild runs an Expirer that stops the process once it has the lock.
func expireAsChild(cfg childConfig, r *replica, stop func()) error {
	leases, err := backend.OpenLeases(backend.Config{DSN: cfg.DSN, Replica: "child", TTL: testTTL})
	if err != nil {
		return err
	}
	order.NewExpirer(r.orders, stopping{leases, stop}).Run(context.Background())
	return nil
}

// The sweeper dies or stops. Once its lease has ended, another one continues. A stopped
// one that resumes sweeps at the same time, which does not matter.
func TestExpiryIsTakenOverFromADeadReplica(t *testing.T) {
	t.Parallel()
	for name, signal := range map[string]syscall.Signal{"killed": syscall.SIGKILL, "stopped for a while": syscall.SIGCONT} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := openShop(t, "etcd", stock.Stock{Units: 10}, time.Second)
			c := startChild(t, childConfig{DSN: s.dsn, Fence: "claim", Stop: whileSweeping})
			o := s.mustBuy(t, 0, "ann", "k", 2)
			if signal == syscall.SIGKILL {
				if err := c.cmd.Process.Signal(signal); err != nil {
					t.Fatal(err)
				}
			}
			expire(t, s.replicas[0], s.dsn, true)
			s.await(t, noneReserved)
			late := s.databaseNow(t).Sub(o.ExpiresAt)
			t.Logf("it expired %s after its window", late)
			if signal == syscall.SIGCONT {
				if err := c.cmd.Process.Signal(signal); err != nil {
					t.Fatal(err)
				}
				for i := range 5 {
					s.mustBuy(t, i, "ben", fmt.Sprint("k", i), 1)
				}
				s.await(t, noneReserved)
			}
			if got := s.audit(t); got.Available != 10 {
				t.Errorf("%+v; want all available", got)
			}
		})
	}
}

// Random calls at two replicas, compared with a model.
func TestRandomCallsAgreeWithTheModel(t *testing.T) {
	forShops(t, stock.Stock{Units: 6}, time.Hour, func(t *testing.T, s *shop) {
		seed := rand.Uint64()
		t.Logf("seed %d", seed)
		random := rand.New(rand.NewPCG(seed, 0))
		expire(t, s.replicas[0], s.dsn, true)
		m := model{units: 6, available: 6, orders: map[order.ID]*order.Order{}}
		for i := range 120 {
			m.step(t, s, random, i)
			if t.Failed() {
				t.Fatalf("step %d", i)
			}
		}
		got := s.audit(t)
		if got.Units != m.units || got.Available != m.available {
			t.Errorf("%+v; want %d units, %d available", got, m.units, m.available)
		}
	})
}

// model is the expected state of a shop.
type model struct {
	units, available int64
	orders           map[order.ID]*order.Order
	ids              []order.ID
}

// step makes one random call and compares its result.
func (m *model) step(t *testing.T, s *shop, random *rand.Rand, i int) {
	at := s.at(random.IntN(2))
	kind := random.IntN(10)
	if len(m.ids) == 0 {
		kind = 0
	}
	switch {
	case kind < 4:
		m.place(t, at, buy("ann", fmt.Sprint("k", i), 1+random.Int32N(3)))
		return
	case kind == 4:
		_, err := at.Restock(t.Context(), order.RestockRequest{SKU: testSKU, Key: fmt.Sprint("r", i), Units: 1})
		mustBe(t, "restock", err, nil)
		m.units, m.available = m.units+1, m.available+1
		return
	}
	o := m.orders[m.ids[random.IntN(len(m.ids))]]
	switch kind {
	case 5, 6:
		_, err := at.Pay(t.Context(), order.Payment{Customer: "ann", Order: o.ID, Reference: "payment of " + o.ID.String()})
		mustBe(t, "pay", err, map[order.Status]error{order.Cancelled: order.ErrCancelled, order.Expired: order.ErrPaymentWindowOver}[o.Status])
		if o.Status == order.Reserved {
			o.Status = order.Paid
		}
	case 7, 8:
		_, err := at.Cancel(t.Context(), "ann", o.ID)
		mustBe(t, "cancel", err, map[order.Status]error{order.Paid: order.ErrAlreadyPaid, order.Expired: order.ErrExpired}[o.Status])
		m.end(o, order.Cancelled)
	case 9:
		if o.Status == order.Reserved {
			execSQL(t, s.dsn, "UPDATE orders SET expires_at = NOW(6) WHERE id = ?", o.ID[:])
			s.await(t, "SELECT status = 'expired' FROM orders WHERE id = ?", o.ID[:])
			if s.replicas[0].units != nil {
				s.awaitUnits(t, m.available+int64(o.Quantity))
			}
		}
		m.end(o, order.Expired)
	}
	again, err := at.Place(t.Context(), buy("ann", o.Key, o.Quantity))
	if err != nil || !again.Replayed || again.Order.ID != o.ID || again.Order.Status != order.Reserved {
		t.Errorf("replay: got %+v, %v; want the order as it was made", again, err)
	}
	found, err := at.Find(t.Context(), "ann", o.ID)
	if err != nil || found.Status != o.Status {
		t.Errorf("found %+v, %v; want status %s", found, err, o.Status)
	}
}

func (m *model) place(t *testing.T, at *order.Service, r order.Request) {
	placed, err := at.Place(t.Context(), r)
	switch {
	case m.available >= int64(r.Quantity):
		mustBe(t, "buy", err, nil)
		m.available -= int64(r.Quantity)
		m.orders[placed.Order.ID] = &placed.Order
		m.ids = append(m.ids, placed.Order.ID)
	case m.available == 0:
		mustBe(t, "buy", err, order.ErrSoldOut)
	default:
		mustBe(t, "buy", err, order.ErrInsufficient)
	}
}

func (m *model) end(o *order.Order, to order.Status) {
	if o.Status == order.Reserved {
		o.Status = to
		m.available += int64(o.Quantity)
	}
}
