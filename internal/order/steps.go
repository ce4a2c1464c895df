package order

import (
	"errors"

	"flashsale/internal/forward"
	"flashsale/internal/lock"
	"flashsale/internal/record"
	"flashsale/internal/stock"
	"flashsale/internal/strategy"
)

// This file records the steps of orders, for --trace-steps. Without a recorder these
// functions return at once, and allocate nothing.

// note records a step that is neither a read nor a write of stock. r is nil for the steps
// of a desk, which belong to many orders.
func (cfg *Config) note(kind record.Kind, sku string, r *Request, token lock.Token, reason error) {
	if cfg.Steps == nil {
		return
	}
	s := stepOf(kind, sku, r)
	s.Token = uint64(token)
	if reason != nil {
		s.Reason = reason.Error()
	}
	cfg.Steps.Add(s)
}

func stepOf(kind record.Kind, sku string, r *Request) record.Step {
	s := record.Step{Kind: kind, SKU: sku}
	if r != nil {
		s.Customer, s.Key, s.Quantity = r.Customer, r.Key, r.Quantity
		if r.id != (ID{}) {
			s.Order = r.id.String()
		}
	}
	return s
}

// noteAnswer records what the buyer is answered.
func (cfg *Config) noteAnswer(r *Request, p *Placed, err error) {
	if cfg.Steps == nil {
		return
	}
	s := stepOf(record.Answered, r.SKU, r)
	switch {
	case err != nil:
		s.Reason = err.Error()
	case p.Replayed:
		s.Reason, s.Order = "replayed", p.Order.ID.String()
	default:
		s.Reason, s.Order = "placed", p.Order.ID.String()
	}
	cfg.Steps.Add(s)
}

// noteDecision records that an order was refused or replayed, if it was.
func (cfg *Config) noteDecision(r *Request, p *Placed, err error) {
	switch {
	case cfg.Steps == nil:
	case isAny(err, orderRefusals) || errors.Is(err, ErrKeyReused):
		cfg.note(record.Refused, r.SKU, r, 0, err)
	case err == nil && p.Replayed:
		s := stepOf(record.Replayed, r.SKU, r)
		s.Order = p.Order.ID.String()
		cfg.Steps.Add(s)
	}
}

// noteUnlock records the end of a grant.
func (cfg *Config) noteUnlock(sku string, r *Request, held lock.Held, err error) {
	kind := record.Unlocked
	if errors.Is(err, lock.ErrLost) {
		kind = record.LockLost
	}
	cfg.note(kind, sku, r, held.Token(), err)
}

// noteLock records a lock's grant, or why there is none.
func (cfg *Config) noteLock(sku string, r *Request, held lock.Held, err error) {
	if err != nil {
		cfg.note(record.LockFailed, sku, r, 0, err)
		return
	}
	cfg.note(record.Locked, sku, r, held.Token(), nil)
}

// noteClaim records a claim, or a read without one.
func (cfg *Config) noteClaim(claim stock.Claim, r *Request, row *stock.Row, err error) {
	switch {
	case cfg.Steps == nil:
	case err != nil:
		cfg.note(record.Rejected, claim.SKU, r, claim.Token, err)
	case claim.Fence == strategy.FenceClaim:
		cfg.noteRow(record.Claimed, r, claim.Token, row)
	default:
		cfg.noteRow(record.Read, r, claim.Token, row)
	}
}

func (cfg *Config) noteRow(kind record.Kind, r *Request, token lock.Token, row *stock.Row) {
	s := stepOf(kind, row.SKU, r)
	s.Token, s.Before, s.Seq = uint64(token), new(row.Available), row.Seq
	cfg.Steps.Add(s)
}

// saw is what a stock.Writer calls for an order; nil without a recorder.
func (cfg *Config) saw(r *Request) func(*stock.Row, bool) {
	if cfg.Steps == nil {
		return nil
	}
	return func(row *stock.Row, missed bool) {
		if missed {
			cfg.note(record.Rejected, r.SKU, r, 0, errMissed)
			return
		}
		cfg.noteRow(record.Read, r, 0, row)
	}
}

var errMissed = errors.New("the row has changed, or has too few units")

// noteWrite records a write for an order that left so many units.
func (cfg *Config) noteWrite(kind record.Kind, token lock.Token, o *Order, after int64, reason error) {
	if cfg.Steps == nil {
		return
	}
	s := record.Step{Kind: kind, SKU: o.SKU, Customer: o.Customer, Key: o.Key, Order: o.ID.String(), Quantity: o.Quantity,
		Token: uint64(token), Before: new(after + int64(o.Quantity)), After: new(after), Seq: o.Seq}
	if reason != nil {
		s.Reason = reason.Error()
	}
	cfg.Steps.Add(s)
}

// noteCommit records the outcome of an order's transaction. o is zero if it was not made.
func (cfg *Config) noteCommit(token lock.Token, o *Order, after int64, err error) {
	switch {
	case o.ID == (ID{}):
	case err == nil:
		cfg.noteWrite(record.Committed, token, o, after, nil)
	case errors.Is(err, stock.ErrOutcomeUnknown):
		cfg.noteWrite(record.Unknown, token, o, after, err)
	default:
		cfg.noteWrite(record.Rejected, token, o, after, err)
	}
}

// noteCommits is noteCommit for a batch, decided when the row had so many units.
func (cfg *Config) noteCommits(token lock.Token, d *decision, available int64, err error) {
	if cfg.Steps == nil {
		return
	}
	for _, o := range d.orders {
		available -= int64(o.Quantity)
		cfg.noteCommit(token, o, available, err)
	}
}

func (cfg *Config) noteForward(r *Request, to *lock.Holder) {
	if cfg.Steps == nil {
		return
	}
	s := stepOf(record.Forwarded, r.SKU, r)
	s.Token, s.To = uint64(to.Token), to.Addr
	cfg.Steps.Add(s)
}

func (cfg *Config) noteTakeOver(w forward.Waiting, from forward.Peer, reason string) {
	if cfg.Steps == nil {
		return
	}
	cfg.Steps.Add(record.Step{Kind: record.TookOver, SKU: w.SKU, Token: w.Token, To: from.Addr, Reason: reason})
}

// sawUnits is saw for stock in etcd.
func (cfg *Config) sawUnits(r *Request) func(stock.Level) {
	if cfg.Steps == nil {
		return nil
	}
	tried := false
	return func(l stock.Level) {
		s := stepOf(record.Read, r.SKU, r)
		s.In, s.Before, s.Seq = inEtcd, new(l.Available), l.Seq
		if tried { // so another order came between this read and the one before
			rejected := stepOf(record.Rejected, r.SKU, r)
			rejected.In, rejected.Reason = inEtcd, errMissed.Error()
			cfg.Steps.Add(rejected)
		}
		tried = true
		cfg.Steps.Add(s)
	}
}

const inEtcd = "etcd"

// noteTake records that an order has taken its units in etcd, if it has.
func (cfg *Config) noteTake(r *Request, id ID, left stock.Level, err error) {
	if cfg.Steps == nil || err != nil {
		return
	}
	s := stepOf(record.Took, r.SKU, r)
	s.In, s.Order, s.Before, s.After, s.Seq = inEtcd, id.String(), new(left.Available+int64(r.Quantity)), new(left.Available), left.Seq
	cfg.Steps.Add(s)
}

func (cfg *Config) noteGiveBack(sku string, id ID, err error) {
	if cfg.Steps == nil || err != nil {
		return
	}
	cfg.Steps.Add(record.Step{Kind: record.GaveBack, SKU: sku, Order: id.String(), In: inEtcd})
}
