package etcdstock

import (
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
	// ErrUnknownSKU says that the SKU has no stock here.
	ErrUnknownSKU = errors.New("unknown SKU")
	// ErrInsufficient says that fewer units are left than were asked for.
	ErrInsufficient = errors.New("not enough units left")
	// ErrContended says that others were first each time: nothing was changed by
	// us, and it may be tried again.
	ErrContended = errors.New("too many others change this SKU")
	// ErrNotTaken says that the order has taken nothing that could be given back.
	ErrNotTaken = errors.New("the order has taken no units")
	// ErrOtherQuantity says that the same name has taken, or added, another number
	// of units: it stands for another order or restock.
	ErrOtherQuantity = errors.New("this name stands for another number of units")
)

// Stock is what there is of a SKU.
type Stock struct {
	SKU string `json:"-"`
	// Units were put on sale, and Available are left.
	Units     int64 `json:"units"`
	Available int64 `json:"available"`
	// Revision is the etcd revision of its last change.
	Revision int64 `json:"-"`
}

// Config says where a Store's keys are.
type Config struct {
	// Client should have the endpoints of all nodes.
	Client *clientv3.Client
	// Prefix of all keys.
	Prefix string
	// Tries is how often a change is tried before ErrContended; 0 is 50. With
	// many buyers of one SKU, most tries of each are in vain.
	Tries int
}

const (
	defaultTries = 50
	// pauseMin and pauseMax bound the waits between two tries, each drawn at
	// random: a round trip, and what several rivals need for theirs.
	pauseMin = time.Millisecond
	pauseMax = 50 * time.Millisecond
	// hurried tries come without one: the refusal of each shows what to try next,
	// and a pause would make that old.
	hurried = 3
)

// Store is the stock of all SKUs. It is safe for concurrent use.
type Store struct {
	cfg     Config
	retries atomic.Uint64
}

// New makes a Store. It does not talk to etcd yet.
func New(cfg Config) (*Store, error) {
	switch {
	case cfg.Client == nil:
		return nil, errors.New("etcd stock: no client")
	case cfg.Prefix == "":
		return nil, errors.New("etcd stock: no prefix")
	case cfg.Tries < 0:
		return nil, fmt.Errorf("etcd stock: %d tries", cfg.Tries)
	case cfg.Tries == 0:
		cfg.Tries = defaultTries
	}
	if !strings.HasSuffix(cfg.Prefix, "/") {
		cfg.Prefix += "/"
	}
	return &Store{cfg: cfg}, nil
}

// Retries is how many tries were in vain since the Store was made, because
// another change came first.
func (s *Store) Retries() uint64 { return s.retries.Load() }

