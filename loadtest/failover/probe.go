package failover

import (
	"context"
	"database/sql"
	"sync"
	"time"

	"github.com/go-sql-driver/mysql"

	"flashsale/internal/sleep"
)

const (
	// probeDatabase has one row for each server, so that writes on several do not
	// conflict.
	probeDatabase = "failover_probe"
	// probeEvery is between two tries of a write.
	probeEvery = 10 * time.Millisecond
	// probeTimeout bounds a connection's start, where a server does not answer.
	probeTimeout = time.Second
)

// probe writes on the database servers, past the service.
type probe struct {
	run     *run
	servers map[int]*sql.DB // that may take writes after the fault
}

// newProbe makes the table and connects. It is for the time before the fault.
func newProbe(ctx context.Context, r *run) (p *probe, err error) {
	p = &probe{run: r, servers: map[int]*sql.DB{}}
	made, err := openServer(r.server().DSN(""))
	if err != nil {
		return nil, err
	}
	defer made.Close()
	for _, statement := range []string{
		"CREATE DATABASE IF NOT EXISTS " + probeDatabase,
		"CREATE TABLE IF NOT EXISTS " + probeDatabase + ".written (server INT PRIMARY KEY, at TIMESTAMP(6) NOT NULL)",
	} {
		if _, err := made.ExecContext(ctx, statement); err != nil {
			return nil, err
		}
	}
	for i, m := range r.Cluster.Nodes {
		if i == r.struck && !r.Fault.spared {
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
	cfg.Logger = &mysql.NopLogger{} // a server that fails is what is measured
	connector, err := mysql.NewConnector(cfg)
	if err != nil {
		return nil, err
	}
	return sql.OpenDB(connector), nil
}

func (p *probe) close() {
	for _, db := range p.servers {
		_ = db.Close() // nothing is under way
	}
}

// firstWrite is when, after the fault, a write was taken first. It is the zero time if
// ctx ends before.
func (p *probe) firstWrite(ctx context.Context) time.Time {
	select {
	case <-p.run.began:
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
				_ = sleep.For(ctx, probeEvery) // the loop looks at ctx
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
