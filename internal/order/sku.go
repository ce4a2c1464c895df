package order

import (
	"cmp"
	"context"
	"errors"
	"time"

	"flashsale/internal/stock"
)

const mirrorWait = 500 * time.Millisecond // longer than the mirror spaces two writes of one SKU

// Precondition is what PutSKU requires of a SKU. The zero value requires nothing.
type Precondition struct {
	Revision       *uint64 // must be the SKU's, if not nil
	Exists, Absent bool    // the SKU must exist, or must not
}

// PutSKU creates the SKU, or changes the name, price, limit, announcement and window of
// an existing one. Units count on creation only. It returns the resulting row, and whether
// it was created. If the precondition does not hold, it changes nothing and returns
// ErrPrecondition; likewise ErrWithdrawn for a SKU that is withdrawn.
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
	was, err := s.cfg.database.Get(ctx, want.SKU)
	switch {
	case errors.Is(err, stock.ErrUnknownSKU):
		return ErrPrecondition
	case err != nil:
		return domainError(err)
	case was.WithdrawnAt != nil:
		return ErrWithdrawn
	}
	return s.seller.alter(ctx, want.SKU, change{write: func(ctx context.Context) error {
		changed, err := s.cfg.database.Change(ctx, want, revision)
		if err == nil && !changed {
			return s.cfg.whyUnchanged(ctx, want.SKU, ErrPrecondition)
		}
		return outcomeOfStatement(err)
	}})
}

// whyUnchanged returns ErrWithdrawn if that is why a change of a SKU was not applied, and
// the other reason if not.
func (cfg *Config) whyUnchanged(ctx context.Context, sku string, other error) error {
	if row, err := cfg.database.Get(ctx, sku); err != nil || row.WithdrawnAt != nil {
		return cmp.Or(err, ErrWithdrawn)
	}
	return other
}

// Withdraw takes a SKU off the list and off sale, for good. When it has returned nil, no
// order for the SKU is accepted. The orders that were accepted before stay as they are; the
// units that they return are not sold. It may be repeated: a SKU that is withdrawn stays
// so, whatever the precondition. Otherwise, ErrPrecondition means that the SKU has not the
// required revision. It refuses an unknown SKU with stock.ErrUnknownSKU.
func (s *Service) Withdraw(ctx context.Context, sku string, only Precondition) error {
	return s.untilKnown(ctx, func(ctx context.Context) error {
		row, err := s.cfg.database.Get(ctx, sku)
		if err == nil && row.WithdrawnAt == nil {
			err = s.seller.alter(ctx, sku, change{write: func(ctx context.Context) error {
				withdrawn, err := s.cfg.DB.Withdraw(ctx, sku, only.Revision)
				if err == nil && !withdrawn {
					return ErrPrecondition
				}
				return outcomeOfStatement(err)
			}})
			if err == nil {
				row, err = s.cfg.database.Get(ctx, sku)
				err = unknown(err)
			}
		}
		if err != nil {
			return domainError(err)
		}
		s.cfg.Mirror.Changed(sku, 0) // as if it were sold out, which is urgent
		s.awaitMirror(ctx, sku, row.Seq)
		return nil
	})
}

// awaitMirror waits briefly until the mirror shows a change, because the caller
// usually reads the SKU next. It is best effort: a mirror that is down never shows it.
func (s *Service) awaitMirror(ctx context.Context, sku string, seq uint64) {
	ctx, cancel := context.WithTimeout(ctx, mirrorWait)
	defer cancel()
	_ = s.cfg.Mirror.Await(ctx, sku, seq)
}
