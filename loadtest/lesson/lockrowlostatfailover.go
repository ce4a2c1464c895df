package lesson

import (
	"context"
	"database/sql"
	"errors"
	"net"
	"time"

	"github.com/go-sql-driver/mysql"

	"flashsale/internal/sandbox"
	"flashsale/loadtest/lesson/stage"
)

var lockRowLostAtFailover = Lesson{
	Name:    "lock-row-lost-at-failover",
	Title:   "a lock that was granted, and then never was",
	Shows:   "Locks are rows on a primary with an asynchronous replica. The primary dies before the replica has the row.",
	Servers: []Server{MariaDB},
	Acts: []Act{
		{Title: "asynchronous replication", Breaks: true, Play: func(p *stage.Play) stage.Audit {
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
		{Title: "semi-synchronous replication", Play: func(p *stage.Play) stage.Audit {
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

// lockServer is a MariaDB with a lock table.
type lockServer struct {
	server *sandbox.MySQL
	db     *sql.DB
}

const lockDatabase = "locks"

// newPair starts two servers, with the table on both.
func newPair(p *stage.Play, semiSync bool) *pair {
	ctx := p.Context()
	pair := &pair{primary: newLockServer(p), replica: newLockServer(p)}
	p.Check(pair.primary.server.SetBinlog(ctx, true)) // and with it the server's id 1
	// Both have the empty table; what is replicated begins after it.
	primary, err := mysql.ParseDSN(pair.primary.server.DSN(""))
	p.Check(err)
	host, port, err := net.SplitHostPort(primary.Addr)
	p.Check(err)
	var at string
	p.Check(pair.primary.db.QueryRowContext(ctx, "SELECT @@gtid_binlog_pos").Scan(&at))
	if semiSync {
		p.Check(pair.primary.exec(ctx, "SET GLOBAL rpl_semi_sync_master_enabled = 1, rpl_semi_sync_master_timeout = 60000, "+
			"rpl_semi_sync_master_wait_point = 'AFTER_SYNC'"))
		p.Check(pair.replica.exec(ctx, "SET GLOBAL rpl_semi_sync_slave_enabled = 1"))
	}
	for _, statement := range []string{
		"SET GLOBAL server_id = 2",
		"SET GLOBAL gtid_slave_pos = '" + at + "'",
		"CHANGE MASTER TO MASTER_HOST = '" + host + "', MASTER_PORT = " + port + ", MASTER_USER = '" + primary.User +
			"', MASTER_PASSWORD = '" + primary.Passwd + "', MASTER_USE_GTID = slave_pos",
		"START SLAVE",
	} {
		p.Check(pair.replica.exec(ctx, statement))
	}
	pair.awaitReplication(p)
	return pair
}

func newLockServer(p *stage.Play) *lockServer {
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
func (pair *pair) awaitReplication(p *stage.Play) {
	ctx := p.Context()
	p.Check(pair.primary.exec(ctx, "INSERT INTO lease (name, owner) VALUES ('another', 'nobody')"))
	var at string
	p.Check(pair.primary.db.QueryRowContext(ctx, "SELECT @@gtid_binlog_pos").Scan(&at))
	var timedOut int
	p.Check(pair.replica.db.QueryRowContext(ctx, "SELECT MASTER_GTID_WAIT(?, 10)", at).Scan(&timedOut))
	if timedOut != 0 {
		p.Fail("the replica does not replicate")
	}
}

// lag cuts the replica off.
func (pair *pair) lag(ctx context.Context) error {
	return pair.replica.exec(ctx, "STOP SLAVE IO_THREAD")
}

// failOver ends the primary as a crash would, and makes the replica the primary.
func (pair *pair) failOver(ctx context.Context) error {
	pair.primary.server.Kill()
	return errors.Join(pair.replica.exec(ctx, "STOP SLAVE"), pair.replica.exec(ctx, "RESET SLAVE ALL"))
}

// take takes the lock for a buyer.
func (s *lockServer) take(b *stage.Buyer) func(context.Context) error {
	return func(ctx context.Context) error { return s.exec(ctx, insertLease, []byte(b.Name)) }
}

func (s *lockServer) exec(ctx context.Context, query string, args ...any) error {
	_, err := s.db.ExecContext(ctx, query, args...)
	return err
}
