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
	"flashsale/internal/stock"
)

var (
	// ErrNotTaken means that there are no units to give back.
	ErrNotTaken = errors.New("the order has taken no units")
	// ErrOtherQuantity means that the same name has taken, or added, another number of
	// units: it belongs to another order or restock.
	ErrOtherQuantity = errors.New("this name was used with another number of units")
)

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

// Store is the stock of all SKUs in etcd. It is safe for concurrent use. The Seq of a
// stock.Level that it returns is the etcd revision of the stock's last change. Each
// method returns stock.ErrUnknownSKU if etcd has no stock of the SKU.
type Store struct {
	Client *clientv3.Client // should have the endpoints of all nodes
	Prefix string           // of all keys; ends in a slash
	// Tries is how often a change is tried before stock.ErrContended; 0 means 50. With
	// many buyers of one SKU, most tries fail.
	Tries   int
	retries atomic.Uint64
}

// Retries is how many tries have failed because another change came first.
func (s *Store) Retries() uint64 { return s.retries.Load() }

// Create puts units of a new SKU on sale. It changes nothing if the SKU exists.
func (s *Store) Create(ctx context.Context, sku string, units int64) (created bool, err error) {
	if err := check(sku, "create", units); err != nil {
		return false, err
	}
	key := s.stockKey(sku)
	answer, err := s.Client.Txn(ctx).
		If(clientv3.Compare(clientv3.CreateRevision(key), "=", 0)).
		Then(clientv3.OpPut(key, encode(stock.Level{Units: units, Available: units}))).Commit()
	if err != nil {
		return false, fmt.Errorf("create %s in etcd: %w", sku, err)
	}
	return answer.Succeeded, nil
}

// Read returns the current stock of a SKU.
func (s *Store) Read(ctx context.Context, sku string) (stock.Level, error) {
	answer, err := s.Client.Get(ctx, s.stockKey(sku))
	if err != nil {
		return stock.Level{}, fmt.Errorf("read %s in etcd: %w", sku, err)
	}
	return decode(sku, answer.Kvs)
}

