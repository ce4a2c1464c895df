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
	// cleanUpTimeout bounds what is done after ctx has ended.
	cleanUpTimeout = 10 * time.Second
	// ownServerTimeout bounds a statement to a server of the user's, which may
	// be a wrong address.
	ownServerTimeout = 10 * time.Second
)

// servers are the MySQL of the runs, private or the user's own, and the server
// that the present run's strategy locks in.
type servers struct {
	stack *sandbox.Stack
	dsn   string   // the user's own MySQL; "" for the stack's
	etcd  []string // the user's own

	version string // of the database server, for people

	kind strategy.Server // that runs
	lock *lockserver.Server
}

// startServers starts the database that needs describes, unless the user has named one.
func startServers(ctx context.Context, needs sandbox.Config, dsn string, etcd []string) (*servers, error) {
	s := &servers{dsn: dsn, etcd: etcd}
	if dsn != "" {
		return s, s.checkOwn(ctx)
	}
	needs.MySQL = true
	stack, err := sandbox.Start(ctx, needs)
	if err != nil {
		return nil, err
	}
	s.stack, s.version = stack, stack.Database()
	return s, nil
}

// allWrite reports whether the private database has several servers that take writes.
func (s *servers) allWrite() bool {
	return s.stack != nil && s.stack.Cluster != nil && s.stack.MySQL.Product == sandbox.MariaDB
}

// lockServer is what a strategy locks in. It is started for the first strategy that
// needs it, and stopped for the first that needs another: two cores do not carry
// all of them at once.
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
	_ = s.stopLock() // it is private, and ends with this process
	if s.stack != nil {
		s.stack.Stop()
	}
}

// database makes an empty one for a run. drop removes it again from a server
// that goes on running.
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
		// What cannot be dropped is empty of secrets, and named after the run.
		_ = s.exec(ctx, "DROP DATABASE `"+name+"`")
	}, nil
}

func (s *servers) checkOwn(ctx context.Context) error {
	if err := s.exec(ctx, "SELECT 1"); err != nil {
		return fmt.Errorf("--mysql-dsn: %w", err)
	}
	return nil
}

// exec runs a statement on the user's server, in no database.
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
