package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"flashsale/internal/backend"
	"flashsale/internal/doctor"
	"flashsale/internal/httpapi"
	"flashsale/internal/mirror"
	"flashsale/internal/order"
	"flashsale/internal/sleep"
	"flashsale/internal/stock"
	"flashsale/internal/stock/etcdstock"
	"flashsale/internal/strategy"
	"flashsale/internal/telemetry"
)

// connect waits for the servers, migrates the schema if its account may, and creates the lock and the order
// service.
func (r *replica) connect(ctx context.Context) (err error) {
	if r.db, err = r.cmd.open(r.tracing.Provider); err != nil {
		return err
	}
	r.atClose(serversRound, "MySQL", ignoringContext(r.db.Close))
	ping := func(ctx context.Context) error {
		if err := r.cmd.ping(ctx, r.db); err != nil {
			return err
		}
		return r.db.Migratable(ctx) // another account may be about to migrate
	}
	if err := await(ctx, r.logger, r.cmd.address(), r.cmd.StartTimeout, ping); err != nil {
		return err
	}
	var highest uint64
	for _, step := range []func(context.Context) error{
		r.bounded(r.examineMySQL),
		r.bounded(r.checkWriters),
		r.db.Migrate,
		// Before the lock server is asked, since tokens rise while other replicas sell.
		r.bounded(func(ctx context.Context) (err error) { highest, err = r.db.HighestFence(ctx); return err }),
		r.openBackend,
		r.examineBackend,
		r.bounded(func(ctx context.Context) error { return r.db.Bind(ctx, r.binding()) }),
		func(context.Context) error { return r.checkTokens(highest) },
		r.bounded(func(ctx context.Context) error { return r.startReplicaLock(ctx, highest) }),
		r.startOrders,
	} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	r.register()
	return r.startSettings(ctx)
}

// startOrders creates the order service and starts the expiry of orders.
func (r *replica) startOrders(ctx context.Context) (err error) {
	cfg := order.Config{
		DB: r.db, Strategy: r.strategy, Fence: r.fence, Locker: r.backend.Locker,
		PaymentWindow: r.cmd.PaymentWindow, MaxUnpaid: r.cmd.MaxUnpaid, ThinkTime: r.cmd.ThinkTime, RequestTimeout: r.cmd.RequestTimeout,
		Halted: r.replicaLock.halted,
		Desk:   order.DeskConfig{Quantum: r.cmd.Quantum},
		Tracer: r.tracing.Tracer, Metrics: order.NewMetrics(r.registry), Logger: r.logger, Steps: r.steps,
		At: r.stopBeforeSteps(ctx),
	}
	if r.strategy.Write == strategy.Batch {
		if err := r.startMirror(ctx); err != nil {
			return err
		}
		cfg.Mirror = r.mirror
		r.forwarding.Registry = r.registry
		cfg.Forwarding = r.forwarding
	}
	if r.strategy.Write == strategy.EtcdCompareAndSwap {
		cfg.Units = unitsInEtcd(r.backend, &r.cmd.Servers, r.db)
		r.registry.MustRegister(telemetry.Retries(cfg.Units.Retries))
		r.levels = cfg.Units.List
		r.audit = func(ctx context.Context) (stock.Report, error) { return order.AuditUnits(ctx, r.db, cfg.Units) }
	}
	r.orders = order.New(cfg)
	r.atClose(ordersRound, "orders", r.orders.Close)
	return r.startExpirer(ctx)
}

// bounded bounds a query to MySQL by --start-timeout: the server may hang although it
// has answered before.
func (r *replica) bounded(query func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, r.cmd.StartTimeout)
		defer cancel()
		err := query(ctx)
		if err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return fmt.Errorf("%s did not answer within --start-timeout %s: %w", r.cmd.address(), r.cmd.StartTimeout, err)
		}
		return err
	}
}

// awaitAttempt bounds one attempt to reach a server at start.
const awaitAttempt = 3 * time.Second

// final is an error that waiting cannot change.
type final struct{ error }

func (f final) Unwrap() error { return f.error }

func isTransient(err error) bool {
	_, permanent := errors.AsType[final](err)
	return !permanent
}

// await calls try until it succeeds, limit has passed or the error is final. It logs
// what it waits for.
func await(ctx context.Context, logger *slog.Logger, what string, limit time.Duration, try func(context.Context) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("%s was not ready within --start-timeout %s", what, limit))
	defer cancel()
	return sleep.Backoff{Min: 100 * time.Millisecond, Max: 2 * time.Second}.Retry(ctx, isTransient, func() error {
		attempt, cancel := context.WithTimeout(ctx, awaitAttempt)
		defer cancel()
		err := try(attempt)
		if err != nil && isTransient(err) && ctx.Err() == nil {
			logger.Warn("waiting for "+what, "error", err)
		}
		return err
	})
}

