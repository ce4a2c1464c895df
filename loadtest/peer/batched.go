package peer

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"flashsale/internal/order"
	"flashsale/internal/sleep"
	"flashsale/internal/stock"
)

// batched is conditional-batched. All orders of the replica wait in one queue. Those
// that arrive during a commit are the next batch: one transaction in one packet,
// with one conditional UPDATE for each SKU and one INSERT for all orders.
//
// There is no lock, so a replica does not know how many units are left. If MySQL
// refuses an UPDATE, there were too few units for the batch. The replica then reads
// the stock and makes the batch smaller.
type batched struct {
	database
	// lanes is the number of concurrent batches, each on a connection of its own. One
	// connection of the pool is for SKUs that are put on sale or first read.
	lanes int

	mu      sync.Mutex
	waiting []*ticket
	busy    int // lanes at work
	// scarce are the SKUs that had too few units for a batch. Later batches read their
	// stock first, since most of their UPDATEs would be refused.
	scarce  map[string]bool
	running sync.WaitGroup // of lanes
}

func openBatched(_ context.Context, s Servers) (rival, error) {
	return &batched{database: database{db: s.DB}, lanes: max(s.Pool-1, 1), scarce: map[string]bool{}}, nil
}

const (
	// maxBatch keeps a packet under 1 MiB, even with the longest customers and keys.
	maxBatch = 512
	// maxWaiting is the bound of the service's queues: half a second of orders.
	maxWaiting = 4096
)

type ticket struct {
	request     order.Request
	fingerprint order.Fingerprint
	id          order.ID
	row         stock.Stock // for the price
	arrived     time.Time
	// claimed is set by a lane, which then answers, or by a caller that stops waiting.
	claimed  atomic.Bool
	answered chan answer
}

type answer struct {
	placed order.Placed
	err    error
}

func (t *ticket) answer(p order.Placed, err error) { t.answered <- answer{p, err} }

// identity is unique among orders.
type identity struct{ customer, key string }

func (t *ticket) identity() identity { return identity{t.request.Customer, t.request.Key} }

// Place has no timer of its own: a lane answers each order that it claims within
// requestTimeout, and claims none that has waited for longer.
func (b *batched) Place(ctx context.Context, r order.Request) (order.Placed, error) {
	t, err := b.ticket(ctx, r)
	if err != nil {
		return order.Placed{}, classify(err)
	}
	if !b.enqueue(t) {
		return order.Placed{}, order.ErrBusy
	}
	select {
	case a := <-t.answered:
		return a.placed, a.err
	case <-ctx.Done():
	}
	if t.claimed.CompareAndSwap(false, true) {
		return order.Placed{}, fmt.Errorf("%w: %w", order.ErrUnavailable, ctx.Err())
	}
	return order.Placed{}, fmt.Errorf("%w: %w", order.ErrUnknown, ctx.Err())
}

func (b *batched) ticket(ctx context.Context, r order.Request) (*ticket, error) {
	row, err := b.rows.get(ctx, r.SKU, b.db.Get)
	if err != nil {
		return nil, err
	}
	id := uuid.Must(uuid.NewV7())
	return &ticket{request: r, fingerprint: r.Fingerprint(), id: id, row: row, arrived: time.Now(), answered: make(chan answer, 1)}, nil
}

func (b *batched) enqueue(t *ticket) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.waiting) >= maxWaiting {
		return false
	}
	b.waiting = append(b.waiting, t)
	if b.busy < b.lanes {
		b.busy++
		b.running.Go(b.lane)
	}
	return true
}

func (b *batched) lane() {
	for batch := b.next(); len(batch) > 0; batch = b.next() {
		b.sell(batch)
	}
}

// next takes the next batch from the queue. If there is none, the lane ends.
func (b *batched) next() []*ticket {
	b.mu.Lock()
	defer b.mu.Unlock()
	var batch []*ticket
	taken := 0
	for ; taken < len(b.waiting) && len(batch) < maxBatch; taken++ {
		t := b.waiting[taken]
		switch {
		case !t.claimed.CompareAndSwap(false, true): // its caller has stopped waiting
		case time.Since(t.arrived) > requestTimeout:
			t.answer(order.Placed{}, fmt.Errorf("%w: the order waited for %s", order.ErrUnavailable, requestTimeout))
		default:
			batch = append(batch, t)
		}
	}
	left := copy(b.waiting, b.waiting[taken:])
	clear(b.waiting[left:])
	b.waiting = b.waiting[:left]
	if len(batch) == 0 {
		b.busy--
	}
	return batch
}

