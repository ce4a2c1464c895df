package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/cenkalti/backoff/v5"

	"flashsale/internal/backend"
	"flashsale/internal/doctor"
	"flashsale/internal/httpapi"
	"flashsale/internal/mirror"
	"flashsale/internal/order"
	"flashsale/internal/stock"
	"flashsale/internal/stock/etcdstock"
	"flashsale/internal/strategy"
	"flashsale/internal/telemetry"
)

// connect waits for the servers, brings the schema up to date, and makes the
// lock and the order service.
func (r *replica) connect(ctx context.Context) (err error) {
	if r.db, err = r.cmd.open(stock.Traced(r.tracing.Provider())); err != nil {
		return err
	}
	if err := await(ctx, r.logger, r.cmd.address(), r.cmd.StartTimeout, r.cmd.pinging(r.db)); err != nil {
		return err
	}
	if err := r.answered(ctx, r.examineMySQL); err != nil {
		return err
	}
	if err := r.answered(ctx, r.checkWriters); err != nil {
		return err
	}
	if err := r.db.Migrate(ctx); err != nil {
		return err
	}
	// Before the lock's server is asked: tokens rise while others sell.
	var highest uint64
	if err := r.answered(ctx, func(ctx context.Context) (err error) { highest, err = r.db.HighestFence(ctx); return err }); err != nil {
		return err
	}
	if err := r.openBackend(ctx); err != nil {
		return err
	}
	if err := r.examineBackend(ctx); err != nil {
		return err
	}
	if err := r.answered(ctx, func(ctx context.Context) error { return r.db.Bind(ctx, r.guardedAs()) }); err != nil {
		return err
	}
	if err := r.checkTokens(highest); err != nil {
		return err
	}
	if err := r.answered(ctx, func(ctx context.Context) error { return r.startWatchman(ctx, highest) }); err != nil {
		return err
	}
	cfg := order.Config{
		DB: r.db, Strategy: r.strategy, Fence: r.fence, Locker: r.backend.Locker,
		PaymentWindow: r.cmd.PaymentWindow, ThinkTime: r.cmd.ThinkTime, RequestTimeout: r.cmd.RequestTimeout,
		Halted: r.watchman.halted,
		Desk:   order.DeskConfig{Quantum: r.cmd.Quantum},
		Tracer: r.tracing.Tracer(), Metrics: order.NewMetrics(r.registry), Logger: r.logger,
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
		if cfg.Units, err = unitsInEtcd(r.backend, &r.cmd.Servers, r.db); err != nil {
			return err
		}
		r.registry.MustRegister(telemetry.Retries(cfg.Units.Retries))
		r.levels = func(ctx context.Context) ([]stock.Level, error) { return levelsInEtcd(ctx, cfg.Units) }
		r.audit = func(ctx context.Context) (stock.Report, error) { return order.AuditUnits(ctx, r.db, cfg.Units) }
	}
	r.orders = order.New(cfg)
	if err := r.startExpirer(ctx); err != nil {
		return err
	}
	r.register()
	return r.startSettings(ctx)
}

// answered asks MySQL, which has answered before: if it hangs now, it is waited for
// no longer than then.
func (r *replica) answered(ctx context.Context, ask func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, r.cmd.StartTimeout)
	defer cancel()
	err := ask(ctx)
	if err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("%s did not answer within --start-timeout %s: %w", r.cmd.address(), r.cmd.StartTimeout, err)
	}
	return err
}

// openBackend makes the strategy's lock once its server answers.
func (r *replica) openBackend(ctx context.Context) error {
	cfg := backend.Config{
		Strategy: r.strategy, Servers: r.cmd.Servers, DSN: r.cmd.DSN, Database: r.db.Name,
		Connections: r.cmd.lockPool(), Replica: r.cmd.Replica, TTL: r.cmd.LockTTL, Traces: r.tracing.Provider(), Logger: r.logger,
	}
	if r.forwarding != nil {
		cfg.Process, cfg.ForwardAddr = r.forwarding.Process, r.cmd.ForwardAdvertise
	}
	open := func(ctx context.Context) (err error) {
		r.backend, err = backend.Open(ctx, cfg)
		return err
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
			return backoff.Permanent(fmt.Errorf("%s: %w; %s", what, err, advice))
		}
		return err
	})
}

