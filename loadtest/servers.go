package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

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

// fleet is the replicas of one run, and what they know their callers by.
type fleet struct {
	replicas              []*sandbox.Replica
	adminToken, jwtSecret string
}

// startFleet starts n replicas like cfg: see startFleetOf.
func startFleet(ctx context.Context, cfg sandbox.ReplicaConfig, n int) (*fleet, error) {
	return startFleetOf(ctx, slices.Repeat([]sandbox.ReplicaConfig{cfg}, n))
}

// startFleetOf starts one replica like each of cfgs at the same time, each with a
// name of its own, and with new secrets. On an error none is left running.
func startFleetOf(ctx context.Context, cfgs []sandbox.ReplicaConfig) (*fleet, error) {
	f := &fleet{adminToken: sandbox.Secret(), jwtSecret: sandbox.Secret()}
	started := make([]*sandbox.Replica, len(cfgs))
	group, ctx := errgroup.WithContext(ctx)
	for i, cfg := range cfgs {
		group.Go(func() (err error) {
			cfg.AdminToken, cfg.JWTSecret = f.adminToken, f.jwtSecret
			cfg.Replica = fmt.Sprintf("replica-%d", i+1)
			cfg.Args = append(slices.Clone(cfg.Args), fmt.Sprintf("--max-replicas=%d", len(cfgs)))
			started[i], err = sandbox.StartReplica(ctx, cfg)
			return err
		})
	}
	err := group.Wait()
	for _, r := range started {
		if r != nil {
			f.replicas = append(f.replicas, r)
		}
	}
	if err != nil {
		return nil, errors.Join(err, f.stop())
	}
	return f, nil
}

func (f *fleet) urls() []string {
	urls := make([]string, len(f.replicas))
	for i, r := range f.replicas {
		urls[i] = r.URL
	}
	return urls
}

// dead is an error that names the replicas which have ended by themselves.
func (f *fleet) dead() error {
	const shownLines = 10
	var all []error
	for _, r := range f.replicas {
		select {
		case <-r.Done():
			all = append(all, fmt.Errorf("%s ended during the run; its log ends:\n%s", r.Name, strings.TrimSpace(r.LogTail(shownLines))))
		default:
		}
	}
	return errors.Join(all...)
}

// stop lets the replicas finish what they are serving and ends them. It returns
// an error for each that had to be killed.
func (f *fleet) stop() error {
	errs := make([]error, len(f.replicas))
	var all sync.WaitGroup
	for i, r := range f.replicas {
		// A context of its own: the run's may have ended, which is why we stop.
		all.Go(func() { errs[i] = r.Stop(context.Background()) })
	}
	all.Wait()
	return errors.Join(errs...)
}
