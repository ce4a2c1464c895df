package faults

import (
	"context"
	"database/sql"
	"sync"
	"time"

	"github.com/go-sql-driver/mysql"

	"flashsale/internal/sleep"
)

const (
	// probeDatabase has a row for each server, so that writes on several servers do not
	// conflict.
	probeDatabase = "failover_probe"
	// probeEvery is the pause between two writes.
	probeEvery = 10 * time.Millisecond
	// probeTimeout bounds connecting to a server that does not answer.
	probeTimeout = time.Second
)

type probe struct {
	begun   chan struct{}   // closed at the moment of the fault
	servers map[int]*sql.DB // those that may take the first write after the fault
}

// newProbe creates the table and opens the servers. It must be called before the fault.
func newProbe(ctx context.Context, r *run) (p *probe, err error) {
	p = &probe{begun: r.begun, servers: map[int]*sql.DB{}}
	db, err := openServer(r.server().DSN(""))
	if err != nil {
		return nil, err
	}
	defer db.Close()
	for _, statement := range []string{
		"CREATE DATABASE IF NOT EXISTS " + probeDatabase,
		"CREATE TABLE IF NOT EXISTS " + probeDatabase + ".written (server INT PRIMARY KEY, at TIMESTAMP(6) NOT NULL)",
	} {
		if _, err := db.ExecContext(ctx, statement); err != nil {
			return nil, err
		}
	}
	for i, m := range r.Cluster.Nodes {
		if i == r.failing && !r.Fault.anyWriter {
			continue
		}
		if p.servers[i], err = openServer(m.DSN("")); err != nil {
			return nil, err
		}
	}
	return p, nil
}

func openServer(dsn string) (*sql.DB, error) {
	cfg, err := mysql.ParseDSN(dsn)
	if err != nil {
		return nil, err
	}
	cfg.InterpolateParams, cfg.Timeout = true, probeTimeout
	cfg.Logger = &mysql.NopLogger{} // errors are expected: a server fails
	connector, err := mysql.NewConnector(cfg)
	if err != nil {
		return nil, err
	}
	return sql.OpenDB(connector), nil
}

func (p *probe) close() {
	for _, db := range p.servers {
		_ = db.Close() // no query is running
	}
}

// firstWrite returns when a server took the first write after the fault, or the zero
// time if ctx ends first.
func (p *probe) firstWrite(ctx context.Context) time.Time {
	select {
	case <-p.begun:
	case <-ctx.Done():
		return time.Time{}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var all sync.WaitGroup
	first := make(chan time.Time, len(p.servers))
	for i, db := range p.servers {
		all.Go(func() {
			for ctx.Err() == nil {
				if _, err := db.ExecContext(ctx, "REPLACE INTO "+probeDatabase+".written VALUES (?, NOW(6))", i); err == nil {
					first <- time.Now()
					cancel()
					return
				}
				_ = sleep.For(ctx, probeEvery) // the loop checks ctx
			}
		})
	}
	all.Wait()
	select {
	case at := <-first:
		return at
	default:
		return time.Time{}
	}
}
