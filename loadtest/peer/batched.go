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

// batched is conditional-batched. Its orders wait in one queue of the replica.
// Whatever queued up during the last commit is the next batch: one transaction in
// one packet, with one guarded UPDATE for each SKU and one INSERT for all orders.
//
// No lock is taken, so a replica never knows how many units are left. When MySQL
// refuses an UPDATE, there were too few for the batch. The replica then reads the
// stock and makes the batch smaller.
type batched struct {
	database
	// lanes are the batches under way at once, each on a connection of its own. One
	// connection of the pool is left for SKUs that are put on sale or first read.
	lanes int

	mu      sync.Mutex
	waiting []*ticket
	busy    int // lanes at work
	// scarce are the SKUs that had too few units for a batch. Their stock is read
	// before each later batch: most UPDATEs of them would be refused.
	scarce  map[string]bool
	running sync.WaitGroup // of lanes
}

func openBatched(_ context.Context, s Servers) (rival, error) {
	return &batched{database: database{db: s.DB}, lanes: max(s.Pool-1, 1), scarce: map[string]bool{}}, nil
}

const (
	// maxBatch keeps a packet under 1 MiB, also when all customers and keys have
	// their full length.
	maxBatch = 512
	// maxWaiting is about half a second of a replica's orders; it is the bound of
	// the service's queues, too.
	maxWaiting = 4096
)

// ticket is an order that waits for its answer.
type ticket struct {
	request     order.Request
	fingerprint order.Fingerprint
	id          order.ID
	row         stock.Stock // what does not change of its SKU
	arrived     time.Time
	// claimed by a lane, which then answers, or by a caller who no longer waits.
	claimed  atomic.Bool
	answered chan answer
}

type answer struct {
	placed order.Placed
	err    error
}

func (t *ticket) answer(p order.Placed, err error) { t.answered <- answer{p, err} }

// identity is what there can be only one order of.
type identity struct{ customer, key string }

func (t *ticket) identity() identity { return identity{t.request.Customer, t.request.Key} }

// Place has no timer of its own: a lane answers each order that it takes up within
// requestTimeout, and takes up none that has waited for longer.
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
	id, err := uuid.NewV7()
	if err != nil {
		return nil, err
	}
	return &ticket{request: r, fingerprint: r.Fingerprint(), id: id, row: row, arrived: time.Now(), answered: make(chan answer, 1)}, nil
}

// enqueue reports false when the queue is full.
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

// lane writes batch after batch until nothing waits.
func (b *batched) lane() {
	for batch := b.next(); len(batch) > 0; batch = b.next() {
		b.sell(batch)
	}
}

// next takes the next batch off the queue. With none, the lane is no longer busy.
func (b *batched) next() []*ticket {
	b.mu.Lock()
	defer b.mu.Unlock()
	var batch []*ticket
	taken := 0
	for ; taken < len(b.waiting) && len(batch) < maxBatch; taken++ {
		t := b.waiting[taken]
		switch {
		case !t.claimed.CompareAndSwap(false, true): // its caller no longer waits
		case time.Since(t.arrived) > requestTimeout:
			t.answer(order.Placed{}, fmt.Errorf("%w: it waited for %s", order.ErrUnavailable, requestTimeout))
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

// sell writes the orders of a batch and answers all of them.
func (b *batched) sell(batch []*ticket) {
	// No request's context: the batch is of many.
	ctx, cancel := context.WithTimeout(context.Background(), requestTimeout)
	defer cancel()
	unsure := b.isScarce
	for {
		admitted, refused, err := b.admit(ctx, batch, unsure)
		var made time.Time
		if err == nil && len(admitted) > 0 {
			made, err = writeBatch(ctx, b.db, admitted)
		}
		if err == nil {
			for _, t := range admitted {
				t.answer(promise(&t.request, t.id, t.row.PriceCents, t.row.Currency, made), nil)
			}
			for _, r := range refused {
				r.ticket.answer(order.Placed{}, r.reason)
			}
			return
		}
		// The orders that took the last units do not stand, so the refused ones must
		// be decided again.
		batch = admitted
		for _, r := range refused {
			batch = append(batch, r.ticket)
		}
		switch {
		case isShort(err), stock.IsDuplicate(err):
			// The server does not say which SKU or which key it was.
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

// refusal is an order that was refused, and why.
type refusal struct {
	ticket *ticket
	reason error
}

// admit parts a batch: admitted orders are to be written, and refused ones are to be
// answered once those are committed. It answers the rest itself: replays, and
// refusals of a SKU from which this batch takes nothing.
//
// Where a SKU is unsure, its stock is read first and decides. Orders of all other
// SKUs are admitted without a look.
func (b *batched) admit(ctx context.Context, batch []*ticket, unsure func(sku string) bool) (admitted []*ticket, refused []refusal, err error) {
	var doubtful, twins []*ticket
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
	seen, taken, short := map[identity]bool{}, map[string]bool{}, []refusal(nil)
	for _, t := range doubtful {
		sku, n := t.request.SKU, int64(t.request.Quantity)
		switch o, stands := found[t.identity()]; {
		case stands:
			t.answer(replay(o, t))
		case seen[t.identity()]:
			twins = append(twins, t)
		case left[sku] < n:
			short = append(short, refusal{t, reason(left[sku])})
		default:
			left[sku] -= n
			taken[sku] = true
			admitted = append(admitted, t)
		}
		seen[t.identity()] = true
	}
	for _, r := range short {
		if taken[r.ticket.request.SKU] {
			refused = append(refused, r)
		} else {
			r.ticket.answer(order.Placed{}, r.reason)
		}
	}
	b.learn(short, twins)
	return admitted, refused, nil
}

func replay(o order.Order, t *ticket) (order.Placed, error) {
	if o.Fingerprint != t.fingerprint {
		return order.Placed{}, order.ErrKeyReused
	}
	return order.Placed{Order: o, Replayed: true}, nil
}

func reason(left int64) error {
	if left > 0 {
		return order.ErrInsufficient
	}
	return order.ErrSoldOut
}

func (b *batched) isScarce(sku string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.scarce[sku]
}

// learn remembers which SKUs are scarce. It puts twins, later orders of a key that
// the batch has already, back into the queue: the first one decides their answer.
func (b *batched) learn(short []refusal, twins []*ticket) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, r := range short {
		b.scarce[r.ticket.request.SKU] = true
	}
	for _, t := range twins {
		t.claimed.Store(false)
	}
	b.waiting = append(b.waiting, twins...)
}

// close waits for the lanes, which end when all orders are answered.
func (b *batched) close(ctx context.Context) error {
	done := make(chan struct{})
	go func() { b.running.Wait(); close(done) }() // each batch is bounded by requestTimeout
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("end the batches: %w", ctx.Err())
	}
}
