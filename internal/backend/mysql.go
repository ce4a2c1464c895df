package backend

import (
	"context"

	"flashsale/internal/lock"
	"flashsale/internal/lock/mysqllock"
)

const (
	// The tables of the locks are in the same database as those of the orders. The
	// migrations create leaseTable; a lock creates its own.
	lockTable  = "stock_lock"
	rowTable   = "stock_lock_row"
	leaseTable = "leases"
	// rowTries makes an order give up after waiting 3 s for the row.
	rowTries = 4
)

// LeaseConnections is the size of the pool of OpenLeases, which holds one lock at a time
// and rarely tries to take it.
const LeaseConnections = 2

// OpenLeases returns the lock of tasks that only one replica does at a time. It is in
// MySQL under every strategy. It does not connect yet.
func OpenLeases(cfg Config) (lock.Locker, error) {
	return mysqllock.NewTable(mysqllock.Config{DSN: cfg.DSN, Connections: LeaseConnections, Table: leaseTable, TTL: cfg.TTL, Owner: cfg.owner()})
}

// inMySQL opens a lock in the orders' database, with a pool of its own. Ping need not ask
// the server, because readiness asks it for the orders.
func inMySQL[L lock.Locker](newLocker func(mysqllock.Config) (L, error), with mysqllock.Config, source string) opener {
	return func(_ context.Context, cfg *Config) (*Backend, error) {
		own := with
		own.DSN, own.Connections, own.TTL, own.Owner = cfg.DSN, cfg.Connections, cfg.TTL, cfg.owner()
		locker, err := newLocker(own)
		if err != nil {
			return nil, err
		}
		return &Backend{Locker: locker, Source: source}, nil
	}
}
