package etcdstock

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"flashsale/internal/sleep"
)

var (
	// ErrUnknownSKU means that the SKU has no stock here.
	ErrUnknownSKU = errors.New("unknown SKU")
	// ErrInsufficient means that fewer units are left than requested.
	ErrInsufficient = errors.New("not enough units left")
	// ErrContended means that another change came first in each try. Nothing was
	// changed, and the caller may try again.
	ErrContended = errors.New("too many concurrent changes of this SKU")
	// ErrNotTaken means that the order has no units to give back.
	ErrNotTaken = errors.New("the order has taken no units")
	// ErrOtherQuantity means that the same name has taken, or added, another number of
	// units: it belongs to another order or restock.
	ErrOtherQuantity = errors.New("this name was used with another number of units")
)

// Stock is the stock of one SKU.
type Stock struct {
	SKU string `json:"-"`
	// Units were put on sale, and Available are left.
	Units     int64 `json:"units"`
	Available int64 `json:"available"`
	// Revision is the etcd revision of its last change.
	Revision int64 `json:"-"`
}

// Config configures a Store.
type Config struct {
	// Client should have the endpoints of all nodes.
	Client *clientv3.Client
	// Prefix of all keys.
	Prefix string
	// Tries is how often a change is tried before ErrContended; 0 means 50. With many
	// buyers of one SKU, most tries fail.
	Tries int
}

const (
	defaultTries = 50
	// pauseMin and pauseMax bound the random pause between two tries: one round trip,
	// and the time that several rivals need for theirs.
	pauseMin = time.Millisecond
	pauseMax = 50 * time.Millisecond
	// The first withoutPause tries have no pause: the answer of each has the values for
	// the next, and a pause would make them stale.
	withoutPause = 3
)

// Store is the stock of all SKUs. It is safe for concurrent use.
type Store struct {
	cfg     Config
	retries atomic.Uint64
}

// New makes a Store. It does not talk to etcd yet.
func New(cfg Config) (*Store, error) {
	if cfg.Client == nil || cfg.Prefix == "" || cfg.Tries < 0 {
		return nil, errors.New("etcd stock: Client and Prefix are required, and Tries must not be negative")
	}
	cfg.Tries = cmp.Or(cfg.Tries, defaultTries)
	if !strings.HasSuffix(cfg.Prefix, "/") {
		cfg.Prefix += "/"
	}
	return &Store{cfg: cfg}, nil
}

// Retries is how many tries have failed because another change came first.
func (s *Store) Retries() uint64 { return s.retries.Load() }

// Create puts units of a new SKU on sale. It reports false, and changes nothing, if the
// SKU exists.
func (s *Store) Create(ctx context.Context, sku string, units int64) (created bool, err error) {
	if err := check(sku, "create", units); err != nil {
		return false, err
	}
	key := s.stockKey(sku)
	answer, err := s.cfg.Client.Txn(ctx).
		If(clientv3.Compare(clientv3.CreateRevision(key), "=", 0)).
		Then(clientv3.OpPut(key, encode(Stock{Units: units, Available: units}))).Commit()
	if err != nil {
		return false, fmt.Errorf("create %s in etcd: %w", sku, err)
	}
	return answer.Succeeded, nil
}

// Read returns the current stock of a SKU.
func (s *Store) Read(ctx context.Context, sku string) (Stock, error) {
	answer, err := s.cfg.Client.Get(ctx, s.stockKey(sku))
	if err != nil {
		return Stock{}, fmt.Errorf("read %s in etcd: %w", sku, err)
	}
	return stockOf(sku, answer.Kvs)
}

