package faults

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/go-sql-driver/mysql"

	"flashsale/internal/sandbox"
	"flashsale/internal/sleep"
)

const (
	// groupElection is what a group of MySQL or Galera takes to expel a dead server and to
	// agree on a new primary.
	groupElection = 10 * time.Second
	// recovery is what InnoDB takes to come back after it was killed or stopped, and the
	// replicas to connect again.
	recovery = 2 * time.Second
	// outage is how long a cluster has no majority: long enough that each server notices.
	outage = 10 * time.Second
	// smallDisk is the size in MiB of a disk that a run can fill, and spareDisk what the
	// database has left of it then.
	smallDisk = 700
	// fewConnections is the most clients of a database whose connections a stranger takes.
	fewConnections = 120
)

// databaseFaults hit MySQL or MariaDB, alone or as a cluster of three.
var databaseFaults = []Scenario{
	{
		Name: "mysql-killed", Injects: "the database is killed and started again", Short: true, chaos: true,
		halts: true, election: recovery, lasts: time.Second,
		inject: func(_ context.Context, r *run) error { r.begin(); r.stack.MySQL.Kill(); return nil },
		heal:   func(ctx context.Context, r *run) error { return r.stack.MySQL.Restart(ctx) },
	},
	{
		Name: "mysql-stopped", Injects: "the database is paused (SIGSTOP) for 5 s, and resumes", chaos: true,
		halts: true, election: recovery, lasts: 5 * time.Second,
		inject: func(_ context.Context, r *run) error { r.begin(); return r.stack.MySQL.Signal(sandbox.SIGSTOP) },
		heal:   func(_ context.Context, r *run) error { return r.stack.MySQL.Signal(sandbox.SIGCONT) },
	},
	{
		Name: "mysql-readonly", Injects: "the database is read-only for 5 s", chaos: true,
		halts: true, election: recovery, lasts: 5 * time.Second,
		inject: func(ctx context.Context, r *run) error { r.begin(); return r.setReadOnly(ctx, true) },
		heal:   func(ctx context.Context, r *run) error { return r.setReadOnly(ctx, false) },
	},
	{
		Name: "mysql-primary-killed", Injects: "the server that replicas write to, one of three in a cluster, is killed and started again",
		needs: needs{databases: 3}, election: groupElection, lasts: time.Second,
		inject: func(ctx context.Context, r *run) error {
			return r.failServer(ctx, func(m *sandbox.MySQL) error { m.Kill(); return nil })
		},
		heal: rejoin, verify: compareServers,
	},
	{
		// Galera has no primary: there the server shuts down, as for an upgrade.
		Name: "mysql-primary-switched", Injects: "in a cluster of three database servers, a planned switch moves the writes to another server",
		needs: needs{databases: 3}, election: groupElection, lasts: time.Second,
		inject: func(ctx context.Context, r *run) error {
			return r.failServer(ctx, func(m *sandbox.MySQL) error {
				if m.Product == sandbox.RealMySQL {
					return r.stack.Cluster.SwitchPrimary(ctx, (r.failing+1)%len(r.stack.Cluster.Nodes))
				}
				return m.Stop(ctx)
			})
		},
		heal: rejoin, verify: compareServers,
	},
	{
		Name: "mysql-primary-cut", Injects: "the server that replicas write to, one of three in a cluster, is cut off from the other two",
		needs: needs{databases: 3, network: true}, election: groupElection, lasts: time.Second,
		inject: func(ctx context.Context, r *run) error {
			return r.failServer(ctx, func(*sandbox.MySQL) error {
				all := r.databaseNames()
				return r.net().CutOff(ctx, all[r.failing], slices.Delete(slices.Clone(all), r.failing, r.failing+1)...)
			})
		},
		heal: func(ctx context.Context, r *run) error {
			if err := r.net().Heal(ctx); err != nil {
				return err
			}
			return rejoin(ctx, r)
		},
		verify: compareServers,
	},
	{
		Name: "mysql-majority-stopped", Injects: "two of three servers of a database cluster are paused (SIGSTOP) for 10 s, and resume",
		needs: needs{databases: 3}, election: groupElection, halts: true, lasts: outage,
		inject: func(ctx context.Context, r *run) error {
			return r.failServer(ctx, func(*sandbox.MySQL) error { return r.signalOthers(sandbox.SIGSTOP) })
		},
		heal: func(ctx context.Context, r *run) error {
			if err := r.signalOthers(sandbox.SIGCONT); err != nil {
				return err
			}
			for i := range r.stack.Cluster.Nodes {
				if err := r.stack.Cluster.Rejoin(ctx, i); err != nil {
					return err
				}
			}
			return nil
		},
		verify: compareServers,
	},
	{
		Name: "connections-exhausted", Injects: "another client takes all connections of the database, also those of the replicas",
		needs: needs{connections: fewConnections}, chaos: true, halts: true, election: recovery, ttls: 1,
		inject: func(ctx context.Context, r *run) error { r.begin(); return r.takeConnections(ctx) },
		heal:   sendAway,
	},
	{
		Name: "row-locked", Injects: "another client of the database locks the SKU's row for 10 s", chaos: true,
		halts: true, lasts: 10 * time.Second,
		inject: func(ctx context.Context, r *run) error {
			r.begin()
			return r.lockRow(ctx, r.stack.MySQL.DSN(databaseName))
		},
		heal: sendAway,
	},
	{
		Name: "row-locked-idle", Injects: "a client with the service's account locks the SKU's row and is idle; the service must end its connection", chaos: true,
		lasts:  5 * time.Second,
		inject: func(ctx context.Context, r *run) error { r.begin(); return r.lockRow(ctx, r.dsn) },
		heal:   sendAway,
	},
	{
		Name: "disk-full", Injects: "the database's disk is full for 5 s; then an operator frees it and starts the database again",
		needs: needs{disk: smallDisk}, halts: true, election: recovery, lasts: 5 * time.Second,
		inject: func(_ context.Context, r *run) error { r.begin(); return r.stack.MySQL.FillDisk() },
		heal:   freeDisk,
	},
}

