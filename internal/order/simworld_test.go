package order

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"flashsale/internal/sleep"
	"flashsale/internal/stock"
)

const (
	simRequest = 3 * time.Second // RequestTimeout
	simWindow  = 2500 * time.Millisecond
	simSale    = 4 * time.Second // for which buyers begin orders, and faults begin
	simFault   = 3 * time.Second // the longest fault
	// simBound is within which a replica must answer after all faults have healed.
	simBound   = 2*simTTL + 500*time.Millisecond
	simNodes   = 3
	simBuyers  = 10
	simKeys    = 6 // of each buyer
	simFaults  = 10
	simPatient = simRequest + time.Second
)

// attempt is one request of a buyer for an order, and its answer.
type attempt struct {
	Request
	name           string
	sent, answered time.Duration
	known          bool // it was answered
	placed         Placed
	err            error
}

func (a *attempt) String() string {
	return fmt.Sprintf("%s %s #%s for %d of %s", a.Customer, a.Key, a.name, a.Quantity, a.SKU)
}

// simWorld is what a run consists of, beside its servers.
type simWorld struct {
	*sim
	healed sync.WaitGroup // faults

	mu       sync.Mutex
	attempts []*attempt
	asked    map[byKey]bool
	paid     map[ID]bool // payments that were answered
	undone   map[ID]bool // cancellations that were answered
	restocks map[string]int32
}

// simulate runs a seed and returns its log and hash. It reports violations in the log.
func simulate(t *testing.T, seed uint64) (s *sim) {
	synctest.Test(t, func(t *testing.T) {
		s = &sim{t: t, seed: seed, began: time.Now(), skus: []string{"a", "b"}}
		s.mysql, s.etcd = newSimMySQL(s), newSimEtcd(s)
		w := &simWorld{sim: s, asked: map[byKey]bool{}, paid: map[ID]bool{}, undone: map[ID]bool{}, restocks: map[string]int32{}}
		w.open()
		w.run()
		w.check()
	})
	return s
}

// rand is an actor's own source of numbers.
func (w *simWorld) rand(actor uint64) *rand.Rand { return rand.New(rand.NewPCG(w.seed, actor)) }

func within(r *rand.Rand, d time.Duration) time.Duration { return time.Duration(r.Int64N(int64(d))) }

// Two runs of five have each of these, and two have neither.
func (s *sim) strict() bool { return s.seed%5 == 0 || s.seed%5 == 3 }

func (s *sim) holdPolicy() stock.HoldPolicy {
	if s.strict() {
		return stock.Strict
	}
	return stock.Lenient
}

func (s *sim) maxUnpaid() int {
	if s.seed%5 >= 3 {
		return 2
	}
	return 0
}

// open puts the SKUs on sale and starts the replicas.
func (w *simWorld) open() {
	r := w.rand(1)
	for _, sku := range w.skus {
		row := stock.Stock{SKU: sku, Name: sku, PriceCents: 100, Currency: "EUR", Units: 3 + r.Int64N(30)}
		row.Available = row.Units
		if r.IntN(2) == 0 {
			row.PerCustomerLimit, row.HoldPolicy = new(1+r.Int32N(4)), w.holdPolicy()
		}
		w.mysql.stock[sku] = &row
		w.mysql.changed(sku)
	}
	for i := range simNodes {
		w.nodes = append(w.nodes, &simNode{s: w.sim, name: fmt.Sprint("r", i), running: newWay(),
			ways: map[string]*way{"mysql": newWay(), "etcd": newWay(), "buyers": newWay()}})
	}
	for i, n := range w.nodes {
		n.ways[n.name] = newWay() // to the process after a crash, by the key of the one before
		for _, o := range w.nodes[:i] {
			link := newWay()
			n.ways[o.name], o.ways[n.name] = link, link
		}
	}
	for _, n := range w.nodes {
		n.start()
		time.Sleep(time.Microsecond)
	}
}

func (s *sim) node(name string) *simNode {
	return s.nodes[slices.IndexFunc(s.nodes, func(n *simNode) bool { return n.name == name })]
}

func (w *simWorld) run() {
	var actors sync.WaitGroup
	for i := range simBuyers {
		actors.Go(func() { w.buyer(i) })
	}
	actors.Go(w.admin)
	actors.Go(w.nemesis)
	over := make(chan struct{})
	var sweepers sync.WaitGroup
	for i := range 2 {
		sweepers.Go(func() { w.expire(i, over) })
	}
	actors.Wait()
	w.healed.Wait()
	w.log("everything has healed")
	w.probe()
	close(over)
	sweepers.Wait()
	for _, n := range w.nodes {
		if err := n.set(nil).drain(); err != nil {
			w.violated("%s does not end in order: %v", n.name, err)
		}
	}
	w.background.Wait()
	time.Sleep(2 * simTTL) // the leases of processes that crashed end
}

