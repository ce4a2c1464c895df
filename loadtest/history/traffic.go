package history

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"github.com/google/uuid"
	vegeta "github.com/tsenart/vegeta/v12/lib"

	"flashsale/internal/sleep"
	"flashsale/loadtest/attack"
)

const (
	defaultSKUs = 8
	// callsASKU is after how many calls, without their repeats, a SKU is replaced by a new
	// one: the time of a check grows faster than the history. While none can be put on
	// sale, the old one goes on.
	callsASKU = 100
	// burst is how many calls are made at once, for one SKU: calls that do not overlap
	// cannot race.
	burst = 4
	// customersASKU is few, so that customers reach their limit.
	customersASKU = 8
	// giveUpAfter bounds the repeats of a call. It is longer than the faults that the
	// traffic is to see healed.
	giveUpAfter = 20 * time.Second
	// impatient callers, one in impatientOneIn, give up their first try so early that an
	// answer is often lost without any fault.
	impatient      = 5 * time.Millisecond
	impatientOneIn = 16
	// maxUnderWay bounds the callers that wait, each with a connection. 100 calls a second
	// reach it when none was answered for giveUpAfter.
	maxUnderWay = 2048
)

// Config says what to send where.
type Config struct {
	// URLs are the replicas' base URLs. Their payment window must be longer than the traffic
	// and its check: nothing may expire.
	URLs                  []string
	AdminToken, JWTSecret string
	// Name starts the SKUs' names. No SKU with such a name may exist.
	Name string
	// SKUs is how many are on sale at a time; 0 is 8.
	SKUs int
	// Rate is in calls per second, without their repeats.
	Rate int
	// Seed determines what is asked, as far as that does not depend on the answers.
	Seed uint64
	// OnAnswer, if set, is called with each answer, one at a time.
	OnAnswer func(Answer)
}

// Answer is the answer to one call, for a timeline.
type Answer struct {
	Kind Kind
	// Status is the HTTP status; 0 if there was no answer.
	Status int
	// Reason is the slug of the problem, or the error of the connection.
	Reason string
	// Sold says that this answer made an order.
	Sold bool
	// Began and Ended enclose the call.
	Began, Ended time.Time
}

// Traffic is calls of all kinds under way. Stop must be called.
type Traffic struct {
	cfg    Config
	ctx    context.Context
	start  time.Time
	client *http.Client
	tokens map[string]string // by customer; read only
	stop   func()            // ends new calls and new SKUs
	owned  sync.WaitGroup
	spares chan *sale // on sale, not in use yet

	mu     sync.Mutex
	rng    *rand.Rand
	hits   int     // that were made
	hot    int     // the index in active that this burst is for
	named  int     // names of SKUs in use
	sales  []*sale // all that were put on sale
	active []*sale

	answering sync.Mutex // held during OnAnswer
}

// sale is one SKU with its history.
type sale struct {
	sku          string
	units, limit int // limit 0 is none
	asked        int // calls without their repeats
	orders       []*purchase
	restocks     []ask
	calls        []*call
}

// purchase is an order as its customer knows it.
type purchase struct {
	ask
	id uuid.UUID // nil until a 201
	at int       // the replica of the last try
}

// Start puts the SKUs on sale and starts the calls. They go on until Stop; the end of ctx
// ends them at once.
func Start(ctx context.Context, cfg Config) (*Traffic, error) {
	if cfg.SKUs == 0 {
		cfg.SKUs = defaultSKUs
	}
	if len(cfg.URLs) == 0 || cfg.Rate < 1 {
		return nil, errors.New("history: URLs and a Rate are needed")
	}
	t := &Traffic{
		cfg: cfg, ctx: ctx, start: time.Now(), client: attack.NewClient(maxUnderWay), tokens: map[string]string{},
		spares: make(chan *sale, cfg.SKUs), rng: rand.New(rand.NewPCG(cfg.Seed, 0)),
	}
	for i := range customersASKU {
		t.tokens[customer(i)] = attack.Token(customer(i), cfg.JWTSecret)
	}
	for range cfg.SKUs {
		s, err := t.newSale(ctx)
		if err != nil {
			t.client.CloseIdleConnections()
			return nil, err
		}
		t.active = append(t.active, s)
	}
	offering, stop := context.WithCancel(ctx)
	t.stop = stop
	t.owned.Go(func() { t.refill(offering) })
	t.owned.Go(func() { t.run(offering.Done()) })
	return t, nil
}

// Stop makes no new calls, waits for those under way and their repeats, which end in half
// a minute at most, and returns what happened.
func (t *Traffic) Stop() *History {
	t.stop()
	t.owned.Wait()
	t.client.CloseIdleConnections()
	return &History{sales: t.sales}
}

