package order

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"flashsale/internal/stock"
	"flashsale/internal/stock/etcdstock"
)

// RestockRequest is what an administrator asks for: more units of a SKU.
type RestockRequest struct {
	SKU string
	// Key is the idempotency key. All restocks share one space of keys.
	Key   string
	Units int32
}

// fingerprint tells apart two requests that came with the same key.
func (r *RestockRequest) fingerprint() Fingerprint {
	as := Request{SKU: r.SKU, Quantity: r.Units}
	return as.Fingerprint()
}

// Restock is units that were put on sale after their SKU was.
type Restock struct {
	ID    ID
	SKU   string
	Units int32
	// CreatedAt is the database's clock in UTC.
	CreatedAt time.Time
}

// Restocked is the answer to a RestockRequest.
type Restocked struct {
	Restock Restock
	// Replayed: an earlier request with the same key has added the units.
	Replayed bool
}

// Restock adds units to a SKU, also while it is sold, once for each key: the same
// key is the same answer. It refuses with stock.ErrUnknownSKU, stock.ErrTooManyUnits,
// and ErrKeyReused for a key that stands with other units or another SKU. After
// ErrUnknown the units may have been added; the same key tells.
func (s *Service) Restock(ctx context.Context, r RestockRequest) (done Restocked, err error) {
	id := newID() // one for all tries: it is made once
	err = s.until(ctx, func(ctx context.Context) error {
		if err := s.exists(ctx, r.SKU); err != nil {
			return err
		}
		stands, err := findRestock(ctx, s.cfg.DB, r.Key)
		if errors.Is(err, sql.ErrNoRows) {
			if stands, err = s.addUnits(ctx, id, &r); err != nil {
				return err
			}
		}
		if err != nil {
			return fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
		if stands.fingerprint != r.fingerprint() {
			return ErrKeyReused
		}
		done = Restocked{Restock: stands.Restock, Replayed: stands.ID != id}
		if err := s.cfg.restockUnits(ctx, &stands.Restock); err != nil {
			return err
		}
		s.cfg.awaitMirror(ctx, r.SKU, stands.seq)
		return nil
	})
	return done, err
}

// addUnits makes the restock, unless another has its key, and reads what then
// stands under it: also where the units would be too many, since this one may be
// among them already.
func (s *Service) addUnits(ctx context.Context, id ID, r *RestockRequest) (stands keptRestock, err error) {
	if err := s.cfg.unitsAreThere(ctx, r.SKU); err != nil {
		return stands, err
	}
	refusal := s.seller.alter(ctx, r.SKU, change{write: func(ctx context.Context) error {
		err := insertRestock(ctx, s.cfg.DB, id, r)
		if stock.IsDuplicate(err) {
			return nil
		}
		return err
	}})
	if refusal != nil && !errors.Is(refusal, stock.ErrTooManyUnits) {
		return stands, refusal
	}
	switch stands, err = findRestock(ctx, s.cfg.DB, r.Key); {
	case err == nil:
		return stands, nil
	case refusal == nil:
		return stands, fmt.Errorf("%w: it was made, and not read: %s", ErrUnknown, err.Error())
	case errors.Is(err, sql.ErrNoRows):
		return stands, refusal
	}
	return stands, fmt.Errorf("%w: %w", ErrUnavailable, err)
}

// unitsAreThere makes sure that a SKU's stock was put into etcd, where it is kept
// there: a restock of MySQL's alone would count among its first units later.
func (cfg *Config) unitsAreThere(ctx context.Context, sku string) error {
	if cfg.Units == nil {
		return nil
	}
	_, err := cfg.Units.Read(ctx, sku)
	if errors.Is(err, etcdstock.ErrUnknownSKU) {
		return fmt.Errorf("%w: etcd has no stock of %s; PUT the SKU again", ErrUnavailable, sku)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return nil
}

// restockUnits makes a restock in etcd, too, where the stock is kept there. It may
// be repeated: the units are added once.
func (cfg *Config) restockUnits(ctx context.Context, r *Restock) error {
	if cfg.Units == nil {
		return nil
	}
	if _, err := cfg.Units.Restock(ctx, r.SKU, r.ID.String(), int64(r.Units)); err != nil {
		return fmt.Errorf("%w: %w", ErrUnknown, err)
	}
	return nil
}

// keptRestock is a row of the table of restocks.
type keptRestock struct {
	Restock
	fingerprint Fingerprint
	seq         uint64 // of the write to the stock
}

// All SQL of the table of restocks.
const readRestock = "SELECT id, sku, fingerprint, units, created_at, seq FROM restocks WHERE idempotency_key = ?"

// addRestock is one packet, so that no round trip of this process stands
// between the row lock and COMMIT.
var addRestock = "BEGIN; " +
	"UPDATE stock SET units = units + ?, available = available + ?, seq = seq + 1, revision = revision + 1, " +
	"updated_at = NOW(6) WHERE sku = ? AND units <= ?; " +
	stock.Stop + "; " +
	"INSERT INTO restocks (id, sku, idempotency_key, fingerprint, units, created_at, seq) " +
	"SELECT ?, s.sku, ?, ?, ?, NOW(6), s.seq FROM stock s WHERE s.sku = ?; " +
	"COMMIT"

func findRestock(ctx context.Context, db *stock.DB, key string) (r keptRestock, err error) {
	var id, fingerprint []byte
	err = db.SQL.QueryRowContext(ctx, readRestock, []byte(key)).Scan(&id, &r.SKU, &fingerprint, &r.Units, &r.CreatedAt, &r.seq)
	if err != nil {
		return r, fmt.Errorf("read a restock: %w", err)
	}
	copy(r.ID[:], id)
	copy(r.fingerprint[:], fingerprint)
	return r, nil
}

func insertRestock(ctx context.Context, db *stock.DB, id ID, r *RestockRequest) error {
	sku, units, fingerprint := []byte(r.SKU), int64(r.Units), r.fingerprint()
	return db.OnConn(ctx, func(conn *sql.Conn) error {
		_, err := execCommitted(ctx, conn, addRestock, []any{units, units, sku, stock.MaxUnits - units,
			id[:], []byte(r.Key), fingerprint[:], units, sku})
		switch {
		case stock.IsStopped(err):
			return fmt.Errorf("%s: %w: %d at most", r.SKU, stock.ErrTooManyUnits, int64(stock.MaxUnits))
		case err != nil:
			return fmt.Errorf("restock %s: %w", r.SKU, err)
		}
		return nil
	})
}