// buyer places orders, asks again after a failure, pays some and cancels some.
func (w *simWorld) buyer(i int) {
	r := w.rand(100 + uint64(i))
	var asked []Request
	for n := range simKeys {
		time.Sleep(within(r, 2*simSale/simKeys))
		if w.now() > simSale {
			return
		}
		q := Request{SKU: w.skus[r.IntN(len(w.skus))], Customer: fmt.Sprint("buyer", i), Key: fmt.Sprint("key", n), Quantity: 1 + r.Int32N(3)}
		if len(asked) > 0 && r.IntN(4) == 0 {
			q = asked[r.IntN(len(asked))] // again, long after
		}
		asked = append(asked, q)
		var both sync.WaitGroup
		if r.IntN(6) == 0 { // at two replicas at once
			other := rand.New(rand.NewPCG(r.Uint64(), 0))
			both.Go(func() { w.buy(other, q, fmt.Sprint(n, "b")) })
		}
		if o, ok := w.buy(r, q, fmt.Sprint(n, "a")); ok {
			w.use(r, o)
		}
		both.Wait()
	}
}

// buy asks until the answer is definite, a few times.
func (w *simWorld) buy(r *rand.Rand, q Request, name string) (o Order, ok bool) {
	for i := range 5 {
		patience := simPatient
		if r.IntN(3) == 0 {
			patience = 5*time.Millisecond + within(r, 500*time.Millisecond)
		}
		a := w.ask(w.nodes[r.IntN(len(w.nodes))], q, fmt.Sprint(name, i), patience)
		switch {
		case a.known && a.err == nil:
			return a.placed.Order, true
		case a.known && isAny(a.err, orderRefusals) && r.IntN(3) > 0:
			return o, false
		}
		time.Sleep(within(r, 300*time.Millisecond))
	}
	return o, false
}

// ask makes one request for an order. No other one of the same key has this name.
func (w *simWorld) ask(n *simNode, q Request, name string, patience time.Duration) *attempt {
	a := &attempt{Request: q, name: name, sent: w.now()}
	a.id = uuid.NewSHA1(uuid.Nil, []byte(fmt.Sprint(w.seed, a)))
	w.mu.Lock()
	w.asked[byKey{q.Customer, q.Key}] = true
	w.attempts = append(w.attempts, a)
	w.mu.Unlock()
	w.log("%s asks %s", a, n.name)
	err := w.at(n, a.String(), patience, func(ctx context.Context, p *simProcess) (err error) {
		placed, err := p.service.Place(ctx, a.Request)
		if err == nil {
			w.mysql.set(func() {
				if w.mysql.byID[placed.Order.ID] == nil && !isClosed(p.dead) {
					w.violated("%s was answered with an order that was not committed", a)
				}
			})
		}
		return &simAnswer{placed, err}
	})
	a.answered = w.now()
	if answer, ok := errors.AsType[*simAnswer](err); ok {
		a.known, a.placed, a.err = true, answer.placed, answer.err
	} else {
		a.err = err
	}
	w.log("%s: known %v, replayed %v, %v", a, a.known, a.placed.Replayed, a.err)
	return a
}

type simAnswer struct {
	placed Placed
	err    error
}

func (*simAnswer) Error() string { return "" }

var (
	errSimNobody = errors.New("nobody listens") // the request was not sent
	errSimLate   = errors.New("the buyer has waited too long")
)

// at makes a request to a replica, which f serves. Its result is f's, unless the answer
// does not arrive in time.
func (w *simWorld) at(n *simNode, who string, patience time.Duration, f func(context.Context, *simProcess) error) error {
	ctx, cancel := context.WithTimeout(context.WithValue(context.Background(), callerKey{}, who), patience)
	defer cancel()
	c := w.chance(who)
	if !c.pass(ctx.Done(), n.ways["buyers"], n.running) || sleep.For(ctx, c.delay(simTrip)) != nil {
		return errSimNobody
	}
	p := n.current()
	if p == nil {
		return errSimNobody
	}
	result := make(chan error, 1)
	w.background.Go(func() { result <- f(ctx, p) })
	var err error
	select {
	case err = <-result:
	case <-ctx.Done():
		return errSimLate
	case <-p.dead:
	}
	if isClosed(p.dead) || sleep.For(ctx, c.delay(simTrip)) != nil || !c.pass(anyOf(ctx, p), n.ways["buyers"], n.running) || isClosed(p.dead) {
		return errSimReset
	}
	return err
}