// Create puts units of a new SKU on sale. It reports whether the SKU is new; one
// that is there already is left as it is.
func (s *Store) Create(ctx context.Context, sku string, units int64) (created bool, err error) {
	if err := check(sku, units); err != nil {
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

// Read is the stock of a SKU, as of now.
func (s *Store) Read(ctx context.Context, sku string) (Stock, error) {
	answer, err := s.cfg.Client.Get(ctx, s.stockKey(sku))
	if err != nil {
		return Stock{}, fmt.Errorf("read %s in etcd: %w", sku, err)
	}
	return stockOf(sku, answer.Kvs)
}

// List is the stock of all SKUs, in the order of their names, as of one revision.
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

// Taken is the units that each order has taken of a SKU, together with its stock
// as of the same revision: what is available and what was taken are its units.
func (s *Store) Taken(ctx context.Context, sku string) (stock Stock, taken map[string]int64, err error) {
	prefix := s.takenKey(sku, "")
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

// Take takes n units for an order, and returns the stock that is left. What the
// order has taken already it is not given twice: the same call may be repeated
// after an error that left its outcome open.
func (s *Store) Take(ctx context.Context, sku, order string, n int64) (Stock, error) {
	if err := check(sku, n-1); err != nil {
		return Stock{}, err
	}
	if err := checkOrder(order); err != nil {
		return Stock{}, err
	}
	key := s.takenKey(sku, order)
	return s.change(ctx, sku, key, func(now Stock, taken int64) (next Stock, put *clientv3.Op, err error) {
		switch {
		case taken == n:
			return now, nil, nil
		case taken > 0:
			return now, nil, ErrOtherQuantity
		case now.Available < n:
			return now, nil, ErrInsufficient
		}
		now.Available -= n
		op := clientv3.OpPut(key, strconv.FormatInt(n, 10))
		return now, &op, nil
	})
}

// GiveBack returns what an order has taken, once: ErrNotTaken says that there was
// nothing, or nothing any more. A Take without an answer may still be on its way:
// one that comes later is refused, since the stock's key has changed in any case.
func (s *Store) GiveBack(ctx context.Context, sku, order string) (Stock, error) {
	if err := checkOrder(order); err != nil {
		return Stock{}, err
	}
	key, nothing := s.takenKey(sku, order), false
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

// Restock puts n more units on sale, once for each name of a restock.
func (s *Store) Restock(ctx context.Context, sku, restock string, n int64) (Stock, error) {
	if err := check(sku, n-1); err != nil {
		return Stock{}, err
	}
	if err := checkOrder(restock); err != nil {
		return Stock{}, err
	}
	key := s.cfg.Prefix + "restocked/" + sku + "/" + restock
	return s.change(ctx, sku, key, func(now Stock, added int64) (next Stock, put *clientv3.Op, err error) {
		switch {
		case added == n:
			return now, nil, nil
		case added > 0:
			return now, nil, ErrOtherQuantity
		}
		now.Units += n
		now.Available += n
		op := clientv3.OpPut(key, strconv.FormatInt(n, 10))
		return now, &op, nil
	})
}

// change applies a decision about the stock and an order's key to both, if they
// are then still as the decision saw them, and else decides again. A decision
// without an operation changes nothing.
func (s *Store) change(ctx context.Context, sku, orderKey string,
	decide func(now Stock, taken int64) (Stock, *clientv3.Op, error)) (Stock, error) {
	stockKey := s.stockKey(sku)
	look := []clientv3.Op{clientv3.OpGet(stockKey), clientv3.OpGet(orderKey)}
	answer, err := s.cfg.Client.Txn(ctx).Then(look...).Commit()
	if err != nil {
		return Stock{}, fmt.Errorf("change %s in etcd: %w", sku, err)
	}
	for try := 1; ; try++ {
		now, quantity, err := seen(sku, answer)
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
		answer, err = s.cfg.Client.Txn(ctx).
			If(clientv3.Compare(clientv3.ModRevision(stockKey), "=", now.Revision)).
			Then(clientv3.OpPut(stockKey, encode(next)), *op).
			Else(look...).Commit()
		if err != nil {
			return Stock{}, fmt.Errorf("change %s in etcd: %w", sku, err)
		}
		if answer.Succeeded {
			next.Revision = answer.Header.Revision
			return next, nil
		}
		s.retries.Add(1)
		if try == s.cfg.Tries {
			return now, fmt.Errorf("%s: %w (%d tries)", sku, ErrContended, try)
		}
		if try >= hurried {
			if err := pause(ctx, try-hurried); err != nil {
				return now, fmt.Errorf("%s: %w", sku, err)
			}
			answer, err = s.cfg.Client.Txn(ctx).Then(look...).Commit()
			if err != nil {
				return Stock{}, fmt.Errorf("change %s in etcd: %w", sku, err)
			}
		}
	}
}

// seen is what look has read: a quantity of 0 is an order without a key.
func seen(sku string, answer *clientv3.TxnResponse) (now Stock, quantity int64, err error) {
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

func (s *Store) takenKey(sku, order string) string {
	return s.cfg.Prefix + "taken/" + sku + "/" + order
}

func encode(stock Stock) string {
	value, err := json.Marshal(stock)
	if err != nil {
		panic(err) // two numbers
	}
	return string(value)
}

func stockOf(sku string, kvs []*mvccpb.KeyValue) (Stock, error) {
	if len(kvs) == 0 {
		return Stock{}, fmt.Errorf("%s: %w", sku, ErrUnknownSKU)
	}
	stock := Stock{SKU: sku}
	if err := json.Unmarshal(kvs[0].Value, &stock); err != nil {
		return Stock{}, fmt.Errorf("%s is no stock: %w", kvs[0].Key, err)
	}
	stock.SKU, stock.Revision = sku, kvs[0].ModRevision
	return stock, nil
}

func quantityOf(kv *mvccpb.KeyValue) (int64, error) {
	n, err := strconv.ParseInt(string(kv.Value), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s is no number of units: %w", kv.Key, err)
	}
	return n, nil
}

func check(sku string, units int64) error {
	if sku == "" || strings.ContainsAny(sku, "/\x00") {
		return fmt.Errorf("%q cannot be a SKU", sku)
	}
	if units < 0 {
		return fmt.Errorf("%s: too few units", sku)
	}
	return nil
}

func checkOrder(order string) error {
	if order == "" {
		return errors.New("an order without a name")
	}
	return nil
}

// pause waits for longer the more tries were in vain, at random.
func pause(ctx context.Context, try int) error {
	most := min(pauseMin<<min(try, 6), pauseMax)
	return sleep.For(ctx, pauseMin+rand.N(most))
}
