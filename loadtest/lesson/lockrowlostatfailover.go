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
	Title:   "a lock that was granted, and then never was",
	Shows:   "Locks are rows on a primary with an asynchronous replica. The primary dies before the replica has the row.",
	Servers: []Server{MySQL},
	Acts: []Act{
		{Title: "asynchronous replication", Breaks: true, Play: func(p *testbed.Play) testbed.Audit {
			shop := p.Shop(1)
			a, b, operator := shop.Buyer("A"), shop.Buyer("B"), p.Actor("operator")
			locks := newPair(p, false)
			operator.Does("(the replica lags behind the primary)", locks.lag)
			a.Does("INSERT INTO lease, on the primary: has the lock", locks.primary.take(a))
			a.Read()
			operator.Does("(the primary crashes; the replica is promoted)", locks.failOver)
			b.Does("INSERT INTO lease, on the promoted replica: has the lock", locks.replica.take(b))
			b.Read()
			a.Sell(1)
			b.Sell(1)
			return shop.Audit()
		}},
		{Title: "semi-synchronous replication", Play: func(p *testbed.Play) testbed.Audit {
			shop := p.Shop(1)
			a, b, operator := shop.Buyer("A"), shop.Buyer("B"), p.Actor("operator")
			locks := newPair(p, true)
			operator.Does("(the replica lags behind the primary)", locks.lag)
			a.Does("INSERT INTO lease, on the primary: no answer in a second", func(ctx context.Context) error {
				ctx, cancel := context.WithTimeout(ctx, time.Second)
				defer cancel()
				if err := locks.primary.take(a)(ctx); !errors.Is(err, context.DeadlineExceeded) {
					return errors.Join(errors.New("the row was acknowledged, though no replica has it"), err)
				}
				return nil
			})
			a.Says("has no lock, and refuses the order")
			shop.Refuse(a.Name, 1, "no lock")
			operator.Does("(the primary crashes; the replica is promoted)", locks.failOver)
			b.Does("INSERT INTO lease, on the promoted replica: has the lock", locks.replica.take(b))
			b.Read()
			b.Sell(1)
			return shop.Audit()
		}},
	},
}

// pair is a primary and its replica. They have nothing but locks.
type pair struct{ primary, replica *lockServer }

// lockServer is a database server with a lock table.
type lockServer struct {
	server *sandbox.MySQL
	db     *sql.DB
}

const lockDatabase = "locks"

// newPair starts two servers, with the table on both.
func newPair(p *testbed.Play, semiSync bool) *pair {
	ctx := p.Context()
	pair := &pair{primary: newLockServer(p), replica: newLockServer(p)}
	p.Check(pair.primary.server.SetBinlog(ctx, true)) // and with it the server's id 1
	say := replications[pair.primary.server.Product]
	password := sandbox.Secret()[:32] // MySQL takes no longer one of a replica
	p.Check(pair.primary.exec(ctx, "CREATE USER 'replica'@'127.0.0.1' IDENTIFIED BY '"+password+"'",
		"GRANT REPLICATION SLAVE ON *.* TO 'replica'@'127.0.0.1'"))
	// Both have the empty table; what is replicated begins after it.
	primary, err := mysql.ParseDSN(pair.primary.server.DSN(""))
	p.Check(err)
	host, port, err := net.SplitHostPort(primary.Addr)
	p.Check(err)
	file, at := pair.primary.position(p, say.status)
	if semiSync {
		p.Check(pair.primary.exec(ctx, say.semiSyncPrimary...))
		p.Check(pair.replica.exec(ctx, say.semiSyncReplica...))
	}
	p.Check(pair.replica.exec(ctx, "SET GLOBAL server_id = 2",
		fmt.Sprintf(say.follow, host, port, "replica", password, file, at), "START REPLICA"))
	pair.awaitReplication(p)
	return pair
}

// position is where the server's binlog ends: its file, and the place in it.
func (s *lockServer) position(p *testbed.Play, status string) (file, at string) {
	rows, err := s.db.QueryContext(p.Context(), status)
	p.Check(err)
	defer rows.Close()
	columns, err := rows.Columns()
	p.Check(err)
	into := append([]any{&file, &at}, slices.Repeat([]any{new(sql.RawBytes)}, len(columns)-2)...)
	rows.Next()
	p.Check(rows.Scan(into...))
	p.Check(rows.Err())
	return file, at
}

// replication is how one product says what both do.
type replication struct {
	status                           string // names the binlog's file and position first
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

func newLockServer(p *testbed.Play) *lockServer {
	s := &lockServer{server: p.OwnMySQL()}
	dsn, err := s.server.CreateDatabase(p.Context(), lockDatabase)
	p.Check(err)
	cfg, err := mysql.ParseDSN(dsn)
	p.Check(err)
	cfg.InterpolateParams = true
	cfg.Logger = &mysql.NopLogger{} // a server that was killed is part of the lesson
	connector, err := mysql.NewConnector(cfg)
	p.Check(err)
	s.db = sql.OpenDB(connector)
	p.Cleanup(s.db.Close)
	p.Check(s.exec(p.Context(), leaseTable))
	return s
}

// awaitReplication returns once a row of the primary's has come to the replica,
// so that a replica which has not begun yet is not taken for one that lags.
func (pair *pair) awaitReplication(p *testbed.Play) {
	p.Check(pair.primary.exec(p.Context(), "INSERT INTO lease (name, owner) VALUES ('another', 'nobody')"))
	p.Until("the replica has what the primary has", func(ctx context.Context) (there bool, err error) {
		err = pair.replica.db.QueryRowContext(ctx, "SELECT COUNT(*) > 0 FROM lease WHERE name = 'another'").Scan(&there)
		return there, err
	})
}

// lag cuts the replica off.
func (pair *pair) lag(ctx context.Context) error {
	return pair.replica.exec(ctx, "STOP REPLICA IO_THREAD")
}

// failOver ends the primary as a crash would, and makes the replica the primary.
func (pair *pair) failOver(ctx context.Context) error {
	pair.primary.server.Kill()
	return pair.replica.exec(ctx, "STOP REPLICA", "RESET REPLICA ALL")
}

// take takes the lock for a buyer.
func (s *lockServer) take(b *testbed.Buyer) func(context.Context) error {
	return func(ctx context.Context) error {
		_, err := s.db.ExecContext(ctx, insertLease, []byte(b.Name))
		return err
	}
}

// exec runs statements in turn.
func (s *lockServer) exec(ctx context.Context, statements ...string) error {
	for _, statement := range statements {
		if _, err := s.db.ExecContext(ctx, statement); err != nil {
			return err
		}
	}
	return nil
}
