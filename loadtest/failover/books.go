package failover

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"flashsale/internal/sandbox"
	"flashsale/internal/sleep"
	"flashsale/loadtest/proof"
)

// catchUp is what a server has at the end to apply what the others have sent it.
const catchUp = 20 * time.Second

// unpaid says of each order that was answered to be paid, and is not, what it is. Orders
// without a row are found with the orders' own answers.
func unpaid(paid map[uuid.UUID]bool, books *proof.Records) (all []string) {
	for i := range books.Rows {
		if row := &books.Rows[i]; paid[row.ID] && row.Status != "paid" {
			all = append(all, fmt.Sprintf("order %s was answered to be paid, and is %s", row.ID, row.Status))
		}
	}
	return all
}

// books are read from the server that takes writes: any other may be behind.
func (r *run) books(ctx context.Context) (proof.Records, error) {
	primary, err := r.Cluster.Primary(ctx)
	if err != nil {
		return proof.Records{}, err
	}
	db, err := proof.Open(r.Cluster.Nodes[primary].DSN(r.Name))
	if err != nil {
		return proof.Records{}, err
	}
	books, err := db.Records(ctx, []string{r.SKU})
	return books, errors.Join(err, db.Close())
}

// differing says which servers do not have, after a while, as many orders and payments
// as the books.
func (r *run) differing(ctx context.Context, books *proof.Records) (all []string, err error) {
	var want tally
	for i := range books.Rows {
		want.orders++
		if books.Rows[i].Status == "paid" {
			want.paid++
		}
	}
	ctx, cancel := context.WithTimeout(ctx, catchUp)
	defer cancel()
	for i, m := range r.Cluster.Nodes {
		got, err := r.tallyOf(ctx, m, want)
		if err != nil {
			return nil, fmt.Errorf("server %d: %w", i+1, err)
		}
		if got != want {
			all = append(all, fmt.Sprintf("server %d has %d orders, %d of them paid, and the primary has %d, %d", i+1, got.orders, got.paid, want.orders, want.paid))
		}
	}
	return all, nil
}

type tally struct{ orders, paid int }

// tallyOf reads the server's orders until they are as wanted, or ctx ends.
func (r *run) tallyOf(ctx context.Context, m *sandbox.MySQL, want tally) (got tally, err error) {
	db, err := openServer(m.DSN(r.Name))
	if err != nil {
		return got, err
	}
	defer db.Close()
	for {
		err := db.QueryRowContext(ctx, "SELECT COUNT(*), COALESCE(SUM(status = 'paid'), 0) FROM orders WHERE sku = ?", []byte(r.SKU)).Scan(&got.orders, &got.paid)
		if err != nil && ctx.Err() == nil {
			return got, err
		}
		if got == want || sleep.For(ctx, poll) != nil {
			return got, nil
		}
	}
}
