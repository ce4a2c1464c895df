package order_test

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"flashsale/internal/lock"
	"flashsale/internal/order"
	"flashsale/internal/stock"
)

// A silent seller releases the lock. The orders that were sent to it go to the next
// seller, however patient their replica is with silence.
func TestOrdersLeaveASilentLinkAfterTheTenure(t *testing.T) {
	t.Parallel()
	dsn := newDSN(t, stock.Stock{Units: 10})
	seller, link := overLink(t, options{dsn: dsn, strategy: "etcd"})
	other := start(t, options{dsn: dsn, strategy: "etcd"})
	mustPlace(t, seller, buy("ann", "k", 1))
	mustPlace(t, other, buy("ben", "k", 1)) // opens the link
	order.NeverTakeOver(other.orders)
	defer link.Hold()()
	placed := mustPlace(t, other, buy("cat", "k", 1))
	if found, err := other.orders.Find(t.Context(), "cat", placed.Order.ID); err != nil || found != placed.Order {
		t.Errorf("found %+v, %v; want %+v", found, err, placed.Order)
	}
	if got := audit(t, dsn).Reserved; got != 3 {
		t.Errorf("%d units reserved, want 3", got)
	}
}

// All replicas that find a seller silent queue for its lock. Once one of them has it, the
// others leave the queue, and their orders go to the new seller.
func TestOneReplicaReplacesASilentSeller(t *testing.T) {
	t.Parallel()
	dsn := newDSN(t, stock.Stock{Units: 10})
	stopped, goOn := make(chan struct{}), make(chan struct{})
	var armed atomic.Bool
	seller, link := overLink(t, options{dsn: dsn, strategy: "etcd", at: func(s order.Step) {
		if s == order.BeforeCommit && armed.CompareAndSwap(true, false) {
			close(stopped)
			<-goOn
		}
	}})
	mustPlace(t, seller, buy("ann", "1", 1))
	var others [2]*replica
	var first sync.Once
	logged := make(logLines, 100)
	logger := slog.New(slog.NewTextHandler(logged, nil))
	for i := range others {
		others[i] = start(t, options{dsn: dsn, strategy: "etcd", logger: logger, at: func(s order.Step) {
			if s == order.BeforeClaim {
				first.Do(func() { awaitNoQueue(t, others[i]) })
			}
		}})
		mustPlace(t, others[i], buy("ben", fmt.Sprint(i), 1)) // opens the link
	}
	armed.Store(true)
	var buyers, last errgroup.Group
	last.Go(func() error { _, err := seller.orders.Place(t.Context(), buy("ann", "2", 1)); return err })
	<-stopped
	release := link.Hold()
	for i, other := range others {
		buyers.Go(func() error { _, err := other.orders.Place(t.Context(), buy("cat", fmt.Sprint(i), 1)); return err })
	}
	if err := buyers.Wait(); err != nil {
		t.Error(err)
	}
	first.Do(func() { t.Error("no other replica has taken the lock") })
	if !logged.have("sells a SKU after a seller that does not respond") {
		t.Error("the log does not say that the SKU has another seller")
	}
	close(goOn)
	release()
	if err := last.Wait(); err != nil {
		t.Error(err)
	}
	if got := audit(t, dsn).Reserved; got != 6 {
		t.Errorf("%d units reserved, want 6", got)
	}
}

// logLines receives the lines of a log, up to its capacity.
type logLines chan string

func (l logLines) Write(line []byte) (int, error) {
	select {
	case l <- string(line):
	default:
	}
	return len(line), nil
}

// have reports whether a line that was not read yet has the text.
func (l logLines) have(text string) bool {
	for {
		select {
		case line := <-l:
			if strings.Contains(line, text) {
				return true
			}
		default:
			return false
		}
	}
}

// awaitNoQueue waits until the queue of the SKU's lock is empty.
func awaitNoQueue(t *testing.T, at *replica) {
	for deadline := time.Now().Add(testTimeout); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		held, err := at.locker.(lock.Inspector).Inspect(t.Context())
		if err != nil {
			t.Error(err)
			return
		}
		if !slices.ContainsFunc(held, func(h lock.Info) bool { return h.Name == testSKU && len(h.Queue) > 0 }) {
			return
		}
	}
	t.Error("the other replica stays in the queue")
}
