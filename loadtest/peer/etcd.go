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
	// unlockTimeout bounds the release of a lock after its order.
	unlockTimeout   = time.Second
	etcdDialTimeout = 3 * time.Second
)

// newEtcdDatabase connects a rival to etcd too. prefix is that of its locks.
func newEtcdDatabase(s Servers) (d *database, prefix string, err error) {
	d = newDatabase(s)
	d.etcd, err = clientv3.New(clientv3.Config{Endpoints: s.EtcdEndpoints, DialTimeout: etcdDialTimeout, Logger: zap.NewNop()})
	return d, "flashsale/" + s.DB.Name + "/lock/", err
}

const takeFenced = "UPDATE stock SET available = available - ?, seq = seq + 1, fence = ?, updated_at = NOW(6) " +
	"WHERE sku = ? AND fence <= ? AND available >= ?"

// openNoDesk opens etcd-no-desk: a lock and a fenced conditional write for each order.
func openNoDesk(_ context.Context, s Servers) (rival, error) {
	d, prefix, err := newEtcdDatabase(s)
	if err != nil {
		return nil, err
	}
	host, _ := os.Hostname() // only shown to operators
	locker, err := etcdlock.New(etcdlock.Config{
		Client: d.etcd, Prefix: prefix, TTL: lockTTL, Logger: s.Logger,
		Owner: etcdlock.Owner{Replica: s.Replica, Host: host, PID: os.Getpid()},
	})
	if err != nil {
		return nil, errors.Join(err, d.etcd.Close())
	}
	d.finish = locker.Close
	d.attempt = func(ctx context.Context, id order.ID, r *order.Request) error {
		held, err := locker.Lock(ctx, r.SKU)
		if err != nil {
			return fmt.Errorf("%w: %w", order.ErrUnavailable, err)
		}
		defer func() {
			unlocking, cancel := context.WithTimeout(context.WithoutCancel(ctx), unlockTimeout)
			defer cancel()
			if err := held.Unlock(unlocking); err != nil {
				s.Logger.Warn("unlock", "sku", r.SKU, "error", err)
			}
		}()
		token := uint64(held.Token())
		return d.oneTrip(ctx, id, r, takeFenced, r.Quantity, token, []byte(r.SKU), token, r.Quantity)
	}
	return d, nil
}

// openSessionAnOrder opens etcd-textbook with a session for each order, as in a
// program that makes the documentation's example a function.
func openSessionAnOrder(_ context.Context, s Servers) (rival, error) {
	d, prefix, err := newEtcdDatabase(s)
	if err != nil {
		return nil, err
	}
	d.attempt = func(ctx context.Context, id order.ID, r *order.Request) error {
		session, err := concurrency.NewSession(d.etcd, concurrency.WithTTL(int(lockTTL.Seconds())))
		if err != nil {
			return fmt.Errorf("%w: %w", order.ErrUnavailable, err)
		}
		defer func() {
			if err := session.Close(); err != nil { // revokes the lease
				s.Logger.Warn("close session", "sku", r.SKU, "error", err)
			}
		}()
		mutex := concurrency.NewMutex(session, prefix+r.SKU)
		if err := mutex.Lock(ctx); err != nil {
			return fmt.Errorf("%w: %w", order.ErrUnavailable, err)
		}
		err = s.DB.OnConn(ctx, func(conn *sql.Conn) error { return readThenWrite(ctx, conn, id, r) })
		unlocking, cancel := context.WithTimeout(context.WithoutCancel(ctx), unlockTimeout)
		defer cancel()
		if unlock := mutex.Unlock(unlocking); unlock != nil {
			s.Logger.Warn("unlock", "sku", r.SKU, "error", unlock)
		}
		return err
	}
	return d, nil
}
