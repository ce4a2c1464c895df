package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// buyers order one unit at a time of one SKU until they are stopped. Like a storefront's
// client, they retry with the same key at another replica if one does not answer or
// cannot serve.
type buyers struct {
	t    *testing.T
	sku  string
	http http.Client

	mu      sync.Mutex
	urls    []string
	made    map[string]string // order id -> customer
	last    time.Time         // of a 201
	longest time.Duration     // between two of them, over all buyers
	retries map[string]int    // by what was answered

	stop context.CancelFunc
	all  sync.WaitGroup
}

// buyerPatience bounds the time of an order over all attempts.
const buyerPatience = 2 * time.Minute

// startBuyers starts n buyers. wait stops them.
func startBuyers(t *testing.T, n int, sku string, replicas ...*client) *buyers {
	t.Helper()
	b := &buyers{t: t, sku: sku, made: map[string]string{}, retries: map[string]int{}, http: http.Client{Timeout: answerWithin}}
	b.use(replicas...)
	ctx, stop := context.WithCancel(t.Context())
	b.stop = stop
	for buyer := range n {
		b.all.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				b.buy(fmt.Sprintf("buyer-%d-%d", buyer, i), buyer+i)
				time.Sleep(2 * time.Millisecond) // the machine has others to serve
			}
		})
	}
	t.Cleanup(b.wait)
	return b
}

// use sets the replicas to send orders to.
func (b *buyers) use(replicas ...*client) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.urls = nil
	for _, r := range replicas {
		b.urls = append(b.urls, r.URL)
	}
}

// wait stops the buyers and waits for the orders in progress.
func (b *buyers) wait() { b.stop(); b.all.Wait() }

// await waits until n more orders were placed.
func (b *buyers) await(n int) {
	b.t.Helper()
	want := b.count() + n
	for deadline := time.Now().Add(buyerPatience); b.count() < want; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) || b.t.Failed() {
			b.t.Fatalf("%d orders were placed, want %d", b.count(), want)
		}
	}
}

func (b *buyers) count() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.made)
}

// gap returns and resets the longest time between two orders.
func (b *buyers) gap() time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	longest := b.longest
	b.longest = 0
	return longest
}

func (b *buyers) buy(customer string, turn int) {
	token := customerToken(b.t, customer)
	for deadline := time.Now().Add(buyerPatience); time.Now().Before(deadline); turn++ {
		b.mu.Lock()
		url := b.urls[turn%len(b.urls)]
		b.mu.Unlock()
		status, id, err := b.order(url, token)
		switch {
		case err != nil:
			b.again("no answer")
		case status == http.StatusServiceUnavailable || status == http.StatusGatewayTimeout:
			b.again(fmt.Sprint(status))
		case status == http.StatusCreated:
			b.done(id, customer)
			return
		default:
			b.t.Errorf("%s was answered %d %s", customer, status, id)
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	b.t.Errorf("%s got no order in %s", customer, buyerPatience)
}

func (b *buyers) again(why string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.retries[why]++
}

func (b *buyers) done(id, customer string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if other, twice := b.made[id]; twice {
		b.t.Errorf("order %s was given to %s and to %s", id, other, customer)
	}
	now := time.Now()
	if !b.last.IsZero() {
		b.longest = max(b.longest, now.Sub(b.last))
	}
	b.made[id], b.last = customer, now
}

// order sends one request. If the status is not 201, id is the body.
func (b *buyers) order(url, token string) (status int, id string, err error) {
	body := strings.NewReader(fmt.Sprintf(`{"sku":%q,"quantity":1}`, b.sku))
	request, err := http.NewRequestWithContext(context.WithoutCancel(b.t.Context()), http.MethodPost, url+"/v1/orders", body)
	if err != nil {
		return 0, "", err
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Authorization", "Bearer "+token)
	request.Header.Set("Idempotency-Key", "one")
	response, err := b.http.Do(request)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusCreated {
		return response.StatusCode, string(text), err
	}
	var order struct{ ID string }
	err = json.Unmarshal(text, &order)
	return response.StatusCode, order.ID, err
}

// check stops the buyers. It checks that the database has every order that was answered
// 201 exactly once, and only the given number of others, and that the audit finds no
// violation.
func (b *buyers) check(dsn string, others int) {
	b.t.Helper()
	b.wait()
	balance := auditOK(b.t, dsn)
	b.t.Logf("%d orders were made; asked again after: %v", len(b.made), b.retries)
	rows, err := openDB(b.t, dsn).SQL.QueryContext(b.t.Context(), "SELECT LOWER(HEX(id)), customer FROM orders WHERE sku = ?", []byte(b.sku))
	if err != nil {
		b.t.Fatal(err)
	}
	defer rows.Close()
	stand := map[string]string{}
	for rows.Next() {
		var id, customer string
		if err := rows.Scan(&id, &customer); err != nil {
			b.t.Fatal(err)
		}
		stand[id] = customer
	}
	if err := rows.Err(); err != nil {
		b.t.Fatal(err)
	}
	for id, customer := range b.made {
		if got := stand[strings.ReplaceAll(id, "-", "")]; got != customer {
			b.t.Errorf("order %s of %s was answered 201; in the database it is of %q", id, customer, got)
		}
	}
	if len(stand) != len(b.made)+others || balance.Reserved != int64(len(stand)) {
		b.t.Errorf("%d orders were answered 201; the database has %d, of %d units", len(b.made), len(stand), balance.Reserved)
	}
}
