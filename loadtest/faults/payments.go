package faults

import (
	"context"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"flashsale/internal/sandbox"
	"flashsale/internal/sleep"
	"flashsale/loadtest/attack"
	"flashsale/loadtest/proof"
)

const (
	// payers pay orders at the same time, each at the next replica.
	payers = 8
	// payEvery is the pause between two tries of a payment that was refused.
	payEvery = 100 * time.Millisecond
	// payTimeout bounds the payments that are under way when the load ends.
	payTimeout = 10 * time.Second
)

// payments pays accepted orders as a payment service does: it repeats a payment until it
// succeeds. While all payers are busy, further orders are not paid. A nil payments does
// nothing.
type payments struct {
	fleet  *sandbox.Fleet
	plan   *attack.Plan
	queue  chan payment
	payers sync.WaitGroup
	giveUp context.CancelFunc
	client *http.Client

	mu      sync.Mutex
	paid    map[uuid.UUID]bool
	refused map[proof.Reason]int // answers other than 200
}

type payment struct {
	order    uuid.UUID
	customer string
}

// startPayments starts the payers. They end with wait, and not with the run's context: an
// answer that was sent counts.
func startPayments(fleet *sandbox.Fleet, plan *attack.Plan) *payments {
	p := &payments{
		fleet: fleet, plan: plan, queue: make(chan payment, payers), client: attack.NewClient(payers),
		paid: map[uuid.UUID]bool{}, refused: map[proof.Reason]int{},
	}
	ctx, cancel := context.WithCancel(context.Background())
	p.giveUp = cancel
	for i := range payers {
		p.payers.Go(func() {
			for next := range p.queue {
				p.payUntilTaken(ctx, next, i)
			}
		})
	}
	return p
}

func (p *payments) pay(a *attack.Answer) {
	if p == nil {
		return
	}
	select {
	case p.queue <- payment{a.OrderID, p.plan.Order(a.Seq).Customer}:
	default:
	}
}

func (p *payments) wait() {
	if p == nil {
		return
	}
	close(p.queue)
	defer time.AfterFunc(payTimeout, p.giveUp).Stop()
	p.payers.Wait()
	p.giveUp()
	p.client.CloseIdleConnections()
}

func (p *payments) payUntilTaken(ctx context.Context, next payment, at int) {
	for ctx.Err() == nil {
		at++
		service := attack.Service{URL: p.fleet.Replicas[at%len(p.fleet.Replicas)].URL, JWTSecret: p.fleet.JWTSecret, Client: p.client}
		status, reason, err := service.Pay(ctx, next.order, next.customer)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			reason = err.Error()
		}
		p.mu.Lock()
		if status == http.StatusOK {
			p.paid[next.order] = true
		} else {
			p.refused[proof.Reason{Status: status, Slug: reason}]++
		}
		p.mu.Unlock()
		if status == http.StatusOK {
			return
		}
		_ = sleep.For(ctx, payEvery) // the loop checks ctx
	}
}

// reasons returns the answers other than 200, the most frequent first.
func (p *payments) reasons() []proof.Reason {
	var all []proof.Reason
	for reason, n := range p.refused {
		reason.Count = n
		all = append(all, reason)
	}
	slices.SortFunc(all, func(a, b proof.Reason) int { return b.Count - a.Count })
	return all
}