func (b *batched) sell(batch []*ticket) {
	// Not the context of a request: the batch has many.
	ctx, cancel := context.WithTimeout(context.Background(), requestTimeout)
	defer cancel()
	unsure := b.isScarce
	for {
		admitted, rejected, err := b.admit(ctx, batch, unsure)
		var made time.Time
		if err == nil && len(admitted) > 0 {
			made, err = writeBatch(ctx, b.db, admitted)
		}
		if err == nil {
			for _, t := range admitted {
				t.answer(promise(&t.request, t.id, t.row.PriceCents, t.row.Currency, made), nil)
			}
			for _, r := range rejected {
				r.ticket.answer(order.Placed{}, r.reason)
			}
			return
		}
		// The admitted orders were not written, so the refused ones are decided again.
		batch = admitted
		for _, r := range rejected {
			batch = append(batch, r.ticket)
		}
		switch {
		case isShort(err), stock.IsDuplicate(err):
			// The error does not name the SKU or the key.
			unsure = func(string) bool { return true }
		case stock.IsRetryable(err) && sleep.For(ctx, rand.N(backoff)) == nil:
		default:
			for _, t := range batch {
				t.answer(order.Placed{}, classify(err))
			}
			return
		}
	}
}

type refused struct {
	ticket *ticket
	reason error
}

// admit divides a batch into admitted orders, which must be written, and rejected
// ones, which are answered after that commit. It answers the others itself: replays,
// and orders of a SKU of which this batch takes no unit.
//
// It reads the stock of each unsure SKU to decide. Orders of other SKUs are admitted
// unread.
func (b *batched) admit(ctx context.Context, batch []*ticket, unsure func(sku string) bool) (admitted []*ticket, rejected []refused, err error) {
	var doubtful, copies []*ticket
	for _, t := range batch {
		if unsure(t.request.SKU) {
			doubtful = append(doubtful, t)
		} else {
			admitted = append(admitted, t)
		}
	}
	if len(doubtful) == 0 {
		return admitted, nil, nil
	}
	left, found, err := look(ctx, b.db, doubtful)
	if err != nil {
		return batch, nil, err
	}
	seen, taken, short := map[identity]bool{}, map[string]bool{}, []refused(nil)
	for _, t := range doubtful {
		sku, n := t.request.SKU, int64(t.request.Quantity)
		switch o, exists := found[t.identity()]; {
		case exists:
			t.answer(replay(o, t))
		case seen[t.identity()]:
			copies = append(copies, t)
		case left[sku] < n:
			short = append(short, refused{t, refusal(left[sku])})
		default:
			left[sku] -= n
			taken[sku] = true
			admitted = append(admitted, t)
		}
		seen[t.identity()] = true
	}
	for _, r := range short {
		if taken[r.ticket.request.SKU] {
			rejected = append(rejected, r)
		} else {
			r.ticket.answer(order.Placed{}, r.reason)
		}
	}
	b.learn(short, copies)
	return admitted, rejected, nil
}

func replay(o order.Order, t *ticket) (order.Placed, error) {
	if o.Fingerprint != t.fingerprint {
		return order.Placed{}, order.ErrKeyReused
	}
	return order.Placed{Order: o, Replayed: true}, nil
}

func (b *batched) isScarce(sku string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.scarce[sku]
}

// learn marks SKUs as scarce. It returns copies, later orders of a key in the same
// batch, to the queue: the first one decides their answer.
func (b *batched) learn(short []refused, copies []*ticket) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, r := range short {
		b.scarce[r.ticket.request.SKU] = true
	}
	for _, t := range copies {
		t.claimed.Store(false)
	}
	b.waiting = append(b.waiting, copies...)
}

// close waits for the lanes, which end once all orders are answered.
func (b *batched) close(ctx context.Context) error {
	done := make(chan struct{})
	go func() { b.running.Wait(); close(done) }() // each batch is bounded by requestTimeout
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for the last batches: %w", ctx.Err())
	}
}