func (r *run) setReadOnly(ctx context.Context, on bool) error {
	value := "OFF"
	if on {
		value = "ON"
	}
	statement := "SET GLOBAL super_read_only = " + value
	if r.stack.MySQL.Product == sandbox.MariaDB || !on {
		statement = "SET GLOBAL read_only = " + value
	}
	_, err := r.db.ExecContext(ctx, statement)
	return err
}

// freeDisk does what an operator does about a full disk. MySQL may abort, also some seconds
// after it has space again, so that it has to be started again anyway.
func freeDisk(ctx context.Context, r *run) error {
	if err := r.stack.MySQL.FreeDisk(); err != nil {
		return err
	}
	r.stack.MySQL.Kill()
	return r.stack.MySQL.Restart(ctx)
}

// failServer lets the server fail that has most connections of the replicas.
func (r *run) failServer(ctx context.Context, fail func(*sandbox.MySQL) error) error {
	most := 0
	for i, m := range r.stack.Cluster.Nodes {
		all, err := m.Connections(ctx)
		if err != nil {
			return err
		}
		n := 0
		for _, c := range all {
			if c.Database == databaseName {
				n++
			}
		}
		if n > most {
			r.failing, most = i, n
		}
	}
	if most == 0 {
		return errors.New("no database server has connections of the replicas")
	}
	r.begin()
	return fail(r.stack.Cluster.Nodes[r.failing])
}

func rejoin(ctx context.Context, r *run) error { return r.stack.Cluster.Rejoin(ctx, r.failing) }

// signalOthers sends a signal to all servers but the one that the replicas write to.
func (r *run) signalOthers(sig syscall.Signal) error {
	var errs []error
	for i, m := range r.stack.Cluster.Nodes {
		if i != r.failing {
			errs = append(errs, m.Signal(sig))
		}
	}
	return errors.Join(errs...)
}

// stranger is another client of the database.
type stranger struct {
	db    *sql.DB
	conns []*sql.Conn
}

func (r *run) newStranger(dsn string) (err error) {
	r.stranger = &stranger{}
	r.stranger.db, err = openServer(dsn)
	return err
}

func (s *stranger) connect(ctx context.Context) error {
	conn, err := s.db.Conn(ctx)
	if err == nil {
		s.conns = append(s.conns, conn)
	}
	return err
}

// sendAway closes the stranger's connections.
func sendAway(_ context.Context, r *run) error {
	for _, conn := range r.stranger.conns {
		_ = conn.Close() // the service may have ended it
	}
	return r.stranger.db.Close()
}

// tooManyConnections is the server's error when it accepts no further client.
const tooManyConnections = 1040

// takeConnections takes all connections that are free, then ends those of the replicas, and
// takes these as well, until the replicas have none.
func (r *run) takeConnections(ctx context.Context) error {
	if err := r.newStranger(r.stack.MySQL.DSN(databaseName)); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		err := r.stranger.connect(ctx)
		for err == nil {
			err = r.stranger.connect(ctx)
		}
		if full, ok := errors.AsType[*mysql.MySQLError](err); !ok || full.Number != tooManyConnections {
			return err
		}
		ended, err := r.endConnections(ctx)
		if err != nil {
			return err
		}
		if ended == 0 {
			r.note("the stranger has %d connections", len(r.stranger.conns))
			return nil
		}
	}
}