// unitsInEtcd is the stock of a strategy that keeps it there.
func unitsInEtcd(g *backend.Backend, servers *backend.Servers, db *stock.DB) (*etcdstock.Store, error) {
	return etcdstock.New(etcdstock.Config{Client: g.Etcd, Prefix: servers.Prefix + db.Name + "/units/"})
}

// levelsInEtcd is what is left of every SKU there.
func levelsInEtcd(ctx context.Context, units *etcdstock.Store) ([]stock.Level, error) {
	all, err := units.List(ctx)
	levels := make([]stock.Level, len(all))
	for i, s := range all {
		levels[i] = stock.Level{SKU: s.SKU, Units: s.Units, Available: s.Available, Seq: uint64(s.Revision)}
	}
	return levels, err
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
		Client: r.backend.Etcd, Prefix: r.cmd.Prefix + r.db.Name + "/stock/", DB: r.mirrorDB,
		Metrics: mirror.NewMetrics(r.registry), Logger: r.logger,
	})
	if err != nil {
		return err
	}
	r.registry.MustRegister(r.mirror)
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

// startExpirer expires orders until stopExpirer, while this replica has the lock
// of that.
func (r *replica) startExpirer(ctx context.Context) error {
	leases, err := backend.OpenLeases(backend.Config{DSN: r.cmd.DSN, Replica: r.cmd.Replica, TTL: r.cmd.LockTTL, Logger: r.logger})
	if err != nil {
		return err
	}
	// Not with ctx: orders expire as long as some are being served.
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan struct{})
	go func() { defer close(ended); order.NewExpirer(r.orders, leases).Run(running) }()
	r.stopExpirer = func(ctx context.Context) error {
		stop()
		select {
		case <-ended:
			return leases.Close(ctx)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// catalog is where this replica reads SKUs.
func (r *replica) catalog() interface {
	httpapi.Catalog
	telemetry.Catalog
} {
	if r.mirror == nil {
		return r.db
	}
	return mirror.Catalog{Mirror: r.mirror, DB: r.db}
}

// examineMySQL finds what would go wrong in the middle of a sale.
func (r *replica) examineMySQL(ctx context.Context) error {
	report, err := doctor.MySQL(ctx, r.db, r.cmd.needs(r.strategy, &r.cmd.mysqlFlags))
	if err != nil {
		return err
	}
	return r.accept(report.Of(r.cmd.address()))
}

// checkWriters refuses a lock that one server of MySQL knows alone where several
// take writes: on two of them it is granted twice.
func (r *replica) checkWriters(ctx context.Context) error {
	if !r.strategy.OnePrimary {
		return nil
	}
	n, err := r.db.Writers(ctx)
	if err == nil && n > 1 {
		err = fmt.Errorf("--strategy %s is not right here: %d servers of this MySQL cluster take writes, and its lock is known to one alone; "+
			"use a strategy for any number of servers, see `api strategies`", r.strategy.Name, n)
	}
	return err
}

// examineBackend does so with the lock's server. One that is slow is asked again.
func (r *replica) examineBackend(ctx context.Context) error {
	return await(ctx, r.logger, backend.Address(r.strategy, &r.cmd.Servers), r.cmd.StartTimeout, func(ctx context.Context) error {
		report := backend.Examine(ctx, r.strategy, &r.cmd.Servers, r.db.Name)
		for _, f := range report.With(doctor.Fault) {
			if f.Check == doctor.Answers {
				return report.Err()
			}
		}
		return backoff.Permanent(r.accept(report))
	})
}

// accept logs what a replica can run with, and returns what it cannot.
func (r *replica) accept(report doctor.Report) error {
	for _, f := range report.With(doctor.Warning) {
		r.logger.Warn(f.Check+": "+f.Found, "server", f.Server, "do", f.Do)
	}
	return report.Err()
}

// checkTokens refuses a lock server that was restored or emptied: it has its old
// name, and its tokens would all be behind those that MySQL has admitted.
func (r *replica) checkTokens(highest uint64) error {
	if r.strategy.Token && r.backend.Newest > 0 && r.backend.Newest < highest {
		return fmt.Errorf("%s is at token %d, and token %d was admitted: it was restored or emptied since "+
			"(to go on with it, stop all replicas and run `api fence adopt`)", backend.Address(r.strategy, &r.cmd.Servers), r.backend.Newest, highest)
	}
	return nil
}
