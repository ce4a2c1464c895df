package backend

import (
	"os"

	"flashsale/internal/lock"
	"flashsale/internal/lock/mysqllock"
)

// leaseTable is made by the migrations.
const leaseTable = "leases"

// LeaseConnections are those of OpenLeases: one lock is held at a time, and asked
// for now and then.
const LeaseConnections = 2

// OpenLeases makes the lock of tasks that one replica has at a time, whatever the
// strategy: in MySQL, which every one of them has. It does not talk to it yet.
func OpenLeases(cfg Config) (lock.Locker, error) {
	host, _ := os.Hostname() // only shown to people
	return mysqllock.NewTable(mysqllock.Config{DSN: cfg.DSN, Connections: LeaseConnections, Table: leaseTable, TTL: cfg.TTL,
		Owner: mysqllock.Owner{Replica: cfg.Replica, Host: host, PID: os.Getpid()}})
}