// endConnections ends all connections to the replicas' database but the stranger's, by one
// of these, and counts them.
func (r *run) endConnections(ctx context.Context) (n int, err error) {
	own := map[int64]bool{}
	for _, conn := range r.stranger.conns {
		var id int64
		if err := conn.QueryRowContext(ctx, "SELECT CONNECTION_ID()").Scan(&id); err != nil {
			return 0, err
		}
		own[id] = true
	}
	var others []int64
	// Only SHOW answers whatever bytes the statements of others contain.
	rows, err := r.stranger.conns[0].QueryContext(ctx, "SHOW PROCESSLIST")
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	columns, err := rows.Columns()
	for err == nil && rows.Next() {
		fields := make([]sql.RawBytes, len(columns)) // Id, User, Host, db, ...
		into := make([]any, len(columns))
		for i := range fields {
			into[i] = &fields[i]
		}
		if err = rows.Scan(into...); err == nil && string(fields[3]) == databaseName {
			var id int64
			if id, err = strconv.ParseInt(string(fields[0]), 10, 64); !own[id] {
				others = append(others, id)
			}
		}
	}
	if err := errors.Join(err, rows.Err()); err != nil {
		return 0, err
	}
	rows.Close() // the connection is used again
	for _, id := range others {
		if _, err := r.stranger.conns[0].ExecContext(ctx, fmt.Sprint("KILL ", id)); err == nil { // else it has just ended
			n++
		}
	}
	return n, nil
}

// lockRow locks the hot SKU's row until the stranger is sent away.
func (r *run) lockRow(ctx context.Context, dsn string) (err error) {
	if err := r.newStranger(dsn); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = sendAway(ctx, r)
		}
	}()
	if err := r.stranger.connect(ctx); err != nil {
		return err
	}
	conn := r.stranger.conns[0]
	for _, statement := range []string{"SET innodb_lock_wait_timeout = 10", "BEGIN"} {
		if _, err := conn.ExecContext(ctx, statement); err != nil {
			return err
		}
	}
	var sku []byte
	return conn.QueryRowContext(ctx, "SELECT sku FROM stock WHERE sku = ? FOR UPDATE", []byte(r.hot)).Scan(&sku)
}

// awaitBlocked waits until a commit waits for a row. It returns errNotReached if none does
// soon.
func (r *run) awaitBlocked(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, locked/2)
	defer cancel()
	for {
		all, err := r.stack.MySQL.Connections(ctx)
		if err != nil {
			return errors.Join(err, errNotReached)
		}
		if slices.ContainsFunc(all, func(c sandbox.Connection) bool { return strings.Contains(c.Info, "UPDATE stock") }) {
			return nil
		}
	}
}

// catchUp bounds how long a server may take, at the end of a run, to apply what the
// others have sent it.
const catchUp = 20 * time.Second

// compareServers checks that every server has the orders and the stock of the first that
// takes writes.
func compareServers(ctx context.Context, r *run) error {
	primary, err := r.stack.Cluster.Primary(ctx)
	if err != nil {
		return err
	}
	for i, m := range r.stack.Cluster.Nodes {
		ctx, cancel := context.WithTimeout(ctx, catchUp)
		var want, got string
		var err error
		for {
			want, err = contents(ctx, r.stack.Cluster.Nodes[primary])
			if err == nil {
				got, err = contents(ctx, m)
			}
			if err == nil && got == want || sleep.For(ctx, tryPause) != nil {
				break
			}
		}
		cancel()
		if err != nil || got != want {
			r.violate("database server %d has %q, the primary %q: %v", i+1, got, want, err)
		}
	}
	return nil
}

// contents counts the orders of a server, and sums up orders and stock.
func contents(ctx context.Context, m *sandbox.MySQL) (text string, err error) {
	db, err := openServer(m.DSN(databaseName))
	if err != nil {
		return "", err
	}
	defer db.Close()
	err = db.QueryRowContext(ctx, `SELECT CONCAT_WS(' ', COUNT(*), SUM(CRC32(CONCAT_WS(' ', HEX(id), status, quantity))),
		(SELECT SUM(CRC32(CONCAT_WS(' ', sku, units, available, fence, seq))) FROM stock)) FROM orders`).Scan(&text)
	return text, err
}
