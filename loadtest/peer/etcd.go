package peer

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"go.uber.org/zap"

	"flashsale/internal/lock/etcdlock"
	"flashsale/internal/order"
)

const (
	// lockTTL is the service's default.
	lockTTL = 5 * time.Second
	// unlockTimeout bounds the giving back of a lock after its order.
	unlockTimeout = time.Second
	dialTimeout   = 3 * time.Second
)

func dial(s Servers) (*clientv3.Client, error) {
	return clientv3.New(clientv3.Config{Endpoints: s.EtcdEndpoints, DialTimeout: dialTimeout, Logger: zap.NewNop()})
}

// lockPrefix is where the service's own keys would stand.
func lockPrefix(s Servers) string { return "flashsale/" + s.DB.Name + "/lock/" }

// noDesk is the service without its desk: our mutex for each order, and a write
// that is both fenced and conditional.
type noDesk struct {
	database
	client *clientv3.Client
	locker *etcdlock.Locker
	warn   func(msg string, args ...any)
}

func openNoDesk(_ context.Context, s Servers) (rival, error) {
	client, err := dial(s)
	if err != nil {
		return nil, err
	}
	host, _ := os.Hostname() // only shown to people
	locker, err := etcdlock.New(etcdlock.Config{
		Client: client, Prefix: lockPrefix(s), TTL: lockTTL, Logger: s.Logger,
		Owner: etcdlock.Owner{Replica: s.Replica, Host: host, PID: os.Getpid()},
	})
	if err != nil {
		return nil, errors.Join(err, client.Close())
	}
	return &noDesk{database: database{db: s.DB}, client: client, locker: locker, warn: s.Logger.Warn}, nil
}

const takeFenced = "UPDATE stock SET available = available - ?, seq = seq + 1, fence = ?, updated_at = NOW(6) " +
	"WHERE sku = ? AND fence <= ? AND available >= ?"

func (n *noDesk) Place(ctx context.Context, r order.Request) (order.Placed, error) {
	return n.place(ctx, &r, func(ctx context.Context, id order.ID) error {
		held, err := n.locker.Lock(ctx, r.SKU)
		if err != nil {
			return fmt.Errorf("%w: %w", order.ErrUnavailable, err)
		}
		defer func() {
			free, cancel := context.WithTimeout(context.WithoutCancel(ctx), unlockTimeout)
			defer cancel()
			if err := held.Unlock(free); err != nil {
				n.warn("unlock", "sku", r.SKU, "error", err)
			}
		}()
		token := uint64(held.Token())
		return n.oneTrip(ctx, id, &r, takeFenced, r.Quantity, token, []byte(r.SKU), token, r.Quantity)
	})
}

func (n *noDesk) ready(ctx context.Context) map[string]error {
	return readyWith(ctx, n.db.Ping, n.client)
}

func (n *noDesk) close(ctx context.Context) error {
	return errors.Join(n.locker.Close(ctx), n.client.Close())
}

// sessionAnOrder is the textbook's mutex in a session that lasts for one order, as
// a program has it that takes the documentation's example for a function to call.
type sessionAnOrder struct {
	database
	client *clientv3.Client
	prefix string
	warn   func(msg string, args ...any)
}

func openSessionAnOrder(_ context.Context, s Servers) (rival, error) {
	client, err := dial(s)
	if err != nil {
		return nil, err
	}
	return &sessionAnOrder{database: database{db: s.DB}, client: client, prefix: lockPrefix(s), warn: s.Logger.Warn}, nil
}

func (s *sessionAnOrder) Place(ctx context.Context, r order.Request) (order.Placed, error) {
	return s.place(ctx, &r, func(ctx context.Context, id order.ID) error {
		session, err := concurrency.NewSession(s.client, concurrency.WithTTL(int(lockTTL.Seconds())))
		if err != nil {
			return fmt.Errorf("%w: %w", order.ErrUnavailable, err)
		}
		defer func() {
			if err := session.Close(); err != nil { // revokes the lease
				s.warn("close session", "sku", r.SKU, "error", err)
			}
		}()
		mutex := concurrency.NewMutex(session, s.prefix+r.SKU)
		if err := mutex.Lock(ctx); err != nil {
			return fmt.Errorf("%w: %w", order.ErrUnavailable, err)
		}
		err = s.db.OnConn(ctx, func(conn *sql.Conn) error { return s.readThenWrite(ctx, conn, id, &r) })
		free, cancel := context.WithTimeout(context.WithoutCancel(ctx), unlockTimeout)
		defer cancel()
		if unlock := mutex.Unlock(free); unlock != nil {
			s.warn("unlock", "sku", r.SKU, "error", unlock)
		}
		return err
	})
}

func (s *sessionAnOrder) ready(ctx context.Context) map[string]error {
	return readyWith(ctx, s.db.Ping, s.client)
}

func (s *sessionAnOrder) close(context.Context) error { return s.client.Close() }

func readyWith(ctx context.Context, mysql func(context.Context) error, client *clientv3.Client) map[string]error {
	_, err := client.Get(ctx, "flashsale/")
	return map[string]error{"mysql": mysql(ctx), "etcd": err}
}