// use pays for an order, cancels it, or forgets it.
func (w *simWorld) use(r *rand.Rand, o Order) {
	time.Sleep(within(r, 300*time.Millisecond))
	what := r.IntN(3)
	for i := range 3 {
		who := fmt.Sprintf("%s %s use %d", o.Customer, o.Key, i)
		var err error
		switch what {
		case 0:
			err = w.at(w.nodes[r.IntN(len(w.nodes))], who, simPatient, func(ctx context.Context, p *simProcess) error {
				_, err := p.service.Pay(ctx, Payment{Customer: o.Customer, Order: o.ID})
				return err
			})
		case 1:
			err = w.at(w.nodes[r.IntN(len(w.nodes))], who, simPatient, func(ctx context.Context, p *simProcess) error {
				_, err := p.service.Cancel(ctx, o.Customer, o.ID)
				return err
			})
		}
		w.log("%s: use %d: %v", who, what, err)
		w.mu.Lock()
		if err == nil && what == 0 {
			w.paid[o.ID] = true
		}
		if err == nil && what == 1 {
			w.undone[o.ID] = true
		}
		w.mu.Unlock()
		if err == nil || isAny(err, []error{ErrPaymentWindowOver, ErrCancelled, ErrAlreadyPaid, ErrExpired}) {
			return
		}
		time.Sleep(within(r, 300*time.Millisecond))
	}
}

// admin adds units and changes SKUs.
func (w *simWorld) admin() {
	r := w.rand(2)
	for i := range r.IntN(5) {
		time.Sleep(within(r, simSale/2))
		sku, n, who := w.skus[r.IntN(len(w.skus))], w.nodes[r.IntN(len(w.nodes))], fmt.Sprint("admin", i)
		if r.IntN(2) == 0 {
			add := RestockRequest{SKU: sku, Key: who, Units: 1 + r.Int32N(5)}
			for range 3 {
				err := w.at(n, who, simPatient, func(ctx context.Context, p *simProcess) error {
					_, err := p.service.Restock(ctx, add)
					return err
				})
				w.log("%s restocks %s by %d: %v", who, sku, add.Units, err)
				if err == nil {
					w.restocks[add.Key] = add.Units
					break
				}
				n = w.nodes[r.IntN(len(w.nodes))]
			}
			continue
		}
		want := stock.Stock{SKU: sku, Name: sku, PriceCents: 100, Currency: "EUR"}
		if r.IntN(2) == 0 {
			want.PerCustomerLimit, want.HoldPolicy = new(1+r.Int32N(4)), w.holdPolicy()
		}
		err := w.at(n, who, simPatient, func(ctx context.Context, p *simProcess) error {
			_, _, err := p.service.PutSKU(ctx, want, Precondition{Exists: true})
			return err
		})
		w.log("%s changes %s: %v", who, sku, err)
	}
}

// expire ends due orders, as an Expirer does.
func (w *simWorld) expire(i int, over chan struct{}) {
	r := w.rand(10 + uint64(i))
	for round := 0; ; round++ {
		select {
		case <-over:
			return
		case <-time.After(within(r, time.Second)):
		}
		n, sku := w.nodes[r.IntN(len(w.nodes))], w.skus[r.IntN(len(w.skus))]
		var due []ID
		w.mysql.set(func() {
			for _, o := range w.mysql.orders {
				if o.SKU == sku && o.Status == Reserved && !o.ExpiresAt.After(w.mysql.now()) {
					due = append(due, o.ID)
				}
			}
		})
		if len(due) > 0 {
			who := fmt.Sprint("expirer", i, " ", round)
			err := w.at(n, who, simPatient, func(ctx context.Context, p *simProcess) error { return p.service.expire(ctx, sku, due) })
			w.log("%s of %s: %v", who, sku, err)
		}
	}
}

