package faults

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"os/exec"

	"github.com/go-sql-driver/mysql"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"flashsale/internal/sandbox"
	"flashsale/loadtest/attack"
	"flashsale/loadtest/lockserver"
)

const (
	// databaseName is the database of the replicas, and account their account, which has no
	// rights of an administrator.
	databaseName = "flashsale"
	account      = "replicas"
	// replicas is how many replicas each scenario has.
	replicas = 3
	// pool is a replica's connections to the database.
	pool = 16
)

// world is the servers and replicas of one run.
type world struct {
	stack   *sandbox.Stack
	fleet   *sandbox.Fleet
	dsn     string
	service *attack.Service
	db      *sql.DB          // for what a stranger does to the database, as its administrator
	etcd    *clientv3.Client // for what a stranger does to etcd
	idle    map[string]int   // goroutines of each replica before the load
}

// startWorld starts what the scenario needs. On an error nothing is left running.
func startWorld(ctx context.Context, cfg *Config) (_ *world, err error) {
	needs := cfg.Scenario.needs
	servers := sandbox.Config{
		MySQL: true, Database: cfg.Database, MySQLNodes: max(1, needs.databases), MaxConnections: needs.connections,
		EtcdNodes: max(1, needs.etcdNodes), EtcdProgram: cfg.EtcdProgram, EtcdQuota: needs.quota, MySQLDisk: needs.disk, FakeClock: needs.clocks,
	}
	if needs.network {
		servers.Network, servers.DelayEtcd = cfg.Network, needs.delays
	}
	w := &world{}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.stop())
		}
	}()
	if w.stack, err = sandbox.Start(ctx, servers); err != nil {
		return nil, err
	}
	owner, err := w.stack.CreateDatabase(ctx, databaseName)
	if err != nil {
		return nil, err
	}
	migrate := exec.CommandContext(ctx, cfg.API, "migrate")
	migrate.Env = append(os.Environ(), "FLASHSALE_MYSQL_DSN="+owner)
	if out, err := migrate.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("api migrate: %w: %s", err, out)
	}
	if w.dsn, err = w.stack.CreateAccount(ctx, databaseName, account); err != nil {
		return nil, err
	}
	if w.db, err = openServer(w.stack.MySQL.DSN(databaseName)); err != nil {
		return nil, err
	}
	if w.etcd, err = clientv3.New(clientv3.Config{Endpoints: w.stack.EtcdEndpoints(), Logger: zap.NewNop()}); err != nil {
		return nil, err
	}
	w.fleet, err = w.stack.StartFleet(ctx, replicas, func(i int) sandbox.ReplicaConfig {
		one := sandbox.ReplicaConfig{
			Program: cfg.API, MySQLDSN: w.dsn, EtcdEndpoints: w.stack.EtcdEndpoints(),
			Args: append([]string{"--log-level=warn", "--lock-ttl=" + cfg.LockTTL.String(), "--drain-timeout=5s", fmt.Sprint("--mysql-pool=", pool), "--etcd-prefix=" + lockserver.Prefix}, sandbox.FewCustomers...),
		}
		if needs.clocks {
			one.Args = append(one.Args, "--payment-window=24h") // no clock jumps over it
			if i == replicas-1 {
				one.Program = cfg.ClockAPI
			}
		}
		return one
	})
	if err != nil {
		return nil, err
	}
	w.service = &attack.Service{URL: w.fleet.Replicas[0].URL, AdminToken: w.fleet.AdminToken, JWTSecret: w.fleet.JWTSecret}
	w.idle = map[string]int{}
	for _, replica := range w.fleet.Replicas {
		if w.idle[replica.Name], err = goroutines(ctx, replica.URL); err != nil {
			return nil, err
		}
	}
	return w, nil
}

// stop ends all replicas and servers.
func (w *world) stop() error {
	var errs []error
	if w.fleet != nil {
		errs = append(errs, w.fleet.Stop())
	}
	if w.etcd != nil {
		errs = append(errs, w.etcd.Close())
	}
	if w.db != nil {
		errs = append(errs, w.db.Close())
	}
	if w.stack != nil {
		w.stack.Stop()
	}
	return errors.Join(errs...)
}

// databases returns all servers of the database.
func (w *world) databases() []*sandbox.MySQL {
	if w.stack.Cluster != nil {
		return w.stack.Cluster.Nodes
	}
	return []*sandbox.MySQL{w.stack.MySQL}
}

func (w *world) net() *sandbox.Network { return w.stack.Network }

// openServer opens a pool that logs nothing: refused connections are what a fault causes.
func openServer(dsn string) (*sql.DB, error) {
	cfg, err := mysql.ParseDSN(dsn)
	if err != nil {
		return nil, err
	}
	cfg.Logger = &mysql.NopLogger{}
	connector, err := mysql.NewConnector(cfg)
	if err != nil {
		return nil, err
	}
	return sql.OpenDB(connector), nil
}
