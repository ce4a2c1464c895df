package bench

import (
	"context"

	"flashsale/loadtest/attack"
	"flashsale/loadtest/peer"
	"flashsale/loadtest/proof"
)

// checkedBy says how a peer's runs are reconciled.
var checkedBy = map[peer.Store]string{
	peer.MySQL:   "the audit, and the row of each answer",
	peer.Redis:   "the units left, and the pushed order of each answer",
	peer.Nowhere: "nothing: it stores nothing",
}

// records reads what the run's store holds after the last order. A peer without a
// store has the records of its own answers, so that nothing is checked.
func records(ctx context.Context, p peer.Peer, at servers, load *Load, orders int, plan *attack.Plan, answers []attack.Answer) (proof.Records, error) {
	if p.Store == peer.MySQL {
		return proof.ReadRecords(ctx, at.dsn, load.skus())
	}
	var rows []proof.Row
	add := func(o proof.Row) { o.Status = "reserved"; rows = append(rows, o) }
	sold := map[string]int64{}
	if p.Store == peer.Nowhere {
		for seq := range answers {
			if a := &answers[seq]; a.Outcome == attack.Accepted {
				o := plan.Order(seq)
				sold[o.SKU] += int64(o.Quantity)
				add(proof.Row{ID: a.OrderID, SKU: o.SKU, Customer: o.Customer, Key: o.Key, Quantity: o.Quantity})
			}
		}
	}
	stocks := make([]attack.Stock, len(load.Items))
	for i, item := range load.Items {
		stocks[i] = attack.Stock{SKU: item.SKU, Units: load.units(i, orders)}
		stocks[i].Available = stocks[i].Units - sold[item.SKU]
		if p.Store == peer.Redis {
			left, entries, err := peer.ReadRedis(ctx, at.redis.Addr, item.SKU)
			if err != nil {
				return proof.Records{}, err
			}
			stocks[i].Available = left
			for _, o := range entries {
				add(proof.Row{ID: o.ID, SKU: item.SKU, Customer: o.Customer, Key: o.Key, Quantity: int(o.Quantity)})
			}
		}
	}
	return proof.RecordsOf(rows, stocks, plan, nil), nil
}