// List returns the stock of all SKUs, by name, as of one revision.
func (s *Store) List(ctx context.Context) ([]Stock, error) {
	prefix := s.stockKey("")
	answer, err := s.cfg.Client.Get(ctx, prefix, clientv3.WithPrefix())
	if err != nil {
		return nil, fmt.Errorf("list the stock in etcd: %w", err)
	}
	all := make([]Stock, len(answer.Kvs))
	for i, kv := range answer.Kvs {
		sku := strings.TrimPrefix(string(kv.Key), prefix)
		if all[i], err = stockOf(sku, []*mvccpb.KeyValue{kv}); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// Taken returns the units that each order has taken of a SKU, and its stock as of the
// same revision: its units are those available and those taken.
func (s *Store) Taken(ctx context.Context, sku string) (stock Stock, taken map[string]int64, err error) {
	prefix := s.key("taken", sku, "")
	answer, err := s.cfg.Client.Txn(ctx).
		Then(clientv3.OpGet(s.stockKey(sku)), clientv3.OpGet(prefix, clientv3.WithPrefix())).Commit()
	if err != nil {
		return Stock{}, nil, fmt.Errorf("list what was taken of %s in etcd: %w", sku, err)
	}
	stock, err = stockOf(sku, answer.Responses[0].GetResponseRange().Kvs)
	if err != nil {
		return Stock{}, nil, err
	}
	taken = map[string]int64{}
	for _, kv := range answer.Responses[1].GetResponseRange().Kvs {
		order := strings.TrimPrefix(string(kv.Key), prefix)
		if taken[order], err = quantityOf(kv); err != nil {
			return Stock{}, nil, err
		}
	}
	return stock, taken, nil
}

// Take takes n units for an order, and returns the stock that is left. An order takes
// its units once: the call may be repeated after an error that left its outcome unknown.
func (s *Store) Take(ctx context.Context, sku, order string, n int64) (Stock, error) {
	return s.changeOnce(ctx, sku, "taken", order, n, func(now *Stock) error {
		if now.Available < n {
			return ErrInsufficient
		}
		now.Available -= n
		return nil
	})
}

// Restock puts n more units on sale, once for each name of a restock.
func (s *Store) Restock(ctx context.Context, sku, restock string, n int64) (Stock, error) {
	return s.changeOnce(ctx, sku, "restocked", restock, n, func(now *Stock) error {
		now.Units += n
		now.Available += n
		return nil
	})
}

// changeOnce makes a change of n units, unless the key of that name exists.
func (s *Store) changeOnce(ctx context.Context, sku, kind, name string, n int64, apply func(now *Stock) error) (Stock, error) {
	if err := check(sku, name, n-1); err != nil {
		return Stock{}, err
	}
	key := s.key(kind, sku, name)
	return s.change(ctx, sku, key, func(now Stock, done int64) (next Stock, put *clientv3.Op, err error) {
		switch {
		case done == n:
			return now, nil, nil
		case done > 0:
			return now, nil, ErrOtherQuantity
		}
		op := clientv3.OpPut(key, strconv.FormatInt(n, 10))
		err = apply(&now)
		return now, &op, err
	})
}

// GiveBack returns the units of an order to the stock, once. It returns ErrNotTaken if
// the order has none, or none any more. A Take without an answer may still be on its
// way: it fails if it arrives later, because GiveBack changes the stock's key in any case.
func (s *Store) GiveBack(ctx context.Context, sku, order string) (Stock, error) {
	if err := check(sku, order, 0); err != nil {
		return Stock{}, err
	}
	key, nothing := s.key("taken", sku, order), false
	left, err := s.change(ctx, sku, key, func(now Stock, taken int64) (next Stock, put *clientv3.Op, err error) {
		nothing = taken == 0
		now.Available += taken
		op := clientv3.OpDelete(key)
		return now, &op, nil
	})
	if err == nil && nothing {
		err = fmt.Errorf("%s: %w", sku, ErrNotTaken)
	}
	return left, err
}

// change applies a decision about the stock and an order's key to both, if they are then
// as the decision saw them. Otherwise it decides again. A decision without an operation
// changes nothing.
func (s *Store) change(ctx context.Context, sku, orderKey string,
	decide func(now Stock, taken int64) (Stock, *clientv3.Op, error)) (Stock, error) {
	stockKey := s.stockKey(sku)
	read := []clientv3.Op{clientv3.OpGet(stockKey), clientv3.OpGet(orderKey)}
	commit := func(txn clientv3.Txn) (*clientv3.TxnResponse, error) {
		answer, err := txn.Commit()
		if err != nil {
			return nil, fmt.Errorf("change %s in etcd: %w", sku, err)
		}
		return answer, nil
	}
	answer, err := commit(s.cfg.Client.Txn(ctx).Then(read...))
	if err != nil {
		return Stock{}, err
	}
	for try := 1; ; try++ {
		now, quantity, err := parse(sku, answer)
		if err != nil {
			return Stock{}, err
		}
		next, op, err := decide(now, quantity)
		if err != nil {
			return now, fmt.Errorf("%s: %w", sku, err)
		}
		if op == nil {
			return now, nil
		}
		answer, err = commit(s.cfg.Client.Txn(ctx).
			If(clientv3.Compare(clientv3.ModRevision(stockKey), "=", now.Revision)).
			Then(clientv3.OpPut(stockKey, encode(next)), *op).
			Else(read...))
		if err != nil {
			return Stock{}, err
		}
		if answer.Succeeded {
			next.Revision = answer.Header.Revision
			return next, nil
		}
		s.retries.Add(1)
		if try == s.cfg.Tries {
			return now, fmt.Errorf("%s: %w (%d tries)", sku, ErrContended, try)
		}
		if try >= withoutPause {
			if err := pause(ctx, try-withoutPause); err != nil {
				return now, fmt.Errorf("%s: %w", sku, err)
			}
			if answer, err = commit(s.cfg.Client.Txn(ctx).Then(read...)); err != nil {
				return Stock{}, err
			}
		}
	}
}

// parse reads the answer of change's reads. The quantity is 0 if the order has no key.
func parse(sku string, answer *clientv3.TxnResponse) (now Stock, quantity int64, err error) {
	now, err = stockOf(sku, answer.Responses[0].GetResponseRange().Kvs)
	if err != nil {
		return now, 0, err
	}
	for _, kv := range answer.Responses[1].GetResponseRange().Kvs {
		quantity, err = quantityOf(kv)
	}
	return now, quantity, err
}

func (s *Store) stockKey(sku string) string { return s.cfg.Prefix + "stock/" + sku }

// key is an order's key ("taken") or a restock's ("restocked").
func (s *Store) key(kind, sku, name string) string {
	return s.cfg.Prefix + kind + "/" + sku + "/" + name
}

func encode(s Stock) string { return fmt.Sprintf(`{"units":%d,"available":%d}`, s.Units, s.Available) }

func stockOf(sku string, kvs []*mvccpb.KeyValue) (Stock, error) {
	if len(kvs) == 0 {
		return Stock{}, fmt.Errorf("%s: %w", sku, ErrUnknownSKU)
	}
	stock := Stock{SKU: sku}
	if err := json.Unmarshal(kvs[0].Value, &stock); err != nil {
		return Stock{}, fmt.Errorf("%s does not contain stock: %w", kvs[0].Key, err)
	}
	stock.SKU, stock.Revision = sku, kvs[0].ModRevision
	return stock, nil
}

func quantityOf(kv *mvccpb.KeyValue) (int64, error) {
	n, err := strconv.ParseInt(string(kv.Value), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s does not contain a number of units: %w", kv.Key, err)
	}
	return n, nil
}

// check refuses arguments that would not make a key, and negative units.
func check(sku, name string, units int64) error {
	switch {
	case sku == "" || strings.ContainsAny(sku, "/\x00"):
		return fmt.Errorf("%q is not a valid SKU", sku)
	case name == "":
		return fmt.Errorf("%s: the name of the order or restock is empty", sku)
	case units < 0:
		return fmt.Errorf("%s: too few units", sku)
	}
	return nil
}

// pause waits for a random time that grows with each try.
func pause(ctx context.Context, try int) error {
	most := min(pauseMin<<min(try, 6), pauseMax)
	return sleep.For(ctx, pauseMin+rand.N(most))
}
