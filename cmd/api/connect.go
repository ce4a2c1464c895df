package main

import (
	"context"
	"fmt"
	"os"

	clientv3 "go.etcd.io/etcd/client/v3"

	"flashsale/internal/httpapi"
	"flashsale/internal/lock"
	"flashsale/internal/lock/etcdlock"
	"flashsale/internal/lock/processlock"
	"flashsale/internal/mirror"
	"flashsale/internal/order"
	"flashsale/internal/stock"
	"flashsale/internal/strategy"
)

// connect waits for the servers, brings the schema up to date, and makes the
// lock and the order service.
func (r *replica) connect(ctx context.Context) (err error) {
	if r.db, err = r.cmd.mysqlFlags.open(); err != nil {
		return err
	}
	needsEtcd := r.guard.Lock == strategy.Etcd || r.guard.Lock == strategy.EtcdTextbook
	if needsEtcd {
		if err := r.cmd.etcdFlags.check(); err != nil {
			return err
		}
	}
	if err := await(ctx, r.logger, r.cmd.address(), r.cmd.StartTimeout, r.db.Ping); err != nil {
		return err
	}
	if err := r.checkConnections(ctx); err != nil {
		return err
	}
	source, revision := "", int64(0)
	if needsEtcd {
		what := "etcd at " + joined(r.cmd.Endpoints)
		err := await(ctx, r.logger, what, r.cmd.StartTimeout, func(ctx context.Context) (err error) {
			if r.etcd == nil {
				if r.etcd, err = r.cmd.etcdFlags.open(); err != nil {
					return err
				}
			}
			source, revision, err = tokenSource(ctx, r.etcd)
			return err
		})
		if err != nil {
			return err
		}
	}
	if err := r.db.Migrate(ctx); err != nil {
		return err
	}
	if err := r.db.Bind(ctx, stock.Guard{Strategy: r.guard.Name, Fence: r.fence, TokenSource: source}); err != nil {
		return err
	}
	if r.guard.Token {
		if err := r.checkTokens(ctx, revision); err != nil {
			return err
		}
	}
	if r.locker, err = r.newLocker(); err != nil {
		return err
	}
	cfg := order.Config{
		DB: r.db, Strategy: r.guard, Fence: r.fence, Locker: r.locker,
		PaymentWindow: r.cmd.PaymentWindow, ThinkTime: r.cmd.ThinkTime, RequestTimeout: r.cmd.RequestTimeout,
		Metrics: order.NewMetrics(r.registry), Logger: r.logger,
	}
	if r.guard.Write == strategy.Batch {
		if err := r.startMirror(ctx); err != nil {
			return err
		}
		cfg.Mirror = r.mirror
	}
	r.orders = order.New(cfg)
	return nil
}

// mirrorPool are the connections that the mirror reads MySQL by. They are its
// own, so that a restock does not wait behind orders.
const mirrorPool = 4

// startMirror runs the mirror until stopMirror. It is for strategies under which
// the row says what is left.
func (r *replica) startMirror(ctx context.Context) (err error) {
	if r.mirrorDB, err = stock.Open(r.cmd.DSN, mirrorPool); err != nil {
		return err
	}
	r.mirror, err = mirror.New(mirror.Config{
		Client: r.etcd, Prefix: r.cmd.Prefix + r.db.Name + "/stock/", DB: r.mirrorDB, Replica: r.cmd.Replica,
		Metrics: mirror.NewMetrics(r.registry), Logger: r.logger,
	})
	if err != nil {
		return err
	}
	// Not with ctx: what the last orders changed has to be written as well.
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan error, 1)
	go func() { ended <- r.mirror.Run(running) }()
	r.stopMirror = func(ctx context.Context) error {
		stop()
		select {
		case err := <-ended:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// catalog is where this replica reads SKUs.
func (r *replica) catalog() httpapi.Catalog {
	if r.mirror == nil {
		return r.db
	}
	return mirror.Catalog{Mirror: r.mirror, DB: r.db}
}

// checkConnections makes sure that no replica will be refused a connection in
// the middle of a sale. One is left for whoever has to look at the server then.
func (r *replica) checkConnections(ctx context.Context) error {
	allowed, err := r.db.MaxConnections(ctx)
	if err != nil {
		return err
	}
	if need := r.cmd.MaxReplicas * (r.cmd.Pool + mirrorPool); need >= allowed {
		return fmt.Errorf("--max-replicas %d x (--mysql-pool %d + %d) is %d connections, the server's max_connections is %d: it must be more",
			r.cmd.MaxReplicas, r.cmd.Pool, mirrorPool, need, allowed)
	}
	return nil
}

// checkTokens refuses an etcd that was restored or emptied: it has its old name,
// and its tokens would all be behind those that MySQL has admitted.
func (r *replica) checkTokens(ctx context.Context, revision int64) error {
	highest, err := r.db.HighestFence(ctx)
	if err != nil {
		return err
	}
	if uint64(revision) < highest {
		return fmt.Errorf("etcd is at revision %d, and token %d was admitted: it was restored or emptied since "+
			"(to go on with it, stop all replicas and run `api fence adopt`)", revision, highest)
	}
	return nil
}

// tokenSource names the cluster whose revisions are the fencing tokens, and says
// at which it is.
func tokenSource(ctx context.Context, client *clientv3.Client) (source string, revision int64, err error) {
	answer, err := client.Get(ctx, "flashsale")
	if err != nil {
		return "", 0, err
	}
	return fmt.Sprintf("etcd cluster %x", answer.Header.ClusterId), answer.Header.Revision, nil
}

// newLocker makes the lock that the strategy names.
func (r *replica) newLocker() (lock.Locker, error) {
	host, _ := os.Hostname() // only shown to people
	cfg := etcdlock.Config{
		Client: r.etcd, Prefix: r.cmd.Prefix + r.db.Name + "/lock/", TTL: r.cmd.LockTTL, Logger: r.logger,
		Owner: etcdlock.Owner{Replica: r.cmd.Replica, Host: host, PID: os.Getpid()},
	}
	switch r.guard.Lock {
	case strategy.NoLock:
		return nil, nil
	case strategy.Process:
		return processlock.New(), nil
	case strategy.EtcdTextbook:
		return etcdlock.NewTextbook(cfg)
	case strategy.Etcd:
		return etcdlock.New(cfg)
	}
	return nil, fmt.Errorf("strategy %s: lock %q is not built in", r.guard.Name, r.guard.Lock)
}