// run makes the calls until stop is closed, in an open loop of vegeta. Each of its hits is one caller, who
// repeats the call.
func (t *Traffic) run(stop <-chan struct{}) {
	attacker := vegeta.NewAttacker(
		vegeta.Client(&http.Client{Transport: hits(t.hit)}),
		vegeta.MaxWorkers(maxUnderWay),
	)
	defer context.AfterFunc(t.ctx, func() { attacker.Stop() })()
	target := vegeta.NewStaticTargeter(vegeta.Target{Method: http.MethodPost, URL: t.cfg.URLs[0]})
	for range attacker.Attack(target, bursts{attack.NewSchedule(t.cfg.Rate, math.MaxInt, stop)}, 0, "") {
		// hit has recorded the calls.
	}
}

// bursts sends the calls of a burst when the first of them is due.
type bursts struct{ *attack.Schedule }

// Pace implements vegeta.Pacer.
func (b bursts) Pace(elapsed time.Duration, hits uint64) (wait time.Duration, stop bool) {
	return b.Schedule.Pace(elapsed, hits-hits%burst)
}

// hits is an http.RoundTripper that makes calls of its own in place of vegeta's requests.
type hits func() (*http.Response, error)

func (h hits) RoundTrip(*http.Request) (*http.Response, error) { return h() }

// hit makes the next call, and repeats it until it is answered.
func (t *Traffic) hit() (*http.Response, error) {
	s, a, tries := t.next()
	var all sync.WaitGroup
	for _, first := range tries {
		all.Go(func() { t.settle(s, a, first) })
	}
	all.Wait()
	if t.ctx.Err() != nil {
		return nil, context.Cause(t.ctx)
	}
	return &http.Response{StatusCode: http.StatusOK, Body: http.NoBody}, nil
}

// try is where and how long a caller first tries.
type try struct {
	replica int
	wait    time.Duration
}

// settle makes a call until an answer says what happened to it, each time at the next
// replica, as a storefront must.
func (t *Traffic) settle(s *sale, a ask, at try) {
	began, backoff := time.Now(), sleep.Backoff{Min: 100 * time.Millisecond, Max: 2 * time.Second}
	for {
		c := t.call(s, a, at)
		if !c.ambiguous() && !c.unapplied() || time.Since(began) > giveUpAfter || sleep.For(t.ctx, backoff.Next()) != nil {
			return
		}
		at = try{(at.replica + 1) % len(t.cfg.URLs), attack.RequestTimeout}
	}
}

// call makes one call and records it.
func (t *Traffic) call(s *sale, a ask, at try) *call {
	ctx, cancel := context.WithTimeout(t.ctx, at.wait)
	defer cancel()
	c := &call{ask: a, replica: at.replica, began: time.Since(t.start)}
	req, err := a.request(ctx, t.cfg.URLs[at.replica], s.sku, t.token(a))
	if err != nil {
		c.Answer = attack.NoAnswer(err.Error())
	} else {
		c.Answer, c.shown = exchange(t.client, req)
	}
	c.ended = time.Since(t.start)
	t.record(s, c)
	if t.cfg.OnAnswer != nil {
		t.answering.Lock()
		defer t.answering.Unlock()
		t.cfg.OnAnswer(Answer{Kind: c.kind, Status: c.Status, Reason: c.Reason, Sold: c.kind == Order && c.Outcome == attack.Accepted && !c.Replayed,
			Began: t.start.Add(c.began), Ended: t.start.Add(c.ended)})
	}
	return c
}

func (t *Traffic) token(a ask) string {
	if a.kind == Restock {
		return t.cfg.AdminToken
	}
	return t.tokens[a.customer]
}

func (t *Traffic) record(s *sale, c *call) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s.calls = append(s.calls, c)
	if c.kind != Order {
		return
	}
	for _, p := range s.orders {
		if p.key == c.key {
			p.at = c.replica
			if c.Outcome == attack.Accepted {
				p.id = c.OrderID
			}
		}
	}
}

