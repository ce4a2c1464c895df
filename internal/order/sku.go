package order

import (
	"context"
	"errors"
	"time"

	"flashsale/internal/stock"
)

const mirrorWait = 200 * time.Millisecond // many times longer than an entry takes to arrive

// Precondition is what PutSKU requires of a SKU. The zero value requires nothing.
type Precondition struct {
	Revision       *uint64 // must be the SKU's, if not nil
	Exists, Absent bool    // the SKU must exist, or must not
}

// PutSKU creates the SKU, or changes the name, price, limit and window of an
// existing one. Units count on creation only. It returns the resulting row, and
// whether it was created. If the precondition does not hold, it changes nothing and
// returns ErrPrecondition.
func (s *Service) PutSKU(ctx context.Context, want stock.Stock, only Precondition) (got stock.Stock, created bool, err error) {
	if err := s.cfg.Halted(); err != nil {
		return got, false, err
	}
	if !only.Exists && only.Revision == nil {
		if created, err = s.cfg.DB.Create(ctx, want); err != nil {
			return got, false, domainError(outcomeOfStatement(err))
		}
	}
	if !created {
		if only.Absent {
			return got, false, ErrPrecondition
		}
		if err := s.changeSKU(ctx, want, only.Revision); err != nil {
			return got, false, err
		}
	}
	if got, err = s.cfg.database.Get(ctx, want.SKU); err != nil {
		return got, created, unknown(err)
	}
	if err := s.units.put(ctx, got); err != nil {
		return got, created, err
	}
	s.cfg.Mirror.Changed(got.SKU, got.Available)
	s.awaitMirror(ctx, got.SKU, got.Seq)
	return got, created, nil
}

// changeSKU changes an existing SKU. It looks it up first, so that an unknown name opens
// no desk.
func (s *Service) changeSKU(ctx context.Context, want stock.Stock, revision *uint64) error {
	if _, err := s.cfg.database.Get(ctx, want.SKU); errors.Is(err, stock.ErrUnknownSKU) {
		return ErrPrecondition
	} else if err != nil {
		return domainError(err)
	}
	return s.seller.alter(ctx, want.SKU, change{write: func(ctx context.Context) error {
		changed, err := s.cfg.database.Change(ctx, want, revision)
		if err == nil && !changed {
			return ErrPrecondition
		}
		return outcomeOfStatement(err)
	}})
}

// awaitMirror waits briefly until the mirror shows a change, because the caller
// usually reads the SKU next. It is best effort: a mirror that is down never shows it.
func (s *Service) awaitMirror(ctx context.Context, sku string, seq uint64) {
	ctx, cancel := context.WithTimeout(ctx, mirrorWait)
	defer cancel()
	_ = s.cfg.Mirror.Await(ctx, sku, seq)
}