// List returns the stock of all SKUs, by name, as of one revision.
func (s *Store) List(ctx context.Context) ([]stock.Level, error) {
	prefix := s.stockKey("")
	answer, err := s.Client.Get(ctx, prefix, clientv3.WithPrefix())
	if err != nil {
		return nil, fmt.Errorf("list the stock in etcd: %w", err)
	}
	all := make([]stock.Level, len(answer.Kvs))
	for i := range answer.Kvs {
		sku := strings.TrimPrefix(string(answer.Kvs[i].Key), prefix)
		if all[i], err = decode(sku, answer.Kvs[i:i+1]); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// Taken returns the units that each order has taken of a SKU, and its stock as of the
// same revision: its units are those available and those taken.
func (s *Store) Taken(ctx context.Context, sku string) (level stock.Level, taken map[string]int64, err error) {
	prefix := s.key("taken", sku, "")
	answer, err := s.Client.Txn(ctx).
		Then(clientv3.OpGet(s.stockKey(sku)), clientv3.OpGet(prefix, clientv3.WithPrefix())).Commit()
	if err != nil {
		return level, nil, fmt.Errorf("list what was taken of %s in etcd: %w", sku, err)
	}
	level, err = decode(sku, answer.Responses[0].GetResponseRange().Kvs)
	taken = map[string]int64{}
	for _, kv := range answer.Responses[1].GetResponseRange().Kvs {
		if err != nil {
			break
		}
		taken[strings.TrimPrefix(string(kv.Key), prefix)], err = quantityOf(kv)
	}
	return level, taken, err
}

// Take takes n units for an order, and returns the stock that is left, also with
// stock.ErrShort. An order takes its units once: the call may be repeated after an error
// that left its outcome unknown. saw, if not nil, is called with the stock of each try.
func (s *Store) Take(ctx context.Context, sku, order string, n int64, saw func(stock.Level)) (stock.Level, error) {
	return s.changeOnce(ctx, sku, "taken", order, n, func(now *stock.Level) error {
		if saw != nil {
			saw(*now)
		}
		if now.Available < n {
			return stock.ErrShort
		}
		now.Available -= n
		return nil
	})
}

// Restock puts n more units on sale, once for each name of a restock.
func (s *Store) Restock(ctx context.Context, sku, restock string, n int64) (stock.Level, error) {
	return s.changeOnce(ctx, sku, "restocked", restock, n, func(now *stock.Level) error {
		now.Units += n
		now.Available += n
		return nil
	})
}

// changeOnce makes a change of n units, unless the key of that name exists.
func (s *Store) changeOnce(ctx context.Context, sku, kind, name string, n int64, apply func(now *stock.Level) error) (stock.Level, error) {
	if err := check(sku, name, n-1); err != nil {
		return stock.Level{}, err
	}
	key := s.key(kind, sku, name)
	return s.change(ctx, sku, key, func(now stock.Level, done int64) (next stock.Level, put *clientv3.Op, err error) {
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
func (s *Store) GiveBack(ctx context.Context, sku, order string) (stock.Level, error) {
	if err := check(sku, order, 0); err != nil {
		return stock.Level{}, err
	}
	key, nothing := s.key("taken", sku, order), false
	left, err := s.change(ctx, sku, key, func(now stock.Level, taken int64) (stock.Level, *clientv3.Op, error) {
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
	decide func(now stock.Level, taken int64) (stock.Level, *clientv3.Op, error)) (now stock.Level, err error) {
	stockKey := s.stockKey(sku)
	read := []clientv3.Op{clientv3.OpGet(stockKey), clientv3.OpGet(orderKey)}
	commit := func(txn clientv3.Txn) (*clientv3.TxnResponse, error) {
		answer, err := txn.Commit()
		if err != nil {
			return nil, fmt.Errorf("change %s in etcd: %w", sku, err)
		}
		return answer, nil
	}
	answer, err := commit(s.Client.Txn(ctx).Then(read...))
	if err != nil {
		return now, err
	}
	tries := cmp.Or(s.Tries, defaultTries)
	for try := range tries {
		if try > withoutPause {
			if err := pause(ctx, try-withoutPause); err != nil {
				return now, fmt.Errorf("%s: %w", sku, err)
			}
			if answer, err = commit(s.Client.Txn(ctx).Then(read...)); err != nil {
				return now, err
			}
		}
		var quantity int64 // 0 if the order has no key
		now, err = decode(sku, answer.Responses[0].GetResponseRange().Kvs)
		for _, kv := range answer.Responses[1].GetResponseRange().Kvs {
			if err == nil {
				quantity, err = quantityOf(kv)
			}
		}
		if err != nil {
			return now, err
		}
		next, op, err := decide(now, quantity)
		if err != nil {
			return now, fmt.Errorf("%s: %w", sku, err)
		}
		if op == nil {
			return now, nil
		}
		answer, err = commit(s.Client.Txn(ctx).
			If(clientv3.Compare(clientv3.ModRevision(stockKey), "=", int64(now.Seq))).
			Then(clientv3.OpPut(stockKey, encode(next)), *op).
			Else(read...))
		if err != nil {
			return now, err
		}
		if answer.Succeeded {
			next.Seq = uint64(answer.Header.Revision)
			return next, nil
		}
		s.retries.Add(1)
	}
	return now, fmt.Errorf("%s: %w (%d tries)", sku, stock.ErrContended, tries)
}

func (s *Store) stockKey(sku string) string { return s.Prefix + "stock/" + sku }

// key is an order's key ("taken") or a restock's ("restocked").
func (s *Store) key(kind, sku, name string) string { return s.Prefix + kind + "/" + sku + "/" + name }

func encode(l stock.Level) string {
	return fmt.Sprintf(`{"units":%d,"available":%d}`, l.Units, l.Available)
}

func decode(sku string, kvs []*mvccpb.KeyValue) (stock.Level, error) {
	if len(kvs) == 0 {
		return stock.Level{}, fmt.Errorf("%s: %w", sku, stock.ErrUnknownSKU)
	}
	level := stock.Level{SKU: sku, Seq: uint64(kvs[0].ModRevision)}
	if err := json.Unmarshal(kvs[0].Value, &struct{ Units, Available *int64 }{&level.Units, &level.Available}); err != nil {
		return stock.Level{}, fmt.Errorf("%s does not contain stock: %w", kvs[0].Key, err)
	}
	return level, nil
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
