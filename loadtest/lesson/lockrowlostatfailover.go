package lesson

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/go-sql-driver/mysql"

	"flashsale/internal/sandbox"
	"flashsale/loadtest/lesson/testbed"
)

var lockRowLostAtFailover = Lesson{
	Name:    "lock-row-lost-at-failover",
	Title:   "a granted lock is lost in a failover",
	Chinese: "主从切换丢锁：已授予的锁在故障转移后消失",
	Shows:   "Locks are rows on a primary with an asynchronous replica. The primary crashes before the replica has received the row.",
	Servers: []string{MySQL},
	Variants: []Variant{
		{Title: "asynchronous replication", Breaks: true, Script: func(run *testbed.Run) {
			a, b := run.Shop(1).Buyers()
			operator := run.Actor("operator")
			locks := newPair(run, false)
			operator.To("", testbed.Fault).Do("(the replica lags behind the primary)", locks.lag)
			a.To(primary, testbed.Lock).Do("INSERT INTO lease on the primary: acquires the lock", locks.primary.take(a))
			a.Read()
			operator.To("", testbed.Fault).Do("(the primary crashes; the replica is promoted)", locks.failOver)
			b.To(promoted, testbed.Lock).Do("INSERT INTO lease on the promoted replica: acquires the lock", locks.replica.take(b))
			b.Read()
			a.Sell(1)
			b.Sell(1)
		}},
		{Title: "semi-synchronous replication", Script: func(run *testbed.Run) {
			shop := run.Shop(1)
			a, b := shop.Buyers()
			operator := run.Actor("operator")
			locks := newPair(run, true)
			operator.To("", testbed.Fault).Do("(the replica lags behind the primary)", locks.lag)
			a.To(primary, testbed.Refuse).Do("INSERT INTO lease on the primary: no answer within a second", func(ctx context.Context) error {
				ctx, cancel := context.WithTimeout(ctx, time.Second)
				defer cancel()
				if err := locks.primary.take(a)(ctx); !errors.Is(err, context.DeadlineExceeded) {
					return errors.Join(errors.New("the row was acknowledged although no replica has it"), err)
				}
				return nil
			})
			a.To("", testbed.Refuse).Log("has no lock and refuses the order")
			shop.Refuse(a.Name, 1, "no lock")
			operator.To("", testbed.Fault).Do("(the primary crashes; the replica is promoted)", locks.failOver)
			b.To(promoted, testbed.Lock).Do("INSERT INTO lease on the promoted replica: acquires the lock", locks.replica.take(b))
			b.ReadAndSell()
		}},
	},
}

// The servers of the lock, as diagrams name them.
const primary, promoted = "primary", "promoted replica"

// pair is a primary and its replica, with a lock table and nothing else.
type pair struct{ primary, replica *lockServer }

type lockServer struct {
	server *sandbox.MySQL
	db     *sql.DB
}

// newPair starts a primary and a replica, which replicates the rows of the table.
func newPair(run *testbed.Run, semiSync bool) *pair {
	ctx := run.Context()
	pair := &pair{primary: newLockServer(run), replica: newLockServer(run)}
	run.Check(pair.primary.server.SetBinlog(ctx, true)) // also sets server_id to 1
	product := replications[pair.primary.server.Product]
	password := sandbox.Secret()[:32] // the longest that MySQL accepts for a replica
	run.Check(pair.primary.exec(ctx, "CREATE USER 'replica'@'127.0.0.1' IDENTIFIED BY '"+password+"'",
		"GRANT REPLICATION SLAVE ON *.* TO 'replica'@'127.0.0.1'"))
	// Both have the empty table. Replication starts after its creation.
	primary, err := mysql.ParseDSN(pair.primary.server.DSN(""))
	run.Check(err)
	host, port, err := net.SplitHostPort(primary.Addr)
	run.Check(err)
	file, at := pair.primary.position(run, product.status)
	if semiSync {
		run.Check(pair.primary.exec(ctx, product.semiSyncPrimary...))
		run.Check(pair.replica.exec(ctx, product.semiSyncReplica...))
	}
	run.Check(pair.replica.exec(ctx, "SET GLOBAL server_id = 2",
		fmt.Sprintf(product.follow, host, port, "replica", password, file, at), "START REPLICA"))
	pair.awaitReplication(run)
	return pair
}

