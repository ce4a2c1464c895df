package peer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"

	"flashsale/internal/order"
	"flashsale/internal/stock"
)

// sell takes the units and pushes the order. It returns taken, unknownSKU, or the
// units left if these are too few.
var sell = redis.NewScript(`
local left = redis.call('GET', KEYS[1])
if not left then return -2 end
left = tonumber(left)
local n = tonumber(ARGV[1])
if left < n then return left end
redis.call('DECRBY', KEYS[1], n)
redis.call('RPUSH', KEYS[2], ARGV[2])
return -1
`)

const (
	taken      = -1
	unknownSKU = -2
)

// The keys of a SKU: the units left, the list of orders, and the SKU's properties.
func leftKey(sku string) string   { return "stock:" + sku }
func ordersKey(sku string) string { return "orders:" + sku }
func skuKey(sku string) string    { return "sku:" + sku }

// RedisOrder is an order in Redis.
type RedisOrder struct {
	ID       uuid.UUID `json:"id"`
	Customer string    `json:"customer"`
	Key      string    `json:"key"`
	Quantity int32     `json:"quantity"`
}

type redisPeer struct {
	unoffered
	client *redis.Client
	rows   cache
}

func openRedis(ctx context.Context, s Servers) (rival, error) {
	r := &redisPeer{client: redisClient(s.RedisAddr, s.Pool)}
	if err := sell.Load(ctx, r.client).Err(); err != nil {
		return nil, errors.Join(fmt.Errorf("load the script: %w", err), r.client.Close())
	}
	return r, nil
}

func redisClient(addr string, pool int) *redis.Client {
	return redis.NewClient(&redis.Options{
		Addr: addr, Protocol: 2, DisableIdentity: true, PoolSize: pool, MinIdleConns: pool, PoolTimeout: requestTimeout,
		// A script that was sent may have run. A retry could sell twice.
		MaxRetries: -1,
	})
}

func (p *redisPeer) Place(ctx context.Context, r order.Request) (order.Placed, error) {
	row, err := p.rows.get(ctx, r.SKU, p.load)
	if err != nil {
		return order.Placed{}, err
	}
	id := uuid.Must(uuid.NewV7())
	entry, err := json.Marshal(RedisOrder{ID: id, Customer: r.Customer, Key: r.Key, Quantity: r.Quantity})
	if err != nil {
		return order.Placed{}, fmt.Errorf("%w: %w", order.ErrUnavailable, err)
	}
	left, err := sell.EvalSha(ctx, p.client, []string{leftKey(r.SKU), ordersKey(r.SKU)}, r.Quantity, entry).Int64()
	switch {
	case errors.Is(err, redis.ErrPoolTimeout):
		return order.Placed{}, fmt.Errorf("%w: %w", order.ErrUnavailable, err)
	case err != nil:
		return order.Placed{}, fmt.Errorf("%w: %w", order.ErrUnknown, err)
	case left == taken:
		return promise(&r, id, row.PriceCents, row.Currency, time.Now().UTC()), nil
	case left == unknownSKU:
		return order.Placed{}, stock.ErrUnknownSKU
	case left == 0:
		return order.Placed{}, order.ErrSoldOut
	}
	return order.Placed{}, order.ErrInsufficient
}

func (p *redisPeer) load(ctx context.Context, sku string) (row stock.Stock, err error) {
	text, err := p.client.Get(ctx, skuKey(sku)).Bytes()
	switch {
	case errors.Is(err, redis.Nil):
		return row, stock.ErrUnknownSKU
	case err != nil:
		return row, fmt.Errorf("%w: %w", order.ErrUnavailable, err)
	}
	return row, json.Unmarshal(text, &row)
}

func (p *redisPeer) PutSKU(ctx context.Context, want stock.Stock, _ order.Precondition) (stock.Stock, bool, error) {
	want.Available = want.Units
	text, err := json.Marshal(want)
	if err != nil {
		return want, false, err
	}
	created, err := p.client.SetNX(ctx, leftKey(want.SKU), want.Units, 0).Result()
	if err == nil && created {
		err = p.client.Set(ctx, skuKey(want.SKU), text, 0).Err()
	}
	return want, created, err
}

func (p *redisPeer) ready(ctx context.Context) map[string]error {
	return map[string]error{"redis": p.client.Ping(ctx).Err()}
}

func (p *redisPeer) close(context.Context) error { return p.client.Close() }

// ReadRedis reads the units left and the orders of one SKU.
func ReadRedis(ctx context.Context, addr, sku string) (left int64, orders []RedisOrder, err error) {
	client := redisClient(addr, 1)
	defer func() { err = errors.Join(err, client.Close()) }()
	if left, err = client.Get(ctx, leftKey(sku)).Int64(); err != nil {
		return 0, nil, fmt.Errorf("read the stock of %s: %w", sku, err)
	}
	const page = 10_000
	for from := int64(0); ; from += page {
		entries, err := client.LRange(ctx, ordersKey(sku), from, from+page-1).Result()
		if err != nil {
			return 0, nil, fmt.Errorf("read the orders of %s: %w", sku, err)
		}
		for _, text := range entries {
			var o RedisOrder
			if err := json.Unmarshal([]byte(text), &o); err != nil {
				return 0, nil, fmt.Errorf("read an order of %s: %w", sku, err)
			}
			orders = append(orders, o)
		}
		if len(entries) < page {
			return left, orders, nil
		}
	}
}