// openBackend opens the strategy's lock once its server answers.
func (r *replica) openBackend(ctx context.Context) error {
	cfg := backend.Config{
		Strategy: r.strategy, Servers: r.cmd.Servers, DSN: r.cmd.DSN, Database: r.db.Name,
		Connections: r.cmd.lockPool(), Replica: r.cmd.Replica, TTL: r.cmd.LockTTL, Traces: r.tracing.Provider, Logger: r.logger,
	}
	if r.forwarding != nil {
		cfg.Process, cfg.ForwardAddr = r.forwarding.Process, r.cmd.ForwardAdvertise
	}
	open := func(ctx context.Context) (err error) {
		if r.backend, err = backend.Open(ctx, cfg); err != nil {
			return err
		}
		if r.backend.Locker != nil {
			r.atClose(locksRound, "lock", r.backend.Locker.Close)
		}
		r.atClose(serversRound, "the lock server", ignoringContext(r.backend.Close))
		return nil
	}
	what := backend.Address(r.strategy, &r.cmd.Servers)
	if what == "" {
		return open(ctx)
	}
	return await(ctx, r.logger, what, r.cmd.StartTimeout, func(ctx context.Context) error {
		err := open(ctx)
		if err == nil {
			return nil
		}
		if advice, ok := backend.Refusal(err); ok {
			return final{fmt.Errorf("%s: %w; %s", what, err, advice)}
		}
		return err
	})
}

// unitsInEtcd returns the stock of strategy etcd-cas.
func unitsInEtcd(g *backend.Backend, servers *backend.Servers, db *stock.DB) *etcdstock.Store {
	return &etcdstock.Store{Client: g.Etcd, Prefix: servers.Prefix + db.Name + "/units/"}
}

// mirrorPool is the number of connections for the mirror. It has its own, so that a
// restock does not wait behind orders.
const mirrorPool = 4

// startMirror runs the mirror. It goes on while the replica drains, and writes what the
// last orders changed.
func (r *replica) startMirror(ctx context.Context) (err error) {
	if r.mirrorDB, err = stock.Open(r.cmd.DSN, mirrorPool); err != nil {
		return err
	}
	r.atClose(serversRound, "the mirror's MySQL", ignoringContext(r.mirrorDB.Close))
	r.mirror, err = mirror.New(mirror.Config{
		Client: r.backend.Etcd, Prefix: r.cmd.Prefix + r.db.Name + "/stock/", DB: r.mirrorDB,
		Registry: r.registry, Logger: r.logger,
	})
	if err != nil {
		return err
	}
	r.atClose(locksRound, "mirror", background(ctx, r.mirror.Run))
	return nil
}

// startExpirer expires orders while this replica holds the lease for it. It goes on
// while the replica drains.
func (r *replica) startExpirer(ctx context.Context) error {
	leases, err := backend.OpenLeases(backend.Config{DSN: r.cmd.DSN, Replica: r.cmd.Replica, TTL: r.cmd.LockTTL, Logger: r.logger})
	if err != nil {
		return err
	}
	stop := background(ctx, func(ctx context.Context) error { order.NewExpirer(r.orders, leases).Run(ctx); return nil })
	r.atClose(expiryRound, "expirer", func(ctx context.Context) error {
		if err := stop(ctx); err != nil {
			return err
		}
		return leases.Close(ctx)
	})
	return nil
}

// catalog returns where this replica reads SKUs.
func (r *replica) catalog() interface {
	httpapi.Catalog
	telemetry.Catalog
} {
	if r.mirror == nil {
		return stock.Catalog{DB: r.db}
	}
	return mirror.Catalog{Mirror: r.mirror, DB: r.db}
}

// examineMySQL finds faults that would show only during a sale.
func (r *replica) examineMySQL(ctx context.Context) error {
	report, err := doctor.MySQL(ctx, r.db, r.cmd.needs(r.strategy, &r.cmd.mysqlFlags))
	if err != nil {
		return err
	}
	return r.accept(report.Of(r.cmd.address()))
}

// checkWriters rejects a lock that exists on one MySQL server only if several servers
// accept writes: two of them could grant it at the same time.
func (r *replica) checkWriters(ctx context.Context) error {
	if !r.strategy.OnePrimary {
		return nil
	}
	n, err := r.db.Writers(ctx)
	if err == nil && n > 1 {
		err = fmt.Errorf("--strategy %s is not safe here: %d servers of this MySQL cluster accept writes, and its lock exists on one of them only; "+
			"use a strategy that is safe with any number of MySQL servers, see `api strategies`", r.strategy.Name, n)
	}
	return err
}

// examineBackend finds such faults of the lock server, once it answers.
func (r *replica) examineBackend(ctx context.Context) error {
	return await(ctx, r.logger, backend.Address(r.strategy, &r.cmd.Servers), r.cmd.StartTimeout, func(ctx context.Context) error {
		report := backend.Examine(ctx, r.strategy, &r.cmd.Servers, r.db.Name)
		for _, f := range report.With(doctor.Fault) {
			if f.Check == doctor.Answers {
				return report.Err()
			}
		}
		if err := r.accept(report); err != nil {
			return final{err}
		}
		return nil
	})
}

// accept logs warnings and returns faults.
func (r *replica) accept(report doctor.Report) error {
	for _, f := range report.With(doctor.Warning) {
		r.logger.Warn(f.Check+": "+f.Found, "server", f.Server, "do", f.Do)
	}
	return report.Err()
}

// checkTokens rejects a lock server that was restored or emptied: MySQL would refuse its
// tokens, which are behind those it has admitted.
func (r *replica) checkTokens(highest uint64) error {
	if r.strategy.Token && r.backend.Newest > 0 && r.backend.Newest < highest {
		return fmt.Errorf("%s is at token %d, but token %d was admitted: it was restored or emptied since "+
			"(to continue with it, stop all replicas and run `api fence adopt`)", backend.Address(r.strategy, &r.cmd.Servers), r.backend.Newest, highest)
	}
	return nil
}