// probe asks each replica for a unit of each SKU, once everything has healed.
func (w *simWorld) probe() {
	began := w.now()
	var all sync.WaitGroup
	for i, n := range w.nodes {
		for j, sku := range w.skus {
			all.Go(func() {
				r := w.rand(1000 + uint64(10*i+j))
				time.Sleep(within(r, 10*time.Millisecond))
				q := Request{SKU: sku, Customer: fmt.Sprint("probe", i, j), Key: "key", Quantity: 1}
				for i := 0; ; i++ {
					a := w.ask(n, q, fmt.Sprint(i), simPatient)
					switch {
					case a.known && (a.err == nil || isAny(a.err, orderRefusals)):
						if took := w.now() - began; took > simBound {
							w.violated("%s answers for %s only %s after everything has healed", n.name, sku, took)
						}
						return
					case w.now()-began > 5*simBound:
						w.violated("%s does not sell %s after everything has healed: %v", n.name, sku, a.err)
						return
					}
					time.Sleep(within(r, 50*time.Millisecond))
				}
			})
		}
	}
	all.Wait()
}

// nemesis causes faults, each of which heals.
func (w *simWorld) nemesis() {
	r := w.rand(3)
	for range r.IntN(simFaults) {
		time.Sleep(within(r, simSale/simFaults*2))
		n := w.nodes[r.IntN(len(w.nodes))]
		sku := w.skus[r.IntN(len(w.skus))]
		if r.IntN(2) == 0 {
			w.etcd.set(func() {
				if q := w.etcd.queues[sku]; len(q) > 0 { // the seller
					n = q[0].place.locker.process.node
				}
			})
		}
		name, heal := w.fault(r, n, sku)
		lasts := within(r, simFault)
		w.log("fault: %s for %s", name, lasts)
		w.healed.Go(func() {
			time.Sleep(lasts)
			w.log("heal: %s", name)
			heal()
		})
	}
}

func (w *simWorld) fault(r *rand.Rand, n *simNode, sku string) (name string, heal func()) {
	shut := func(what string, ws ...*way) (string, func()) {
		for _, way := range ws {
			way.close()
		}
		return n.name + what, func() {
			for _, way := range ws {
				way.reopen()
			}
		}
	}
	flag := func(what string, sv *simServer, f *bool) (string, func()) {
		already := false
		sv.set(func() { already = *f; *f = true; sv.epoch++ })
		if already {
			return "none", func() {}
		}
		return sv.name + what, func() { sv.set(func() { *f = false }) }
	}
	other := w.nodes[r.IntN(len(w.nodes))]
	mysql, etcd := &w.mysql.simServer, &w.etcd.simServer
	switch r.IntN(17) {
	case 0, 1:
		return shut(" stands still", n.running)
	case 2, 3:
		if !n.crash() {
			return "none", func() {}
		}
		return n.name + " crashed", n.start
	case 4:
		p := n.set(nil)
		if p == nil {
			return "none", func() {}
		}
		w.healed.Go(func() {
			_ = p.drain() // a fault may keep it from ending in order
			n.start()
		})
		return n.name + " drains", func() {}
	case 5:
		return shut(" is cut from mysql", n.ways["mysql"])
	case 6:
		return shut(" is cut from etcd", n.ways["etcd"])
	case 7:
		if other == n {
			return shut(" is cut from buyers", n.ways["buyers"])
		}
		return shut(" is cut from "+other.name, n.ways[other.name])
	case 8:
		return flag(" is down", mysql, &mysql.down)
	case 9:
		name, heal := flag(" is down", etcd, &etcd.down)
		return name, func() {
			heal()
			w.etcd.set(w.etcd.restarted)
		}
	case 10:
		return flag(" loses answers", mysql, &mysql.lossy)
	case 11:
		return flag(" takes seconds", mysql, &mysql.late)
	case 12:
		w.mysql.set(func() { w.mysql.locked[sku] = time.Now().Add(within(r, 2*simRowLock)) })
		return "a stranger locks " + sku, func() {}
	case 13:
		w.etcd.set(func() {
			if q := w.etcd.queues[sku]; len(q) > 0 {
				if r.IntN(2) == 0 {
					w.etcd.end(q[0].lease, "revoked by hand: ")
				} else {
					w.etcd.remove("by hand", func(_ string, k simKey) bool { return k.revision == q[0].revision })
				}
			}
		})
		return "the holder of " + sku + " is evicted", func() {}
	case 14, 15:
		n.resetLinks()
		return "the links of " + n.name + " are reset", n.resetLinks
	}
	w.mysql.set(func() {
		row := w.mysql.stock[sku]
		less := min(row.Available, r.Int64N(4))
		row.Units -= less
		row.Available -= less
		w.mysql.changed(sku)
	})
	return "an operator removes units of " + sku, func() {}
}