// next chooses a call and where it is tried first: at two replicas for a call that is
// made twice at once.
func (t *Traffic) next() (*sale, ask, []try) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.sale()
	s.asked++
	first := try{t.rng.IntN(len(t.cfg.URLs)), attack.RequestTimeout}
	if t.rng.IntN(impatientOneIn) == 0 {
		first.wait = impatient
	}
	var made []*purchase
	for _, p := range s.orders {
		if p.id != uuid.Nil {
			made = append(made, p)
		}
	}
	switch roll := t.rng.IntN(100); {
	case roll < 3:
		a := ask{kind: Restock, key: fmt.Sprintf("%s-restock-%d", s.sku, s.asked), quantity: 1 + t.rng.IntN(4)}
		s.restocks = append(s.restocks, a)
		return s, a, []try{first}
	case roll < 5 && len(s.restocks) > 0:
		return s, s.restocks[t.rng.IntN(len(s.restocks))], []try{first}
	case roll < 20 && len(s.orders) > 0: // the same key, whatever the answers were
		p := s.orders[t.rng.IntN(len(s.orders))]
		first.replica = (p.at + 1) % len(t.cfg.URLs)
		return s, p.ask, []try{first}
	case roll < 50 && len(made) > 0:
		p := made[t.rng.IntN(len(made))]
		kind := []Kind{Payment, Cancellation, Read}[t.rng.IntN(3)]
		return s, ask{kind: kind, customer: p.customer, order: p.id}, []try{first}
	}
	a := ask{kind: Order, customer: customer(t.rng.IntN(customersASKU)), key: fmt.Sprintf("%s-%d", s.sku, s.asked), quantity: 1 + t.rng.IntN(3)}
	s.orders = append(s.orders, &purchase{ask: a, at: first.replica})
	if t.rng.IntN(8) > 0 {
		return s, a, []try{first}
	}
	return s, a, []try{first, {(first.replica + 1) % len(t.cfg.URLs), attack.RequestTimeout}}
}

// sale returns the SKU of the next call, another one for each burst. It replaces a SKU
// whose history is long enough.
func (t *Traffic) sale() *sale {
	if t.hits%burst == 0 {
		t.hot = t.rng.IntN(len(t.active))
	}
	t.hits++
	if t.active[t.hot].asked >= callsASKU {
		select {
		case t.active[t.hot] = <-t.spares:
		default: // go on with the old one
		}
	}
	return t.active[t.hot]
}

// refill keeps SKUs ready. A fault may keep it from putting any on sale.
func (t *Traffic) refill(ctx context.Context) {
	for ctx.Err() == nil {
		s, err := t.newSale(ctx)
		if err != nil {
			_ = sleep.For(ctx, time.Second) // the loop checks ctx
			continue
		}
		select {
		case t.spares <- s:
		case <-ctx.Done():
		}
	}
}

// newSale puts a SKU on sale: a few units, for every second SKU with a limit for each
// customer. It repeats a call that may have created the SKU, at the next replica: nothing
// is sold yet, so that this changes nothing.
func (t *Traffic) newSale(ctx context.Context) (*sale, error) {
	s := t.plan()
	limit := ""
	if s.limit > 0 {
		limit = fmt.Sprintf(`,"per_customer_limit":%d`, s.limit)
	}
	body := fmt.Sprintf(`{"name":"History %s","price_cents":1000,"currency":"EUR","units":%d%s}`, s.sku, s.units, limit)
	backoff := sleep.Backoff{Min: 100 * time.Millisecond, Max: 2 * time.Second}
	for at, began := 0, time.Now(); ; at++ {
		c := t.put(ctx, t.cfg.URLs[at%len(t.cfg.URLs)]+"/v1/admin/skus/"+s.sku, body)
		switch {
		case c.Status == http.StatusCreated, c.Status == http.StatusOK && at > 0:
			t.mu.Lock()
			defer t.mu.Unlock()
			t.sales = append(t.sales, s)
			return s, nil
		case c.Status == http.StatusOK:
			return nil, fmt.Errorf("put %s on sale: the SKU exists already; choose another Name", s.sku)
		case !c.ambiguous() && !c.unapplied(), time.Since(began) > giveUpAfter, sleep.For(ctx, backoff.Next()) != nil:
			return nil, fmt.Errorf("put %s on sale: the last answer was %d %s", s.sku, c.Status, c.Reason)
		}
	}
}

func (t *Traffic) plan() *sale {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.named++
	s := &sale{sku: fmt.Sprintf("%s-%d", t.cfg.Name, t.named), units: 10 + t.rng.IntN(30)}
	if t.named%2 == 0 {
		s.limit = 3 + t.rng.IntN(4)
	}
	return s
}

func (t *Traffic) put(ctx context.Context, url, body string) call {
	ctx, cancel := context.WithTimeout(ctx, attack.RequestTimeout)
	defer cancel()
	req, err := newRequest(ctx, http.MethodPut, url, t.cfg.AdminToken, "", body)
	if err != nil {
		return call{Answer: attack.NoAnswer(err.Error())}
	}
	answer, _ := exchange(t.client, req)
	return call{Answer: answer}
}

func customer(i int) string { return fmt.Sprintf("buyer-%d", i+1) }
