package order

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"flashsale/internal/stock"
)

// RestockRequest is an administrator's request to add units to a SKU.
type RestockRequest struct {
	SKU   string
	Key   string // the idempotency key; all restocks share one key space
	Units int32
}

func (r *RestockRequest) fingerprint() Fingerprint {
	as := Request{SKU: r.SKU, Quantity: r.Units}
	return as.Fingerprint()
}

// Restock is units that were added to a SKU after its creation.
type Restock struct {
	ID        ID
	SKU       string
	Units     int32
	CreatedAt time.Time // in UTC by the database's clock

	fingerprint Fingerprint
	seq         uint64 // of the write to the stock
}

// Restocked is the answer to a RestockRequest.
type Restocked struct {
	Restock  Restock
	Replayed bool // set if an earlier request with the same key added the units
}

// Restock adds units to a SKU, also during its sale, once per key: the same key gives
// the same answer. It refuses with stock.ErrUnknownSKU, ErrWithdrawn,
// stock.ErrTooManyUnits, or ErrKeyReused if the key was used with other units or another
// SKU. After ErrUnknown
// the units may have been added; retry with the same key.
func (s *Service) Restock(ctx context.Context, r RestockRequest) (done Restocked, err error) {
	id := newID() // one for all attempts, because the restock is made once
	err = s.untilKnown(ctx, func(ctx context.Context) error {
		if _, err := s.cfg.database.Get(ctx, r.SKU); err != nil {
			return domainError(err)
		}
		stored, err := s.cfg.database.findRestock(ctx, r.Key)
		if errors.Is(err, sql.ErrNoRows) {
			stored, err = s.addUnits(ctx, id, &r)
		}
		if err != nil {
			return domainError(err)
		}
		if stored.fingerprint != r.fingerprint() {
			return ErrKeyReused
		}
		done = Restocked{Restock: stored, Replayed: stored.ID != id}
		if err := s.units.restock(ctx, &stored); err != nil {
			return err
		}
		s.awaitMirror(ctx, r.SKU, stored.seq)
		return nil
	})
	return done, err
}

// addUnits makes the restock, unless another one has its key, and reads the restock
// with that key. It also reads it after a refusal of the row: the units may be too many
// only because this restock was already added, or the SKU was withdrawn since.
func (s *Service) addUnits(ctx context.Context, id ID, r *RestockRequest) (stored Restock, err error) {
	if err := s.units.restockable(ctx, r.SKU); err != nil {
		return stored, err
	}
	refusal := s.seller.alter(ctx, r.SKU, change{write: func(ctx context.Context) error {
		err := s.cfg.database.insertRestock(ctx, id, r)
		switch {
		case stock.IsDuplicate(err):
			return nil
		case errors.Is(err, stock.ErrTooManyUnits):
			return s.cfg.whyUnchanged(ctx, r.SKU, err)
		}
		return err
	}})
	if refusal != nil && !isAny(refusal, []error{stock.ErrTooManyUnits, ErrWithdrawn}) {
		return stored, refusal
	}
	stored, err = s.cfg.database.findRestock(ctx, r.Key)
	switch {
	case err == nil || refusal != nil && !errors.Is(err, sql.ErrNoRows):
		return stored, err
	case refusal == nil:
		return stored, fmt.Errorf("%w: the units were added, but reading the restock failed: %s", ErrUnknown, err.Error())
	}
	return stored, refusal
}

const readRestock = "SELECT id, sku, fingerprint, units, created_at, seq FROM restocks WHERE idempotency_key = ?"

// addRestock is one packet, so that this process makes no round trip between the row
// lock and COMMIT.
var addRestock = "BEGIN; " +
	"UPDATE stock SET units = units + ?, available = available + ?, seq = seq + 1, revision = revision + 1, " +
	"updated_at = NOW(6) WHERE sku = ? AND units <= ? AND withdrawn_at IS NULL; " +
	stock.Stop + "; " +
	"INSERT INTO restocks (id, sku, idempotency_key, fingerprint, units, created_at, seq) " +
	"SELECT ?, s.sku, ?, ?, ?, NOW(6), s.seq FROM stock s WHERE s.sku = ?; " +
	"COMMIT"

func (db inMySQL) findRestock(ctx context.Context, key string) (r Restock, err error) {
	err = db.SQL.QueryRowContext(ctx, readRestock, []byte(key)).Scan(&r.ID, &r.SKU, &r.fingerprint, &r.Units, &r.CreatedAt, &r.seq)
	if err != nil {
		return r, fmt.Errorf("read a restock: %w", err)
	}
	return r, nil
}

func (db inMySQL) insertRestock(ctx context.Context, id ID, r *RestockRequest) error {
	sku, units, fingerprint := []byte(r.SKU), int64(r.Units), r.fingerprint()
	_, err := db.execCommitted(ctx, addRestock, []any{units, units, sku, stock.MaxUnits - units,
		id[:], []byte(r.Key), fingerprint[:], units, sku})
	switch {
	case stock.IsStopped(err):
		return fmt.Errorf("%s: %w: the maximum is %d", r.SKU, stock.ErrTooManyUnits, int64(stock.MaxUnits))
	case err != nil:
		return fmt.Errorf("restock %s: %w", r.SKU, err)
	}
	return nil
}
