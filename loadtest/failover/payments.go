package failover

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"flashsale/internal/sleep"
	"flashsale/loadtest/attack"
	"flashsale/loadtest/proof"
)

const (
	// payers pay orders at the same time, each at the next replica.
	payers = 8
	// payEvery is between two tries of a payment that was not taken.
	payEvery = 100 * time.Millisecond
	// payTimeout is what payments have that are under way when the load ends.
	payTimeout = 10 * time.Second
)

// payments pay the orders that were taken, as a payment service does: again and again
// until there is an answer. Where all payers wait for one, further orders are not paid.
type payments struct {
	run    *run
	plan   *attack.Plan
	queue  chan payment
	payers sync.WaitGroup
	giveUp context.CancelFunc
	client *http.Client

	mu   sync.Mutex
	paid map[uuid.UUID]bool
	// refused are the answers without success.
	refused map[proof.Reason]int
}

type payment struct {
	order    uuid.UUID
	customer string
}

func newPayments(r *run, plan *attack.Plan) *payments {
	p := &payments{run: r, plan: plan, queue: make(chan payment, payers),
		client: &http.Client{Timeout: payTimeout, Transport: &http.Transport{MaxIdleConnsPerHost: payers}}, paid: map[uuid.UUID]bool{}, refused: map[proof.Reason]int{}}
	// They end with the load, and not before: what was answered counts.
	ctx, cancel := context.WithCancel(context.Background())
	p.giveUp = cancel
	for i := range payers {
		p.payers.Go(func() {
			for next := range p.queue {
				p.pay(ctx, next, i)
			}
		})
	}
	return p
}

// of pays the order of an answer, if a payer is free.
func (p *payments) of(a *attack.Answer) {
	select {
	case p.queue <- payment{a.OrderID, p.plan.Order(a.Seq).Customer}:
	default:
	}
}

// end waits for the payments that are under way.
func (p *payments) end() *payments {
	close(p.queue)
	defer time.AfterFunc(payTimeout, p.giveUp).Stop()
	p.payers.Wait()
	p.giveUp()
	p.client.CloseIdleConnections()
	return p
}

func (p *payments) pay(ctx context.Context, next payment, at int) {
	for ctx.Err() == nil {
		at++
		status, slug, err := p.try(ctx, p.run.Replicas[at%len(p.run.Replicas)].URL, next)
		if ctx.Err() != nil {
			return
		}
		p.mu.Lock()
		switch {
		case err != nil:
			p.refused[proof.Reason{Slug: fmt.Sprint(err)}]++
		case status != http.StatusOK:
			p.refused[proof.Reason{Status: status, Slug: slug}]++
		default:
			p.paid[next.order] = true
		}
		p.mu.Unlock()
		if status == http.StatusOK {
			return
		}
		_ = sleep.For(ctx, payEvery) // the loop looks at ctx
	}
}

// try asks one replica to mark the order as paid. slug is that of an answer that is
// no success.
func (p *payments) try(ctx context.Context, replica string, next payment) (status int, slug string, err error) {
	token, err := attack.Token(next.customer, p.run.JWTSecret)
	if err != nil {
		return 0, "", err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, replica+"/v1/orders/"+next.order.String()+"/payment",
		strings.NewReader(fmt.Sprintf(`{"reference":"payment of %s"}`, next.order)))
	if err != nil {
		return 0, "", err
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Authorization", "Bearer "+token)
	response, err := p.client.Do(request)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	var problem struct {
		Type string `json:"type"`
	}
	if err := json.NewDecoder(response.Body).Decode(&problem); err != nil {
		return 0, "", err
	}
	return response.StatusCode, path.Base(problem.Type), nil
}

// reasons are the answers without success, the most frequent first.
func (p *payments) reasons() []proof.Reason {
	var all []proof.Reason
	for reason, n := range p.refused {
		reason.Count = n
		all = append(all, reason)
	}
	slices.SortFunc(all, func(a, b proof.Reason) int { return b.Count - a.Count })
	return all
}
