package main

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"flashsale/internal/backend"
	"flashsale/internal/mysqlsession"
	"flashsale/internal/sandbox"
	"flashsale/internal/strategy"
	"flashsale/loadtest/lockserver"
)

const (
	// cleanUpTimeout bounds the clean-up after ctx has ended.
	cleanUpTimeout = 10 * time.Second
	// ownServerTimeout bounds a statement to the user's own server, whose address may be
	// wrong.
	ownServerTimeout = 10 * time.Second
)

// servers are the database of the runs, private or the user's own, and the lock server
// of the current run's strategy.
type servers struct {
	stack *sandbox.Stack
	dsn   string   // the user's own database; "" for the stack's
	etcd  []string // the user's own

	version string // of the database, for people

	kind strategy.Server // of lock
	lock *lockserver.Server
}

// startServers starts a private database and prints its version.
func startServers(ctx context.Context, s streams, needs sandbox.Config) (*servers, error) {
	fmt.Fprintln(s.err, "Starting the servers ...")
	needs.MySQL = true
	stack, err := sandbox.Start(ctx, needs)
	if err != nil {
		return nil, err
	}
	nameDatabase(s, stack.Database())
	return &servers{stack: stack, version: stack.Database()}, nil
}

// allWrite reports whether several servers of the private database accept writes.
func (s *servers) allWrite() bool {
	return s.stack != nil && s.stack.Cluster != nil && s.stack.MySQL.Product == sandbox.MariaDB
}

// lockServer returns the lock server of a strategy. It starts the server for the first
// strategy that needs it, and stops it for the first that needs another: all of them
// at once are too much for two cores.
func (s *servers) lockServer(ctx context.Context, row strategy.Strategy) (*backend.Servers, error) {
	if row.Server == strategy.InEtcd && len(s.etcd) > 0 {
		return &backend.Servers{EtcdEndpoints: s.etcd, Prefix: lockserver.Prefix}, nil
	}
	if s.lock == nil || s.kind != row.Server {
		if err := s.stopLock(); err != nil {
			return nil, err
		}
		started, err := lockserver.Start(ctx, row.Server)
		if err != nil {
			return nil, err
		}
		s.lock, s.kind = started, row.Server
	}
	return &s.lock.Servers, nil
}

func (s *servers) stopLock() error {
	if s.lock == nil {
		return nil
	}
	running := s.lock
	s.lock = nil
	return running.Stop()
}

func (s *servers) stop() {
	_ = s.stopLock() // a private server ends with this process at the latest
	if s.stack != nil {
		s.stack.Stop()
	}
}

// replica returns the settings of replicas that run a strategy, with its lock server.
func (s *servers) replica(ctx context.Context, name, api, dsn string) (cfg sandbox.ReplicaConfig, err error) {
	row, err := strategy.Find(name)
	if err != nil {
		return cfg, err
	}
	at, err := s.lockServer(ctx, row)
	if err != nil {
		return cfg, err
	}
	return sandbox.ReplicaConfig{Program: api, MySQLDSN: dsn, Strategy: name, Args: append(at.Flags(), "--log-level=warn")}, nil
}

// database creates an empty database for a run. drop removes it from the user's own
// server.
func (s *servers) database(ctx context.Context, name string) (dsn string, drop func(), err error) {
	if s.dsn == "" {
		dsn, err = s.stack.CreateDatabase(ctx, name)
		return dsn, func() {}, err
	}
	cfg, err := mysqlsession.ParseServer(s.dsn)
	if err != nil {
		return "", nil, fmt.Errorf("--mysql-dsn: %w", err)
	}
	if err := s.exec(ctx, "CREATE DATABASE `"+name+"`"); err != nil {
		return "", nil, fmt.Errorf("--mysql-dsn: create a database for the run: %w", err)
	}
	cfg.DBName = name
	return cfg.FormatDSN(), func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUpTimeout)
		defer cancel()
		// A database that cannot be dropped has no secrets, and the run's name.
		_ = s.exec(ctx, "DROP DATABASE `"+name+"`")
	}, nil
}

// exec runs a statement on the user's server, outside of any database.
func (s *servers) exec(ctx context.Context, statement string) error {
	cfg, err := mysqlsession.ParseServer(s.dsn)
	if err != nil {
		return err
	}
	cfg.DBName = ""
	connector, err := mysqlsession.Connector(cfg)
	if err != nil {
		return err
	}
	db := sql.OpenDB(connector)
	defer db.Close()
	ctx, cancel := context.WithTimeout(ctx, ownServerTimeout)
	defer cancel()
	_, err = db.ExecContext(ctx, statement)
	return err
}

// startFleet starts n replicas that all have the settings of cfg, with new secrets.
func startFleet(ctx context.Context, cfg sandbox.ReplicaConfig, n int) (*sandbox.Fleet, error) {
	return sandbox.StartFleet(ctx, n, func(int) sandbox.ReplicaConfig { return cfg })
}
