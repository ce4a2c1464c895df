package faults

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"

	"flashsale/internal/sandbox"
	"flashsale/internal/sleep"
	"flashsale/loadtest/proof"
)

// catchUp bounds how long a server may take, at the end of a run, to apply what the
// others have sent it.
const catchUp = 20 * time.Second

// unpaid describes each order whose payment was answered 200 and that is not paid. It
// leaves orders without a row to proof.Reconcile.
func unpaid(paid map[uuid.UUID]bool, records *proof.Records) (all []string) {
	for i := range records.Rows {
		if row := &records.Rows[i]; paid[row.ID] && row.Status != "paid" {
			all = append(all, fmt.Sprintf("the payment of order %s was answered 200, but the order is %s", row.ID, row.Status))
		}
	}
	return all
}

// readRecords reads the run's rows. In a cluster it reads from a server that takes
// writes, as the others may lag behind.
func (r *run) readRecords(ctx context.Context) (proof.Records, error) {
	dsn := r.DSN
	if r.Cluster != nil {
		primary, err := r.Cluster.Primary(ctx)
		if err != nil {
			return proof.Records{}, err
		}
		dsn = r.Cluster.Nodes[primary].DSN(r.Name)
	}
	return proof.ReadRecords(ctx, dsn, []string{r.SKU})
}

// compareServers describes each server of the cluster that does not reach the number of
// orders and payments in records within catchUp.
func (r *run) compareServers(ctx context.Context, records *proof.Records) (all []string, err error) {
	var want tally
	for i := range records.Rows {
		want.orders++
		if records.Rows[i].Status == "paid" {
			want.paid++
		}
	}
	ctx, cancel := context.WithTimeout(ctx, catchUp)
	defer cancel()
	for i, m := range r.Cluster.Nodes {
		got, err := r.awaitTally(ctx, m, want)
		if err != nil {
			return nil, fmt.Errorf("server %d: %w", i+1, err)
		}
		if got != want {
			all = append(all, fmt.Sprintf("server %d has %d orders, %d of them paid; the primary has %d, %d of them paid", i+1, got.orders, got.paid, want.orders, want.paid))
		}
	}
	return all, nil
}

type tally struct{ orders, paid int }

func (r *run) awaitTally(ctx context.Context, m *sandbox.MySQL, want tally) (got tally, err error) {
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