// position is the end of the server's binlog: the file and the offset.
func (s *lockServer) position(run *testbed.Run, status string) (file, at string) {
	rows, err := s.db.QueryContext(run.Context(), status)
	run.Check(err)
	defer rows.Close()
	columns, err := rows.Columns()
	run.Check(err)
	into := append([]any{&file, &at}, slices.Repeat([]any{new(sql.RawBytes)}, len(columns)-2)...)
	rows.Next()
	run.Check(rows.Scan(into...))
	run.Check(rows.Err())
	return file, at
}

// replication has the statements of one product.
type replication struct {
	status                           string // its first columns are the binlog's file and position
	follow                           string // host, port, user, password, file, position
	semiSyncPrimary, semiSyncReplica []string
}

var replications = map[sandbox.Product]replication{
	sandbox.RealMySQL: {
		status: "SHOW BINARY LOG STATUS",
		follow: "CHANGE REPLICATION SOURCE TO SOURCE_HOST = '%s', SOURCE_PORT = %s, SOURCE_USER = '%s', SOURCE_PASSWORD = '%s'," +
			" SOURCE_LOG_FILE = '%s', SOURCE_LOG_POS = %s, GET_SOURCE_PUBLIC_KEY = 1",
		semiSyncPrimary: []string{"INSTALL PLUGIN rpl_semi_sync_source SONAME 'semisync_source.so'",
			"SET GLOBAL rpl_semi_sync_source_enabled = 1, rpl_semi_sync_source_timeout = 60000, rpl_semi_sync_source_wait_point = 'AFTER_SYNC'"},
		semiSyncReplica: []string{"INSTALL PLUGIN rpl_semi_sync_replica SONAME 'semisync_replica.so'", "SET GLOBAL rpl_semi_sync_replica_enabled = 1"},
	},
	sandbox.MariaDB: {
		status: "SHOW MASTER STATUS",
		follow: "CHANGE MASTER TO MASTER_HOST = '%s', MASTER_PORT = %s, MASTER_USER = '%s', MASTER_PASSWORD = '%s'," +
			" MASTER_LOG_FILE = '%s', MASTER_LOG_POS = %s, MASTER_USE_GTID = no",
		semiSyncPrimary: []string{"SET GLOBAL rpl_semi_sync_master_enabled = 1, rpl_semi_sync_master_timeout = 60000, rpl_semi_sync_master_wait_point = 'AFTER_SYNC'"},
		semiSyncReplica: []string{"SET GLOBAL rpl_semi_sync_slave_enabled = 1"},
	},
}

func newLockServer(run *testbed.Run) *lockServer {
	s := &lockServer{server: run.OwnMySQL()}
	dsn, err := s.server.CreateDatabase(run.Context(), "locks")
	run.Check(err)
	s.db = run.Open(dsn).SQL
	run.Check(s.exec(run.Context(), leaseTable))
	return s
}

// awaitReplication returns once a row has reached the replica: replication works.
func (pair *pair) awaitReplication(run *testbed.Run) {
	run.Check(pair.primary.exec(run.Context(), "INSERT INTO lease (name, owner) VALUES ('another', 'nobody')"))
	run.Until("the replica has the primary's row", func(ctx context.Context) (there bool, err error) {
		err = pair.replica.db.QueryRowContext(ctx, "SELECT COUNT(*) > 0 FROM lease WHERE name = 'another'").Scan(&there)
		return there, err
	})
}

func (pair *pair) lag(ctx context.Context) error {
	return pair.replica.exec(ctx, "STOP REPLICA IO_THREAD")
}

func (pair *pair) failOver(ctx context.Context) error {
	pair.primary.server.Kill()
	return pair.replica.exec(ctx, "STOP REPLICA", "RESET REPLICA ALL")
}

// take acquires the lock for a buyer.
func (s *lockServer) take(b *testbed.Buyer) func(context.Context) error {
	return func(ctx context.Context) error {
		_, err := s.db.ExecContext(ctx, insertLease, []byte(b.Name))
		return err
	}
}

func (s *lockServer) exec(ctx context.Context, statements ...string) error {
	for _, statement := range statements {
		if _, err := s.db.ExecContext(ctx, statement); err != nil {
			return err
		}
	}
	return nil
}
